// Windows of the editor: small ones over its list, and dialogs over the page.

import { drawChart } from "./chart.js";
import { h, iconButton, setText, textButton } from "./dom.js";

export const SUGGESTIONS = 20;
const TYPING = 120; // milliseconds of silence before words are looked up

export class Windows {
  constructor(root, texts) {
    this._root = root;
    this._t = texts;
  }

  /** A small window over the list; Escape or a click elsewhere closes it. */
  pop(parts, title, head = h("strong", { textContent: title })) {
    this.close();
    const close = iconButton("remove", this._t.close, () => this.close());
    const pop = h("div", { className: "conceptlens-pop", role: "dialog", "aria-label": title }, h("div", { className: "conceptlens-tools" }, head, close), ...parts);
    pop.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    pop.addEventListener("focusout", (event) => event.relatedTarget && !pop.contains(event.relatedTarget) && this.close(false));
    this._popped = { pop, before: document.activeElement };
    this._root.append(pop);
    pop.querySelector("[tabindex='0'], textarea")?.focus();
  }

  /** `back`: whether the focus returns to where it was before. */
  close(back = true) {
    const popped = this._popped;
    this._popped = null;
    popped?.pop.remove();
    if (back && popped && this._root.contains(popped.before)) popped.before.focus();
  }

  tell(sentence, title) {
    this.pop([h("p", { textContent: sentence })], title);
  }

  chooseWord(words, title, choose) {
    const option = (word) => h("li", { role: "option", tabIndex: 0, textContent: word.text, onclick: () => choose(word), onkeydown: (event) => event.key === "Enter" && choose(word) });
    this.pop([h("ul", { role: "listbox", "aria-label": this._t.near }, ...words.map(option))], title);
  }

  /** A field that completes words of the vocabulary: `find(query, limit)` gives them. */
  askWord(find, choose) {
    const list = h("ul", { role: "listbox", id: `conceptlens-words-${Math.random().toString(36).slice(2)}` });
    const field = h("input", { type: "text", placeholder: this._t.addHint, "aria-label": this._t.add, role: "combobox", "aria-controls": list.id, "aria-expanded": "true", "aria-autocomplete": "list", autocomplete: "off", spellcheck: false });
    let [words, best, waiting, asked] = [null, 0, 0, 0]; // words: null while they are looked up
    const mark = (place) => {
      best = Math.max(0, Math.min((words?.length ?? 0) - 1, place));
      [...list.children].forEach((entry, i) => entry.setAttribute("aria-selected", i === best));
      list.children[best]?.scrollIntoView?.({ block: "nearest" });
    };
    const look = async () => {
      const mine = (asked += 1);
      const found = field.value.trim() ? await find(field.value.trim(), SUGGESTIONS) : [];
      if (mine !== asked) return; // an answer to what was typed since is on its way
      words = found;
      const entries = words.map((word) => h("li", { role: "option", textContent: word.text, onpointerdown: (event) => (event.preventDefault(), choose(word)) }));
      list.replaceChildren(...(entries.length || !field.value.trim() ? entries : [h("li", { textContent: this._t.nothingFound })]));
      mark(0);
    };
    field.addEventListener("input", () => {
      words = null;
      clearTimeout(waiting);
      waiting = setTimeout(look, TYPING);
    });
    const enter = async () => {
      if (!words) await look();
      if (words?.[best]) choose(words[best]);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") mark(best + (event.key === "ArrowDown" ? 1 : -1));
      else if (event.key === "Enter") enter();
      else return;
      event.preventDefault();
    });
    this.pop([list], this._t.add, field);
    field.focus();
  }

  /** `put(text)` gives a sentence about what it can't read. */
  askText(text, put) {
    const field = h("textarea", { value: text, placeholder: this._t.pasteHint, "aria-label": this._t.paste });
    const told = h("span", { role: "alert" });
    const apply = textButton(this._t.apply, async () => setText(told, await put(field.value)));
    this.pop([field, told, apply], this._t.paste);
    field.select();
  }

  /** Bars or a cloud of words with these values; a sentence where there is none. */
  showChart(words, values, text) {
    const t = this._t;
    if (!words.length) return this.tell(t.empty, t.chart);
    const canvas = h("canvas", { role: "img", "aria-label": text });
    const draw = (kind) => drawChart(canvas, kind, words, values);
    const save = () => canvas.toBlob((blob) => {
      const url = URL.createObjectURL(blob);
      h("a", { href: url, download: "mix.png" }).click();
      setTimeout(() => URL.revokeObjectURL(url));
    });
    this._dialog(t.chart, [textButton(t.bars, () => draw("bars")), textButton(t.cloud, () => draw("cloud")), textButton(t.save, save)], [canvas]);
    return draw("bars");
  }

  /** Two pictures over each other with a slider between them; a sentence where there is none. */
  compare([before, after]) {
    const t = this._t;
    if (!after) return this.tell(t.noPictures, t.compare);
    const pair = h("div", { className: "conceptlens-pair" }, h("img", { src: before, alt: t.before }), h("img", { src: after, alt: t.after }));
    const slider = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": t.compare, oninput: () => pair.style.setProperty("--cut", `${slider.value}%`) });
    return this._dialog(t.compare, [], [pair, slider]);
  }

  _dialog(title, buttons, body) {
    const dialog = h("dialog", { className: "conceptlens-dialog", "aria-label": title }, h("header", {}, h("strong", { textContent: title }), ...buttons, iconButton("remove", this._t.close, () => dialog.close())), ...body);
    dialog.addEventListener("close", () => dialog.remove());
    for (const name of ["keydown", "wheel"]) dialog.addEventListener(name, (event) => event.stopPropagation());
    this._root.append(dialog); // the top layer shows it over everything
    dialog.showModal();
  }
}
