/**
 * What Python told us, folded message by message.
 * Decides what a message changes and when everything must be asked for again.
 * Refuses to know the DOM, the clock and how a message arrived.
 */

import type { Cell, Column, Line, Message, RowDetail } from "./messages";

/** What one message changed, for those who draw. */
export interface Change {
  /** Rows or columns came, went or moved. */
  structure: boolean;
  /** Cells that changed, as row id and column number. */
  cells: [id: number, n: number][];
  line: boolean;
  /** Rows whose state moved, for the announcements. */
  states: number[];
  /** A gap: ask for everything again. */
  resync: boolean;
}

const ROW_DATA: ReadonlySet<Message["t"]> = new Set(["snapshot", "columns", "delta"]);

export class Store {
  kernel = 0;
  seq = 0;
  /** False until the first snapshot, and again from a gap to the next snapshot. */
  whole = false;
  columns: readonly Column[] = [];
  ids: readonly number[] = [];
  line: Line | null = null;
  details = new Map<number, RowDetail>();
  private rows = new Map<number, Cell[]>();
  private numbers = new Map<string, number>();

  get ready(): boolean {
    return this.kernel !== 0;
  }

  has(id: number): boolean {
    return this.rows.has(id);
  }

  cell(id: number, key: string): Cell {
    const n = this.numbers.get(key);
    return n === undefined ? null : this.at(id, n);
  }

  at(id: number, n: number): Cell {
    return this.rows.get(id)?.[n] ?? null;
  }

  text(id: number, key: string): string {
    const value = this.cell(id, key);
    return typeof value === "string" ? value : "";
  }

  number(key: string): number | undefined {
    return this.numbers.get(key);
  }

  apply(message: Message): Change {
    const change: Change = { structure: false, cells: [], line: false, states: [], resync: false };
    const begins = message.t === "snapshot" && message.part === 0;
    if (!begins) {
      const ours = message.kernel === this.kernel;
      if (ours && message.seq <= this.seq) return change;
      if (!ours || message.seq !== this.seq + 1 || !this.whole) {
        this.whole = false;
        change.resync = true;
        if (ROW_DATA.has(message.t)) return change;
      }
    }
    if (begins || this.whole) this.seq = message.seq;
    this.fold(message, change);
    return change;
  }

  private fold(message: Message, change: Change): void {
    switch (message.t) {
      case "snapshot":
        this.snapshot(message, change);
        return;
      case "columns":
        this.drop(message.columns);
        this.setColumns(message.columns);
        change.structure = true;
        return;
      case "delta":
        this.delta(message, change);
        return;
      case "summary":
        if (message.summary) this.line = message.summary;
        else if (this.line) this.line = { ...this.line, seen: message.seen };
        change.line = true;
        return;
      case "detail":
        if (this.rows.has(message.row)) this.details.set(message.row, message.detail);
        return;
    }
  }

  private snapshot(message: Message & { t: "snapshot" }, change: Change): void {
    if (message.part === 0) {
      const old = this.rows;
      const state = this.numbers.get("state");
      const same = this.kernel === message.kernel;
      this.kernel = message.kernel;
      this.whole = true;
      this.setColumns(message.columns ?? []);
      this.ids = message.ids ?? [];
      // What a later part brings is kept from before until then: nothing flickers on a resync.
      this.rows = new Map(this.ids.map((id) => [id, same ? [...(old.get(id) ?? [])] : []]));
      if (message.summary) this.line = message.summary;
      change.line = true;
      this.fill(message);
      if (same && state !== undefined) {
        for (const id of this.ids) {
          const was = old.get(id)?.[state];
          if (was !== undefined && was !== this.at(id, state)) change.states.push(id);
        }
      }
    } else {
      this.fill(message);
    }
    change.structure = true;
  }

  private fill(message: Message & { t: "snapshot" }): void {
    for (const [n, values] of message.values) {
      this.ids.forEach((id, i) => {
        const row = this.rows.get(id);
        if (row) row[n] = values[i] ?? null;
      });
    }
  }

  private delta(message: Message & { t: "delta" }, change: Change): void {
    const state = this.numbers.get("state");
    for (const [id, ...pairs] of message.changed) {
      const row = this.rows.get(id);
      if (!row) continue;
      for (let i = 0; i + 1 < pairs.length; i += 2) {
        const n = pairs[i] as number;
        row[n] = pairs[i + 1] ?? null;
        change.cells.push([id, n]);
        if (n === state) change.states.push(id);
      }
    }
    for (const [id, values] of message.added) {
      const row: Cell[] = [];
      this.columns.forEach((column, i) => {
        row[column.n] = values[i] ?? null;
      });
      this.rows.set(id, row);
    }
    for (const id of message.removed) {
      this.rows.delete(id);
      this.details.delete(id);
    }
    if (message.order) this.ids = message.order;
    else if (message.added.length || message.removed.length) {
      this.ids = [...this.ids.filter((id) => this.rows.has(id)), ...message.added.map(([id]) => id)];
    }
    change.structure ||= Boolean(message.added.length || message.removed.length || message.order);
  }

  /** What stood in a column that goes does not come back with it. */
  private drop(kept: readonly Column[]): void {
    const numbers = new Set(kept.map((column) => column.n));
    const gone = this.columns.filter((column) => !numbers.has(column.n));
    for (const row of this.rows.values()) for (const { n } of gone) row[n] = null;
  }

  private setColumns(columns: readonly Column[]): void {
    this.columns = columns;
    this.numbers = new Map(columns.map((column) => [column.key, column.n]));
  }
}
