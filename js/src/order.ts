/** Which rows are shown and in which order. Pure. Refuses to know the DOM and who asks. */

import { exact } from "./format";
import type { Cell } from "./messages";
import { STATES } from "./states";
import type { Store } from "./store";

export interface Sort {
  readonly key: string;
  readonly down: boolean;
}

/** The next sort after a click on a heading: up, down, none. */
export function turn(sort: Sort | null, key: string): Sort | null {
  if (sort?.key !== key) return { key, down: false };
  return sort.down ? null : { key, down: true };
}

/** The ids to show: every word must be found somewhere in the row; `key=value` finds that flag's value. */
export function arrange(store: Store, search: string, sort: Sort | null): number[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const ids = words.length
    ? store.ids.filter((id) => {
        const text = haystack(store, id);
        return words.every((word) => text.includes(word));
      })
    : [...store.ids];
  if (!sort) return ids;
  const keys = new Map(ids.map((id) => [id, sortable(store, id, sort.key)]));
  const way = sort.down ? -1 : 1;
  const place = new Map(store.ids.map((id, i) => [id, i]));
  return ids.sort((a, b) => compare(keys.get(a) ?? null, keys.get(b) ?? null, way) || at(place, a) - at(place, b));
}

const SEARCHED = ["name", "state", "reason", "accelerators", "sweep", "groups"];

function haystack(store: Store, id: number): string {
  const parts = SEARCHED.map((key) => store.text(id, key));
  for (const { key, n } of store.columns) {
    if (key.startsWith("flags.")) parts.push(`${key.slice(6)}=${exact(store.at(id, n))}`);
  }
  return parts.join(" ").toLowerCase();
}

function sortable(store: Store, id: number, key: string): number | string | null {
  if (key === "state") return STATES.indexOf(store.text(id, key));
  if (key === "age") return negative(store.cell(id, "age"));
  if (key === "runtime") {
    const started = store.cell(id, "runtime");
    if (typeof started !== "number") return null;
    const ended = store.cell(id, "ended");
    // Those that still run have no end: later starts are shorter, whatever the time is.
    return typeof ended === "number" ? ended - started : Number.MAX_SAFE_INTEGER / 2 - started;
  }
  return plain(store.cell(id, key));
}

function plain(cell: Cell): number | string | null {
  if (cell === null || typeof cell === "number" || typeof cell === "string") return cell;
  if (typeof cell === "boolean") return Number(cell);
  if ("l" in cell) return cell.l;
  const value = Number(cell.n);
  return Number.isNaN(value) ? null : value;
}

/** Numbers before words, nothing last whichever way. */
function compare(a: number | string | null, b: number | string | null, way: number): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  if (typeof a === "number" && typeof b === "number") return (a - b) * way;
  if (typeof a === "string" && typeof b === "string") return COLLATOR.compare(a, b) * way;
  return (typeof a === "number" ? -1 : 1) * way;
}

const COLLATOR = new Intl.Collator("en", { numeric: true });

function negative(cell: Cell): number | null {
  return typeof cell === "number" ? -cell : null;
}

function at(place: Map<number, number>, id: number): number {
  return place.get(id) ?? 0;
}
