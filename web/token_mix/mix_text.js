// A mix as text, "dog: 0.6, snow: 0.2", both ways.

import { written } from "./row.js";

/** `rows`: {text, value}. */
export const mixText = (rows) => rows.map((row) => `${row.text}: ${written(row.value)}`).join(", ");

/** {words: [id, text, value], unknown: entries that can't be read}; `find(text)` gives a word {id, text} or nothing. */
export async function readMix(text, find) {
  const words = [];
  const unknown = [];
  for (const entry of text.split(/[\n,]/).map((part) => part.trim()).filter(Boolean)) {
    const [, word, number] = entry.match(/^(.*?)\s*(?::\s*([-+.\deE]+))?$/);
    const value = number === undefined ? 1 : Number(number);
    const known = await find(word);
    if (known && Number.isFinite(value)) words.push([known.id, known.text, value]);
    else unknown.push(entry);
  }
  return { words, unknown };
}
