import { describe, expect, it } from "vitest";
import type { Cell } from "../src/messages";
import { Store } from "../src/store";
import { delta, ROWS, snapshot, story, unpack } from "./fixtures";

function table(store: Store): Record<string, Record<string, Cell>> {
  return Object.fromEntries(
    store.ids.map((id) => [id, Object.fromEntries(store.columns.map(({ n, key }) => [key, store.at(id, n)]))]),
  );
}

describe("the store", () => {
  it("folds Python's story to Python's tables", () => {
    const store = new Store();
    for (const moment of story) {
      for (const packed of moment.messages) expect(store.apply(unpack(packed)).resync).toBe(false);
      expect(store.ids).toEqual(moment.ids);
      expect(table(store)).toEqual(moment.table);
    }
  });

  it("says which cells changed and whose state", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    const change = store.apply(delta(2, { changed: [[1, 2, "FAILED", 9, 0.5]] }));
    expect(change).toMatchObject({ cells: [[1, 2], [1, 9]], states: [1], structure: false, resync: false }); // biome-ignore format: pairs
  });

  it("asks for everything after a gap, shows nothing half, and goes on with the snapshot", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    const gap = store.apply(delta(4, { changed: [[1, 2, "FAILED"]] }));
    expect([gap.resync, store.whole, store.cell(1, "state")]).toEqual([true, false, "RUNNING"]);
    expect(store.apply(delta(5, { removed: [1] })).resync).toBe(true);
    expect(store.has(1)).toBe(true);
    const again = store.apply(snapshot({ 1: { ...ROWS[1], state: "SUCCEEDED" } }, 9));
    expect([again.resync, again.states, store.ids]).toEqual([false, [1], [1]]);
    expect(store.apply(delta(10, { removed: [1] })).resync).toBe(false);
  });

  it("still hears answers while it waits for the snapshot", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    store.apply(delta(4, {}));
    const heard = store.apply({ t: "summary", now: 1, every: 5, seen: 9, summary: null, kernel: 1, seq: 5 });
    expect([heard.line, store.line?.seen]).toEqual([true, 9]);
  });

  it("drops what it has heard already", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    store.apply(delta(2, { changed: [[1, 2, "FAILED"]] }));
    const again = store.apply(delta(2, { changed: [[1, 2, "LOST"]] }));
    expect([again.resync, again.cells, store.cell(1, "state")]).toEqual([false, [], "FAILED"]);
  });

  it("takes another kernel's rows only from its snapshot, and nothing of the old ones", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    expect(store.apply(delta(2, { removed: [1] }, 2)).resync).toBe(true);
    expect(store.has(1)).toBe(true);
    const other = store.apply(snapshot({ 1: { name: "other" } }, 1, 2));
    expect([other.resync, store.cell(1, "state"), store.ids]).toEqual([false, null, [1]]);
  });

  it("keeps the other columns until their block arrives again", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    const part = snapshot(ROWS, 2);
    if (part.t !== "snapshot") throw new Error("unreachable");
    store.apply({ ...part, parts: 2, values: part.values.slice(0, 3) });
    expect(store.cell(1, "flags.lr")).toBe(0.1);
    store.apply({
      ...part,
      part: 1,
      parts: 2,
      seq: 3,
      columns: null,
      ids: null,
      values: [[9, [7, 8, 9]]],
      summary: null,
    });
    expect(store.cell(1, "flags.lr")).toBe(7);
  });

  it("forgets the cells of a column that goes", () => {
    const store = new Store();
    const all = snapshot(ROWS);
    if (all.t !== "snapshot" || !all.columns) throw new Error("unreachable");
    store.apply(all);
    store.apply({ t: "columns", columns: all.columns.slice(0, 9), kernel: 1, seq: 2 });
    store.apply({ t: "columns", columns: all.columns, kernel: 1, seq: 3 });
    expect(store.cell(1, "flags.lr")).toBeNull();
  });

  it("adds, removes and moves rows", () => {
    const store = new Store();
    store.apply(snapshot(ROWS));
    store.apply(delta(2, { added: [[4, ["d", "stop", "QUEUED"]]], removed: [2] }));
    expect([store.ids, store.cell(4, "state"), store.has(2)]).toEqual([[1, 3, 4], "QUEUED", false]);
    store.apply(delta(3, { order: [4, 3, 1] }));
    expect(store.ids).toEqual([4, 3, 1]);
    expect(store.apply(delta(4, { changed: [[99, 2, "LOST"]] })).cells).toEqual([]);
  });
});
