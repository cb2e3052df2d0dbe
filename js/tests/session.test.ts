import { describe, expect, it } from "vitest";
import { delta, ROWS, snapshot, told } from "./fixtures";

describe("a click", () => {
  it("is pending until Python is done, and once only", () => {
    const { session, sent } = told();
    session.press(1);
    session.press(1);
    expect(sent).toEqual([{ t: "stop", ids: [1] }]);
    expect(session.pending.get(1)?.kind).toBe("stop");
    session.receive({ t: "ack", req: "r-1", main: false, kernel: 1, seq: 2 });
    session.queued("r-1");
    expect(session.pending.get(1)?.queued).toBe(false);
    session.receive({ t: "done", req: "r-1", text: "1 stopped", kernel: 1, seq: 3 });
    expect(session.pending.size).toBe(0);
  });

  it("is queued without an ack, and no more once it comes", () => {
    const { session } = told();
    session.press(1);
    session.queued("r-1");
    expect(session.pending.get(1)?.queued).toBe(true);
    session.receive({ t: "ack", req: "r-1", main: true, kernel: 1, seq: 2 });
    expect(session.pending.get(1)?.queued).toBe(false);
  });

  it("that was refused frees the row and says why", () => {
    const { session } = told();
    session.press(2);
    session.receive({ t: "error", req: "r-1", text: "no slot", kernel: 1, seq: 2 });
    expect(session.pending.size).toBe(0);
    expect(session.toasts.value.map(({ level, text }) => [level, text])).toEqual([["error", "no slot"]]);
  });

  it("on many stops asks first", () => {
    const { session, sent } = told({ 1: ROWS[1], 4: { ...ROWS[1], name: "d" } });
    session.actAll([1, 4], false);
    expect(sent).toEqual([]);
    expect(session.asking.value).toEqual({ kind: "stop", ids: [1, 4] });
    session.act("stop", [1, 4], true);
    expect(sent).toEqual([{ t: "stop", ids: [1, 4] }]);
    expect(session.asking.value).toBeNull();
  });

  it("on a mixed selection does for each what its button would", () => {
    const { session, sent } = told();
    session.actAll([1, 2, 3], true);
    expect(sent).toEqual([{ t: "retry", ids: [2] }, { t: "start", ids: [3] }]); // biome-ignore format: a row
  });
});

describe("life", () => {
  it("is silent, then live again", () => {
    const { session, sent } = told();
    session.silence();
    expect(session.life.value).toBe("silent");
    session.press(1);
    expect(sent).toEqual([]);
    session.receive(delta(2, {}));
    expect(session.life.value).toBe("live");
  });

  it("ends with bye, for good", () => {
    const world = told();
    const { session } = world;
    session.press(1);
    session.receive({ t: "bye", now: 5, kernel: 1, seq: 2 });
    world.time += 60_000;
    expect([session.life.value, session.pending.size]).toEqual(["gone", 0]);
    expect(session.now()).toBe(1_000_000);
    session.receive(snapshot(ROWS, 3));
    expect(session.life.value).toBe("gone");
  });

  it("forgets what it asked of another kernel", () => {
    const { session } = told();
    session.press(1);
    session.receive(snapshot(ROWS, 1, 2));
    expect(session.pending.size).toBe(0);
  });
});

describe("what stays while rows move", () => {
  it("keeps ticks and opened rows that are there", () => {
    const { session } = told();
    session.select([1, 2]);
    session.open(2);
    session.receive(delta(2, { removed: [2] }));
    expect([[...session.selected.value], [...session.opened], session.order]).toEqual([[1], [], [1, 3]]);
  });

  it("keeps the places of sorted rows while the pointer is among them", () => {
    const world = told();
    const { session } = world;
    session.orderBy({ key: "flags.lr", down: false });
    expect(session.order).toEqual([2, 1, 3]);
    session.touch();
    session.receive(delta(2, { changed: [[1, 9, 0.001]] }));
    session.settleOrder();
    expect(session.order).toEqual([2, 1, 3]);
    world.time += 2_000;
    session.settleOrder();
    expect(session.order).toEqual([1, 2, 3]);
  });

  it("announces states, many at once as a number", () => {
    const { session } = told();
    session.receive(delta(2, { changed: [[1, 2, "SUCCEEDED"]] }));
    expect(session.spoken.value).toBe("a: SUCCEEDED");
    const many = told(Object.fromEntries([1, 2, 3, 4].map((id) => [id, ROWS[1]]))).session;
    many.receive(delta(2, { changed: [1, 2, 3, 4].map((id) => [id, 2, "FAILED"]) }));
    expect(many.spoken.value).toBe("4 rows changed state");
    expect(many.counts.value.get("FAILED")).toBe(4);
  });
});
