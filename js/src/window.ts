/**
 * Which rows and columns are in sight. Pure arithmetic over fixed row heights, with a
 * fixed-height detail under some rows. Refuses to know the DOM.
 */

export const ROW = 28;
export const DETAIL = 156;
export const MAX_ROWS = 20;
const AHEAD = 6;

/** `opened`: the positions of rows with a detail under them, ascending. */
export function top(index: number, opened: readonly number[]): number {
  return index * ROW + below(index, opened) * DETAIL;
}

/** The row at a height. */
export function rowAt(y: number, count: number, opened: readonly number[]): number {
  let low = 0;
  let high = Math.max(0, count - 1);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (top(middle, opened) <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The rows to draw: those in sight and a few around them. */
export function rowRange(y: number, height: number, count: number, opened: readonly number[]): [number, number] {
  if (count === 0) return [0, 0];
  const first = rowAt(y, count, opened);
  const last = rowAt(y + height, count, opened);
  return [Math.max(0, first - AHEAD), Math.min(count, last + 1 + AHEAD)];
}

/** The columns to draw, as positions in `lefts` (their left edges, and the right edge of the last). */
export function columnRange(x: number, width: number, lefts: readonly number[]): [number, number] {
  const count = lefts.length - 1;
  let first = 0;
  while (first < count - 1 && (lefts[first + 1] ?? 0) <= x) first++;
  let last = first;
  while (last < count && (lefts[last] ?? 0) < x + width) last++;
  return [first, last];
}

/** How far to scroll so that `[start, end)` is in `[from, from + size)`. */
export function reveal(start: number, end: number, from: number, size: number): number {
  if (start < from) return start;
  return end > from + size ? Math.max(0, Math.min(start, end - size)) : from;
}

function below(index: number, opened: readonly number[]): number {
  let low = 0;
  let high = opened.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((opened[middle] ?? 0) < index) low = middle + 1;
    else high = middle;
  }
  return low;
}
