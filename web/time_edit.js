// Graphs that were saved before lambda could be relative mean an absolute one. Their nodes hold no value for it, and the
// page would give them that of new nodes.

import { app } from "../../scripts/app.js";

const NODES = ["TIMEEditModel", "TIMEEditBatch"];

app.registerExtension({
  name: "conceptlens.TIMEEdit",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const place = node.widgets.findIndex((widget) => widget.name === "regularize");
    const configured = node.onConfigure;
    node.onConfigure = function (saved) {
      configured?.call(this, saved);
      if (saved.widgets_values?.length <= place) node.widgets[place].value = "absolute";
    };
  },
});
