// The line below which words take no part: dragged, or moved by keys.

import { h, setAttributes } from "./dom.js";
import { ROW_HEIGHT } from "./virtual_list.js";

export class Cut {
  /** `over`: the element whose rows it cuts; `put(count or null)` with each step, `done()` at the end of a change. */
  constructor(over, texts, put, done) {
    this._t = texts;
    this.element = h("div", { className: "conceptlens-cut", role: "slider", tabIndex: 0, "aria-label": texts.top, "aria-orientation": "vertical" });
    const cut = this.element;
    cut.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      cut.focus({ preventScroll: true });
      cut.setPointerCapture(event.pointerId);
    });
    cut.addEventListener("pointermove", (event) => {
      if (!cut.hasPointerCapture(event.pointerId)) return;
      const box = over.getBoundingClientRect();
      put(Math.round(((event.clientY - box.top) / box.height) * this._rows));
    });
    cut.addEventListener("pointerup", done);
    cut.addEventListener("keydown", (event) => {
      const now = this._now;
      const to = { ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 1, End: null }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      put(to);
    });
    cut.addEventListener("keyup", done);
  }

  /** `top`: the words that take part of `rows`, null for all; `hidden` where the order of rows is another one. */
  show(top, rows, hidden) {
    const { _t: t, element } = this;
    this._rows = rows;
    this._now = Math.min(top ?? Infinity, rows);
    element.hidden = hidden || rows < 2;
    element.style.transform = `translateY(${this._now * ROW_HEIGHT}px)`;
    element.dataset.label = top === null ? t.all : `${t.top} ${top}`;
    setAttributes(element, { "aria-valuenow": this._now, "aria-valuemin": 1, "aria-valuemax": Math.max(1, rows) });
  }
}
