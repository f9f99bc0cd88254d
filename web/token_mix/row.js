// One word: whether it takes part, its bar, its number and its share.

import { h, iconButton, setAttributes, setIcon, setText } from "./dom.js";

const FINE = 0.1; // of a movement while Shift is held
const STEPS = 100; // of the keyboard over a whole bar
const BIG_STEPS = 10;
const UNCERTAIN = 0.1; // of a coefficient

export const written = (value) => String(Number(value.toPrecision(4)));

/** Whether a learned coefficient may as well be nothing, by the lower end of its interval. */
export const uncertain = (low, value) => low < UNCERTAIN * value;

/** A number as people write it, or NaN. */
export const read = (text) => (text.trim() ? Number(text.trim().replace(",", ".")) : NaN);

export class Row {
  /** `editor` is told what is done to the row; `t` gives its texts. */
  constructor(editor, t) {
    this._editor = editor;
    this._t = t;
    this.item = null;
    const act = (name) => () => editor[name](this.item);
    this._switch = iconButton("on", t.onOff, act("switchRow"), { className: "conceptlens-switch" });
    this._picture = h("img", { alt: "", className: "conceptlens-picture", draggable: false });
    this._word = h("span");
    this._text = h("button", { type: "button", className: "conceptlens-text", title: t.select, onclick: (event) => editor.selectRow(this.item, event) }, this._picture, this._word);
    this._fill = h("div", { className: "conceptlens-fill" });
    this._mark = h("div", { className: "conceptlens-mark", title: t.learned });
    this._interval = h("div", { className: "conceptlens-interval", title: t.interval });
    this._handle = h("div", { className: "conceptlens-handle" });
    this.bar = h("div", { className: "conceptlens-bar", role: "slider", tabIndex: -1, title: t.bar }, this._fill, this._mark, this._interval, this._handle);
    this._number = h("input", { type: "text", inputMode: "decimal", className: "conceptlens-number", "aria-label": t.value, autocomplete: "off", spellcheck: false });
    this._share = h("span", { className: "conceptlens-share" });
    this._lock = iconButton("unlock", t.lock, act("lockRow"));
    this._solo = iconButton("solo", t.solo, act("soloRow"));
    this._near = iconButton("near", t.near, act("showNear"));
    this._remove = iconButton("remove", t.remove, act("removeRow"));
    this._actions = h("span", { className: "conceptlens-actions" }, this._near, this._solo, this._lock, this._remove);
    this.element = h("div", { className: "conceptlens-row", role: "listitem" }, this._switch, this._text, this.bar, this._number, this._share, this._actions);
    this._listen();
  }

  fill(item) {
    const { state, selected, current } = this._editor;
    this.item = item;
    const [low, high] = state.range;
    const place = (value) => Math.min(1, Math.max(0, (value - low) / (high - low)));
    const [zero, here] = [place(0), place(item.value)];
    const places = { "--from": Math.min(zero, here), "--to": Math.max(zero, here), "--at": here };
    for (const [name, at] of Object.entries(places)) this.bar.style.setProperty(name, at);
    this.bar.style.setProperty("--learned", place(item.learned ?? 0));
    const interval = this._editor.intervalOf(item.id);
    this._interval.hidden = !interval;
    for (const [end, value] of Object.entries(interval ?? {})) this.bar.style.setProperty(`--${end}`, place(value));
    const used = state.used(item);
    const flags = { unused: !used, selected: selected.has(item.id), locked: item.locked, [item.kind]: true };
    flags.uncertain = Boolean(interval) && uncertain(interval.low, item.learned);
    flags.changed = item.learned !== null && item.value !== item.learned;
    setAttributes(this.element, { "data-flags": Object.keys(flags).filter((flag) => flags[flag]).join(" ") });
    const share = used ? `${(100 * state.share(item)).toFixed(1)}%` : "";
    const value = written(item.value);
    setText(this._word, item.text);
    this._show(this._editor.pictureOf(item.id));
    setText(this._share, share);
    if (document.activeElement !== this._number) this._number.value = value;
    this._number.readOnly = item.locked;
    setAttributes(this.bar, {
      "aria-label": item.text,
      "aria-valuemin": written(low),
      "aria-valuemax": written(high),
      "aria-valuenow": value,
      "aria-valuetext": `${value}, ${share || this._t.notUsed}`,
      "aria-disabled": item.locked,
    });
    setIcon(this._switch, item.on ? "on" : "off");
    setIcon(this._lock, item.locked ? "lock" : "unlock");
    setAttributes(this._text, { "aria-pressed": selected.has(item.id) });
    setAttributes(this._switch, { "aria-pressed": item.on });
    setAttributes(this._lock, { "aria-pressed": item.locked });
    this._remove.disabled = item.locked && item.kind !== "vanished";
    setAttributes(this._solo, { "aria-pressed": state.now.solo === item.id });
    this._near.hidden = !this._editor.nearOf(item.id).length;
    const reachable = current === item.id ? 0 : -1; // one row's controls are in the order of Tab
    if (this.bar.tabIndex === reachable && this._number.tabIndex === reachable) return;
    for (const control of [this.bar, ...this.element.querySelectorAll("input, button")]) control.tabIndex = reachable;
  }

  /** What the word looks like alone, where the graph has drawn it. */
  _show(url) {
    this._picture.hidden = !url;
    if (url && this._picture.getAttribute("src") !== url) this._picture.src = url;
  }

  // --- pointer -------------------------------------------------------------------------------------------------------

  _listen() {
    const { bar, _number: number, _editor: editor } = this;
    bar.addEventListener("pointerdown", (event) => this._grab(event));
    bar.addEventListener("pointermove", (event) => this._drag(event));
    bar.addEventListener("pointerup", () => this._drop());
    bar.addEventListener("pointercancel", () => this._drop(true));
    bar.addEventListener("dblclick", () => editor.backToLearned(this.item));
    bar.addEventListener("keydown", (event) => this._key(event));
    for (const name of ["keyup", "blur"]) bar.addEventListener(name, () => editor.endChange());
    this.element.addEventListener("focusin", () => editor.enterRow(this.item));
    number.addEventListener("focus", () => {
      this._typed = this.item.id; // the row may show another word before the number is entered
      number.select();
    });
    number.addEventListener("change", () => this._enter());
    number.addEventListener("keydown", (event) => this._numberKey(event));
  }

  _grab(event) {
    if (event.button !== 0 || this.item.locked) return;
    event.preventDefault();
    this.bar.focus({ preventScroll: true });
    this.bar.setPointerCapture(event.pointerId);
    this._grabbed = { id: this.item.id, x: event.clientX, value: null };
    if (!event.shiftKey) this._drag(event);
  }

  _drag(event) {
    if (!this._grabbed) return;
    const { left, right, width } = this.bar.getBoundingClientRect(); // scaled with the graph, as the pointer is
    const [low, high] = this._editor.state.range;
    const leftToRight = getComputedStyle(this.bar).direction !== "rtl";
    const moved = ((leftToRight ? 1 : -1) * (event.clientX - this._grabbed.x)) / width;
    const share = leftToRight ? (event.clientX - left) / width : (right - event.clientX) / width;
    const start = this._editor.row(this._grabbed.id)?.value ?? 0;
    const value = event.shiftKey ? start + FINE * moved * (high - low) : low + share * (high - low);
    this._grabbed.x = event.clientX;
    this._editor.moveRow(this._grabbed.id, Math.min(high, Math.max(low, value)));
  }

  _drop(cancelled = false) {
    if (!this._grabbed) return;
    this._grabbed = null;
    if (cancelled) this._editor.cancelChange();
    else this._editor.endChange();
  }

  // --- keyboard ------------------------------------------------------------------------------------------------------

  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { item, _editor: editor } = this;
    const [low, high] = editor.state.range;
    const forward = getComputedStyle(this.bar).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const step = ((high - low) / STEPS) * (event.shiftKey ? FINE : 1);
    const move = (value) => item.locked || editor.moveRow(item.id, Math.min(high, Math.max(low, value)));
    const keys = {
      [forward]: () => move(item.value + step),
      [forward === "ArrowLeft" ? "ArrowRight" : "ArrowLeft"]: () => move(item.value - step),
      PageUp: () => move(item.value + (high - low) / BIG_STEPS),
      PageDown: () => move(item.value - (high - low) / BIG_STEPS),
      Home: () => move(low),
      End: () => move(high),
      ArrowUp: () => editor.goTo(item, -1),
      ArrowDown: () => editor.goTo(item, 1),
      Enter: () => this._number.focus(),
      Escape: () => (this._drop(true), editor.cancelChange()),
      " ": () => editor.switchRow(item),
      Delete: () => editor.removeRow(item),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  _numberKey(event) {
    if (event.key === "Enter") {
      this._enter();
      this.bar.focus();
    } else if (event.key === "Escape") {
      this._number.value = written(this.item.value);
      this.bar.focus();
    } else return;
    event.preventDefault();
  }

  _enter() {
    const value = read(this._number.value);
    const item = this._editor.row(this._typed);
    if (item && Number.isFinite(value) && !item.locked && written(value) !== written(item.value)) {
      this._editor.moveRow(item.id, value);
      this._editor.endChange();
    }
    this._number.value = written(this.item.value);
  }
}
