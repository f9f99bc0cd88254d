// Graphs that were saved before an input came hold no value for it, and the page would give them that of new nodes: here
// they get the one that they mean.

import { app } from "../../scripts/app.js";

const NODES = ["TIMEEditModel", "TIMEEditBatch"];
const BEFORE = { regularize: "absolute", edit_pooled: false };

app.registerExtension({
  name: "conceptlens.TIMEEdit",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const configured = node.onConfigure;
    node.onConfigure = function (saved) {
      configured?.call(this, saved);
      for (const [name, value] of Object.entries(BEFORE)) {
        const place = node.widgets.findIndex((widget) => widget.name === name);
        if (saved.widgets_values?.length <= place) node.widgets[place].value = value;
      }
    };
  },
});
