"""The metrics that a run writes: lines of ``metrics.jsonl`` to readings, whole or as the file grows.

Decides what of a line is a metric, and what is skipped and reported. Refuses to
know experiments, jobs and the database.

A line is a JSON object: ``{"step": 100, "loss": 0.3, "val": {"acc": 0.9}}``.
Numbers are metrics, NaN and infinities too; nested objects are flattened with
dots; ``step`` counts, ``time`` or ``timestamp`` (seconds since 1970, or ISO 8601)
says when. All else is no number and is ignored, with a count. A line that is no
JSON object is skipped and reported once, with file and number. The last line,
while it has no end, waits for its rest.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

STEP: Final = "step"
TIMES: Final = ("time", "timestamp")
_SPECIAL: Final = frozenset((STEP, *TIMES))
CHUNK: Final = 8 << 20
"""Bytes read at once; also the longest line that is waited for."""


class Reading(NamedTuple):
    """One line's numbers. ``at`` is ``None`` where the line does not say when."""

    step: int | None
    at: datetime | None
    values: Mapping[str, float]


@dataclass(slots=True)
class Notes:
    """What was left out, and where: lines that cannot be read, and how often a key held no number."""

    source: str = "metrics.jsonl"
    bad: dict[int, str] = field(default_factory=dict)
    """The first :data:`NAMED` bad lines, by number, with the reason."""
    skipped: int = 0
    """All bad lines."""
    ignored: dict[str, int] = field(default_factory=dict)

    NAMED = 20

    def sentences(self) -> tuple[str, ...]:
        """One sentence for each bad line, one for what was no number."""
        said = [f"{self.source}, line {number}: {reason}; skipped." for number, reason in self.bad.items()]
        if (more := self.skipped - len(self.bad)) > 0:
            said.append(f"{self.source}: {more} more lines could not be read; skipped.")
        if self.ignored:
            keys = ", ".join(f"{key} ({count} times)" for key, count in list(self.ignored.items())[:8])
            said.append(f"{self.source}: no numbers, ignored: {keys}.")
        return tuple(said)

    def _bad(self, number: int, reason: str) -> None:
        self.skipped += 1
        if len(self.bad) < self.NAMED:
            self.bad[number] = reason


def parse(lines: Iterable[str | bytes], notes: Notes | None = None, *, first: int = 1) -> Iterator[Reading]:
    """Readings from complete lines; ``first`` is the number of the first line, ``notes`` collects what was left out."""
    from pydantic_core import from_json  # here, because it takes a tenth of a second to import

    notes = notes if notes is not None else Notes()
    for number, line in enumerate(lines, first):
        try:
            found = from_json(line, cache_strings="keys")
        except ValueError:
            if not line.strip():
                continue
            try:
                found = json.loads(line)  # which takes more, and says better what is wrong
            except (ValueError, RecursionError) as error:
                notes._bad(number, f"no JSON ({error})")
                continue
        if type(found) is not dict:
            notes._bad(number, f"a JSON {type(found).__name__}, not an object")
            continue
        reading = _reading(found, notes)
        if reading is not None:
            yield reading


def _reading(found: dict[str, Any], notes: Notes) -> Reading | None:
    step: int | None = None
    at: datetime | None = None
    values: dict[str, float] = {}
    nested = False
    for key, value in found.items():
        kind = type(value)
        if kind is float and key not in _SPECIAL:
            values[key] = value
        elif key == STEP and (whole := _whole(value)) is not None:
            step = whole
        elif key in TIMES and (when := _moment(value)) is not None:
            at = when
        elif kind is float:
            values[key] = value
        elif kind is int:
            _put(values, key, value, notes)
        elif kind is dict:
            nested = True
            _flatten(values, f"{key}.", value, notes)
        elif value is not None:
            notes.ignored[key] = notes.ignored.get(key, 0) + 1
    return Reading(step, at, values) if values or (nested and step is not None) else None


def _flatten(values: dict[str, float], prefix: str, found: Mapping[str, Any], notes: Notes) -> None:
    for key, value in found.items():
        if type(value) is dict:
            _flatten(values, f"{prefix}{key}.", value, notes)
        elif type(value) in (int, float):
            _put(values, prefix + key, value, notes)
        elif value is not None:
            name = prefix + key
            notes.ignored[name] = notes.ignored.get(name, 0) + 1


def _put(values: dict[str, float], key: str, value: float, notes: Notes) -> None:
    try:
        values[key] = float(value)
    except OverflowError:  # an integer that no float can hold
        notes.ignored[key] = notes.ignored.get(key, 0) + 1


def _whole(value: Any) -> int | None:
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None


def _moment(value: Any) -> datetime | None:
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return datetime.fromtimestamp(value, UTC)
        if type(value) is str:
            when = datetime.fromisoformat(value)
            return when.astimezone(UTC) if when.tzinfo else None
    except (ValueError, OverflowError, OSError):
        pass
    return None


def read_all(path: Path | str, notes: Notes | None = None) -> list[Reading]:
    """Every reading of a file, the last line too when it is whole; no file is no reading."""
    tail = Tail(path, notes)
    found: list[Reading] = []
    while batch := tail.read():
        found += batch
    return found + tail.rest()


class Tail:
    """A file of metrics as it grows: each :meth:`read` gives what came since.

    Remembers how far it read and which file that was (device, inode). A file that
    became shorter or was replaced is read from its start. ``state`` can be kept and
    given again as ``at``: the next process goes on where this one stopped.
    """

    def __init__(self, path: Path | str, notes: Notes | None = None, *, at: tuple[int, int, int, int] | None = None):
        self.path = Path(path)
        self.notes = notes if notes is not None else Notes(source=str(path))
        device, inode, self._offset, self._line = at or (0, 0, 0, 1)
        self._file: tuple[int, int] | None = (device, inode) if at else None

    @property
    def state(self) -> tuple[int, int, int, int] | None:
        """Device, inode, offset and next line's number; ``None`` before the file was there."""
        return (*self._file, self._offset, self._line) if self._file else None

    def read(self) -> list[Reading]:
        """The readings of the lines that were completed since; empty where there are none (yet)."""
        while True:
            data, grown = self._more()
            end = data.rfind(b"\n") + 1
            if not end:
                if grown:  # one line longer than anything that is waited for
                    self.notes._bad(self._line, f"longer than {CHUNK >> 20} MB")
                    self._offset += len(data)  # its rest is a bad line of its own
                    continue
                return []
            lines = data[:end].split(b"\n")[:-1]
            found = list(parse(lines, self.notes, first=self._line))
            self._offset += end
            self._line += len(lines)
            if found:
                return found

    def rest(self) -> list[Reading]:
        """The last line, though it has no end: for a run that is over. It is read again when it grows."""
        data, _ = self._more()
        return list(parse([data], Notes())) if data and b"\n" not in data else []

    def _more(self) -> tuple[bytes, bool]:
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                this = (found.st_dev, found.st_ino)
                if this != self._file or found.st_size < self._offset:
                    self._file, self._offset, self._line = this, 0, 1
                file.seek(self._offset)
                data = file.read(CHUNK)
                return data, len(data) == CHUNK
        except (FileNotFoundError, NotADirectoryError):
            return b"", False
