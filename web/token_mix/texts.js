// What the editor says, in the host's languages.

const en = {
  title: "Coefficients of the mix",
  filter: "Filter words",
  sort: "Order",
  byLearned: "learned",
  byValue: "value",
  byName: "name",
  undo: "Undo",
  redo: "Redo",
  normalise: "Make the coefficients sum to 1",
  reset: "Reset all changes",
  add: "Add a word",
  addHint: "Type a word",
  nothingFound: "No such word",
  onOff: "On or off",
  select: "Select (Shift or Ctrl for more)",
  learned: "Learned value (double click returns to it)",
  bar: "Drag; Shift for small steps",
  value: "Coefficient",
  lock: "Lock",
  solo: "Solo",
  near: "Nearest words",
  remove: "Remove",
  notUsed: "not used",
  used: "{0} of {1} words",
  top: "Largest",
  all: "all",
  empty: "Run the graph once to see the words of the mix, or add a word.",
  fresh: "The mix was computed anew; your changes stay.",
  adopt: "Adopt",
  vanished: "Words that the new mix lacks: {0}",
  dismiss: "Dismiss",
  broken: "The coefficients can't be read.",
  selected: "{0} selected",
  groupA: "Group A",
  groupB: "Group B",
  clear: "Clear",
  contrast: "Between {0} and {1}",
  chart: "Chart",
  bars: "Bars",
  cloud: "Cloud",
  save: "Save picture",
  compare: "Before and after",
  noPictures: "Run the graph twice to compare its pictures.",
  before: "before",
  after: "after",
  copy: "Copy as text",
  copied: "Copied",
  paste: "Paste text",
  pasteHint: "dog: 0.6, snow: 0.2",
  apply: "Apply",
  close: "Close",
  unknown: "Not one word of this model: {0}",
};

const LANGUAGES = { en };

/** The texts in a language, in English where there are none. */
export function textsIn(language = "en") {
  const name = Object.keys(LANGUAGES).find((key) => language === key || language.startsWith(`${key}-`));
  return { ...en, ...(LANGUAGES[name] ?? {}) };
}

export const filled = (text, ...values) => text.replace(/\{(\d)\}/g, (_, place) => values[place]);
