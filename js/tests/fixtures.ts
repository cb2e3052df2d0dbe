/** The fixtures that both sides read, and a store told from them. */

import commands from "../../tests/fixtures/wire/commands.json";
import outgoing from "../../tests/fixtures/wire/outgoing.json";
import story from "../../tests/fixtures/wire/story.json";
import { type Cell, type Message, parse } from "../src/messages";
import { Session } from "../src/session";

export { commands, outgoing, story };

export interface Packed {
  readonly content: unknown;
  readonly buffer: unknown;
}

export function unpack({ content, buffer }: Packed): Message {
  const buffers = buffer === null ? [] : [new DataView(new TextEncoder().encode(JSON.stringify(buffer)).buffer)];
  const message = parse(content, buffers);
  if (!message) throw new Error("a fixture that this build cannot read");
  return message;
}

const KEYS = ["name", "action", "state", "desired", "reason", "message", "age", "runtime", "ended", "flags.lr"];

/** A snapshot of rows given by key. */
export function snapshot(rows: Record<number, Record<string, Cell>>, seq = 1, kernel = 1): Message {
  const ids = Object.keys(rows).map(Number);
  return {
    t: "snapshot",
    part: 0,
    parts: 1,
    kernel,
    seq,
    ids,
    columns: KEYS.map((key, n) => ({ n, key, kind: "text", pinned: n < 3, shown: n < 3 || n > 5, common: false })),
    values: KEYS.map((key, n) => [n, ids.map((id) => rows[id]?.[key] ?? null)]),
    summary: {
      backend: "local",
      role: "leading",
      seen: 0,
      health: "",
      remedy: "",
      notices: [],
      terminal: "stop {name}",
    },
  };
}

export function delta(seq: number, fields: Partial<Message & { t: "delta" }>, kernel = 1): Message {
  return { t: "delta", added: [], changed: [], removed: [], order: null, kernel, seq, ...fields };
}

export const ROWS = {
  1: { name: "a", action: "stop", state: "RUNNING", desired: "RUNNING", "flags.lr": 0.1 },
  2: { name: "b", action: "retry", state: "FAILED", desired: "RUNNING", "flags.lr": 0.01 },
  3: { name: "c", action: "start", state: "STOPPED", desired: "STOPPED", "flags.lr": { n: "NaN" } },
} as const;

export interface Told {
  readonly session: Session;
  readonly sent: unknown[];
  time: number;
}

/** A session with these rows, what it sent, and a clock that stands still. */
export function told(rows: Record<number, Record<string, Cell>> = ROWS): Told {
  const sent: unknown[] = [];
  const world: { time: number } = { time: 1_000_000 };
  const session = new Session(
    (command) => {
      sent.push(command);
      return `r-${sent.length}`;
    },
    () => world.time,
  );
  session.receive(snapshot(rows));
  return Object.assign(world, { session, sent });
}
