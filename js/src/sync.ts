/**
 * Between the anywidget model and the session. The only file that touches the model.
 * Decides when a request counts as queued, when everything is asked for again, and
 * when Python counts as silent. Refuses to know rows.
 */

import { type Command, encode, parse } from "./messages";
import { Session } from "./session";

/** What of anywidget's model is used: so little that a test can play it. */
export interface Model {
  on(event: "comm_live_update", callback: () => void): void;
  on(event: "msg:custom", callback: (content: unknown, buffers: DataView[]) => void): void;
  off(event: "comm_live_update", callback: () => void): void;
  off(event: "msg:custom", callback: (content: unknown, buffers: DataView[]) => void): void;
  send(content: unknown): void;
}

/** A click that is served at all is acknowledged in under 100 ms; after this long the kernel is busy. */
export const ACK = 300;
/** The first snapshot is pushed; only a page that was loaded again has to ask for it. */
const ASK = 400;
/** Between two asks: the first may wait behind a busy cell, a later one goes round it. */
const ASK_AGAIN = 2000;
/** How long a kernel may take to say that it is still there, after its connection was. */
const DOUBT = 2000;
/** Heartbeats that may be missed before Python counts as silent. */
const MISSED = 3;

export interface Sync {
  readonly session: Session;
  stop(): void;
}

export function sync(model: Model, signal?: AbortSignal): Sync {
  const life = Math.random().toString(36).slice(2, 8);
  const timers = new Map<string, ReturnType<typeof setTimeout>>();
  let asks: ReturnType<typeof setTimeout> | undefined;
  let count = 0;
  let heard = Date.now();
  let every = 5;

  const send = (command: Command): string => {
    count += 1;
    const req = `${life}-${count}`;
    try {
      model.send(encode(command, req));
    } catch {
      // The host has taken the comm away, as at a kernel's restart: the grid shows that instead.
      session.silence();
      return "";
    }
    timers.set(
      req,
      setTimeout(() => {
        timers.delete(req);
        session.queued(req);
      }, ACK),
    );
    return req;
  };
  const session = new Session(send);

  const ask = (delay: number) => {
    if (asks !== undefined) return;
    asks = setTimeout(() => {
      asks = undefined;
      if (session.store.whole || session.life.value === "gone") return;
      send({ t: "resync", have: session.store.seq });
      ask(ASK_AGAIN);
    }, delay);
  };

  const receive = (content: unknown, buffers: DataView[]) => {
    const message = parse(content, buffers);
    if (!message) return;
    heard = Date.now();
    if (message.t === "summary") every = message.every;
    if (message.t === "ack" || message.t === "done" || message.t === "error") {
      clearTimeout(timers.get(message.req ?? ""));
      timers.delete(message.req ?? "");
    }
    if (session.receive(message)) ask(0);
  };

  const watch = setInterval(() => {
    session.settleOrder();
    if (session.store.ready && Date.now() - heard > every * 1000 * MISSED + 1000) session.silence();
  }, 1000);

  /** Jupyter's widgets say that the comm came or went, as at a kernel's restart, but not which. */
  const doubt = () => {
    if (!session.store.ready || session.life.value === "gone") return;
    const since = Date.now();
    send({ t: "resync", have: session.store.seq });
    clearTimeout(timers.get("doubt"));
    timers.set(
      "doubt",
      setTimeout(() => {
        if (heard < since) session.silence();
      }, DOUBT),
    );
  };

  const stop = () => {
    model.off("msg:custom", receive);
    model.off("comm_live_update", doubt);
    clearInterval(watch);
    clearTimeout(asks);
    for (const timer of timers.values()) clearTimeout(timer);
    timers.clear();
    session.end();
  };

  model.on("msg:custom", receive);
  model.on("comm_live_update", doubt);
  signal?.addEventListener("abort", stop, { once: true });
  ask(ASK);
  return { session, stop };
}
