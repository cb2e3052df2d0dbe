"""Rows to what the browser needs: columns found by themselves, snapshots in blocks, deltas.

Decides which columns there are and in which order, and what travels when rows
change: only cells that differ. Pure. Refuses to know threads, the widget and
how anything looks.

A column has a number that stays its own for the life of the grid, so a delta
can never hit the wrong column however they are moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from skydeck_nb.widget import cells
from skydeck_nb.widget.cells import Cell
from skydeck_nb.widget.messages import Columns, Delta, Snapshot
from skydeck_nb.widget.source import GridRow, GridSummary

Kind = Literal["text", "number", "bool", "time"]

BLOCK_CELLS: Final = 100_000
"""Cells in one message of a snapshot: a browser parses them within a frame or two."""

RESEND_ROWS: Final = 500
"""A delta of more rows than this, and of most of the table, is a snapshot: columns pack better than rows."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``shown`` is false for those that only help to draw another; ``common``: the same in every row."""

    n: int
    key: str
    kind: Kind
    pinned: bool = False
    shown: bool = True
    common: bool = False

    def encode(self) -> list[Any]:
        return [self.n, cells.text(self.key), self.kind, self.pinned, self.shown, self.common]


@dataclass(frozen=True, slots=True)
class _Fixed:
    key: str
    kind: Kind
    value: Callable[[GridRow], Cell]
    pinned: bool = False
    shown: bool = True
    worth: Callable[[GridRow], bool] | None = None
    """Shown only where some row has something to say in it; ``None``: always."""


def _text(name: str, limit: int = cells.MAX_TEXT) -> Callable[[GridRow], Cell]:
    def value(row: GridRow) -> Cell:
        raw = getattr(row, name)
        return None if raw is None else cells.text(raw, limit)

    return value


def _number(name: str) -> Callable[[GridRow], Cell]:
    def value(row: GridRow) -> Cell:
        raw = getattr(row, name)
        return None if raw is None else cells.number(raw)

    return value


_FIXED: Final = (
    _Fixed("name", "text", _text("name"), pinned=True),
    _Fixed("action", "text", _text("action"), pinned=True),
    _Fixed("state", "text", _text("state"), pinned=True),
    _Fixed("desired", "text", _text("desired"), shown=False),
    _Fixed("reason", "text", _text("reason"), shown=False),
    _Fixed("message", "text", _text("message"), shown=False),
    _Fixed("attention", "bool", lambda row: bool(row.attention), shown=False),
    _Fixed("ended", "time", lambda row: cells.moment(row.ended_at), shown=False),
    _Fixed("epoch", "number", _number("epoch"), worth=lambda row: row.epoch is not None),
    _Fixed("age", "time", lambda row: cells.moment(row.created_at)),
    _Fixed("runtime", "time", lambda row: cells.moment(row.started_at), worth=lambda row: row.started_at is not None),
    _Fixed("jobs", "number", _number("jobs")),
    _Fixed("restarts", "number", _number("restarts"), worth=lambda row: row.restarts != 0),
    _Fixed("recoveries", "number", _number("recoveries"), worth=lambda row: row.recoveries != 0),
    _Fixed("nodes", "number", _number("nodes"), worth=lambda row: row.nodes != 1),
    _Fixed("gpus", "number", _number("gpus"), worth=lambda row: row.gpus is not None),
    _Fixed("accelerators", "text", _text("accelerators"), worth=lambda row: row.accelerators is not None),
    _Fixed("sweep", "text", _text("sweep")),
    _Fixed("groups", "text", lambda row: cells.text(", ".join(row.groups)), worth=lambda row: bool(row.groups)),
)
_BY_KEY: Final = {fixed.key: fixed for fixed in _FIXED}

FLAGS: Final = "flags."
METRICS: Final = "metrics."


@dataclass(frozen=True, slots=True)
class View:
    """What one moment's rows look like to the browser."""

    columns: tuple[Column, ...]
    ids: tuple[int, ...]
    cells: Mapping[int, tuple[Cell, ...]]
    """By id, in the order of ``columns``."""

    rows: Mapping[int, GridRow] = field(repr=False)
    numbers: Mapping[str, int] = field(repr=False)

    @classmethod
    def empty(cls) -> View:
        return cls((), (), {}, {}, {})

    def column(self, key: str) -> int | None:
        """Where a column stands in the cells of a row."""
        return next((i for i, column in enumerate(self.columns) if column.key == key), None)


def view(rows: Sequence[GridRow], before: View | None = None) -> View:
    """The rows as columns and cells. Rows that did not change since ``before`` are not looked at again."""
    before = before or View.empty()
    now = {row.id: row for row in rows}
    same = {id for id, row in now.items() if (was := before.rows.get(id)) is not None and (was is row or was == row)}
    kept = len(now) == len(before.rows) and all(
        id in before.rows and _shape(before.rows[id]) == _shape(row) for id, row in now.items() if id not in same
    )
    numbers: Mapping[str, int] = before.numbers
    columns = before.columns
    if not (kept and columns):
        columns, numbers = _columns(now.values(), before.numbers)
    readers = [_reader(column) for column in columns]
    reuse = columns is before.columns or [c.n for c in columns] == [c.n for c in before.columns]
    encoded = {
        id: before.cells[id] if reuse and id in same else tuple(read(row) for read in readers)
        for id, row in now.items()
    }
    return View(columns, tuple(now), encoded, now, numbers)


def snapshot(view: View, summary: Mapping[str, Any]) -> Iterator[Snapshot]:
    """The whole view: first the fixed columns of all rows, then the others, a block of columns a message."""
    at = range(len(view.columns))
    first = [i for i in at if not _is_open(view.columns[i].key)]
    rest = [i for i in at if _is_open(view.columns[i].key)]
    width = max(1, BLOCK_CELLS // max(1, len(view.ids)))
    if len(first) + len(rest) <= width:
        first, rest = [*first, *rest], []
    blocks = [first, *(rest[i : i + width] for i in range(0, len(rest), width))]
    for part, block in enumerate(blocks):
        yield Snapshot(
            part=part,
            parts=len(blocks),
            columns=[column.encode() for column in view.columns] if part == 0 else None,
            ids=list(view.ids) if part == 0 else None,
            values=[[view.columns[i].n, [view.cells[id][i] for id in view.ids]] for i in block],
            summary=summary if part == 0 else None,
        )


def changes(before: View, after: View) -> list[Columns | Delta] | None:
    """The messages that make ``before`` into ``after``: none when nothing moved, ``None`` for *send a snapshot*."""
    messages: list[Columns | Delta] = []
    if before.columns != after.columns:
        messages.append(Columns([column.encode() for column in after.columns]))
    known = {column.n: i for i, column in enumerate(before.columns)}
    where = [known.get(column.n) for column in after.columns]
    straight = where == list(range(len(before.columns)))
    added: list[Any] = []
    changed: list[Any] = []
    for id in after.ids:
        new = after.cells[id]
        old = before.cells.get(id)
        if old is None:
            added.append([id, list(new)])
            continue
        if old is new:
            continue
        entry: list[Any] = [id]
        for i, value in enumerate(new):
            j = i if straight else where[i]
            was = None if j is None else old[j]
            if not _same(was, value):
                entry += (after.columns[i].n, value)
        if len(entry) > 1:
            changed.append(entry)
    removed = [id for id in before.ids if id not in after.cells]
    moved = [id for id in before.ids if id in after.cells] + [id for id in after.ids if id not in before.cells]
    order = None if moved == list(after.ids) else list(after.ids)
    touched = len(added) + len(changed)
    if touched > RESEND_ROWS and touched * 2 > len(after.ids):
        return None
    if added or changed or removed or order is not None:
        messages.append(Delta(added=added, changed=changed, removed=removed, order=order))
    return messages


def summary(line: GridSummary) -> dict[str, Any]:
    """The deck's line as the browser receives it."""
    return {
        "backend": cells.text(line.backend),
        "role": line.role,
        "seen": cells.moment(line.seen_at),
        "health": cells.text(line.health),
        "remedy": cells.text(line.remedy),
        "notices": [[n.level, cells.text(n.text), cells.text(n.remedy)] for n in line.notices[:20]],
        "terminal": cells.text(line.terminal),
    }


def _columns(rows: Any, numbers: Mapping[str, int]) -> tuple[tuple[Column, ...], Mapping[str, int]]:
    given = dict(numbers)
    rows = list(rows)
    flags, metrics = _found(rows, "flags"), _found(rows, "metrics")
    sweeps = {row.sweep for row in rows}

    def make(key: str, kind: Kind, *, pinned: bool = False, shown: bool = True, common: bool = False) -> Column:
        return Column(given.setdefault(key, len(given)), key, kind, pinned, shown, common)

    def worth(fixed: _Fixed) -> bool:
        if fixed.key == "sweep":
            return len(sweeps) > 1
        return fixed.worth is None or any(map(fixed.worth, rows))

    fixed = [make(f.key, f.kind, pinned=f.pinned, shown=f.shown and worth(f)) for f in _FIXED]
    common = {key for key, seen in flags.items() if seen.same and len(rows) > 1}
    open_ = [
        *(make(FLAGS + key, seen.kind) for key, seen in flags.items() if key not in common),
        *(make(METRICS + key, "number") for key in metrics),
        *(make(FLAGS + key, flags[key].kind, common=True) for key in flags if key in common),
    ]
    return (*fixed, *open_), given


@dataclass(slots=True)
class _Seen:
    kind: Kind
    count: int = 0
    first: Any = None
    same: bool = True


def _found(rows: Sequence[GridRow], attribute: str) -> dict[str, _Seen]:
    """Every key of an open mapping, in the order met; keys with one beginning stand together."""
    found: dict[str, _Seen] = {}
    for row in rows:
        for key, value in getattr(row, attribute).items():
            kind = _kind(value)
            seen = found.get(key)
            if seen is None:
                seen = found[key] = _Seen(kind, first=value)
            elif seen.kind != kind and value is not None:
                seen.kind = "text" if seen.first is not None else kind
            seen.count += 1
            if seen.same and not _same(cells.cell(seen.first), cells.cell(value)):
                seen.same = False
    for seen in found.values():
        seen.same = seen.same and seen.count == len(rows)
    families: dict[str, int] = {}
    for key in found:
        families.setdefault(key.rpartition(".")[0], len(families))
    return dict(sorted(found.items(), key=lambda item: families[item[0].rpartition(".")[0]]))


def _kind(value: object) -> Kind:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else "text"


def _is_open(key: str) -> bool:
    return key not in _BY_KEY


def _shape(row: GridRow) -> tuple[Any, ...]:
    """What of a row decides which columns there are."""
    return (
        repr(row.flags),
        tuple(row.metrics),
        row.sweep,
        tuple(f.worth(row) for f in _FIXED if f.worth is not None),
    )


def _reader(column: Column) -> Callable[[GridRow], Cell]:
    fixed = _BY_KEY.get(column.key)
    if fixed is not None:
        return fixed.value
    if column.key.startswith(FLAGS):
        return _open_reader("flags", column.key[len(FLAGS) :])
    return _open_reader("metrics", column.key[len(METRICS) :])


def _open_reader(attribute: str, key: str) -> Callable[[GridRow], Cell]:
    def read(row: GridRow) -> Cell:
        mapping: Mapping[str, Any] = getattr(row, attribute)
        return cells.cell(mapping[key]) if key in mapping else None

    return read


def _same(a: Cell, b: Cell) -> bool:
    """Equal, and of one type: ``True`` is not 1 in a table of flags."""
    return type(a) is type(b) and a == b
