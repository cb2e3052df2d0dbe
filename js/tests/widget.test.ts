import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { encode } from "../src/messages";
import type { Model } from "../src/sync";
import widget from "../src/widget";
import { ROWS } from "./fixtures";

type Heard = (content: unknown, buffers: DataView[]) => void;

class Fake implements Model {
  sent: Record<string, unknown>[] = [];
  private heard = new Set<Heard>();
  private seq = 0;
  disposed = false;
  private comm = new Set<() => void>();
  on(event: string, callback: Heard | (() => void)): void {
    if (event === "msg:custom") this.heard.add(callback);
    else this.comm.add(callback as () => void);
  }
  off(_: string, callback: Heard | (() => void)): void {
    this.heard.delete(callback);
    this.comm.delete(callback as () => void);
  }
  restart(): void {
    for (const callback of this.comm) callback();
  }
  send(content: unknown): void {
    if (this.disposed) throw new Error("Cannot send");
    this.sent.push(content as Record<string, unknown>);
  }
  say(t: string, fields: object, bulk?: object, seq = ++this.seq): void {
    this.seq = seq;
    const buffers = bulk ? [new DataView(new TextEncoder().encode(JSON.stringify(bulk)).buffer)] : [];
    for (const callback of this.heard) callback({ v: 1, t, kernel: 1, seq, ...fields }, buffers);
  }
  rows(rows: Record<number, Record<string, unknown>>): void {
    const keys = ["name", "action", "state", "desired", "reason", "message", "flags.lr"];
    const ids = Object.keys(rows).map(Number);
    const summary = {
      backend: "local",
      role: "leading",
      seen: 1,
      health: "",
      remedy: "",
      notices: [],
      terminal: "skydeck stop {name}",
    };
    this.say("snapshot", { part: 0, parts: 1, summary }, {
      columns: keys.map((key, n) => [n, key, "text", n < 3, n < 3 || n > 5, false]),
      ids,
      values: keys.map((key, n) => [n, ids.map((id) => rows[id]?.[key] ?? null)]),
    }); // biome-ignore format: a message
  }
}

let model: Fake;
let el: HTMLElement;
let stops: (() => void)[];

beforeEach(() => {
  vi.useFakeTimers({
    toFake: [
      "setTimeout",
      "clearTimeout",
      "setInterval",
      "clearInterval",
      "requestAnimationFrame",
      "cancelAnimationFrame",
      "Date",
    ],
  });
  vi.stubGlobal("ResizeObserver", class { observe() {} disconnect() {} }); // biome-ignore format: a stub
  model = new Fake();
  el = document.createElement("div");
  document.body.append(el);
  stops = [widget.initialize({ model }), widget.render({ model, el })];
});

afterEach(() => {
  for (const stop of stops.reverse()) stop();
  el.remove();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const text = (selector: string) => [...el.querySelectorAll(selector)].map((each) => each.textContent);
const frame = () => vi.advanceTimersByTime(50);
const tall = () => {
  const viewport = el.querySelector(".skydeck-viewport") as HTMLElement;
  Object.defineProperty(viewport, "clientHeight", { value: 500, configurable: true });
  Object.defineProperty(viewport, "clientWidth", { value: 1200, configurable: true });
  return viewport;
};
const press = (target: Element, key: string, more = {}) => {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
  target.dispatchEvent(event);
  return event;
};

describe("the widget", () => {
  it("shows rows, and hostile text as text", () => {
    tall();
    model.rows({ 1: { ...ROWS[1], name: "<img src=x onerror=alert(1)>" }, 2: ROWS[2] });
    frame();
    expect(text(".skydeck-name")).toEqual(["<img src=x onerror=alert(1)>", "b"]);
    expect(el.querySelector("img")).toBeNull();
    expect(text(".skydeck-word")).toEqual(["RUNNING", "FAILED"]);
    expect(text(".skydeck-button")).toEqual(["Stop", "Retry"]);
  });

  it("sends one stop for a click, shows it under way, and queued after 300 ms", () => {
    tall();
    model.rows({ 1: ROWS[1] });
    frame();
    (el.querySelector(".skydeck-button") as HTMLElement).click();
    expect(model.sent.at(-1)).toEqual(encode({ t: "stop", ids: [1] }, String(model.sent.at(-1)?.req)));
    expect(text(".skydeck-button")).toEqual(["Stopping…"]);
    vi.advanceTimersByTime(301);
    expect(text(".skydeck-button")).toEqual(["Queued"]);
    expect((el.querySelector(".skydeck-button") as HTMLElement).title).toContain("skydeck stop a");
    model.say("ack", { req: model.sent.at(-1)?.req, main: true });
    expect(text(".skydeck-button")).toEqual(["Stopping…"]);
    model.say("delta", {}, { changed: [[1, 1, null, 2, "STOPPED"]] });
    model.say("done", { req: model.sent.at(-1)?.req, text: "stopped" });
    expect(text(".skydeck-button")).toEqual([]);
    expect(text(".skydeck-word")).toEqual(["STOPPED"]);
  });

  it("asks for everything when nothing was pushed, and after a gap until it comes", () => {
    vi.advanceTimersByTime(450);
    expect(model.sent.map(({ t }) => t)).toEqual(["resync"]);
    model.rows({ 1: ROWS[1] });
    vi.advanceTimersByTime(5_000);
    expect(model.sent).toHaveLength(1);
    model.say("delta", {}, { removed: [1] }, 9);
    vi.advanceTimersByTime(2_100);
    expect(model.sent.map(({ t }) => t)).toEqual(["resync", "resync", "resync"]);
  });

  it("patches a cell in place", () => {
    tall();
    model.rows({ 1: ROWS[1], 2: ROWS[2] });
    frame();
    const cell = el.querySelector('[data-key="flags.lr"]');
    model.say("delta", {}, { changed: [[1, 6, 0.25]] });
    expect(el.querySelector('[data-key="flags.lr"]')).toBe(cell);
    expect(cell?.textContent).toBe("0.25");
  });

  it("draws a window of many rows", () => {
    const viewport = tall();
    model.rows(Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [i + 1, { ...ROWS[1], name: `n${i}` }])));
    frame();
    expect(el.querySelectorAll(".skydeck-row").length).toBeLessThan(40);
    expect(viewport.getAttribute("aria-rowcount")).toBe("5001");
    viewport.scrollTop = 28 * 2_000;
    viewport.dispatchEvent(new Event("scroll"));
    frame();
    expect(text(".skydeck-name")).toContain("n2000");
  });

  it("is worked by keys, and keeps them from the notebook", () => {
    const viewport = tall();
    model.rows(ROWS);
    frame();
    const leaked = vi.fn();
    document.addEventListener("keydown", leaked);
    viewport.focus();
    viewport.dispatchEvent(new FocusEvent("focus"));
    press(viewport, "x");
    expect(model.sent.at(-1)).toMatchObject({ t: "stop", ids: [1] });
    press(viewport, "ArrowDown");
    press(viewport, "s");
    expect(model.sent.at(-1)).toMatchObject({ t: "retry", ids: [2] });
    press(viewport, " ");
    press(viewport, "ArrowDown", { shiftKey: true });
    expect(model.sent.at(-1)).toMatchObject({ t: "select", selection: [2, 3] });
    press(viewport, "Enter");
    expect(model.sent.at(-1)).toMatchObject({ t: "open", row: 3 });
    frame();
    expect(text(".skydeck-detail")).toEqual(["Looking…"]);
    model.say("detail", { row: 3 }, { detail: { why: ["as wanted"], command: "python t.py", jobs: [] } });
    expect(text(".skydeck-detail")[0]).toContain("python t.py");
    press(viewport, "Escape");
    frame();
    expect(text(".skydeck-detail")).toEqual([]);
    expect(press(viewport, "d").defaultPrevented).toBe(false);
    expect(leaked).not.toHaveBeenCalled();
    press(viewport, "s", { ctrlKey: true });
    expect(leaked).toHaveBeenCalledTimes(1);
    document.removeEventListener("keydown", leaked);
  });

  it("sorts by its headings", () => {
    tall();
    model.rows(ROWS);
    frame();
    const heading = () =>
      [...el.querySelectorAll<HTMLElement>(".skydeck-heading")].find((each) => each.textContent?.includes("name"));
    heading()?.click();
    heading()?.click();
    frame();
    expect(heading()?.getAttribute("aria-sort")).toBe("descending");
    const rows = [...el.querySelectorAll(".skydeck-row")];
    const places = rows.map((row) => [
      row.getAttribute("aria-rowindex"),
      row.querySelector(".skydeck-name")?.textContent,
    ]);
    expect(places.sort()).toEqual([["2", "c"], ["3", "b"], ["4", "a"]]); // biome-ignore format: a table
  });

  it("says what to type where nothing is, and nothing found where nothing is found", () => {
    model.rows({});
    expect(text(".skydeck-empty")[0]).toContain("deck.sweep(");
    model.rows(ROWS);
    const search = el.querySelector(".skydeck-search") as HTMLInputElement;
    search.value = "zzz";
    search.dispatchEvent(new Event("input", { bubbles: true }));
    expect(text(".skydeck-empty")[0]).toContain("No experiment matches zzz");
  });

  it("is one grid in two cells", () => {
    const second = document.createElement("div");
    document.body.append(second);
    const stop = widget.render({ model, el: second });
    model.rows(ROWS);
    frame();
    (el.querySelector(".skydeck-search") as HTMLInputElement).value = "a";
    expect(second.querySelector(".skydeck-line")?.textContent).toContain("local");
    stop();
    expect(second.childElementCount).toBe(0);
    second.remove();
  });

  it("doubts a kernel whose comm moved, until it hears from it", () => {
    model.rows(ROWS);
    model.restart();
    expect(model.sent.at(-1)?.t).toBe("resync");
    model.rows(ROWS);
    vi.advanceTimersByTime(2_100);
    expect(text(".skydeck-still")).toEqual([]);
    vi.advanceTimersByTime(100);
    model.restart();
    vi.advanceTimersByTime(2_100);
    expect(text(".skydeck-still")[0]).toContain("if it was restarted, run the cell again");
  });

  it("shows at once that its comm was taken away", () => {
    tall();
    model.rows(ROWS);
    frame();
    model.disposed = true;
    model.restart();
    expect(text(".skydeck-still")[0]).toContain("run the cell again");
    expect(text(".skydeck-button")).toEqual(["Stop", "Retry", "Start"]);
  });

  it("goes silent without heartbeats and still with bye", () => {
    tall();
    model.rows(ROWS);
    model.say("summary", { now: Date.now(), every: 5 });
    frame();
    vi.advanceTimersByTime(17_000);
    expect(text(".skydeck-still")[0]).toContain("No word from the kernel");
    expect((el.querySelector(".skydeck-button") as HTMLButtonElement).disabled).toBe(true);
    model.say("summary", { now: Date.now(), every: 5 });
    expect(text(".skydeck-still")).toEqual([]);
    model.say("bye", { now: 1 });
    expect(text(".skydeck-still")[0]).toContain("run the cell again");
  });
});
