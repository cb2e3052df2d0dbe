"""The grid as a picture that needs no kernel: one escaped, capped HTML table.

Decides what GitHub, nbconvert and a reopened notebook show: the first rows, the
time of the picture, and nothing that must not be saved (messages, which may
quote a log; addresses, which may be signed; values of secrets). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Final

from skydeck_nb.widget.cells import Cell
from skydeck_nb.widget.source import GridSummary
from skydeck_nb.widget.view import FLAGS, View

MAX_ROWS: Final = 50
MAX_BYTES: Final = 50_000
MAX_COLUMNS: Final = 24
MAX_CELL: Final = 80

_SECRET: Final = re.compile(r"token|secret|passw|credential|api_?key|private_?key|cookie", re.IGNORECASE)
_SKIPPED: Final = frozenset({"action", "age", "runtime"})


def picture(view: View, summary: GridSummary, at: datetime) -> str:
    """The table, at most ``MAX_ROWS`` rows and ``MAX_BYTES`` bytes."""
    shown = [(i, column) for i, column in enumerate(view.columns) if column.shown and column.key not in _SKIPPED][
        :MAX_COLUMNS
    ]
    reason = view.column("reason")
    when = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    head = "".join(f"<th>{escape(_heading(column.key))}</th>" for _, column in shown)
    top = f"<table><caption>{escape(_brief(summary.backend))}, {len(view.ids):,} experiments, as of {when}</caption>"
    top += f"<thead><tr>{head}</tr></thead><tbody>"
    body: list[str] = []
    size = len(top.encode()) + 500
    for id in view.ids[:MAX_ROWS]:
        values = view.cells[id]
        line = "<tr>"
        for i, column in shown:
            text = "(hidden)" if _SECRET.search(column.key) and values[i] is not None else _brief(_plain(values[i]))
            if column.key == "state" and reason is not None and values[reason]:
                text += f" · {_brief(_plain(values[reason]))}"
            line += f"<td>{escape(text)}</td>"
        line += "</tr>"
        size += len(line.encode())
        if size > MAX_BYTES:
            break
        body.append(line)
    more = len(view.ids) - len(body)
    foot = f"<p>{more:,} more. </p>" if more else ""
    return f"{top}{''.join(body)}</tbody></table>{foot}<p>A still picture: run the cell again for the live grid.</p>"


def _heading(key: str) -> str:
    return _brief(key.removeprefix(FLAGS))


def _plain(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Mapping):
        return next(iter(cell.values()))
    return cell if isinstance(cell, str) else repr(cell)


def _brief(text: str) -> str:
    if "://" in text:
        return "(address)"
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"
