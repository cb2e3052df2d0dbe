/**
 * The rows in the page: a window over rows and columns whose cells are patched where they stand.
 * Decides which elements exist. Refuses to know messages and what a click leads to.
 */

import { DRAWN_WITH, paint, time } from "./cells";
import { Cursor } from "./cursor";
import { fillDetail } from "./detail";
import { type Layout, layout, type Place } from "./layout";
import type { Session } from "./session";
import { columnRange, DETAIL, MAX_ROWS, ROW, reveal, rowRange, top } from "./window";

interface Row {
  readonly id: number;
  readonly element: HTMLElement;
  readonly cells: Map<number, HTMLElement>;
  index: number;
  detail: HTMLElement | null;
}

/** A digit's width before it is measured. */
const LETTER = 7;

let bodies = 0;

export class Body {
  readonly viewport = make("div", "skydeck-viewport");
  readonly cursor: Cursor;
  readonly uid = `skydeck-${++bodies}`;
  plan: Layout;
  private readonly head = make("div", "skydeck-head", "row");
  private readonly sizer = make("div", "skydeck-sizer");
  private readonly rows = make("div", "skydeck-rows", "rowgroup");
  private live = new Map<number, Row>();
  private opened: number[] = [];
  private range: [number, number] = [-1, -1];
  private frame = 0;
  private measured = { font: "", letter: LETTER * 10 };
  private readonly stops: (() => void)[] = [];

  constructor(readonly session: Session) {
    this.plan = layout(session.store, 1000, LETTER);
    const headGroup = make("div", "skydeck-headgroup", "rowgroup");
    headGroup.append(this.head);
    this.viewport.append(headGroup, this.sizer, this.rows);
    this.viewport.tabIndex = 0;
    this.viewport.setAttribute("role", "treegrid");
    this.viewport.setAttribute("aria-label", "Experiments");
    this.viewport.setAttribute("aria-multiselectable", "true");
    this.viewport.style.maxHeight = `${MAX_ROWS * ROW + 44}px`;
    this.cursor = new Cursor(this);
    const observer = new ResizeObserver(() => this.structure());
    observer.observe(this.viewport);
    const ticking = setInterval(() => this.tick(), 1000);
    const schedule = () => this.schedule();
    this.viewport.addEventListener("scroll", schedule, { passive: true });
    this.stops.push(
      session.listen({
        structure: () => this.structure(),
        cells: (cells) => this.patch(cells),
        rows: (ids) => this.repaint(ids),
      }),
      () => observer.disconnect(),
      () => clearInterval(ticking),
      () => cancelAnimationFrame(this.frame),
      () => this.viewport.removeEventListener("scroll", schedule),
      this.cursor.attach(),
    );
    this.structure();
  }

  stop(): void {
    for (const stop of this.stops) stop();
  }

  /** All columns in their order, as the keyboard walks them. */
  get places(): readonly Place[] {
    return [...this.plan.pinned, ...this.plan.open];
  }

  get headHeight(): number {
    return this.plan.families ? 42 : ROW;
  }

  get page(): number {
    return Math.max(1, Math.floor((this.viewport.clientHeight - this.headHeight) / ROW) - 1);
  }

  cellId(id: number | null, place: Place): string {
    return `${this.uid}-${id ?? "head"}-${place.column.n}`;
  }

  element(id: number | null, place: Place): HTMLElement | undefined {
    if (id !== null) return this.live.get(id)?.cells.get(place.column.n);
    return [...this.head.children].find((cell) => cell.id === this.cellId(null, place)) as HTMLElement | undefined;
  }

  /** Scroll so that a cell is in sight, and draw it. */
  reveal(id: number | null, place: Place): void {
    const view = this.viewport;
    const index = id === null ? -1 : this.session.order.indexOf(id);
    if (index >= 0) {
      const y = top(index, this.opened);
      view.scrollTop = reveal(y, y + ROW, view.scrollTop, view.clientHeight - this.headHeight);
    }
    if (!this.plan.pinned.includes(place)) {
      const pinned = this.plan.pinnedWidth;
      const x = place.left - pinned;
      view.scrollLeft = reveal(x, x + place.width, view.scrollLeft, view.clientWidth - pinned);
    }
    this.draw();
  }

  /** Rows or columns came, went, moved or were opened. */
  structure(): void {
    this.plan = layout(this.session.store, this.viewport.clientWidth || 1000, this.letter());
    this.range = [-1, -1];
    this.opened = [];
    this.session.order.forEach((id, index) => {
      if (this.session.opened.has(id)) this.opened.push(index);
    });
    this.schedule();
  }

  /** The width of a digit here; measured again when the font is there or another one. */
  private letter(): number {
    const { font } = getComputedStyle(this.viewport);
    if (font !== this.measured.font) {
      const pen = document.createElement("canvas").getContext("2d");
      if (pen) pen.font = font;
      this.measured = { font, letter: pen?.measureText("0000000000").width ?? LETTER * 10 };
    }
    return this.measured.letter / 10;
  }

  private schedule(): void {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { order } = this.session;
    const { viewport, plan } = this;
    const width = Math.max(plan.width, viewport.clientWidth);
    const height = top(order.length, this.opened);
    setStyle(this.sizer, "height", `${height}px`);
    setStyle(this.sizer, "width", `${plan.width}px`);
    setStyle(this.rows, "top", `${this.headHeight}px`);
    setStyle(this.rows, "width", `${width}px`);
    setStyle(this.head, "width", `${width}px`);
    setStyle(this.head, "height", `${this.headHeight}px`);
    viewport.setAttribute("aria-rowcount", String(order.length + 1));
    viewport.setAttribute("aria-colcount", String(this.places.length));
    const inner = viewport.clientWidth - plan.pinnedWidth;
    const range = columnRange(viewport.scrollLeft + plan.pinnedWidth, inner, plan.lefts);
    const columns = range[0] !== this.range[0] || range[1] !== this.range[1];
    this.range = range;
    const places = [...plan.pinned, ...plan.open.slice(range[0], range[1])];
    if (columns) this.drawHead(places);
    this.drawRows(places, columns);
    this.cursor.mark();
  }

  private drawHead(places: readonly Place[]): void {
    const sort = this.session.sort.value;
    // What lies mostly under the pinned columns cannot carry the family's name.
    const edge = this.viewport.scrollLeft + this.plan.pinnedWidth;
    const first = places.find((place) => !this.plan.pinned.includes(place) && place.left + place.width / 2 >= edge);
    this.head.setAttribute("aria-rowindex", "1");
    this.head.replaceChildren(
      ...places.map((place) => {
        const cell = this.cell(place, "columnheader");
        cell.id = this.cellId(null, place);
        cell.classList.add("skydeck-heading");
        const family = place === first ? this.familyOf(place) : place.family;
        const sorted = sort?.key === place.column.key;
        cell.setAttribute("aria-sort", sorted ? (sort.down ? "descending" : "ascending") : "none");
        if (this.plan.families) cell.append(text("skydeck-family", family));
        cell.append(text("skydeck-label", `${place.label}${sorted ? (sort.down ? " ↓" : " ↑") : ""}`));
        if (place.column.key === "tick" || place.column.key === "action") {
          cell.setAttribute("aria-label", place.column.key === "tick" ? "Selected" : "Action");
        } else cell.title = `${place.column.key}\nClick to sort`;
        return cell;
      }),
    );
  }

  /** The family of the first column in sight, also where its heading says it further left. */
  private familyOf(place: Place): string {
    const { open } = this.plan;
    const path = place.column.key.replace(/^flags\.(?=.*\.)/, "").replace(/\.[^.]*$/, "");
    for (let i = open.indexOf(place); i >= 0; i--) {
      const family = open[i]?.family;
      if (family) return path === family || place.column.key.startsWith(`${family}.`) ? family : "";
    }
    return "";
  }

  private drawRows(places: readonly Place[], columns: boolean): void {
    const { order } = this.session;
    const { viewport } = this;
    const [from, to] = rowRange(viewport.scrollTop, viewport.clientHeight, order.length, this.opened);
    const needed = new Map<number, number>();
    for (let i = from; i < to; i++) needed.set(order[i] as number, i);
    for (const [id, row] of this.live) {
      if (needed.has(id)) continue;
      row.element.remove();
      row.detail?.remove();
      this.live.delete(id);
    }
    for (const [id, index] of needed) {
      let row = this.live.get(id);
      const fresh = row === undefined;
      if (!row) {
        row = { id, element: make("div", "skydeck-row", "row"), cells: new Map(), index: -1, detail: null };
        row.element.dataset.id = String(id);
        this.rows.append(row.element);
        this.live.set(id, row);
      }
      row.index = index;
      row.element.setAttribute("aria-rowindex", String(index + 2));
      setStyle(row.element, "transform", `translateY(${top(index, this.opened)}px)`);
      if (fresh || columns) this.fill(row, places);
      this.under(row, index);
      this.dress(row);
    }
  }

  private fill(row: Row, places: readonly Place[]): void {
    const wanted = new Set(places.map((place) => place.column.n));
    for (const [n, cell] of row.cells) {
      if (wanted.has(n)) continue;
      cell.remove();
      row.cells.delete(n);
    }
    for (const place of places) {
      let cell = row.cells.get(place.column.n);
      if (!cell) {
        cell = this.cell(place, "gridcell");
        cell.id = this.cellId(row.id, place);
        cell.dataset.key = place.column.key;
        row.element.append(cell);
        row.cells.set(place.column.n, cell);
      } else this.place(cell, place);
      paint(cell, this.session, row.id, place);
    }
    this.dress(row);
  }

  private dress(row: Row): void {
    row.element.setAttribute("aria-selected", String(this.session.selected.value.has(row.id)));
    row.element.setAttribute("aria-expanded", String(this.session.opened.has(row.id)));
  }

  private under(row: Row, index: number): void {
    const on = this.session.opened.has(row.id);
    if (on && !row.detail) {
      row.detail = make("div", "skydeck-detail", "row");
      this.rows.append(row.detail);
      fillDetail(row.detail, this.session, row.id);
    } else if (!on && row.detail) {
      row.detail.remove();
      row.detail = null;
    }
    if (!row.detail) return;
    setStyle(row.detail, "transform", `translateY(${top(index, this.opened) + ROW}px)`);
    setStyle(row.detail, "width", `${this.viewport.clientWidth}px`);
    setStyle(row.detail, "height", `${DETAIL}px`);
  }

  private cell(place: Place, role: string): HTMLElement {
    const cell = make("div", "skydeck-cell", role);
    cell.setAttribute("aria-colindex", String(this.places.indexOf(place) + 1));
    this.place(cell, place);
    return cell;
  }

  private place(cell: HTMLElement, place: Place): void {
    cell.classList.toggle("skydeck-pinned", this.plan.pinned.includes(place));
    cell.classList.toggle("skydeck-right", place.right);
    cell.classList.toggle("skydeck-common", place.column.common);
    setStyle(cell, "left", `${place.left}px`);
    setStyle(cell, "width", `${place.width}px`);
  }

  /** Cells changed: those that are drawn are drawn again, no others. */
  private patch(cells: readonly (readonly [number, number])[]): void {
    const { store } = this.session;
    const { columns } = store;
    const keys = new Map(columns.map((column) => [column.n, column.key]));
    const places = new Map(this.places.map((place) => [place.column.key, place]));
    const done = new Set<HTMLElement>();
    for (const [id, n] of cells) {
      const row = this.live.get(id);
      const key = keys.get(n);
      if (!row || key === undefined) continue;
      const touched = key === "state" || key === "name" ? [key, "action", "tick"] : [DRAWN_WITH[key] ?? key];
      for (const each of touched) {
        const place = places.get(each);
        const cell = place && row.cells.get(place.column.n);
        if (!place || !cell || done.has(cell)) continue;
        done.add(cell);
        paint(cell, this.session, id, place);
      }
    }
  }

  private repaint(ids: readonly number[]): void {
    for (const id of new Set(ids)) {
      const row = this.live.get(id);
      if (!row) continue;
      for (const place of this.places.filter((place) => place.column.pinned)) {
        const cell = row.cells.get(place.column.n);
        if (cell) paint(cell, this.session, id, place);
      }
      this.dress(row);
      if (row.detail) fillDetail(row.detail, this.session, id);
    }
  }

  private tick(): void {
    if (document.hidden || this.session.life.value === "gone") return;
    for (const key of ["age", "runtime"]) {
      const n = this.session.store.number(key);
      for (const row of this.live.values()) {
        const cell = n === undefined ? undefined : row.cells.get(n);
        if (cell) time(cell, this.session, row.id, key);
      }
    }
  }
}

function make(tag: string, name: string, role?: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = name;
  if (role) element.setAttribute("role", role);
  return element;
}

function text(name: string, words: string): HTMLElement {
  const element = make("span", name);
  element.textContent = words;
  return element;
}

function setStyle(element: HTMLElement, name: string, value: string): void {
  if (element.style.getPropertyValue(name) !== value) element.style.setProperty(name, value);
}
