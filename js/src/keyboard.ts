/** Keys to intents. Pure. Keys with Ctrl, Alt or Cmd stay the host's; refuses to know rows. */

export type Intent =
  | { do: "move"; rows: number; columns: number; extend: boolean }
  | { do: "page"; way: 1 | -1; extend: boolean }
  | { do: "edge"; of: "row" | "table"; end: boolean }
  | { do: "toggle" | "open" | "leave" | "search" | "start" | "stop" | "help" };

export interface Key {
  readonly key: string;
  readonly shiftKey: boolean;
  readonly ctrlKey: boolean;
  readonly altKey: boolean;
  readonly metaKey: boolean;
}

export const KEYS: readonly (readonly [string, string])[] = [
  ["↑ ↓ ← →", "move"],
  ["Home End", "first, last column"],
  ["Page ↑ ↓", "a page of rows"],
  ["Shift ↑ ↓", "select on the way"],
  ["Space", "select"],
  ["Enter", "open or close a row; sort, on a heading"],
  ["s", "start, retry"],
  ["x", "stop"],
  ["/", "search"],
  ["Esc", "close, clear"],
];

export function intent(event: Key): Intent | null {
  const { key, shiftKey: extend } = event;
  if (event.altKey || event.metaKey) return null;
  if (event.ctrlKey) return key === "Home" || key === "End" ? { do: "edge", of: "table", end: key === "End" } : null;
  switch (key) {
    case "ArrowUp":
      return { do: "move", rows: -1, columns: 0, extend };
    case "ArrowDown":
      return { do: "move", rows: 1, columns: 0, extend };
    case "ArrowLeft":
      return { do: "move", rows: 0, columns: -1, extend: false };
    case "ArrowRight":
      return { do: "move", rows: 0, columns: 1, extend: false };
    case "PageUp":
      return { do: "page", way: -1, extend };
    case "PageDown":
      return { do: "page", way: 1, extend };
    case "Home":
    case "End":
      return { do: "edge", of: "row", end: key === "End" };
    case " ":
      return { do: "toggle" };
    case "Enter":
      return { do: "open" };
    case "Escape":
      return { do: "leave" };
    case "/":
      return { do: "search" };
    case "s":
      return { do: "start" };
    case "x":
      return { do: "stop" };
    case "?":
      return { do: "help" };
    default:
      return null;
  }
}

/** A key that the notebook would take for a command while the grid has the focus. */
export function leaks(event: Key): boolean {
  const alone = !event.ctrlKey && !event.altKey && !event.metaKey;
  return alone && (event.key.length === 1 || ["Enter", "Escape", "Backspace", "Delete"].includes(event.key));
}
