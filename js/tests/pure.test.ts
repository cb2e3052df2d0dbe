import { describe, expect, it } from "vitest";
import { age, compact, duration, exact, show } from "../src/format";
import { intent, leaks } from "../src/keyboard";
import { layout } from "../src/layout";
import { arrange, turn } from "../src/order";
import { differs, look, STATES } from "../src/states";
import { columnRange, DETAIL, ROW, reveal, rowAt, rowRange, top } from "../src/window";
import { told } from "./fixtures";

describe("numbers and times", () => {
  it.each([
    [0, "0"], [7, "7"], [65536, "65536"], [-3, "-3"], [2e9, "2e9"], [0.1, "0.1"], [1 / 3, "0.3333"], [0.0003, "0.0003"],
    [0.00001234, "1.234e-5"], [12345.678, "12345.7"], [1234.5, "1234.5"], [123456789.5, "1.235e8"], [1e-300, "1e-300"],
  ])("%f is %s", (value, text) => expect(compact(value)).toBe(text)); // biome-ignore format: a table

  it.each([[null, "", ""], [true, "True", "True"], [1 / 3, "0.3333", "0.3333333333333333"], [{ n: "NaN" }, "NaN", "NaN"], [{ l: "[1, 2]" }, "[1, 2]", "[1, 2]"], ["x", "x", "x"]])(
    "%j is shown and exact", (cell, shown, whole) => expect([show(cell), exact(cell)]).toEqual([shown, whole]),
  ); // biome-ignore format: a table

  it.each([[-5, "0s"], [45_000, "45s"], [725_000, "12m 05s"], [12_000_000, "3h 20m"], [187_200_000, "2d 4h"]])(
    "%i ms is %s", (ms, text) => expect([duration(ms), age(ms)]).toEqual([text, text.split(" ")[0]]),
  ); // biome-ignore format: a table
});

describe("the window", () => {
  it.each([
    [0, 560, 5000, [], [0, 27]],
    [2800, 560, 5000, [], [94, 127]],
    [1e9, 560, 50, [], [43, 50]],
    [0, 560, 0, [], [0, 0]],
    [ROW + 10, 10, 9, [0], [0, 7]],
  ] as [number, number, number, number[], [number, number]][])("rows at %i", (y, height, count, opened, range) => {
    expect(rowRange(y, height, count, opened)).toEqual(range);
  });

  it("finds the row at every height, with details between", () => {
    const opened = [2, 3, 7];
    for (let i = 0; i < 10; i++) {
      expect(rowAt(top(i, opened), 10, opened)).toBe(i);
      expect(rowAt(top(i + 1, opened) - 1, 10, opened)).toBe(i);
    }
    expect(top(4, opened)).toBe(4 * ROW + 2 * DETAIL);
  });

  it.each([
    [0, 100, [0, 50, 120, 200], [0, 2]],
    [60, 100, [0, 50, 120, 200], [1, 3]],
    [500, 100, [0, 50], [0, 1]],
    [0, 100, [0], [0, 0]],
  ] as [number, number, number[], [number, number]][])("columns at %i", (x, width, lefts, range) => {
    expect(columnRange(x, width, lefts)).toEqual(range);
  });

  it.each([[0, 28, 100, 50, 0], [90, 118, 0, 100, 18], [20, 48, 0, 100, 0]])("reveals %i–%i", (a, b, from, size, to) => {
    expect(reveal(a, b, from, size)).toBe(to);
  }); // biome-ignore format: a table
});

describe("the order", () => {
  const { session } = told();
  it.each([["", [1, 2, 3]], ["failed", [2]], ["LR=0.1", [1]], ["lr=0.0 b", [2]], ["nothing", []], ["lr=nan", [3]]])("finds %s", (words, ids) => {
    expect(arrange(session.store, words, null)).toEqual(ids);
  }); // biome-ignore format: a table

  it("sorts states in their own order, numbers as numbers, nothing last", () => {
    expect(arrange(session.store, "", { key: "state", down: false })).toEqual([3, 1, 2]);
    expect(arrange(session.store, "", { key: "flags.lr", down: false })).toEqual([2, 1, 3]);
    expect(arrange(session.store, "", { key: "flags.lr", down: true })).toEqual([1, 2, 3]);
    expect(arrange(session.store, "", { key: "runtime", down: true })).toEqual([1, 2, 3]);
  });

  it("turns up, down, off", () => {
    const up = turn(null, "a");
    const down = turn(up, "a");
    expect([up, down, turn(down, "a"), turn(down, "b")]).toEqual([{ key: "a", down: false }, { key: "a", down: true }, null, { key: "b", down: false }]); // biome-ignore format: a row
  });
});

describe("keys", () => {
  const key = (name: string, more = {}) => ({
    key: name,
    shiftKey: false,
    ctrlKey: false,
    altKey: false,
    metaKey: false,
    ...more,
  });
  it.each([["s", "start"], ["x", "stop"], ["/", "search"], ["?", "help"], ["Enter", "open"], [" ", "toggle"], ["Escape", "leave"]])("%s", (name, what) => {
    expect(intent(key(name))?.do).toBe(what);
    expect(leaks(key(name))).toBe(true);
  }); // biome-ignore format: a table

  it("leaves the host its own", () => {
    for (const more of [{ ctrlKey: true }, { metaKey: true }, { altKey: true }]) {
      expect(intent(key("s", more))).toBeNull();
      expect(leaks(key("s", more))).toBe(false);
    }
    expect(intent(key("d"))).toBeNull();
    expect(leaks(key("d"))).toBe(true);
    expect(leaks(key("Tab"))).toBe(false);
  });
});

describe("states", () => {
  it("gives each word a shape, an unknown one too", () => {
    expect(STATES).toHaveLength(13);
    for (const state of [...STATES, "NEVER_HEARD"]) expect(look(state).path).toBeTruthy();
  });

  it.each([["RUNNING", "RUNNING", false], ["STOPPED", "RUNNING", true], ["STOPPED", "STOPPING", false], ["RUNNING", "STOPPED", true], ["RUNNING", "FAILED", false], ["TERMINATED", "STOPPING", true], ["TERMINATED", "STOPPED", false]])(
    "wanted %s, is %s", (desired, state, told) => expect(differs(desired, state)).toBe(told),
  ); // biome-ignore format: a table
});

describe("the layout", () => {
  it("lets go of pinned columns where they would leave no room", () => {
    const { session } = told();
    expect(layout(session.store, 1400, 7).pinned).toHaveLength(4);
    const narrow = layout(session.store, 300, 7);
    expect(narrow.pinned.map((place) => place.column.key)).toEqual(["tick", "name"]);
    expect(narrow.open[0]?.column.key).toBe("action");
    expect(narrow.lefts).toHaveLength(narrow.open.length + 1);
  });
});
