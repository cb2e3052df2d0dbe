/**
 * One grid in the browser: the store, what the user has asked for, and how the rows are arranged now.
 * Decides what a click means. Refuses to know the DOM and the anywidget model: `send` is given.
 * Shared by all views of one model.
 */

import { type Signal, signal } from "@preact/signals-core";
import { plural } from "./format";
import type { ActKind, Command, Level, Message } from "./messages";
import { arrange, type Sort } from "./order";
import { STARTS } from "./states";
import { type Change, Store } from "./store";

/** `waiting`: nothing came yet; `silent`: heartbeats stopped; `gone`: Python said bye, or the model ended. */
export type Life = "waiting" | "live" | "silent" | "gone";

export interface Pending {
  readonly req: string;
  readonly kind: ActKind;
  readonly ids: readonly number[];
  acked: boolean;
  queued: boolean;
}

export interface Toast {
  readonly key: number;
  readonly level: Level;
  readonly text: string;
  readonly remedy: string;
}

export interface Listener {
  structure(): void;
  cells(cells: readonly (readonly [number, number])[]): void;
  /** Buttons, ticks, details: everything of these rows. */
  rows(ids: readonly number[]): void;
}

/** Sends one command and gives its id; none where nothing can be sent any more. */
export type Send = (command: Command) => string;

const STEADY = 1500;
/** Announcements of single rows in one go; above it only their number is said. */
const SPOKEN = 3;

export class Session {
  readonly store = new Store();
  readonly life: Signal<Life> = signal("waiting");
  readonly since = signal(0);
  readonly line = signal(this.store.line);
  readonly counts = signal<ReadonlyMap<string, number>>(new Map());
  readonly search = signal("");
  readonly sort = signal<Sort | null>(null);
  readonly shown = signal(0);
  readonly selected = signal<ReadonlySet<number>>(new Set());
  readonly toasts = signal<readonly Toast[]>([]);
  readonly spoken = signal("");
  /** A stop of many that waits for a yes. */
  readonly asking = signal<{ kind: ActKind; ids: readonly number[] } | null>(null);
  readonly opened = new Set<number>();
  readonly pending = new Map<number, Pending>();
  order: readonly number[] = [];
  /** Milliseconds that the kernel's clock is ahead of this one. */
  skew = 0;
  private readonly listeners = new Set<Listener>();
  private readonly requests = new Map<string, Pending>();
  private touched = 0;
  private toast = 0;

  constructor(
    private readonly send: Send,
    private readonly clock: () => number = Date.now,
  ) {}

  listen(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  now(): number {
    return (this.life.value === "gone" ? this.since.value : this.clock()) + this.skew;
  }

  /** Fold one message in. Returns whether everything must be asked for again. */
  receive(message: Message): boolean {
    const before = this.store.kernel;
    const change = this.store.apply(message);
    if (before !== 0 && this.store.kernel !== before) this.forget();
    switch (message.t) {
      case "summary":
        this.skew = message.now - this.clock();
        break;
      case "selected":
        this.select(message.ids, false);
        break;
      case "notice":
        this.tell(message.level, message.text, message.remedy);
        break;
      case "detail":
        this.each((listener) => listener.rows([message.row]));
        break;
      case "ack":
        this.acknowledged(message.req);
        break;
      case "done":
      case "error":
        this.settle(message.req, message.t === "error" ? "error" : "info", message.text);
        break;
      case "bye":
        this.end();
        break;
    }
    this.drawn(change);
    return change.resync;
  }

  /** Do something to rows; a stop of several asks first. */
  act(kind: ActKind, ids: readonly number[], sure = false): void {
    const free = ids.filter((id) => this.store.has(id) && !this.pending.has(id));
    if (!free.length) return;
    if (this.life.value !== "live") {
      this.tell("warning", "There is no kernel to ask.", "Run the cell again.");
      return;
    }
    const ends = kind === "stop" || kind === "terminate";
    if (ends && free.length > 1 && !sure) {
      this.asking.value = { kind, ids: free };
      return;
    }
    this.asking.value = null;
    const req = this.send({ t: kind, ids: free });
    if (!req) return;
    const pending: Pending = { req, kind, ids: free, acked: false, queued: false };
    this.requests.set(req, pending);
    for (const id of free) this.pending.set(id, pending);
    this.each((listener) => listener.rows(free));
  }

  /** What the row's own button would do. */
  press(id: number): void {
    const action = this.store.text(id, "action");
    if (action) this.act(action as ActKind, [id]);
  }

  /** Each row that can, by its own action: a failed one is retried, a stopped one started. */
  actAll(ids: readonly number[], starting: boolean): void {
    const kinds = new Map<ActKind, number[]>();
    for (const id of ids) {
      const action = this.store.text(id, "action") as ActKind | "";
      if (!action || STARTS.has(action) !== starting || (starting && ids.length > 1 && action === "restart")) continue;
      kinds.set(action, [...(kinds.get(action) ?? []), id]);
    }
    for (const [kind, some] of kinds) this.act(kind, some);
    if (!kinds.size) this.tell("info", `Nothing here to ${starting ? "start" : "stop"}.`);
  }

  /** No ack came in time: the kernel is busy, or cannot hear. */
  queued(req: string): void {
    const pending = this.requests.get(req);
    if (!pending || pending.acked || pending.queued) return;
    pending.queued = true;
    this.each((listener) => listener.rows(pending.ids));
  }

  select(ids: Iterable<number>, tell = true): void {
    const before = this.selected.value;
    const after = new Set([...ids].filter((id) => this.store.has(id)));
    this.selected.value = after;
    this.each((listener) => listener.rows([...before, ...after]));
    if (tell) this.send({ t: "select", selection: [...after] });
  }

  open(id: number, on = !this.opened.has(id)): void {
    if (on) {
      this.opened.add(id);
      this.send({ t: "open", row: id });
    } else this.opened.delete(id);
    this.each((listener) => listener.structure());
  }

  find(search: string): void {
    this.search.value = search;
    this.arrange();
  }

  orderBy(sort: Sort | null): void {
    this.sort.value = sort;
    this.arrange();
  }

  tell(level: Level, text: string, remedy = ""): void {
    if (!text) return;
    this.toast += 1;
    this.toasts.value = [...this.toasts.value.slice(-3), { key: this.toast, level, text, remedy }];
  }

  dismiss(key: number): void {
    this.toasts.value = this.toasts.value.filter((toast) => toast.key !== key);
  }

  /** The pointer or a key is at work among the rows: they keep their places for a moment. */
  touch(): void {
    this.touched = this.clock();
  }

  /** Rows take their places again; called now and then while they are sorted by what moves. */
  settleOrder(): void {
    if (this.stale && this.clock() - this.touched > STEADY) this.arrange();
  }

  silence(): void {
    if (this.life.value !== "live") return;
    this.life.value = "silent";
    this.forget();
    this.each((listener) => listener.rows(this.order));
  }

  /** The last word: what is on screen stays as a picture. */
  end(): void {
    if (this.life.value === "gone") return;
    this.since.value = this.since.value || this.clock();
    this.life.value = "gone";
    this.forget();
    this.each((listener) => listener.rows(this.order));
  }

  private stale = false;

  private drawn(change: Change): void {
    if (this.life.value !== "gone" && this.store.whole) {
      const revived = this.life.value === "silent";
      this.life.value = "live";
      this.since.value = this.clock();
      if (revived) this.each((listener) => listener.rows(this.order));
    }
    if (change.line) this.line.value = this.store.line;
    if (change.structure) this.arrange();
    else if (change.cells.length) {
      this.each((listener) => listener.cells(change.cells));
      const sorted = this.sort.value && this.store.number(this.sort.value.key);
      if (this.search.value || change.cells.some(([, n]) => n === sorted)) this.stale = true;
    }
    if (change.structure || change.states.length) this.count();
    if (change.states.length) this.announce(change.states);
  }

  private arrange(): void {
    this.stale = false;
    this.order = arrange(this.store, this.search.value, this.sort.value);
    this.shown.value = this.order.length;
    for (const id of this.opened) if (!this.store.has(id)) this.opened.delete(id);
    if ([...this.selected.value].some((id) => !this.store.has(id))) this.select(this.selected.value, false);
    this.each((listener) => listener.structure());
  }

  private count(): void {
    const counts = new Map<string, number>();
    for (const id of this.store.ids) {
      const state = this.store.text(id, "state");
      counts.set(state, (counts.get(state) ?? 0) + 1);
    }
    this.counts.value = counts;
  }

  private announce(ids: readonly number[]): void {
    const say = (id: number) => `${this.store.text(id, "name")}: ${this.store.text(id, "state")}`;
    this.spoken.value =
      ids.length > SPOKEN ? `${plural(ids.length, "row")} changed state` : [...new Set(ids)].map(say).join(", ");
  }

  private acknowledged(req: string): void {
    const pending = this.requests.get(req);
    if (!pending) return;
    pending.acked = true;
    if (pending.queued) {
      pending.queued = false;
      this.each((listener) => listener.rows(pending.ids));
    }
  }

  private settle(req: string | null, level: Level, text: string): void {
    const pending = req === null ? undefined : this.requests.get(req);
    if (pending) {
      this.requests.delete(pending.req);
      for (const id of pending.ids) this.pending.delete(id);
      this.each((listener) => listener.rows(pending.ids));
    }
    if (level === "error" || (pending?.ids.length ?? 0) > 1) this.tell(level, text);
  }

  private forget(): void {
    this.requests.clear();
    this.pending.clear();
    this.asking.value = null;
  }

  private each(call: (listener: Listener) => void): void {
    for (const listener of this.listeners) call(listener);
  }
}
