// What the editor says, in the host's languages.

import de from "./texts/de.js";
import en from "./texts/en.js";
import es from "./texts/es.js";
import fr from "./texts/fr.js";
import ja from "./texts/ja.js";
import ko from "./texts/ko.js";
import ru from "./texts/ru.js";
import zh from "./texts/zh.js";

const LANGUAGES = { de, en, es, fr, ja, ko, ru, zh };

/** The texts in a language such as "de" or "zh-TW", in English where there are none. */
export function textsIn(language) {
  return LANGUAGES[String(language).split("-")[0]] ?? en;
}

export const filled = (text, ...values) => text.replace(/\{(\d)\}/g, (_, place) => values[place]);
