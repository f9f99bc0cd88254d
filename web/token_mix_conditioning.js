// The coefficient editor in the node TokenMixConditioning. The node's own text input holds the changes, so that saved
// graphs, the API and a page without this file need nothing else.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { mountEditor } from "./token_mix/editor.js";
import { textsIn } from "./token_mix/texts.js";

const NODE = "TokenMixConditioning";
const KEPT = "conceptlens"; // the node's property with what the editor shows and the node does not need
const LEAST = [420, 560];
const WIDGET = "token_mix_editor_";
let loads = 0; // of graphs: after an undo Nodes 2.0 shows the new node's widget only if its name is new
const learned = new WeakMap(); // workflow -> place of a node -> what its last run found: an undone graph does not know it
const editors = new Map(); // node -> its editor, and the last pictures made with it by each node that shows some
const prompts = new WeakMap(); // workflow, or what an editor shows -> ids of the runs that were queued while it was there

function chain(object, name, then) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    then.apply(this, given);
    return result;
  };
}

const placeOf = (node) => `${node.graph?.rootGraph?.id ?? ""} ${node.graph?.id ?? ""} ${node.id}`;
const openWorkflow = () => app.extensionManager?.workflow?.activeWorkflow ?? app;
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
  const shown = { pictures: new Map() };
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  const editor = mountEditor(container, {
    language,
    find,
    pictures: () => [...shown.pictures.values()].findLast((made) => made.length === 2) ?? [],
    changed(changes, aside) {
      text.value = changes;
      if (!aside) return;
      node.properties[KEPT] = aside;
      node.graph?.setDirtyCanvas?.(true, true);
      app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
    },
  });
  const widget = node.addDOMWidget(`${WIDGET}${loads}`, "CONCEPTLENS_TOKEN_MIX", container, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => 300,
  });
  widget.serialize = false;
  widget.label = textsIn(language).title; // in app mode
  const read = () => {
    editor.load(text.value ?? "", node.properties[KEPT]);
    editor.setLimit(limit.value);
  };
  chain(node, "onConfigure", read);
  chain(text, "callback", (value) => value === editor.text || read());
  chain(limit, "callback", (value) => editor.setLimit(value));
  shown.learn = (found) => {
    if (shown.found === found) return;
    shown.found = found;
    if (!editor.learn(found)) return;
    node.properties[KEPT] = editor.aside;
    text.value = editor.text; // a solo is off for new words too, and a locked coefficient stays
  };
  chain(node, "onRemoved", () => {
    editors.delete(node);
    editor.destroy();
  });
  chain(node, "onAdded", () => editors.set(node, Object.assign(shown, { editor }))); // copies in the clipboard never are
  read();
  node.setSize(node.size.map((length, i) => Math.max(length, LEAST[i])));
}

/** Whether pictures of a node depend on another one, which may be in a subgraph. */
function follows(node, source, seen = new Set()) {
  if (node === source || node?.subgraph === source.graph) return true;
  if (!node || seen.has(node)) return false;
  seen.add(node);
  return (node.inputs ?? []).some((_, slot) => follows(node.getInputNode?.(slot), source, seen));
}

const urlOf = ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

/** The node of the open graph that a run names, "12:7" is node 7 in the subgraph of node 12. */
function nodeOf(id) {
  const path = String(id).split(":");
  const last = path.pop();
  const graph = path.reduce((outer, step) => outer?.getNodeById(step)?.subgraph, app.rootGraph);
  return graph?.getNodeById(last);
}

/** Takes down the ids of runs: node ids of several workflows coincide, and the host's events name nothing else. */
function watchQueue() {
  let queued = null; // what was there when the page queued last, which is what starts next
  api.addEventListener("promptQueueing", () => (queued = [openWorkflow(), ...editors.values()]));
  api.addEventListener("execution_start", ({ detail }) => {
    for (const one of queued ?? [openWorkflow(), ...editors.values()]) prompts.set(one, (prompts.get(one) ?? new Set()).add(detail.prompt_id));
  });
}

function remember({ detail }) {
  const queued = (where) => prompts.get(where)?.has(detail.prompt_id);
  const there = [...editors].filter(([, shown]) => queued(shown)); // not those of a graph that was loaded since
  const { images, tokens, token_mix: [found] = [] } = detail.output ?? {};
  const maker = nodeOf(detail.display_node ?? detail.node);
  if (found && maker) {
    const workflow = openWorkflow();
    const places = learned.get(workflow) ?? new Map();
    if (queued(workflow)) learned.set(workflow, places.set(placeOf(maker), found));
    for (const [node, shown] of there) if (node === maker) (shown.editor.found(null), shown.learn(found));
  } else if (tokens) {
    const pictures = tokens.map((token, i) => [token, urlOf(images[i])]);
    for (const [, { editor }] of there) editor.illustrate(pictures);
  } else if (images?.[0]) {
    const url = urlOf(images[0]);
    for (const [node, { pictures }] of there) {
      const made = pictures.get(maker) ?? [];
      if (!follows(maker, node) || made.at(-1) === url) continue;
      pictures.delete(maker); // so that the last of several stands last
      pictures.set(maker, [...made, url].slice(-2));
    }
  }
}

/** Shows the words of a concept that is being explained in the editors behind it. */
function watchWords() {
  api.addEventListener("conceptlens.found", ({ detail }) => {
    const source = nodeOf(detail.node);
    for (const [node, shown] of editors) if (source && prompts.get(shown)?.has(detail.prompt_id) && follows(node, source)) shown.editor.found(detail);
  });
  for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(end, () => editors.forEach(({ editor }) => editor.found(null)));
  }
}

/** Gives the open graph's editors what was found for their places. */
function recall() {
  const places = learned.get(openWorkflow());
  for (const [node, shown] of editors) {
    const found = places?.get(placeOf(node));
    if (found) shown.learn(found);
  }
}

/** App mode names the editors of a graph that is about to be loaded by their present names. */
function rename(graph) {
  loads += 1;
  const named = (text) => String(text).replace(new RegExp(`${WIDGET}\\d+$`), `${WIDGET}${loads}`);
  const data = graph.extra?.linearData;
  if (data?.inputs) data.inputs = data.inputs.map(([widget, name, ...more]) => [named(widget), named(name), ...more]);
}

app.registerExtension({
  name: "conceptlens.TokenMixEditor",
  beforeConfigureGraph: rename,
  setup() {
    watchQueue();
    watchWords();
    api.addEventListener("executed", remember);
    api.addEventListener("graphChanged", recall); // by an undo too, when it has loaded the graph
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) mount(node);
  },
});
