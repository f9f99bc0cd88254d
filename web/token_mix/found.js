// The words that an explanation has found so far, above the list while it is made: to look at, not to change.

import { h } from "./dom.js";
import { uncertain, written } from "./row.js";

export class Found {
  constructor(t) {
    this._words = h("div", { role: "list" });
    this.element = h("div", { className: "conceptlens-found", hidden: true }, h("strong", { role: "status", textContent: t.found }), this._words);
  }

  /** {rows: [ids, texts, values], intervals: {id: [low, high]}}, or null when it is over. */
  show(found) {
    this.element.hidden = !found;
    const { rows: [ids, texts, values] = [[], [], []], intervals = {} } = found ?? {};
    const ends = ids.map((id) => intervals[id]);
    const most = Math.max(...values, ...ends.map((end) => end?.[1] ?? 0));
    this._words.replaceChildren(...ids.map((_, i) => this._row(texts[i], values[i], ends[i], most)));
  }

  _row(text, value, interval, most) {
    const bar = h("div", { className: "conceptlens-bar" }, h("div", { className: "conceptlens-fill" }));
    if (interval) bar.append(h("div", { className: "conceptlens-interval" }));
    const [low, high] = interval ?? [0, 0];
    const places = { "--from": 0, "--to": value / most, "--low": low / most, "--high": high / most };
    for (const [name, at] of Object.entries(places)) bar.style.setProperty(name, at);
    const flags = interval && uncertain(low, value) ? "uncertain" : "";
    const word = h("span", { className: "conceptlens-text", textContent: text });
    return h("div", { className: "conceptlens-found-row", role: "listitem", "data-flags": flags }, word, bar, h("span", { textContent: written(value) }));
  }
}
