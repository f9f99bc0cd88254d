// A mix as text, "dog: 0.6, snow: 0.2", both ways.

import { written } from "./row.js";

/** `rows`: {text, value}. */
export const mixText = (rows) => rows.map((row) => `${row.text}: ${written(row.value)}`).join(", ");

const BARE_NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i; // what a decimal comma leaves

/**
 * {words: [id, text, value], numbers: entries that are a number alone, unknown: others that can't be read};
 * `find(text)` gives a word {id, text} or nothing.
 */
export async function readMix(text, find) {
  const words = [];
  const numbers = [];
  const unknown = [];
  for (const entry of text.split(/[\n,]/).map((part) => part.trim()).filter(Boolean)) {
    const [, word, number] = entry.match(/^(.*?)\s*(?::\s*([-+.\deE]+))?$/);
    const value = number === undefined ? 1 : Number(number);
    const known = await find(word);
    if (BARE_NUMBER.test(entry)) numbers.push(entry);
    else if (known && Number.isFinite(value)) words.push([known.id, known.text, value]);
    else unknown.push(entry);
  }
  return { words, numbers, unknown };
}
