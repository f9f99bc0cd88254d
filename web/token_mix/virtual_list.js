// A list of any length that holds only the rows in sight.

import { h, setAttributes } from "./dom.js";

export const ROW_HEIGHT = 28;
const SPARE = 4; // rows above and below

export class VirtualList {
  /** `make()` gives a row's element; `fill(element, item)` shows an item in it. */
  constructor(make, fill) {
    this._make = make;
    this._fill = fill;
    this._items = [];
    this._elements = new Map(); // index -> element
    this._spare = [];
    this.content = h("div", { className: "conceptlens-content", role: "list" });
    // Wheel over a focused list scrolls it; elsewhere it zooms the graph.
    this.element = h("div", { className: "conceptlens-list", tabIndex: -1, "data-capture-wheel": "true" }, this.content);
    this.element.addEventListener("scroll", () => this.render(), { passive: true });
    this._observer = new ResizeObserver(() => this.render());
    this._observer.observe(this.element);
  }

  show(items) {
    this._items = items;
    this.content.style.height = `${items.length * ROW_HEIGHT}px`;
    this.content.hidden = !items.length;
    const end = Math.max(0, items.length * ROW_HEIGHT - this.element.clientHeight);
    if (this.element.scrollTop > end) this.element.scrollTop = end;
    for (const index of [...this._elements.keys()]) if (index >= items.length) this._release(index);
    this.render(true);
  }

  /** Shows what is in sight; `anew` also where it was shown already. */
  render(anew = false) {
    const top = this.element.scrollTop;
    const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - SPARE);
    const last = Math.min(this._items.length, Math.ceil((top + (this.element.clientHeight || 300)) / ROW_HEIGHT) + SPARE);
    for (const index of [...this._elements.keys()]) {
      const busy = this._elements.get(index).contains(document.activeElement); // what has the focus stays
      if ((index < first || index >= last) && !busy) this._release(index);
    }
    if (anew) for (const [index, element] of this._elements) if (index < first || index >= last) this._fill(element, this._items[index]);
    for (let index = last - 1; index >= first; index -= 1) {
      let element = this._elements.get(index);
      if (element && !anew) continue;
      if (!element) {
        element = this._spare.pop() ?? this._make();
        element.style.transform = `translateY(${index * ROW_HEIGHT}px)`;
        this._elements.set(index, element);
        this.content.insertBefore(element, this._elements.get(index + 1) ?? null); // read aloud in their order
      }
      setAttributes(element, { "aria-posinset": index + 1, "aria-setsize": this._items.length });
      this._fill(element, this._items[index]);
    }
  }

  /** Brings a row into sight; gives its element. */
  reveal(index) {
    const { scrollTop, clientHeight } = this.element;
    const top = index * ROW_HEIGHT;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) this.element.scrollTop = top + ROW_HEIGHT - clientHeight;
    this.render();
    return this._elements.get(index);
  }

  destroy() {
    this._observer.disconnect();
  }

  _release(index) {
    const element = this._elements.get(index);
    this._elements.delete(index);
    element.remove();
    this._spare.push(element);
  }
}
