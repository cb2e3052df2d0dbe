/** Which columns stand where and how wide. Pure. Refuses to know the DOM. */

import { duration, show } from "./format";
import type { Column } from "./messages";
import type { Store } from "./store";

export interface Place {
  readonly column: Column;
  readonly left: number;
  readonly width: number;
  /** The words over the heading: the path of a dotted key, said once for neighbours that share it. */
  readonly family: string;
  readonly label: string;
  readonly right: boolean;
}

export interface Layout {
  readonly pinned: readonly Place[];
  readonly open: readonly Place[];
  /** Left edges of the open columns, and the right edge of the last. */
  readonly lefts: readonly number[];
  readonly pinnedWidth: number;
  readonly width: number;
  readonly families: boolean;
}

const PADDING = 20;
/** Characters that a running metric may grow to: its column does not jump with every reading. */
const READING = 8;
const CHEVRON = 14;
const BOLD = 1.12;
const LOOKED_AT = 300;
const TICK: Column = { n: -1, key: "tick", kind: "bool", pinned: true, shown: true, common: false };

const NARROW = 760;
const PINNED_SHARE = 0.65;
const LABELS: Readonly<Record<string, string>> = { gpus: "GPUs", tick: "", action: "" };

/** `room`: the width there is; `letter`: that of a digit in the font in use. */
export function layout(store: Store, room: number, letter: number): Layout {
  const shown = store.columns.filter((column) => column.shown);
  const pinned: Place[] = [];
  const loose: Place[] = [];
  let x = 0;
  for (const column of [TICK, ...shown.filter((column) => column.pinned)]) {
    const width = pinnedWidth(store, column, room, letter);
    // What stays in sight must leave room for what scrolls under it.
    const list = pinned.length < 2 || x + width <= room * PINNED_SHARE ? pinned : loose;
    list.push({ column, left: x, width, family: "", label: LABELS[column.key] ?? column.key, right: false });
    x += width;
  }
  const pinnedEnd = loose[0]?.left ?? x;
  const open: Place[] = loose;
  let before = "";
  for (const column of shown.filter((column) => !column.pinned)) {
    const { family, label } = names(column.key);
    const width = openWidth(store, column, label, letter);
    const right = column.kind === "number" || column.kind === "time";
    open.push({ column, left: x, width, family: family === before ? "" : family, label, right });
    before = family;
    x += width;
  }
  return {
    pinned,
    open,
    lefts: [...open.map((place) => place.left), x],
    pinnedWidth: pinnedEnd,
    width: x,
    families: open.some((place) => place.family !== ""),
  };
}

function names(key: string): { family: string; label: string } {
  const dotted = key.startsWith("flags.") ? key.slice(6) : key;
  const dot = dotted.lastIndexOf(".");
  if (dot > 0) return { family: dotted.slice(0, dot), label: dotted.slice(dot + 1) };
  return { family: key.startsWith("flags.") ? "flags" : "", label: LABELS[dotted] ?? dotted };
}

function pinnedWidth(store: Store, column: Column, room: number, letter: number): number {
  const narrow = room < NARROW;
  switch (column.key) {
    case "tick":
      return 28;
    case "action":
      return Math.round(letter * 10 + 24);
    case "state":
      return narrow
        ? Math.round(letter * 13 + 36)
        : clamp(longest(store, column, true) * letter + 50, 150, room * 0.24);
    default:
      return clamp(longest(store, column) * letter + PADDING + CHEVRON, 120, narrow ? 170 : 320);
  }
}

function openWidth(store: Store, column: Column, label: string, letter: number): number {
  const least = clamp(label.length * letter * BOLD + PADDING + 6, 48, 160);
  const content = column.kind === "time" ? 7 : longest(store, column);
  const kept = column.key.startsWith("metrics.") ? Math.max(content, READING) : content;
  return clamp(kept * letter + PADDING, least, column.kind === "number" ? 400 : 240);
}

function longest(store: Store, column: Column, reasons = false): number {
  let most = 0;
  for (const id of store.ids.slice(0, LOOKED_AT)) {
    let length = show(store.at(id, column.n)).length;
    if (reasons) length = length * 1.15 + store.text(id, "reason").length;
    most = Math.max(most, length);
  }
  return most;
}

/** What a time column says now. */
export function elapsed(store: Store, id: number, key: string, now: number): string {
  const from = store.cell(id, key);
  if (typeof from !== "number") return "";
  const ended = key === "runtime" ? store.cell(id, "ended") : null;
  return duration((typeof ended === "number" ? ended : now) - from);
}

function clamp(value: number, low: number, high: number): number {
  return Math.round(Math.min(high, Math.max(low, value)));
}
