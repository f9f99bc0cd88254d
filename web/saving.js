// Dates and the inputs of other nodes in the file names of our saving nodes, %date:yyyy-MM-dd% and %KSampler.seed%, as
// in the host's own: its page replaces them by a list of its own nodes. The server replaces what is left, %year% too.

import { app } from "../../scripts/app.js";

const SAVING = new Set(["SaveTIMEEdit", "SaveTokenMix", "SaveHSpaceDirections"]);

app.registerExtension({
  name: "conceptlens.Saving",
  nodeCreated(node) {
    const prefix = SAVING.has(node.comfyClass) && node.widgets?.find((widget) => widget.name === "filename_prefix");
    const replaced = window.comfyAPI?.utils?.applyTextReplacements;
    if (prefix && replaced) prefix.serializeValue = () => replaced(app, prefix.value);
  },
});
