"""Text for people and programs: aligned tables, ages, JSON.

Decides how rows look in a terminal and in a pipe. Refuses to know what they mean.
Nothing that came from elsewhere can steer the terminal: control characters are
shown as ``?``.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click


def say(text: str) -> None:
    """One line of the answer."""
    click.echo(plain(text))


def note(text: str) -> None:
    """A sentence beside the answer: on standard error, so that a pipe gets the answer alone."""
    if text:
        click.echo(plain(text), err=True)


def plain(text: str) -> str:
    """The text in one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c in "\n\r\t" else "?" for c in text)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> list[str]:
    """Aligned lines; in a terminal they are cut to its width, in a pipe they are whole."""
    cells = [list(heads), *([plain("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = (
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(row, widths, heads, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    if not sys.stdout.isatty():
        return lines
    most = max(shutil.get_terminal_size().columns, 40)
    return [line if len(line) <= most else f"{line[: most - 1]}…" for line in lines]


def show(lines: Iterable[str]) -> None:
    """Many lines at once."""
    text = "\n".join(lines)
    if text:
        click.echo(text)


def show_json(value: Any) -> None:
    """JSON that every parser takes: times as ISO 8601, what is no number as text."""
    click.echo(json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False, indent=2))


def _jsonable(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {str(key): _jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [_jsonable(each) for each in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def span(time: timedelta | None) -> str:
    """``12s``, ``3m20s``, ``1h02m``, ``2d04h``."""
    if time is None:
        return ""
    seconds = max(int(time.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if not minutes:
        return f"{seconds}s"
    if not hours:
        return f"{minutes}m{seconds % 60:02d}s"
    return f"{hours}h{minutes % 60:02d}m" if not days else f"{days}d{hours % 24:02d}h"


def counted(number: int, word: str) -> str:
    """``1 run``, ``7 runs``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
