// The coefficient editor: a mix's words as bars. It knows no host: an adapter gives it a place and listens.

import { drawChart } from "./chart.js";
import { h, iconButton, setAttributes, setText, textButton } from "./dom.js";
import { Row, written } from "./row.js";
import { EditorState } from "./state.js";
import { filled, textsIn } from "./texts.js";
import { ROW_HEIGHT, VirtualList } from "./virtual_list.js";

const SUGGESTIONS = 20;
const TYPING = 120; // milliseconds of silence before words are looked up
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

  /** What a run found: {rows: [ids, texts, values], near: {id: [[id, text]]}}. Gives whether it is new. */
  learn({ rows, near = {} }) {
    for (const [id, words] of Object.entries(near)) this._near.set(Number(id), words.map(([word, text]) => ({ id: word, text })));
    const differ = this.state.learn(rows);
    if (differ) this._arrange();
    else this._render();
    return differ;
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
    this._pop(this._choices(words, (word) => this._addWord(word, item.value)), item.text);
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
      action("normalise", () => this._do(() => this.state.normalise())),
      action("reset", () => this._do(() => this.state.resetAll(), true)),
      action("add", () => this._askWord()),
    );
    this._notice = h("div", { className: "conceptlens-notice", role: "status", hidden: true });
    const make = () => {
      const row = new Row(this, t);
      row.element.row = row;
      return row.element;
    };
    this._list = new VirtualList(make, (element, item) => element.row.fill(item));
    this._empty = h("p", { className: "conceptlens-empty", textContent: t.empty });
    this._cut = h("div", { className: "conceptlens-cut", role: "slider", tabIndex: 0, "aria-label": t.top, "aria-orientation": "vertical" });
    this._list.element.append(this._cut, this._empty);
    this._listenToCut();
    this._group = h("div", { className: "conceptlens-group", hidden: true });
    this._counted = h("span", { role: "status" });
    this._top = h("input", { type: "text", inputMode: "numeric", title: t.top, "aria-label": t.top, placeholder: t.all, onchange: () => this._enterTop() });
    const foot = h(
      "div",
      { className: "conceptlens-foot" },
      ...[this._counted, h("label", { textContent: `${t.top} ` }, this._top)],
      action("chart", () => this._showChart()),
      action("compare", () => this._compare()),
      action("copy", () => this._copy()),
      action("paste", () => this._askText()),
    );
    this.root = h(
      "div",
      { className: "conceptlens-editor", role: "group", "aria-label": t.title, onkeydown: (event) => this._key(event) },
      ...[tools, this._notice, this._list.element, this._group, foot],
    );
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
    const cut = Math.min(state.top, this._shown.length);
    this._cut.hidden = !ordered || this._shown.length < 2;
    this._cut.style.transform = `translateY(${cut * ROW_HEIGHT}px)`;
    this._cut.dataset.label = Number.isFinite(state.now.top ?? Infinity) ? `${t.top} ${state.now.top}` : t.all;
    setAttributes(this._cut, { "aria-valuenow": cut, "aria-valuemin": 1, "aria-valuemax": Math.max(1, this._shown.length) });
    if (document.activeElement !== this._top) this._top.value = state.now.top ?? "";
    setText(this._counted, state.rows.length ? filled(t.used, state.count, state.rows.length) : "");
    this._undo.disabled = !state.canUndo;
    this._redo.disabled = !state.canRedo;
    this._showNotice();
    this._showGroups();
  }

  _showNotice() {
    const { state, _t: t } = this;
    const vanished = state.rows.filter((row) => row.kind === "vanished");
    let [text, buttons] = ["", []];
    if (state.broken !== null) {
      [text, buttons] = [t.broken, [textButton(t.reset, () => this._do(() => state.resetAll(), true))]];
    } else if (state.fresh) {
      [text, buttons] = [t.fresh, [textButton(t.adopt, () => this._do(() => state.adopt(), true)), textButton(t.dismiss, () => ((state.fresh = false), this._render()))]];
    } else if (vanished.length) {
      const ids = vanished.map((row) => row.id);
      text = filled(t.vanished, vanished.map((row) => row.text).join(", "));
      buttons = [textButton(t.dismiss, () => this._do(() => state.remove(ids), true))];
    }
    if (this._notice.dataset.says !== text) {
      this._notice.dataset.says = text;
      this._notice.replaceChildren(h("span", { textContent: text, title: text }), ...buttons);
    }
    this._notice.hidden = !text;
  }

  _showGroups() {
    const { state, _t: t } = this;
    const { contrast } = state.now;
    const ids = [...this.selected];
    this._group.hidden = !contrast && !ids.length;
    const key = JSON.stringify([contrast?.a, contrast?.b, ids, this._a]);
    if (this._group.dataset.key === key) {
      const slider = this._group.querySelector("input");
      if (slider && contrast && document.activeElement !== slider) slider.value = contrast.t;
      return;
    }
    this._group.dataset.key = key;
    const named = (group) => group.map((id) => state.names.get(id) ?? `#${id}`).join(", ");
    const parts = [];
    if (ids.length) {
      const second = () => this._do(() => state.oppose((this._a ?? []).filter((id) => !ids.includes(id)), ids));
      parts.push(h("span", { textContent: filled(t.selected, ids.length) }));
      parts.push(textButton(t.groupA, () => ((this._a = ids), this._render()), { "aria-pressed": Boolean(this._a) }));
      if (this._a) parts.push(textButton(t.groupB, second));
    }
    if (contrast) {
      const label = filled(t.contrast, named(contrast.a), named(contrast.b));
      const end = () => this._done();
      const slider = h("input", { type: "range", min: -1, max: 1, step: 0.01, value: contrast.t, title: label, "aria-label": label });
      slider.addEventListener("input", () => (state.weigh(Number(slider.value)), this._render(), this._tell(false)));
      slider.addEventListener("change", end);
      slider.addEventListener("dblclick", () => (state.weigh(0), end()));
      parts.push(h("span", { textContent: named(contrast.a) }), slider, h("span", { textContent: named(contrast.b) }));
      parts.push(iconButton("remove", t.clear, () => ((this._a = undefined), this._do(() => state.oppose([], [])))));
    }
    this._group.replaceChildren(...parts);
  }

  _listenToCut() {
    const cut = this._cut;
    const put = (count) => {
      this.state.cut(count);
      this._render();
      this._tell(false);
    };
    cut.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      cut.focus({ preventScroll: true });
      cut.setPointerCapture(event.pointerId);
    });
    cut.addEventListener("pointermove", (event) => {
      if (!cut.hasPointerCapture(event.pointerId)) return;
      const box = this._list.content.getBoundingClientRect();
      put(Math.round(((event.clientY - box.top) / box.height) * this._shown.length));
    });
    cut.addEventListener("pointerup", () => this._done());
    cut.addEventListener("keydown", (event) => {
      const now = Math.min(this.state.top, this._shown.length);
      const to = { ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 1, End: null }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      put(to);
    });
    cut.addEventListener("keyup", () => this._done());
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
    this._closePop();
    this._do(() => this.state.add(id, text, Number(written(middle))), true);
    this._filter.value = "";
    this._arrange();
    this.goTo(this.row(id), 0);
  }

  /** A field that completes words of the vocabulary. */
  _askWord() {
    const list = h("ul", { role: "listbox", id: `conceptlens-words-${Math.random().toString(36).slice(2)}` });
    const field = h("input", { type: "text", placeholder: this._t.addHint, "aria-label": this._t.add, role: "combobox", "aria-controls": list.id, "aria-expanded": "true", "aria-autocomplete": "list", autocomplete: "off", spellcheck: false });
    let [words, best, waiting, asked] = [[], 0, 0, 0];
    const mark = (place) => {
      best = Math.max(0, Math.min(words.length - 1, place));
      [...list.children].forEach((entry, i) => entry.setAttribute("aria-selected", i === best));
      list.children[best]?.scrollIntoView?.({ block: "nearest" });
    };
    const look = async () => {
      const mine = (asked += 1);
      const found = field.value.trim() ? await this._outside.find(field.value.trim(), SUGGESTIONS) : [];
      if (mine !== asked) return; // an answer to what was typed since is on its way
      words = found;
      const entries = words.map((word) => h("li", { role: "option", textContent: word.text, onpointerdown: (event) => (event.preventDefault(), this._addWord(word)) }));
      list.replaceChildren(...(entries.length || !field.value.trim() ? entries : [h("li", { textContent: this._t.nothingFound })]));
      mark(0);
    };
    field.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(look, TYPING);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") mark(best + (event.key === "ArrowDown" ? 1 : -1));
      else if (event.key === "Enter" && words[best]) this._addWord(words[best]);
      else return;
      event.preventDefault();
    });
    this._pop([list], this._t.add, field);
    field.focus();
  }

  _choices(words, choose) {
    const option = (word) => h("li", { role: "option", tabIndex: 0, textContent: word.text, onclick: () => choose(word), onkeydown: (event) => event.key === "Enter" && choose(word) });
    return [h("ul", { role: "listbox", "aria-label": this._t.near }, ...words.map(option))];
  }

  /** A small window over the list; Escape or a click elsewhere closes it. */
  _pop(parts, title, head = h("strong", { textContent: title })) {
    this._closePop();
    const close = iconButton("remove", this._t.close, () => this._closePop());
    const pop = h("div", { className: "conceptlens-pop", role: "dialog", "aria-label": title }, h("div", { className: "conceptlens-tools" }, head, close), ...parts);
    pop.addEventListener("keydown", (event) => event.key === "Escape" && this._closePop());
    pop.addEventListener("focusout", (event) => event.relatedTarget && !pop.contains(event.relatedTarget) && this._closePop(false));
    this._popped = { pop, before: document.activeElement };
    this.root.append(pop);
    pop.querySelector("[tabindex='0'], textarea")?.focus();
  }

  /** `back`: whether the focus returns to where it was before. */
  _closePop(back = true) {
    const popped = this._popped;
    this._popped = null;
    popped?.pop.remove();
    if (back && popped && this.root.contains(popped.before)) popped.before.focus();
  }

  // --- as text -------------------------------------------------------------------------------------------------------

  /** "dog: 0.6, snow: 0.2" of what is used, the largest first. */
  get asText() {
    return this._used.map((row) => `${row.text}: ${written(row.value)}`).join(", ");
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
    const field = h("textarea", { value: text, placeholder: this._t.pasteHint, "aria-label": this._t.paste });
    const told = h("span", { role: "alert" });
    const apply = textButton(this._t.apply, async () => setText(told, await this.putText(field.value)));
    this._pop([field, told, apply], this._t.paste);
    field.select();
  }

  /** Makes the mix what a text says; words that it does not name are off. Gives a sentence about what it can't read. */
  async putText(text) {
    const words = [];
    const unknown = [];
    const byText = new Map(this.state.rows.map((row) => [row.text, row]));
    for (const entry of text.split(/[\n,]/).map((part) => part.trim()).filter(Boolean)) {
      const [, word, number] = entry.match(/^(.*?)\s*(?::\s*([-+.\deE]+))?$/);
      const value = number === undefined ? 1 : Number(number);
      const known = byText.get(word) ?? (await this._outside.find(word, SUGGESTIONS)).find((found) => found.text === word);
      if (known && Number.isFinite(value)) words.push([known.id, known.text, value]);
      else unknown.push(entry);
    }
    if (unknown.length || !words.length) return filled(this._t.unknown, unknown.join(", "));
    this._closePop();
    this._do(() => this.state.become(words), true);
    return "";
  }

  // --- pictures ------------------------------------------------------------------------------------------------------

  _dialog(title, parts) {
    const dialog = h("dialog", { className: "conceptlens-dialog", "aria-label": title }, h("header", {}, h("strong", { textContent: title }), ...parts.buttons, iconButton("remove", this._t.close, () => dialog.close())), ...parts.body);
    dialog.addEventListener("close", () => dialog.remove());
    for (const name of ["keydown", "wheel"]) dialog.addEventListener(name, (event) => event.stopPropagation());
    this.root.append(dialog); // the top layer shows it over everything
    dialog.showModal();
    return dialog;
  }

  _showChart() {
    const t = this._t;
    const canvas = h("canvas", { role: "img", "aria-label": this.asText });
    const used = this._used;
    const draw = (kind) => drawChart(canvas, kind, used.map((row) => row.text), used.map((row) => row.value));
    const save = () => canvas.toBlob((blob) => {
      const url = URL.createObjectURL(blob);
      h("a", { href: url, download: "mix.png" }).click();
      setTimeout(() => URL.revokeObjectURL(url));
    });
    this._dialog(t.chart, { buttons: [textButton(t.bars, () => draw("bars")), textButton(t.cloud, () => draw("cloud")), textButton(t.save, save)], body: [canvas] });
    draw("bars");
  }

  _compare() {
    const t = this._t;
    const [before, after] = this._outside.pictures();
    if (!after) return this._pop([h("p", { textContent: t.noPictures })], t.compare);
    const pair = h("div", { className: "conceptlens-pair" }, h("img", { src: before, alt: t.before }), h("img", { src: after, alt: t.after }));
    const slider = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": t.compare, oninput: () => pair.style.setProperty("--cut", `${slider.value}%`) });
    return this._dialog(t.compare, { buttons: [], body: [pair, slider] });
  }
}
