// The bar of groups: which words are selected, and two groups weighed against each other by one slider.

import { h, iconButton, textButton } from "./dom.js";
import { filled } from "./texts.js";

export class Groups {
  /** `on`: {oppose(a, b), weigh(t), done()}, the last at the end of a slider's change. */
  constructor(texts, on) {
    this._t = texts;
    this._on = on;
    this._first = undefined; // the words of group A until group B is chosen
    this.element = h("div", { className: "conceptlens-group", hidden: true });
  }

  /** `contrast`: {a, b, t} or null; `selected`: token ids; `names`: token id -> text. */
  show(contrast, selected, names) {
    this.element.hidden = !contrast && !selected.length;
    const key = JSON.stringify([contrast?.a, contrast?.b, selected, this._first]);
    if (this._key === key) {
      const slider = this.element.querySelector("input");
      if (slider && contrast && document.activeElement !== slider) slider.value = contrast.t;
      return;
    }
    this._key = key;
    this._again = () => this.show(contrast, selected, names);
    const named = (group) => group.map((id) => names.get(id) ?? `#${id}`).join(", ");
    this.element.replaceChildren(...(selected.length ? this._selection(selected) : []), ...(contrast ? this._balance(contrast, named) : []));
  }

  _selection(ids) {
    const t = this._t;
    const first = () => {
      this._first = ids;
      this._again();
    };
    const second = () => this._on.oppose(this._first.filter((id) => !ids.includes(id)), ids);
    return [
      h("span", { textContent: filled(t.selected, ids.length) }),
      textButton(t.groupA, first, { "aria-pressed": Boolean(this._first) }),
      ...(this._first ? [textButton(t.groupB, second)] : []),
    ];
  }

  _balance(contrast, named) {
    const [a, b] = [named(contrast.a), named(contrast.b)];
    const label = filled(this._t.contrast, a, b);
    const slider = h("input", { type: "range", min: -1, max: 1, step: 0.01, value: contrast.t, title: label, "aria-label": label });
    slider.addEventListener("input", () => this._on.weigh(Number(slider.value)));
    slider.addEventListener("change", () => this._on.done());
    slider.addEventListener("dblclick", () => (this._on.weigh(0), this._on.done()));
    const clear = () => {
      this._first = undefined;
      this._on.oppose([], []);
    };
    return [h("span", { textContent: a }), slider, h("span", { textContent: b }), iconButton("remove", this._t.clear, clear)];
  }
}
