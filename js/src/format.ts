/**
 * Values as words: numbers compact but never wrong, times as people say them.
 * Pure. Refuses to know rows, columns and the clock: `now` is given.
 */

import type { Cell } from "./messages";

/** A number in about seven characters; integers as they are. */
export function compact(value: number): string {
  if (Number.isInteger(value)) {
    return Math.abs(value) < 1e9 ? String(value) : trim(value.toExponential(3));
  }
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e7) return trim(value.toExponential(3));
  return trim(size >= 1000 ? value.toFixed(1) : value.toPrecision(4));
}

function trim(text: string): string {
  const [digits = "", exponent] = text.split("e");
  const short = digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
  return exponent === undefined ? short : `${short}e${exponent.replace("+", "")}`;
}

/** The cell as one reads it in the table. */
export function show(cell: Cell): string {
  if (cell === null) return "";
  if (typeof cell === "number") return compact(cell);
  return exact(cell);
}

/** The cell with nothing left out. */
export function exact(cell: Cell): string {
  if (cell === null) return "";
  if (typeof cell === "object") return "n" in cell ? cell.n : cell.l;
  if (typeof cell === "boolean") return cell ? "True" : "False";
  return String(cell);
}

/** `45s`, `12m 05s`, `3h 20m`, `2d 4h`. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 60) return `${m}m ${pad(s % 60)}s`;
  const h = Math.floor(m / 60);
  if (h < 24) return `${h}h ${pad(m % 60)}m`;
  return `${Math.floor(h / 24)}d ${h % 24}h`;
}

/** One unit: `45s`, `12m`, `3h`, `2d`. */
export function age(ms: number): string {
  return duration(ms).split(" ")[0] ?? "";
}

export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString(undefined, { hour12: false });
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

function pad(value: number): string {
  return String(value).padStart(2, "0");
}
