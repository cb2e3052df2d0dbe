/** The words of `skydeck_nb/states.py` on screen: their order, their shape, their tone. Refuses to know rows. */

import type { ActKind } from "./messages";

export type Tone = "rest" | "wait" | "run" | "good" | "bad" | "warn";

/** Paths in a 12 × 12 box. A shape of its own for each word: colour only helps. */
const SHAPES = {
  square: "M2.5 2.5h7v7h-7z",
  clock: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9M6 3.5V6l1.8 1.2",
  ring: "M6 1.5a4.5 4.5 0 1 0 4.5 4.5",
  play: "M3.5 2l6 4l-6 4z",
  turn: "M9.8 4.2A4.2 4.2 0 1 0 10.2 6.6M10 1.8v2.6H7.4",
  check: "M2 6.5l2.8 2.8L10 3.2",
  cross: "M3 3l6 6M9 3l-6 6",
  slash: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9M3 9l6-6",
  question: "M4 4.4a2 2 0 1 1 2.8 1.8c-.6.3-.8.6-.8 1.3M6 9.6v.2",
} as const;

const LOOKS: Readonly<Record<string, readonly [keyof typeof SHAPES, Tone]>> = {
  STOPPED: ["square", "rest"],
  QUEUED: ["clock", "wait"],
  LAUNCHING: ["ring", "wait"],
  PENDING: ["ring", "wait"],
  STARTING: ["ring", "wait"],
  RUNNING: ["play", "run"],
  RECOVERING: ["turn", "warn"],
  STOPPING: ["square", "wait"],
  SUCCEEDED: ["check", "good"],
  FAILED: ["cross", "bad"],
  CANCELLED: ["slash", "rest"],
  LOST: ["question", "warn"],
  UNKNOWN: ["question", "rest"],
};

/** The order in which states sort: that of the frames' category. */
export const STATES = Object.keys(LOOKS);

const TURNING: ReadonlySet<string> = new Set(["LAUNCHING", "PENDING", "STARTING"]);

export function look(state: string): { path: string; tone: Tone; filled: boolean; turning: boolean } {
  const [shape, tone] = LOOKS[state] ?? ["question", "rest"];
  return { path: SHAPES[shape], tone, filled: shape === "play", turning: TURNING.has(state) };
}

/** Whether what is wanted is worth a word beside what is. */
export function differs(desired: string, state: string): boolean {
  const ended = state === "SUCCEEDED" || state === "FAILED" || state === "STOPPED" || state === "CANCELLED";
  if (desired === "RUNNING") return state === "STOPPED" || state === "STOPPING" || state === "CANCELLED";
  if (desired === "STOPPED") return !ended && state !== "STOPPING";
  return desired === "TERMINATED" && !ended;
}

export const WORDS: Readonly<Record<ActKind, { does: string; doing: string }>> = {
  start: { does: "Start", doing: "Starting…" },
  stop: { does: "Stop", doing: "Stopping…" },
  retry: { does: "Retry", doing: "Retrying…" },
  restart: { does: "Run again", doing: "Restarting…" },
  terminate: { does: "Terminate", doing: "Ending…" },
};

/** The kinds that set a row going, which the key `s` and the button *Start* for many mean. */
export const STARTS: ReadonlySet<string> = new Set(["start", "retry", "restart"]);
