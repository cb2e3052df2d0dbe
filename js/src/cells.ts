/**
 * One cell into the page, patched where it stands. Everything that came from Python enters as text.
 * Decides how a cell looks; refuses to know where it stands.
 */

import { age, exact, show } from "./format";
import { elapsed, type Place } from "./layout";
import type { ActKind } from "./messages";
import type { Session } from "./session";
import { differs, look, WORDS } from "./states";

const SVG = "http://www.w3.org/2000/svg";

/** The columns that one cell is drawn from besides its own. */
export const DRAWN_WITH: Readonly<Record<string, string>> = {
  desired: "state",
  reason: "state",
  message: "state",
  attention: "state",
  ended: "runtime",
};

export function paint(cell: HTMLElement, session: Session, id: number, place: Place): void {
  switch (place.column.key) {
    case "tick":
      tick(cell, session, id);
      return;
    case "name":
      named(cell, session, id);
      return;
    case "action":
      button(cell, session, id);
      return;
    case "state":
      state(cell, session, id);
      return;
    case "age":
    case "runtime":
      time(cell, session, id, place.column.key);
      return;
    default:
      value(cell, session, id, place);
      return;
  }
}

/** Only what a clock moves. */
export function time(cell: HTMLElement, session: Session, id: number, key: string): void {
  const text = elapsed(session.store, id, key, session.now());
  setText(cell, key === "age" ? text.split(" ")[0] || age(0) : text);
  const from = session.store.cell(id, key);
  const what = key === "age" ? "declared" : "started";
  setTitle(cell, typeof from === "number" ? `${what} ${new Date(from).toLocaleString()}` : "");
}

function value(cell: HTMLElement, session: Session, id: number, place: Place): void {
  const raw = session.store.at(id, place.column.n);
  setText(cell, show(raw));
  setTitle(cell, exact(raw));
  const tone =
    raw === true ? "true" : raw === false ? "false" : raw !== null && typeof raw === "object" ? "literal" : "";
  if (tone) cell.dataset.tone = tone;
  else delete cell.dataset.tone;
}

function named(cell: HTMLElement, session: Session, id: number): void {
  const name = session.store.text(id, "name");
  if (cell.childElementCount !== 2) {
    const chevron = document.createElement("button");
    chevron.type = "button";
    chevron.tabIndex = -1;
    chevron.className = "skydeck-chevron";
    chevron.textContent = "›";
    cell.replaceChildren(chevron, part("skydeck-name"));
  }
  setLabel(cell.firstElementChild as HTMLElement, `Details of ${name}`);
  setText(cell.lastElementChild as HTMLElement, name);
  setTitle(cell, name);
}

function tick(cell: HTMLElement, session: Session, id: number): void {
  const box = own(cell, "input", "skydeck-tick");
  if (box.type !== "checkbox") box.type = "checkbox";
  box.tabIndex = -1;
  box.checked = session.selected.value.has(id);
  setLabel(box, `Select ${session.store.text(id, "name")}`);
}

function button(cell: HTMLElement, session: Session, id: number): void {
  const { store } = session;
  const action = store.text(id, "action") as ActKind | "";
  const state = store.text(id, "state");
  const pending = session.pending.get(id);
  const busy = pending !== undefined || (!action && state === "STOPPING");
  if (!action && !busy) {
    if (cell.firstChild) cell.textContent = "";
    return;
  }
  const element = own(cell, "button", "skydeck-button");
  const name = store.text(id, "name");
  let word = WORDS[action || "stop"].does;
  let title = `${word} ${name}`;
  if (pending?.queued) {
    word = "Queued";
    title = `The kernel is busy and takes this when it can. From a terminal: ${terminal(session, name)}`;
  } else if (busy) {
    word = WORDS[pending?.kind ?? "stop"].doing;
    title = word;
  } else if (session.life.value !== "live") {
    title = `No kernel to ask. From a terminal: ${terminal(session, name)}`;
  }
  setText(element, word);
  setTitle(element, title);
  setLabel(element, `${word} ${name}`);
  element.type = "button";
  element.tabIndex = -1;
  element.disabled = busy || session.life.value !== "live";
  element.dataset.kind = busy ? "busy" : action;
  element.classList.toggle("skydeck-queued", pending?.queued === true);
}

export function terminal(session: Session, name: string): string {
  return (session.line.value?.terminal ?? "skydeck stop {name}").replace("{name}", () => name);
}

function state(cell: HTMLElement, session: Session, id: number): void {
  const { store } = session;
  const word = store.text(id, "state");
  const desired = store.text(id, "desired");
  const reason = store.text(id, "reason");
  const message = store.text(id, "message");
  if (cell.childElementCount !== 4) {
    const badge = part("skydeck-badge");
    const icon = document.createElementNS(SVG, "svg");
    icon.setAttribute("viewBox", "0 0 12 12");
    icon.setAttribute("aria-hidden", "true");
    icon.append(document.createElementNS(SVG, "path"));
    badge.append(icon, part("skydeck-word"));
    cell.replaceChildren(badge, part("skydeck-wanted"), part("skydeck-reason"), part("skydeck-attention"));
  }
  const [badge, wanted, because, attention] = [...cell.children] as HTMLElement[];
  if (!badge || !wanted || !because || !attention) return;
  if (badge.dataset.state !== word) {
    const { path, tone, filled, turning } = look(word);
    badge.dataset.state = word;
    badge.dataset.tone = tone;
    badge.firstElementChild?.firstElementChild?.setAttribute("d", path);
    badge.firstElementChild?.setAttribute(
      "class",
      `${filled ? "skydeck-filled" : ""}${turning ? " skydeck-turning" : ""}`,
    );
    setText(badge.lastElementChild as HTMLElement, word);
  }
  setText(wanted, differs(desired, word) ? `→ ${desired}` : "");
  setText(because, reason);
  setText(attention, store.cell(id, "attention") === true ? "needs you" : "");
  setTitle(cell, [`${word}${reason ? ` · ${reason}` : ""}`, message].filter(Boolean).join("\n"));
}

function part(name: string): HTMLElement {
  const element = document.createElement("span");
  element.className = name;
  return element;
}

function own<K extends "button" | "input">(cell: HTMLElement, tag: K, name: string): HTMLElementTagNameMap[K] {
  const found = cell.firstElementChild;
  if (found?.classList.contains(name)) return found as HTMLElementTagNameMap[K];
  const element = document.createElement(tag);
  element.className = name;
  cell.replaceChildren(element);
  return element;
}

function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

function setTitle(element: HTMLElement, text: string): void {
  if (element.title !== text) element.title = text;
}

function setLabel(element: HTMLElement, text: string): void {
  if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-label", text);
}
