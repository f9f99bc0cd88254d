// %date:yyyy-MM-dd% and %Node.widget% in the file names of our saving nodes: the page writes them out for a list of its
// own nodes alone, by the function that is used here.

import { app } from "../../scripts/app.js";

const SAVING = ["SaveTIMEEdit", "SaveTokenMix", "SaveTokenMixEdit", "SaveHSpaceDirections"];

app.registerExtension({
  name: "conceptlens.FilenamePrefix",
  nodeCreated(node) {
    if (!SAVING.includes(node.comfyClass)) return;
    const prefix = node.widgets?.find((widget) => widget.name === "filename_prefix");
    const written = window.comfyAPI?.utils?.applyTextReplacements;
    if (prefix && written) prefix.serializeValue = () => written(app.graph, prefix.value); // else the server knows dates
  },
});
