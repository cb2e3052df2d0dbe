/**
 * Everything around the rows: the deck's line, search, bulk actions, words for a person.
 * Decides how they look; refuses to know how rows are drawn.
 */

import { clock, duration, plural } from "./format";
import { KEYS, leaks } from "./keyboard";
import type { Level } from "./messages";
import type { Session } from "./session";
import { look, STATES, WORDS } from "./states";

export interface TopProps {
  readonly session: Session;
  readonly now: number;
  readonly help: boolean;
  readonly onHelp: () => void;
  readonly onGrid: () => void;
}

export function Top({ session, now, help, onHelp, onGrid }: TopProps) {
  const ready = session.life.value !== "waiting";
  return (
    <>
      {ready && <DeckLine session={session} now={now} />}
      <Still session={session} />
      {ready && session.store.ids.length > 0 && <Tools session={session} onHelp={onHelp} onGrid={onGrid} />}
      <Ask session={session} />
      <Words session={session} />
      {help && <Help />}
    </>
  );
}

function DeckLine({ session, now }: { session: Session; now: number }) {
  const line = session.line.value;
  if (!line) return null;
  const live = session.life.value === "live";
  const seen = line.seen === null ? "not seen yet" : `seen ${duration(Math.max(0, now - line.seen))} ago`;
  const ill = line.health !== "";
  return (
    <header class="skydeck-line">
      <span class="skydeck-dot" data-tone={!live ? "rest" : ill ? "bad" : "good"} aria-hidden="true" />
      <strong>{line.backend}</strong>
      <span class="skydeck-muted">{line.role}</span>
      {live && <span class="skydeck-muted">{seen}</span>}
      <Counts session={session} />
      {ill && (
        <span class="skydeck-health" title={line.remedy}>
          {line.health} <span class="skydeck-muted">{line.remedy}</span>
        </span>
      )}
    </header>
  );
}

const TOLD: readonly string[] = ["RUNNING", "QUEUED", "FAILED", "LOST"];

function Counts({ session }: { session: Session }) {
  const counts = session.counts.value;
  const told = [...TOLD, ...STATES.filter((state) => !TOLD.includes(state))].filter((state) => counts.get(state));
  return (
    <span class="skydeck-counts">
      {told.map((state) => (
        <button
          type="button"
          key={state}
          class="skydeck-count"
          data-tone={look(state).tone}
          aria-pressed={session.search.value === state}
          title={`Show ${state} alone`}
          onClick={() => session.find(session.search.value === state ? "" : state)}
        >
          <Icon state={state} /> {counts.get(state)?.toLocaleString("en")} {state.toLowerCase()}
        </button>
      ))}
    </span>
  );
}

function Icon({ state }: { state: string }) {
  const { path, filled } = look(state);
  return (
    <svg viewBox="0 0 12 12" aria-hidden="true" class={filled ? "skydeck-filled" : ""}>
      <path d={path} />
    </svg>
  );
}

function Still({ session }: { session: Session }) {
  const life = session.life.value;
  const command = (session.line.value?.terminal ?? "skydeck stop {name}").replace("{name}", "NAME");
  if (life === "live" || (life === "waiting" && session.since.value === 0)) {
    return life === "live" ? null : <p class="skydeck-waiting">Waiting for the kernel…</p>;
  }
  const when = clock(session.since.value);
  return (
    <p class="skydeck-still" role="status">
      {life === "gone" ? (
        <>
          <strong>A still picture of {when}.</strong> This grid has ended; run the cell again for the live one.
        </>
      ) : (
        <>
          <strong>No word from the kernel since {when}.</strong> It is busy, or gone: if it was restarted, run the cell
          again. From a terminal: <code>{command}</code>
        </>
      )}
    </p>
  );
}

function Tools({ session, onHelp, onGrid }: { session: Session; onHelp: () => void; onGrid: () => void }) {
  const total = session.store.ids.length;
  const shown = session.shown.value;
  const count = session.selected.value.size;
  const live = session.life.value === "live";
  return (
    <div class="skydeck-tools" role="toolbar" aria-label="Grid tools">
      <input
        class="skydeck-search"
        type="search"
        placeholder="Search  name, state, lr=0.001"
        aria-label="Search rows"
        value={session.search.value}
        onInput={(event) => session.find(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (leaks(event)) event.stopPropagation();
          if (event.key === "Escape" && session.search.value === "") onGrid();
          else if (event.key === "Escape") session.find("");
          else if (event.key === "Enter" || event.key === "ArrowDown") onGrid();
          else return;
          event.preventDefault();
        }}
      />
      <span class="skydeck-muted">
        {shown === total
          ? plural(total, "experiment")
          : `${shown.toLocaleString("en")} of ${plural(total, "experiment")}`}
      </span>
      {count > 0 && (
        <span class="skydeck-bulk">
          <span>{count.toLocaleString("en")} selected</span>
          <Plain onClick={() => session.actAll([...session.selected.value], true)} off={!live} word="Start" />
          <Plain onClick={() => session.actAll([...session.selected.value], false)} off={!live} word="Stop" />
          <Plain onClick={() => session.select([])} off={false} word="Clear" />
        </span>
      )}
      <button type="button" class="skydeck-plain skydeck-help-button" aria-label="Keys" title="Keys" onClick={onHelp}>
        ?
      </button>
    </div>
  );
}

function Plain({ word, off, onClick }: { word: string; off: boolean; onClick: () => void }) {
  return (
    <button type="button" class="skydeck-plain" disabled={off} onClick={onClick}>
      {word}
    </button>
  );
}

function Ask({ session }: { session: Session }) {
  const asking = session.asking.value;
  if (!asking) return null;
  const word = WORDS[asking.kind].does;
  return (
    <div class="skydeck-ask" role="alertdialog" aria-label={`${word} several?`}>
      <span>
        {word} {plural(asking.ids.length, "experiment")}?
      </span>
      <button
        type="button"
        class="skydeck-plain skydeck-sure"
        ref={(element) => element?.focus({ preventScroll: true })}
        onKeyDown={(event) => {
          if (leaks(event)) event.stopPropagation();
          if (event.key === "Escape") session.asking.value = null;
        }}
        onClick={() => session.act(asking.kind, asking.ids, true)}
      >
        {word} {asking.ids.length.toLocaleString("en")}
      </button>
      <Plain onClick={() => (session.asking.value = null)} off={false} word="Keep" />
    </div>
  );
}

const SIGNS: Readonly<Record<Level, string>> = { info: "i", warning: "!", error: "×" };

function Words({ session }: { session: Session }) {
  const standing = session.line.value?.notices ?? [];
  const passing = session.toasts.value;
  if (!standing.length && !passing.length) return null;
  return (
    <ul class="skydeck-words">
      {standing.map(([level, text, remedy]) => (
        <li key={text} data-level={level}>
          <Sign level={level} /> {text} {remedy && <span class="skydeck-muted">{remedy}</span>}
        </li>
      ))}
      {passing.map((toast) => (
        <li key={toast.key} data-level={toast.level} role="alert">
          <Sign level={toast.level} /> {toast.text} {toast.remedy && <span class="skydeck-muted">{toast.remedy}</span>}
          <button type="button" class="skydeck-close" aria-label="Dismiss" onClick={() => session.dismiss(toast.key)}>
            ×
          </button>
        </li>
      ))}
    </ul>
  );
}

function Sign({ level }: { level: Level }) {
  return (
    <span class="skydeck-sign" aria-hidden="true">
      {SIGNS[level] ?? "i"}
    </span>
  );
}

function Help() {
  return (
    <dl class="skydeck-help">
      {KEYS.map(([keys, what]) => (
        <div key={keys}>
          <dt>{keys}</dt>
          <dd>{what}</dd>
        </div>
      ))}
    </dl>
  );
}

/** In place of rows: nothing declared yet, or nothing found. */
export function Empty({ session }: { session: Session }) {
  const { store } = session;
  if (session.life.value === "waiting" || session.shown.value > 0) return null;
  if (store.ids.length > 0) {
    return (
      <div class="skydeck-empty">
        <p>
          No experiment matches <q>{session.search.value}</q>.
        </p>
        <Plain onClick={() => session.find("")} off={false} word="Show all" />
      </div>
    );
  }
  return (
    <div class="skydeck-empty">
      <p>
        <strong>No experiments yet.</strong> Declare some in a cell; that starts nothing and costs nothing:
      </p>
      <pre>{`sweep = deck.sweep("first", "python train.py", flags={"lr": [1e-3, 3e-3], "seed": [1, 2]})\nsweep.start()`}</pre>
    </div>
  );
}
