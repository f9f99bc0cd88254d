// An artist's changes as they are kept: in the node's text and beside it, and read back with suspicion.

export const NOTHING = Object.freeze({
  set: {}, // token id -> coefficient, over the learned one
  off: [], // token ids that take no part
  add: {}, // token id -> coefficient of words that were not learned
  top: null, // how many of the largest take part; null: all
  removed: [], // token ids that are off and not shown
  locked: [], // token ids whose coefficients stay
  solo: null, // the token id that alone takes part
  contrast: null, // {a, b: token ids; start: token id -> coefficient; t: -1..1}
});

/** The text that the node reads; "" when nothing is changed. `ids`: of all rows, for a solo. */
export function encode(changes, ids) {
  const off = changes.solo === null ? [...changes.off, ...changes.removed] : ids.filter((id) => id !== changes.solo);
  const { set, add, top } = changes;
  if (!off.length && !Object.keys(set).length && !Object.keys(add).length && top === null) return "";
  return JSON.stringify({
    v: 1,
    set,
    off: [...new Set(off)].sort((a, b) => a - b),
    add,
    ...(top === null ? {} : { top }),
  });
}

/** The changes that a text says, or null when it can't be read. */
export function decode(text) {
  if (typeof text !== "string" || !text.trim()) return NOTHING;
  try {
    const { v, set = {}, off = [], add = {}, top = null, ...rest } = JSON.parse(text);
    const numbers = [...Object.values(set), ...Object.values(add)];
    const ids = [...Object.keys(set), ...Object.keys(add)].map(Number);
    const sound =
      v === 1 &&
      !Object.keys(rest).length &&
      numbers.every(Number.isFinite) &&
      areTokens([...ids, ...off]) &&
      (top === null || (Number.isInteger(top) && top > 0));
    return sound ? { ...NOTHING, set: { ...set }, off: [...off], add: { ...add }, top } : null;
  } catch {
    return null;
  }
}

/** What is kept beside a text, as far as a page can show it: a shared graph may hold anything. */
export function readAside(aside) {
  const { learned, names, off, removed, locked, solo, contrast } = aside ?? {};
  const [ids, texts, values] = Array.isArray(learned) ? learned : [];
  const rows =
    [ids, texts, values].every(Array.isArray) &&
    areTokens(ids) &&
    ids.length === texts.length &&
    ids.length === values.length &&
    values.every(Number.isFinite);
  const { a, b, start, t } = contrast ?? {};
  const opposed = areTokens(a) && areTokens(b) && Number.isFinite(t) && [...a, ...b].every((id) => Number.isFinite(start?.[id]));
  const tokens = (list) => (areTokens(list) ? list : []);
  return {
    learned: rows ? learned : null,
    names: Object.entries(names ?? {}).map(([id, name]) => [Number(id), String(name)]),
    changes: {
      off: tokens(off),
      removed: tokens(removed),
      locked: tokens(locked),
      solo: areTokens([solo]) ? solo : null,
      contrast: opposed ? { a, b, start, t } : null,
    },
  };
}

const areTokens = (ids) => Array.isArray(ids) && ids.every((id) => Number.isInteger(id) && id >= 0);
