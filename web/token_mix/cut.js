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
      const above = Math.round(((event.clientY - box.top) / box.height) * this._on.length);
      put(this._on.slice(0, above).filter(Boolean).length);
    });
    for (const name of ["pointerup", "pointercancel"]) cut.addEventListener(name, done);
    cut.addEventListener("keydown", (event) => {
      const now = this._now;
      const to = { ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 1, End: null }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      put(to);
    });
    cut.addEventListener("keyup", done);
  }

  /** `top`: how many words take part at most; `on`: whether each row could; `hidden` where their order is another one. */
  show(top, on, hidden) {
    const { _t: t, element } = this;
    const places = on.flatMap((could, place) => (could ? [place + 1] : []));
    const most = Math.max(1, places.length);
    this._on = on;
    this._now = Math.min(top, most);
    const all = top >= most;
    element.hidden = hidden || on.length < 2;
    element.style.transform = `translateY(${(all ? on.length : places[top - 1]) * ROW_HEIGHT}px)`;
    element.dataset.label = all ? t.all : `${t.top} ${top}`;
    setAttributes(element, { "aria-valuenow": this._now, "aria-valuemin": 1, "aria-valuemax": most });
  }
}
