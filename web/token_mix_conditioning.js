// The coefficient editor in the node TokenMixConditioning. The node's own text input holds the changes, so that saved
// graphs, the API and a page without this file need nothing else.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { mountEditor } from "./token_mix/editor.js";

const NODE = "TokenMixConditioning";
const KEPT = "conceptlens"; // the node's property with what the editor shows and the node does not need
const LEAST = [420, 560];
let count = 0; // of editors: after an undo Nodes 2.0 shows the new node's widget only if its name is new
const learned = new Map(); // place of a node -> what its last run found: an undone graph does not know it
const editors = new Map(); // node -> its editor, and the last pictures made with it

function chain(object, name, then) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    then.apply(this, given);
    return result;
  };
}

const placeOf = (node) => `${node.graph?.rootGraph?.id ?? ""} ${node.graph?.id ?? ""} ${node.id}`;
const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

async function find(query, limit) {
  const answer = await api.fetchApi(`/conceptlens/tokens?${new URLSearchParams({ query, limit })}`);
  return answer.ok ? answer.json() : [];
}

function mount(node) {
  const text = widgetOf(node, "coefficients");
  const limit = widgetOf(node, "num_tokens");
  if (!text || !limit) return; // a host that builds nodes in another way still shows the text
  text.hidden = true;
  text.options.hidden = true;
  text.computeSize = () => [0, -4];
  const container = document.createElement("div");
  const href = new URL("./token_mix/style.css", import.meta.url).href;
  container.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href })); // not into the page, which is everybody's
  const shown = { pictures: [] };
  const editor = mountEditor(container, {
    language: app.extensionManager?.setting?.get("Comfy.Locale"),
    find,
    pictures: () => shown.pictures,
    changed(changes, aside) {
      text.value = changes;
      if (!aside) return;
      node.properties[KEPT] = aside;
      node.graph?.setDirtyCanvas?.(true, true);
      app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
    },
  });
  const widget = node.addDOMWidget(`token_mix_editor_${(count += 1)}`, "CONCEPTLENS_TOKEN_MIX", container, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => 300,
  });
  widget.serialize = false;
  const read = () => {
    editor.load(text.value ?? "", node.properties[KEPT]);
    editor.setLimit(limit.value);
    const found = learned.get(placeOf(node));
    if (found) editor.learn(found);
  };
  chain(node, "onConfigure", read);
  chain(text, "callback", (value) => value === editor.text || read());
  chain(limit, "callback", (value) => editor.setLimit(value));
  chain(node, "onExecuted", (output) => {
    const found = output?.token_mix?.[0];
    if (!found) return;
    learned.set(placeOf(node), found);
    if (!editor.learn(found)) return;
    node.properties[KEPT] = editor.aside;
    text.value = editor.text; // a solo is off for new words too
  });
  chain(node, "onRemoved", () => {
    editors.delete(node);
    editor.destroy();
  });
  chain(node, "onAdded", () => editors.set(node, Object.assign(shown, { editor }))); // copies in the clipboard never are
  read();
  node.setSize(node.size.map((length, i) => Math.max(length, LEAST[i])));
}

/** Whether pictures of a node depend on another one. */
function follows(node, source, seen = new Set()) {
  if (node === source) return true;
  if (!node || seen.has(node)) return false;
  seen.add(node);
  return (node.inputs ?? []).some((_, slot) => follows(node.getInputNode?.(slot), source, seen));
}

const urlOf = ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

function remember({ detail }) {
  const { images, tokens } = detail?.output ?? {};
  if (!images?.[0]) return;
  for (const [node, shown] of editors) {
    if (tokens) shown.editor.illustrate(tokens.map((token, i) => [token, urlOf(images[i])]));
    const maker = node.graph?.getNodeById?.(String(detail.display_node ?? detail.node).split(":").pop());
    if (!maker || !follows(maker, node)) continue;
    const url = urlOf(images[0]);
    if (shown.pictures.at(-1) !== url) shown.pictures = [...shown.pictures, url].slice(-2);
  }
}

app.registerExtension({
  name: "conceptlens.TokenMixEditor",
  setup() {
    api.addEventListener("executed", remember);
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) mount(node);
  },
});
