"""One value as the browser may receive it.

Decides how text, numbers, times and lists become JSON that every browser reads
as it was meant: no NaN, no integer a double would round, no lone surrogate, no
NUL, no endless text. Pure. Refuses to know rows and columns.

A cell is ``None``, a bool, an int of at most 2**53 - 1, a finite float, a str, or one
of two tagged forms: ``{"n": "NaN"}``, a number that JSON cannot carry, and
``{"l": "[1, 2]"}``, a literal shown as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

Cell = None | bool | int | float | str | Mapping[str, str]

MAX_TEXT: Final = 1_000
"""Characters of one cell. Nobody reads more in a table, and 10,000 cells of 100 kB would stop the browser."""

MAX_SAFE: Final = 2**53 - 1
"""The largest integer that a double, hence JavaScript, keeps exact."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def text(value: object, limit: int = MAX_TEXT) -> str:
    """A string that UTF-8 and the page can carry; what is cut off is counted."""
    plain = value if isinstance(value, str) else str(value)
    rest = len(plain) - limit
    if rest > 0:
        plain = f"{plain[:limit]}… ({rest:,} more)"
    if plain.isascii():
        return plain.replace("\0", "␀") if "\0" in plain else plain
    return plain.replace("\0", "␀").encode("utf-8", "replace").decode("utf-8")


def number(value: float) -> Cell:
    """An int or float, tagged where JSON or a double cannot carry it."""
    if isinstance(value, int):
        value = int(value)
        return value if -MAX_SAFE <= value <= MAX_SAFE else {"n": _digits(value)}
    if math.isfinite(value):
        return float(value)
    return {"n": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}


def cell(value: Any) -> Cell:
    """Any flag or metric. An absent one is ``None``; the value ``None`` is the literal ``None``."""
    if value is None:
        return {"l": "None"}
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (list, tuple)):
        return {"l": text(f"[{', '.join(_item(item) for item in value)}]")}
    return {"l": text(value)}


def moment(when: datetime | None) -> int | None:
    """Milliseconds since 1970, as JavaScript counts."""
    return None if when is None else (when - _EPOCH) // _MILLISECOND


def _item(value: object) -> str:
    return _digits(value) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _digits(value: int) -> str:
    """All digits; the hexadecimal ones where Python refuses to print as many decimals."""
    try:
        return str(int(value))
    except ValueError:
        return hex(value)[: MAX_TEXT - 1]
