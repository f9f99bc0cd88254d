// What the coefficient editor edits: the learned words, the artist's changes over them, and undo. It knows no page.

import { decode, encode, NOTHING, readAside } from "./changes.js";

const UNDO_STEPS = 200;
const DIGITS = 6; // of a changed coefficient: what is shown is computed with the same numbers as the picture

function without(values, ids) {
  const gone = new Set(ids.map(String));
  return Object.fromEntries(Object.entries(values).filter(([id]) => !gone.has(id)));
}

const rounded = (value) => Number(value.toPrecision(DIGITS));
const toggled = (list, ids, on) => (on ? [...new Set([...list, ...ids])] : list.filter((id) => !ids.includes(id)));

export class EditorState {
  constructor() {
    this.learned = []; // {id, text, value}, the largest first
    this.names = new Map(); // token id -> text, of every word that was ever here
    this.now = NOTHING;
    this.broken = null; // the text that could not be read: kept until something is changed
    this.fresh = false; // the learned values are others than those that were changed
    this._limit = Infinity; // the node's num_tokens
    this._past = [];
    this._future = [];
    this._anchor = null;
    this._most = 0; // the end of a bar
    this._index();
  }

  // --- what there is -------------------------------------------------------------------------------------------------

  /**
   * {id, text, value, learned, on, locked, kind: "learned" | "added" | "vanished" | "waiting"} of each row that is shown;
   * another list after each change but those that are not yet finished.
   */
  get rows() {
    return this._rows;
  }

  row(id) {
    return this._byId.get(id);
  }

  /** Whether a word could be in the picture, were it large enough. */
  isOn(row) {
    return row.on && row.kind !== "vanished";
  }

  /** Whether it is. */
  used(row) {
    return this._used.has(row.id);
  }

  share(row) {
    return this.used(row) && this._total > 0 ? Math.abs(row.value) / this._total : 0;
  }

  /** The values at both ends of a bar. */
  get range() {
    return this._range;
  }

  get count() {
    return this._used.size;
  }

  get top() {
    return Math.min(this.now.top ?? Infinity, this._limit);
  }

  /** What the node reads. */
  get text() {
    return this.broken ?? encode(this.now, [...this.learned.map((row) => row.id), ...Object.keys(this.now.add).map(Number)]);
  }

  /** What is kept beside it: what the page shows and the node does not need. */
  get aside() {
    const { off, removed, locked, solo, contrast } = this.now;
    return {
      learned: [this.learned.map((r) => r.id), this.learned.map((r) => r.text), this.learned.map((r) => r.value)],
      names: Object.fromEntries(this.rows.filter((r) => r.kind !== "learned").map((r) => [r.id, r.text])),
      ...{ off, removed, locked, solo, contrast },
    };
  }

  // --- from outside --------------------------------------------------------------------------------------------------

  /** Takes over the node's text and what was kept beside it, which counts as far as it says the same as the text. */
  load(text, aside) {
    const { learned, names, changes } = readAside(aside);
    if (learned && !this.learned.length) this._keep(learned);
    for (const [id, name] of names) this.names.set(id, name);
    const said = decode(text);
    const kept = { ...said, ...changes };
    const ids = [...this.learned.map((row) => row.id), ...Object.keys(said?.add ?? {}).map(Number)];
    this.broken = said ? null : text;
    this.now = !said ? NOTHING : encode(kept, ids) === text ? kept : said;
    this._past = [];
    this._future = [];
    this._anchor = null;
    this._most = 0;
    this._index();
  }

  /** New learned words, [ids, texts, values]; changes and locked coefficients stay. */
  learn(rows) {
    const before = this.learned;
    const listed = (words) => words.map(({ id, value }) => [id, value]).toString();
    this._keep(rows);
    const differ = listed(before) !== listed(this.learned);
    if (differ) this._hold(before);
    this.fresh ||= differ && before.length > 0 && Object.keys(this.now.set).length > 0;
    if (differ) this._most = 0;
    this._index();
    return differ;
  }

  setLimit(count) {
    this._limit = count;
    this._index();
  }

  // --- changes -------------------------------------------------------------------------------------------------------

  /** Sets coefficients, {token id: value}; locked ones stay. Part of a longer change until `commit`. */
  put(values) {
    const set = { ...this.now.set };
    const add = { ...this.now.add };
    for (const [key, value] of Object.entries(values)) {
      const row = this.row(Number(key));
      if (!row || row.locked || !Number.isFinite(value)) continue;
      if (key in add) add[key] = rounded(value); // it may have been learned since
      else if (value === row.learned) delete set[key];
      else set[key] = rounded(value);
    }
    this._change({ set, add }, false);
  }

  /** Moves a row and those with it: by the same factor, or by the same step from 0. `start`: their values before. */
  moveTogether(id, value, start) {
    const own = start.get(id);
    const moved = {};
    for (const [other, before] of start) moved[other] = own === 0 ? before + value : (before * value) / own;
    this.put({ ...moved, [id]: value });
  }

  switch(ids, on) {
    this._change({ off: toggled(this.now.off, ids, !on) });
  }

  solo(id) {
    this._change({ solo: this.now.solo === id ? null : id });
  }

  lock(ids, on) {
    this._change({ locked: toggled(this.now.locked, ids, on) });
  }

  /** Added words go, learned ones are off and out of sight, vanished ones are forgotten; what is locked stays. */
  remove(ids) {
    const rows = ids.map((id) => this.row(id)).filter((row) => row && (!row.locked || row.kind === "vanished"));
    const gone = (kind) => rows.filter((row) => row.kind === kind).map((row) => row.id);
    const forgotten = [...gone("added"), ...gone("vanished")];
    this._change({
      add: without(this.now.add, [...forgotten, ...gone("learned")]),
      set: without(this.now.set, forgotten),
      off: this.now.off.filter((id) => !forgotten.includes(id)),
      removed: toggled(this.now.removed, gone("learned"), true),
      locked: toggled(this.now.locked, forgotten, false),
      solo: rows.some((row) => row.id === this.now.solo) ? null : this.now.solo,
    });
  }

  /** A word that was not learned; one that is here already is switched on. */
  add(id, text, value) {
    this.names.set(id, text);
    const { set, add, off, removed } = this.now;
    const known = this.learned.some((row) => row.id === id) || String(id) in add;
    this._change({
      add: known ? add : { ...add, [id]: set[id] ?? rounded(value) },
      off: toggled(off, [id], false),
      removed: toggled(removed, [id], false),
    });
  }

  backToLearned(ids) {
    const free = this._free(ids);
    const known = free.filter((id) => this.row(id)?.kind === "learned");
    this._change({ set: without(this.now.set, free), add: without(this.now.add, known) });
  }

  /** Exactly these words with these coefficients, [id, text, value]; all others are off. Locked ones keep theirs. */
  become(words) {
    this._change({ solo: null, top: null });
    this.switch(this.rows.map((row) => row.id), false);
    for (const [id, text, value] of words) this.add(id, text, value);
    this.put(Object.fromEntries(words.map(([id, , value]) => [id, value])));
  }

  /** Makes the coefficients of all words that are on sum to 1 without moving locked ones. Gives whether it could. */
  normalise() {
    const on = this.rows.filter((row) => this.isOn(row));
    const sum = (rows) => rows.reduce((total, row) => total + Math.abs(row.value), 0);
    const free = on.filter((row) => !row.locked);
    const rest = 1 - (sum(on) - sum(free));
    if (!(rest > 0 && sum(free) > 0)) return false;
    this.put(Object.fromEntries(free.map((row) => [row.id, (row.value * rest) / sum(free)])));
    return true;
  }

  cut(count) {
    const all = count === null || (this.learned.length > 0 && count >= this._candidates); // before a run nobody knows
    this._change({ top: all ? null : Math.max(1, Math.round(count)) });
  }

  resetAll() {
    this.fresh = false;
    this._change(NOTHING);
  }

  /** Takes over what was learned anew: no changed coefficients, no vanished rows, but for locked ones. */
  adopt() {
    const { set, add, off } = this.now;
    const gone = this._free(this.rows.filter((row) => row.kind === "vanished").map((row) => row.id));
    const known = this._free(this.learned.map((row) => row.id));
    this.fresh = false;
    this._change({ set: without(set, this._free(Object.keys(set).map(Number))), add: without(add, known), off: toggled(off, gone, false) });
  }

  /** Two groups to be weighed against each other, from where they are now. */
  oppose(a, b) {
    const start = Object.fromEntries([...a, ...b].map((id) => [id, this.row(id)?.value ?? 0]));
    this._change({ contrast: a.length && b.length ? { a, b, start, t: 0 } : null });
  }

  /** Between the groups: -1 is all of the first, 1 all of the second. */
  weigh(t) {
    const { a, b, start } = this.now.contrast;
    const scaled = (ids, factor) => ids.map((id) => [id, start[id] * factor]);
    this.put(Object.fromEntries([...scaled(a, 1 - t), ...scaled(b, 1 + t)]));
    this._change({ contrast: { ...this.now.contrast, t } }, false);
  }

  // --- undo ----------------------------------------------------------------------------------------------------------

  /** Ends a change, which undo takes back as a whole. */
  commit() {
    if (this._anchor !== null && this._anchor !== this.now) {
      this._past = [...this._past, this._anchor].slice(-UNDO_STEPS);
      this._future = [];
    }
    this._anchor = null;
    this._index();
  }

  /** Forgets a change that was not ended. */
  cancel() {
    this.now = this._anchor ?? this.now;
    this._anchor = null;
    this._index();
  }

  get canUndo() {
    return this._past.length > 0;
  }

  get canRedo() {
    return this._future.length > 0;
  }

  undo() {
    this._travel(this._past, this._future);
  }

  redo() {
    this._travel(this._future, this._past);
  }

  _travel(from, to) {
    if (!from.length) return;
    this.cancel();
    to.push(this.now);
    this.now = from.pop();
    this._index();
  }

  // --- inside --------------------------------------------------------------------------------------------------------

  _keep([ids, texts, values]) {
    this.learned = ids.map((id, i) => ({ id, text: String(texts[i]), value: values[i] }));
    for (const { id, text } of this.learned) this.names.set(id, text);
  }

  _free(ids) {
    return ids.filter((id) => !this.now.locked.includes(id));
  }

  /** Locked words keep the coefficients that they had `before` others were learned, after an undo too. */
  _hold(before) {
    const now = new Map(this.learned.map(({ id, value }) => [id, value]));
    const moved = before.filter(({ id, value }) => now.get(id) !== value);
    const held = (changes) => {
      const values = moved.filter(({ id }) => changes.locked.includes(id)).map(({ id, value }) => [id, value]);
      return values.length ? { ...changes, set: { ...Object.fromEntries(values), ...changes.set } } : changes;
    };
    this.now = held(this.now);
    this._anchor &&= held(this._anchor);
    this._past = this._past.map(held);
    this._future = this._future.map(held);
  }

  /** Part of a change; `other` rows may be there after it. */
  _change(part, other = true) {
    this._anchor ??= this.now;
    this.now = { ...this.now, ...part };
    this.broken = null;
    if (other) this._index();
    else this._refresh();
  }

  _listed() {
    const { set, off, add, removed } = this.now;
    const hidden = new Set(removed);
    const here = new Set(this.learned.map((row) => row.id));
    const added = Object.keys(add).map(Number).filter((id) => !here.has(id));
    const known = new Set([...here, ...added]);
    const waiting = [...new Set([...Object.keys(set).map(Number), ...off])].filter((id) => !known.has(id));
    const named = (id) => this.names.get(id) ?? `#${id}`;
    return [
      ...this.learned.filter((row) => !hidden.has(row.id)).map(({ id, text, value }) => ({ id, text, learned: value, kind: "learned" })),
      ...added.map((id) => ({ id, text: named(id), learned: null, kind: "added" })),
      // Before the first run nothing is known: what is changed waits, and has not vanished.
      ...waiting.map((id) => ({ id, text: named(id), learned: null, kind: this.learned.length ? "vanished" : "waiting" })),
    ];
  }

  /** All rows anew; `_refresh` only what changes while one is dragged. */
  _index() {
    this._rows = this._listed();
    this._byId = new Map(this._rows.map((row) => [row.id, row]));
    this._refresh();
    const values = this._rows.flatMap((row) => [Math.abs(row.value), Math.abs(row.learned ?? 0)]);
    const largest = values.reduce((most, value) => Math.max(most, value), 0);
    if (largest > this._most) this._most = 1.25 * largest; // else bars keep their lengths
    const most = this._most || 1;
    this._range = [this._rows.some((row) => row.value < 0) ? -most : 0, most];
  }

  _refresh() {
    const { set, add, solo } = this.now;
    const off = new Set(this.now.off);
    const locked = new Set(this.now.locked);
    for (const row of this._rows) {
      row.value = add[row.id] ?? set[row.id] ?? row.learned ?? 0;
      row.on = solo === null ? !off.has(row.id) : row.id === solo;
      row.locked = locked.has(row.id);
    }
    this._choose();
  }

  /** The words that the node takes: the largest, and of equal ones those that come first in the mix. */
  _choose() {
    const on = this._rows.filter((row) => this.isOn(row));
    this._candidates = on.length;
    const taken = on.sort((a, b) => b.value - a.value).slice(0, this.top);
    this._used = new Set(taken.map((row) => row.id));
    this._total = taken.reduce((total, row) => total + Math.abs(row.value), 0);
  }
}
