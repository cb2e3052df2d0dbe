/**
 * What anywidget loads: one session a model, any number of views of it.
 * Returns at once; anywidget drops every message of a model whose start takes over two seconds.
 */

import { effect, signal } from "@preact/signals-core";
import { render as draw, h } from "preact";
import { Body } from "./body";
import type { Session } from "./session";
import { type Model, type Sync, sync } from "./sync";
import { Empty, Top } from "./toolbar";

interface Initialize {
  readonly model: Model;
  readonly signal?: AbortSignal;
}

interface Render extends Initialize {
  readonly el: HTMLElement;
}

/** By model, since marimo shares this module between widgets. */
const SYNCS = new WeakMap<Model, Sync>();

function initialize({ model, signal }: Initialize): () => void {
  const started = sync(model, signal);
  SYNCS.set(model, started);
  return started.stop;
}

function render({ model, el, signal }: Render): () => void {
  let found = SYNCS.get(model);
  if (!found) {
    found = sync(model, signal);
    SYNCS.set(model, found);
  }
  return show(el, found.session);
}

/** One view: the rows, and everything around them. Gives the detach. */
export function show(el: HTMLElement, session: Session): () => void {
  const root = document.createElement("div");
  root.className = "skydeck";
  const [above, instead, spoken] = [div(), div(), div()];
  spoken.className = "skydeck-spoken";
  spoken.setAttribute("aria-live", "polite");
  const body = new Body(session);
  root.append(above, body.viewport, instead, spoken);
  el.append(root);

  const help = signal(false);
  const second = signal(0);
  const ticking = setInterval(() => {
    if (!document.hidden) second.value += 1;
  }, 1000);
  const onGrid = () => body.viewport.focus({ preventScroll: true });
  const onHelp = () => {
    help.value = !help.value;
  };
  body.cursor.onSearch = () => root.querySelector<HTMLElement>(".skydeck-search")?.focus();
  body.cursor.onHelp = onHelp;

  const stopDrawing = effect(() => {
    void second.value;
    // Read here, so that whatever a component reads is listened to even where it draws nothing.
    session.counts.value;
    root.dataset.life = session.life.value;
    body.viewport.hidden = session.shown.value === 0;
    draw(h(Top, { session, now: session.now(), help: help.value, onHelp, onGrid }), above);
    draw(h(Empty, { session }), instead);
  });
  const stopSpeaking = effect(() => {
    spoken.textContent = session.spoken.value;
  });

  return () => {
    clearInterval(ticking);
    stopDrawing();
    stopSpeaking();
    body.stop();
    draw(null, above);
    draw(null, instead);
    if (session.life.value !== "gone") root.remove();
  };
}

function div(): HTMLElement {
  return document.createElement("div");
}

export default { initialize, render };
