/**
 * The wire between Python and the browser, mirrored from `skydeck_nb/widget/messages.py`.
 * Decides what a message looks like on this side; refuses to know what it does.
 * `tests/fixtures/wire` is read by the tests of both sides.
 */

export const VERSION = 1;

/** A value in the table. `{n}`: a number that JSON cannot carry; `{l}`: a literal shown as it stands. */
export type Cell = null | boolean | number | string | { readonly n: string } | { readonly l: string };

export type Kind = "text" | "number" | "bool" | "time";

export interface Column {
  readonly n: number;
  readonly key: string;
  readonly kind: Kind;
  readonly pinned: boolean;
  readonly shown: boolean;
  readonly common: boolean;
}

export type Level = "info" | "warning" | "error";

export interface Line {
  readonly backend: string;
  readonly role: string;
  readonly seen: number | null;
  readonly health: string;
  readonly remedy: string;
  readonly notices: readonly (readonly [Level, string, string])[];
  readonly terminal: string;
}

export interface Job {
  readonly id: number;
  readonly status: string;
  readonly run: number;
  readonly attempt: number | null;
  readonly started_at: number | null;
  readonly ended_at: number | null;
  readonly exit_code: number | null;
  readonly infra: string | null;
  readonly error: string | null;
}

export interface RowDetail {
  readonly why: readonly string[];
  readonly command: string;
  readonly jobs: readonly Job[];
}

type Values = readonly (readonly [number, readonly Cell[]])[];
type Changed = readonly (readonly [number, ...Cell[]])[];

export type Body =
  | {
      t: "snapshot";
      part: number;
      parts: number;
      columns: readonly Column[] | null;
      ids: readonly number[] | null;
      values: Values;
      summary: Line | null;
    }
  | { t: "columns"; columns: readonly Column[] }
  | {
      t: "delta";
      added: readonly (readonly [number, readonly Cell[]])[];
      changed: Changed;
      removed: readonly number[];
      order: readonly number[] | null;
    }
  | { t: "summary"; now: number; every: number; seen: number | null; summary: Line | null }
  | { t: "detail"; row: number; detail: RowDetail }
  | { t: "notice"; level: Level; text: string; remedy: string }
  | { t: "selected"; ids: readonly number[] }
  | { t: "ack"; req: string; main: boolean }
  | { t: "done"; req: string; text: string }
  | { t: "error"; req: string | null; text: string }
  | { t: "bye"; now: number };

export type Message = Body & { readonly kernel: number; readonly seq: number };

export type ActKind = "start" | "stop" | "retry" | "restart" | "terminate";

export type Command =
  | { t: ActKind; ids: readonly number[] }
  | { t: "select"; selection: readonly number[] }
  | { t: "open"; row: number }
  | { t: "resync"; have: number };

/** A command as it travels. */
export function encode(command: Command, req: string): Record<string, unknown> {
  return { v: VERSION, req, ...command };
}

/** The message in what arrived, or `null` for one that this build cannot read (another build sent it). */
export function parse(content: unknown, buffers: readonly (DataView | ArrayBufferLike)[] = []): Message | null {
  if (!isObject(content) || content.v !== VERSION || typeof content.kernel !== "number") return null;
  if (typeof content.seq !== "number" || typeof content.t !== "string") return null;
  const read = READERS[content.t as Body["t"]] as ((fields: Fields) => Body) | undefined;
  if (!read) return null;
  const bulk = buffers[0] === undefined ? {} : JSON.parse(new TextDecoder().decode(buffers[0] as DataView));
  return Object.assign(read({ ...content, ...bulk }), { kernel: content.kernel, seq: content.seq });
}

// biome-ignore lint/suspicious/noExplicitAny: our own kernel wrote it; the readers give it its types
type Fields = Record<string, any>;

const READERS: { [T in Body["t"]]: (fields: Fields) => Extract<Body, { t: T }> } = {
  snapshot: (f) => ({
    t: "snapshot",
    part: f.part,
    parts: f.parts,
    columns: f.columns?.map(column) ?? null,
    ids: f.ids ?? null,
    values: f.values,
    summary: f.summary ?? null,
  }),
  columns: (f) => ({ t: "columns", columns: f.columns.map(column) }),
  delta: (f) => ({
    t: "delta",
    added: f.added ?? [],
    changed: f.changed ?? [],
    removed: f.removed ?? [],
    order: f.order ?? null,
  }),
  summary: (f) => ({ t: "summary", now: f.now, every: f.every, seen: f.seen ?? null, summary: f.summary ?? null }),
  detail: (f) => ({ t: "detail", row: f.row, detail: f.detail }),
  notice: (f) => ({ t: "notice", level: f.level, text: f.text, remedy: f.remedy ?? "" }),
  selected: (f) => ({ t: "selected", ids: f.ids }),
  ack: (f) => ({ t: "ack", req: f.req, main: f.main }),
  done: (f) => ({ t: "done", req: f.req, text: f.text }),
  error: (f) => ({ t: "error", req: f.req ?? null, text: f.text }),
  bye: (f) => ({ t: "bye", now: f.now }),
};

function column(encoded: readonly [number, string, Kind, boolean, boolean, boolean]): Column {
  const [n, key, kind, pinned, shown, common] = encoded;
  return { n, key, kind, pinned, shown, common };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
