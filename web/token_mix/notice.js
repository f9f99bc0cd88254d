// What the editor says above its list: a text that can't be read, a mix that is new, words that it lacks.

import { h, textButton } from "./dom.js";
import { filled } from "./texts.js";

export class Notice {
  /** `act(change)` does a change of the state. */
  constructor(texts, act) {
    this._t = texts;
    this._act = act;
    this.element = h("div", { className: "conceptlens-notice", role: "status", hidden: true });
  }

  show(state) {
    const [text, answers] = this._of(state);
    if (this._says !== text) {
      this._says = text;
      const buttons = answers.map(([label, change]) => textButton(label, () => this._act(change)));
      this.element.replaceChildren(h("span", { textContent: text, title: text }), ...buttons);
    }
    this.element.hidden = !text;
  }

  /** A sentence and its answers, [label, change]. */
  _of(state) {
    const t = this._t;
    const vanished = state.rows.filter((row) => row.kind === "vanished");
    if (state.broken !== null) return [t.broken, [[t.reset, () => state.resetAll()]]];
    if (state.fresh) return [t.fresh, [[t.adopt, () => state.adopt()], [t.dismiss, () => (state.fresh = false)]]];
    if (!vanished.length) return ["", []];
    const ids = vanished.map((row) => row.id);
    return [filled(t.vanished, vanished.map((row) => row.text).join(", ")), [[t.dismiss, () => state.remove(ids)]]];
  }
}
