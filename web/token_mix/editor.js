// The coefficient editor: a mix's words as bars. It knows no host: an adapter gives it a place and listens.

import { Cut } from "./cut.js";
import { h, iconButton, setText } from "./dom.js";
import { Found } from "./found.js";
import { Groups } from "./groups.js";
import { mixText, readMix } from "./mix_text.js";
import { Notice } from "./notice.js";
import { Row, written } from "./row.js";
import { EditorState } from "./state.js";
import { filled, textsIn } from "./texts.js";
import { VirtualList } from "./virtual_list.js";
import { SUGGESTIONS, Windows } from "./windows.js";

const ORDERS = {
  learned: (a, b) => (b.learned ?? b.value) - (a.learned ?? a.value),
  value: (a, b) => b.value - a.value,
  name: (a, b) => a.text.localeCompare(b.text),
};

/**
 * Puts an editor into `container`. `outside`: {changed(text, aside), find(query, limit) -> [{id, text}],
 * pictures() -> [url, url], language}. `changed` is called with each step of a change, with `aside` when it is finished.
 */
export function mountEditor(container, outside) {
  return new Editor(container, outside);
}

class Editor {
  constructor(container, outside) {
    this.state = new EditorState();
    this.selected = new Set();
    this.current = null; // the row whose controls Tab reaches
    this._outside = outside;
    this._t = textsIn(outside.language);
    this._near = new Map();
    this._pictures = new Map(); // id -> address
    this._intervals = new Map(); // id -> {low, high}: within which a learned coefficient lies
    this._shown = [];
    this._build(container);
    this._arrange();
  }

  // --- for the adapter -----------------------------------------------------------------------------------------------

  load(text, aside) {
    this.state.load(text, aside);
    this._sort.value = aside?.order in ORDERS ? aside.order : "learned";
    this._arrange();
  }

  /** What a run found: {rows: [ids, texts, values], near: {id: [[id, text]]}, intervals: {id: [low, high]}}. Gives whether it is new. */
  learn({ rows, near = {}, intervals = {} }) {
    this._intervals = new Map(Object.entries(intervals).map(([id, [low, high]]) => [Number(id), { low, high }]));
    for (const [id, words] of Object.entries(near)) this._near.set(Number(id), words.map(([word, text]) => ({ id: word, text })));
    const differ = this.state.learn(rows);
    if (differ) this._arrange();
    else this._render();
    return differ;
  }

  /** What a run has found so far, as `learn` wants it; null when it is over. */
  found(words) {
    this._found.show(words);
  }

  /** Pictures of single words: [[id, address]]. */
  illustrate(pictures) {
    for (const [id, address] of pictures) this._pictures.set(id, address);
    this._render();
  }

  setLimit(count) {
    this.state.setLimit(count);
    this._render();
  }

  get text() {
    return this.state.text;
  }

  get aside() {
    return { ...this.state.aside, order: this._sort.value };
  }

  destroy() {
    this._list.destroy();
    this.root.remove();
  }

  // --- for the rows --------------------------------------------------------------------------------------------------

  row(id) {
    return this.state.row(id);
  }

  pictureOf(id) {
    return this._pictures.get(id);
  }

  intervalOf(id) {
    return this._intervals.get(id);
  }

  nearOf(id) {
    return this._near.get(id) ?? [];
  }

  moveRow(id, value) {
    if (!this._start) {
      const together = this.selected.has(id) ? [...this.selected] : [id];
      this._start = new Map(together.filter((other) => this.row(other) && !this.row(other).locked).map((other) => [other, this.row(other).value]));
    }
    if (this._start.size > 1) this.state.moveTogether(id, value, this._start);
    else this.state.put({ [id]: value });
    this._render();
    this._tell(false);
  }

  endChange() {
    if (!this._start) return;
    this._start = null;
    this._done();
  }

  cancelChange() {
    if (!this._start) return;
    this._start = null;
    this.state.cancel();
    this._render();
    this._tell(false);
  }

  switchRow(item) {
    this._do(() => this.state.switch(this._withSelected(item), !item.on));
  }

  soloRow(item) {
    this._do(() => this.state.solo(item.id));
  }

  lockRow(item) {
    this._do(() => this.state.lock(this._withSelected(item), !item.locked));
  }

  removeRow(item) {
    const place = this._shown.indexOf(item);
    this._do(() => this.state.remove(this._withSelected(item)), true);
    this.goTo(this._shown[Math.min(place, this._shown.length - 1)], 0);
  }

  backToLearned(item) {
    this._start = null;
    this._do(() => this.state.backToLearned(this._withSelected(item)));
  }

  enterRow(item) {
    if (this.current === item.id) return;
    this.current = item.id;
    this._list.render(true);
  }

  goTo(item, step) {
    const place = this._shown.indexOf(item) + step;
    if (!this._shown[place]) return;
    this.endChange();
    const element = this._list.reveal(place);
    this.enterRow(this._shown[place]);
    element.row.bar.focus({ preventScroll: true });
  }

  selectRow(item, event) {
    const alone = this.selected.size === 1 && this.selected.has(item.id);
    if (event.shiftKey && this._last !== undefined) {
      const [from, to] = [this._last, this._shown.indexOf(item)].sort((a, b) => a - b);
      for (const other of this._shown.slice(from, to + 1)) this.selected.add(other.id);
    } else if (event.ctrlKey || event.metaKey) {
      if (!this.selected.delete(item.id)) this.selected.add(item.id);
    } else {
      this.selected.clear();
      if (!alone) this.selected.add(item.id);
    }
    this._last = this._shown.indexOf(item);
    this._render();
  }

  showNear(item) {
    const words = this.nearOf(item.id).filter(({ id }) => !this.row(id));
    this._windows.chooseWord(words, item.text, (word) => this._addWord(word, item.value));
  }

  // --- the page ------------------------------------------------------------------------------------------------------

  _build(container) {
    const t = this._t;
    const action = (name, todo) => iconButton(name, t[name], todo);
    this._filter = h("input", { type: "search", placeholder: t.filter, "aria-label": t.filter, oninput: () => this._arrange() });
    const order = (name, label) => h("option", { value: name, textContent: label });
    this._sort = h(
      "select",
      { title: t.sort, "aria-label": t.sort, onchange: () => (this._arrange(), this._tell(true)) },
      ...[order("learned", t.byLearned), order("value", t.byValue), order("name", t.byName)],
    );
    this._undo = action("undo", () => this.travel("undo"));
    this._redo = action("redo", () => this.travel("redo"));
    const tools = h(
      "div",
      { className: "conceptlens-tools" },
      ...[this._filter, this._sort, this._undo, this._redo],
      action("normalise", () => this._normalise()),
      action("reset", () => this._do(() => this.state.resetAll(), true)),
      action("add", () => this._windows.askWord((...query) => this._outside.find(...query), (word) => this._addWord(word))),
    );
    this._notice = new Notice(t, (change) => this._do(change, true));
    this._found = new Found(t);
    const make = () => {
      const row = new Row(this, t);
      row.element.row = row;
      return row.element;
    };
    this._list = new VirtualList(make, (element, item) => element.row.fill(item));
    this._empty = h("p", { className: "conceptlens-empty", textContent: t.empty });
    this._cut = new Cut(this._list.content, t, (count) => this._moveCut(count), () => this._done());
    this._list.element.append(this._cut.element, this._empty);
    this._groups = new Groups(t, {
      oppose: (a, b) => this._do(() => this.state.oppose(a, b)),
      weigh: (to) => (this.state.weigh(to), this._render(), this._tell(false)),
      done: () => this._done(),
    });
    this._counted = h("span", { role: "status" });
    this._top = h("input", { type: "text", inputMode: "numeric", title: t.top, "aria-label": t.top, placeholder: t.all, onchange: () => this._enterTop() });
    const foot = h(
      "div",
      { className: "conceptlens-foot" },
      ...[this._counted, h("label", { textContent: `${t.top} ` }, this._top)],
      action("chart", () => this._showChart()),
      action("compare", () => this._windows.compare(this._outside.pictures())),
      action("copy", () => this._copy()),
      action("paste", () => this._askText()),
    );
    this.root = h(
      "div",
      { className: "conceptlens-editor", role: "group", "aria-label": t.title, onkeydown: (event) => this._key(event) },
      ...[tools, this._notice.element, this._found.element, this._list.element, this._groups.element, foot],
    );
    this._windows = new Windows(this.root, t);
    // The graph below must not be dragged, zoomed or have its nodes deleted by what is meant for the editor.
    for (const name of ["pointerdown", "mousedown", "dblclick", "contextmenu"]) this.root.addEventListener(name, (event) => event.stopPropagation());
    this.root.addEventListener("wheel", (event) => this._wheel(event), { passive: true });
    container.append(this.root);
  }

  _wheel(event) {
    const list = this._list.element;
    if (event.ctrlKey || !list.contains(event.target) || list.scrollHeight <= list.clientHeight) return;
    event.stopPropagation();
  }

  _key(event) {
    const letter = event.key.toLowerCase();
    const command = event.ctrlKey || event.metaKey;
    const writing = event.target.matches("input:not([type=range]), textarea");
    if (command && letter === "z" && !writing) {
      event.preventDefault();
      this.travel(event.shiftKey ? "redo" : "undo");
    } else if (command && letter === "y" && !writing) {
      event.preventDefault();
      this.travel("redo");
    } else if (command && !["c", "v", "x", "a", "z", "y"].includes(letter)) return; // the host's: queue, save
    event.stopPropagation();
  }

  travel(way) {
    this._start = null;
    this.state[way]();
    this._arrange();
    this._tell(true);
  }

  /** A change that is finished at once; after it there may be `other` rows. */
  _do(change, other = false) {
    change();
    this._done(other);
  }

  _done(other = false) {
    this.state.commit();
    if (other) this._arrange();
    else this._render();
    this._tell(true);
  }

  _tell(finished) {
    this._outside.changed(this.state.text, finished ? this.aside : null);
  }

  _withSelected(item) {
    return this.selected.has(item.id) ? [...this.selected] : [item.id];
  }

  /** All anew: the rows, their order, what is shown of them. */
  _arrange() {
    const wanted = this._filter.value.trim().toLocaleLowerCase();
    const focused = this._list.content.contains(document.activeElement) ? this.current : null;
    this._shown = this.state.rows.filter((row) => row.text.toLocaleLowerCase().includes(wanted)).sort(ORDERS[this._sort.value]);
    for (const id of this.selected) if (!this.row(id)) this.selected.delete(id);
    if (!this._shown.some((row) => row.id === this.current)) this.current = this._shown[0]?.id ?? null;
    this._rows = this.state.rows;
    this._list.show(this._shown);
    this._empty.hidden = this.state.rows.length > 0;
    this._render();
    if (focused !== null && focused === this.current) this.goTo(this.row(focused), 0);
  }

  /** What is shown, in the order that it has: rows do not leave the hand that moves them. */
  _render() {
    const { state, _t: t } = this;
    if (this._rows !== state.rows) {
      this._rows = state.rows;
      this._shown = this._shown.map((row) => state.row(row.id)).filter(Boolean);
      this._list.show(this._shown);
    } else this._list.render(true);
    const ordered = this._sort.value !== "name" && !this._filter.value.trim();
    this._cut.show(state.top, this._shown.map((row) => state.isOn(row)), !ordered);
    if (document.activeElement !== this._top) this._top.value = state.now.top ?? "";
    setText(this._counted, state.rows.length ? filled(t.used, state.count, state.rows.length) : "");
    this._undo.disabled = !state.canUndo;
    this._redo.disabled = !state.canRedo;
    this._notice.show(state);
    this._groups.show(state.now.contrast, [...this.selected], state.names);
  }

  _normalise() {
    let done = false;
    this._do(() => (done = this.state.normalise()));
    if (!done) this._windows.tell(this._t.noRoom, this._t.normalise);
  }

  _moveCut(count) {
    this.state.cut(count);
    this._render();
    this._tell(false);
  }

  _enterTop() {
    const text = this._top.value.trim();
    const count = Number(text);
    if (!text || (Number.isInteger(count) && count > 0)) this._do(() => this.state.cut(text ? count : null));
    this._render();
  }

  // --- words ---------------------------------------------------------------------------------------------------------

  _addWord({ id, text }, value) {
    const middle = value ?? this.state.range[1] / 2;
    this._windows.close();
    this._do(() => this.state.add(id, text, Number(written(middle))), true);
    this._filter.value = "";
    this._arrange();
    this.goTo(this.row(id), 0);
  }

  // --- as text -------------------------------------------------------------------------------------------------------

  /** "dog: 0.6, snow: 0.2" of what is used, the largest first. */
  get asText() {
    return mixText(this._used);
  }

  _showChart() {
    const used = this._used;
    this._windows.showChart(used.map((row) => row.text), used.map((row) => row.value), this.asText);
  }

  get _used() {
    return this.state.rows.filter((row) => this.state.used(row)).sort(ORDERS.value);
  }

  async _copy() {
    try {
      await navigator.clipboard.writeText(this.asText);
      setText(this._counted, this._t.copied);
    } catch {
      this._askText(this.asText); // without the right to write there: to be copied by hand
    }
  }

  _askText(text = "") {
    this._windows.askText(text, (said) => this.putText(said));
  }

  /** Makes the mix what a text says; words that it does not name are off. Gives a sentence about what it can't read. */
  async putText(text) {
    const byText = new Map(this.state.rows.map((row) => [row.text, row]));
    const find = async (word) => byText.get(word) ?? (await this._outside.find(word, SUGGESTIONS)).find((found) => found.text === word);
    const { words, numbers, unknown } = await readMix(text, find);
    if (numbers.length) return filled(this._t.decimals, numbers.join(", "));
    if (unknown.length || !words.length) return filled(this._t.unknown, unknown.join(", "));
    const held = words.filter(([id, , value]) => this.row(id)?.locked && written(this.row(id).value) !== written(value));
    if (held.length) return filled(this._t.held, held.map(([, word]) => word).join(", "));
    this._windows.close();
    this._do(() => this.state.become(words), true);
    return "";
  }
}
