/**
 * Where the keyboard and the pointer are among the rows, and what they ask for there.
 * Decides which row an event means; refuses to know how rows are drawn.
 */

import type { Body } from "./body";
import { type Intent, intent, leaks } from "./keyboard";
import type { Place } from "./layout";
import { turn } from "./order";

export class Cursor {
  /** The row, `null` on the headings, `undefined` before the first step. */
  private row: number | null | undefined;
  private key = "name";
  private anchor: number | null = null;
  private marked: HTMLElement | null = null;
  onSearch: () => void = () => {};
  onHelp: () => void = () => {};

  constructor(private readonly body: Body) {}

  attach(): () => void {
    const { viewport } = this.body;
    const stop = new AbortController();
    const on = { signal: stop.signal };
    viewport.addEventListener("keydown", (event) => this.keydown(event), on);
    viewport.addEventListener("click", (event) => this.click(event), on);
    viewport.addEventListener(
      "mousedown",
      (event) => {
        // The second click opens the row; it would also mark a word of it.
        if (event.detail > 1 && !(event.target as Element).closest(".skydeck-detail")) event.preventDefault();
      },
      on,
    );
    viewport.addEventListener("dblclick", (event) => this.doubleClick(event), on);
    viewport.addEventListener("pointermove", () => this.body.session.touch(), { ...on, passive: true });
    viewport.addEventListener("focus", () => this.focus(), on);
    viewport.addEventListener("blur", () => this.mark(), on);
    return () => stop.abort();
  }

  /** The ring around the active cell, and its name for screen readers. */
  mark(): void {
    const { viewport } = this.body;
    const place = this.place;
    const cell = this.row === undefined || !place ? undefined : this.body.element(this.row, place);
    if (this.marked !== cell) this.marked?.classList.remove("skydeck-active");
    this.marked = cell ?? null;
    cell?.classList.add("skydeck-active");
    if (cell) viewport.setAttribute("aria-activedescendant", cell.id);
    else viewport.removeAttribute("aria-activedescendant");
  }

  private get place(): Place | undefined {
    const { places } = this.body;
    return places.find((place) => place.column.key === this.key) ?? places[1] ?? places[0];
  }

  private get here(): number | null {
    return typeof this.row === "number" && this.body.session.store.has(this.row) ? this.row : null;
  }

  private focus(): void {
    if (this.row === undefined) this.row = this.body.session.order[0] ?? null;
    this.mark();
  }

  private keydown(event: KeyboardEvent): void {
    const meant = intent(event);
    if (leaks(event) || meant) event.stopPropagation();
    if (!meant) return;
    event.preventDefault();
    this.body.session.touch();
    this.carryOut(meant);
  }

  private carryOut(meant: Intent): void {
    const { session } = this.body;
    switch (meant.do) {
      case "move":
        this.step(meant.rows, meant.columns, meant.extend);
        return;
      case "page":
        this.step(meant.way * this.body.page, 0, meant.extend);
        return;
      case "edge":
        this.edge(meant.of, meant.end);
        return;
      case "toggle":
        if (this.here !== null) this.toggle(this.here, false);
        return;
      case "open":
        if (this.row === null) this.sort(this.key);
        else if (this.here !== null) this.openOrPress(this.here);
        return;
      case "leave":
        this.leave();
        return;
      case "search":
        this.onSearch();
        return;
      case "help":
        this.onHelp();
        return;
      case "start":
      case "stop":
        session.actAll(this.meant(), meant.do === "start");
    }
  }

  /** What an action is about: the selection where the cursor is in it, else the row. */
  private meant(): readonly number[] {
    const { selected } = this.body.session;
    if (this.here === null) return [];
    return selected.value.has(this.here) ? [...selected.value] : [this.here];
  }

  private openOrPress(id: number): void {
    const { session } = this.body;
    if (this.key === "action") session.press(id);
    else if (this.key === "tick") this.toggle(id, false);
    else session.open(id);
  }

  private leave(): void {
    const { session } = this.body;
    if (session.asking.value) session.asking.value = null;
    else if (this.here !== null && session.opened.has(this.here)) session.open(this.here, false);
    else if (session.selected.value.size) session.select([]);
    else if (session.search.value) session.find("");
  }

  private step(rows: number, columns: number, extend: boolean): void {
    const { order } = this.body.session;
    const { places } = this.body;
    const at = this.row === null || this.row === undefined ? -1 : order.indexOf(this.row);
    const next = Math.max(-1, Math.min(order.length - 1, at + rows));
    const column = Math.max(0, Math.min(places.length - 1, places.indexOf(this.place as Place) + columns));
    const before = this.here;
    this.key = places[column]?.column.key ?? this.key;
    this.row = next < 0 ? null : order[next];
    if (extend && this.here !== null) {
      this.anchor ??= before ?? this.here;
      this.selectTo(this.here);
    } else if (rows) this.anchor = null;
    if (this.place) this.body.reveal(this.row ?? null, this.place);
  }

  private edge(of: "row" | "table", end: boolean): void {
    const { order } = this.body.session;
    const { places } = this.body;
    if (of === "row") this.key = places[end ? places.length - 1 : 0]?.column.key ?? this.key;
    else this.row = order[end ? order.length - 1 : 0] ?? null;
    if (this.place) this.body.reveal(this.row ?? null, this.place);
  }

  private toggle(id: number, range: boolean): void {
    const { session } = this.body;
    if (range && this.anchor !== null) {
      this.selectTo(id);
      return;
    }
    const selected = new Set(session.selected.value);
    if (!selected.delete(id)) selected.add(id);
    this.anchor = id;
    session.select(selected);
  }

  private selectTo(id: number): void {
    const { session } = this.body;
    const ends = [session.order.indexOf(this.anchor ?? id), session.order.indexOf(id)].sort((a, b) => a - b);
    session.select(session.order.slice(ends[0], (ends[1] ?? 0) + 1));
  }

  private sort(key: string): void {
    if (key === "tick" || key === "action") return;
    this.body.session.orderBy(turn(this.body.session.sort.value, key));
  }

  private click(event: MouseEvent): void {
    const target = event.target as Element;
    const { session } = this.body;
    if (target.closest(".skydeck-detail")) return;
    const heading = target.closest<HTMLElement>(".skydeck-heading");
    if (heading) {
      const place = this.body.places.find((each) => this.body.cellId(null, each) === heading.id);
      if (place?.column.key === "tick") this.all();
      else if (place) this.sort(place.column.key);
      return;
    }
    const id = Number(target.closest<HTMLElement>(".skydeck-row")?.dataset.id);
    if (!id) return;
    this.row = id;
    this.key = target.closest<HTMLElement>(".skydeck-cell")?.dataset.key ?? this.key;
    if (target.closest(".skydeck-chevron")) session.open(id);
    else if (target.closest(".skydeck-tick")) this.toggle(id, event.shiftKey);
    else if (target.closest(".skydeck-button")) session.press(id);
    this.mark();
    // A button that was just disabled would keep the focus and swallow the keys.
    this.body.viewport.focus({ preventScroll: true });
  }

  private all(): void {
    const { session } = this.body;
    session.select(session.selected.value.size ? [] : session.order);
  }

  private doubleClick(event: MouseEvent): void {
    const target = event.target as Element;
    const id = Number(target.closest<HTMLElement>(".skydeck-row")?.dataset.id);
    if (id && !target.closest("button, input")) this.body.session.open(id);
  }
}
