"""Rows as dataclasses, rows as cells: one to the other, and the changes between two rows.

Decides how each kind of value is stored: times as microseconds, booleans as
integers, open shapes as JSON, all else as it is. Follows the annotations of
:mod:`skydeck_nb.models`, so that a new field needs a migration and nothing here.
Refuses to know SQL and connections.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from skydeck_nb.events import Cell, Change, Key, micros
from skydeck_nb.models import (
    AttemptRow,
    CheckpointRow,
    Condition,
    ExperimentRow,
    GroupRow,
    JobRow,
    Spec,
    SweepRow,
)

Row = ExperimentRow | JobRow | AttemptRow | SweepRow | GroupRow | CheckpointRow
R = TypeVar("R", bound=Row)

MEMBERS: Final = "experiment_group_members"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Table:
    """One folded table: its key columns, then the others, in the models' order."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    required: frozenset[str]
    """The columns that are NOT NULL: an insert says them all."""
    autoincrement: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.key, *self.columns)


@dataclass(frozen=True, slots=True)
class _Kind:
    encode: Callable[[Any], Cell] | None
    decode: Callable[[Any], Any] | None
    """Both are called for values other than ``None`` alone; ``None`` where the cell is the value."""
    optional: bool


_json: Final = json.JSONEncoder(separators=(",", ":")).encode
_load: Final = (
    json.JSONDecoder().raw_decode
)  # ``json.loads`` spends more on looking for white space than on short values


def _object(text: str) -> Any:
    return {} if text == "{}" else _load(text)[0]


@lru_cache(maxsize=4096)
def _tuple(text: str) -> tuple[Any, ...]:
    """Cached, since sweeps repeat their commands and tags, and nobody can change a tuple of text."""
    return tuple(_load(text)[0])


def _time(us: int) -> datetime:
    """``events.moment`` in a third of its time."""
    return _EPOCH + timedelta(microseconds=us)


def _mapping_json(value: Mapping[str, Any]) -> str:
    return "{}" if not value else _json(dict(value))


def _conditions_json(value: Sequence[Condition]) -> str:
    return _json([[c.type, c.status, c.reason, c.message] for c in value]) if value else "[]"


@lru_cache(maxsize=4096)
def _conditions(text: str) -> tuple[Condition, ...]:
    return tuple(Condition(type=t, status=s, reason=r, message=m) for t, s, r, m in _load(text)[0])


def _real(value: float) -> float:
    if value != value:
        raise ValueError("NaN cannot be stored in a column; leave it out (None)")
    return float(value)


def _kind(hint: Any) -> _Kind:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional = type(None) in options
    base = next(o for o in options if o is not type(None))
    origin = get_origin(base) or base
    if base == tuple[Condition, ...]:
        return _Kind(_conditions_json, _conditions, optional)
    if origin is tuple:
        return _Kind(lambda v: _json(list(v)) if v else "[]", _tuple, optional)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _Kind(_mapping_json, _object, optional)
    if base is datetime:
        return _Kind(micros, _time, optional)
    if base is bool:
        return _Kind(int, bool, optional)
    if base is float:
        return _Kind(_real, None, optional)
    return _Kind(None, None, optional)


def _kinds(cls: type[Any]) -> dict[str, _Kind]:
    hints = get_type_hints(cls)
    return {f.name: _kind(hints[f.name]) for f in dataclasses.fields(cls) if f.name != "spec"}


_SPEC: Final = _kinds(Spec)
_SPEC_NAMES: Final = frozenset(_SPEC)


@dataclass(frozen=True, slots=True)
class _Shape:
    cls: type[Any]
    table: Table
    kinds: Mapping[str, _Kind]
    decoders: tuple[tuple[int, Callable[[Any], Any]], ...]
    """Position in ``table.all`` and decoder, for the columns that need one."""
    encoders: tuple[tuple[str, bool, Callable[[Any], Cell] | None, bool], ...]
    """Column, whether it is the spec's, encoder and whether it may be ``None``, of all but the key."""
    spec: tuple[int, int] | None
    """Where in ``table.all`` the spec's columns stand."""
    rest: tuple[str, ...]


def _shape(cls: type[Any], name: str, key: tuple[str, ...], *, autoincrement: bool = False) -> _Shape:
    kinds = _kinds(cls)
    if cls is ExperimentRow:
        first = {k: kinds.pop(k) for k in ("id", "name")}
        kinds = {**first, **_SPEC, **kinds}
    columns = tuple(k for k in kinds if k not in key)
    required = frozenset(k for k in columns if not kinds[k].optional)
    table = Table(name, key, columns, required, autoincrement)
    ordered = table.all
    decoders = tuple((i, d) for i, k in enumerate(ordered) if (d := kinds[k].decode) is not None)
    start = ordered.index("command") if cls is ExperimentRow else 0
    spec = (start, start + len(_SPEC)) if cls is ExperimentRow else None
    rest = tuple(k for k in ordered if spec is None or k not in _SPEC_NAMES)
    encoders = tuple((k, spec is not None and k in _SPEC_NAMES, kinds[k].encode, kinds[k].optional) for k in columns)
    return _Shape(cls, table, kinds, decoders, encoders, spec, rest)


_SHAPES: Final = (
    _shape(ExperimentRow, "experiments", ("id",), autoincrement=True),
    _shape(JobRow, "jobs", ("id",)),
    _shape(AttemptRow, "attempts", ("id",)),
    _shape(SweepRow, "sweeps", ("id",), autoincrement=True),
    _shape(GroupRow, "experiment_groups", ("id",), autoincrement=True),
    _shape(CheckpointRow, "checkpoints", ("experiment_id", "epoch")),
)
_BY_CLASS: Final[Mapping[type[Any], _Shape]] = {s.cls: s for s in _SHAPES}
_BY_TABLE: Final[Mapping[str, _Shape]] = {s.table.name: s for s in _SHAPES}

TABLES: Final[Mapping[str, Table]] = {
    **{s.table.name: s.table for s in _SHAPES},
    MEMBERS: Table(MEMBERS, ("group_id", "experiment_id"), ("member_order",), frozenset({"member_order"})),
}
"""Every table that the log folds to."""


def table_of(cls: type[Any]) -> Table:
    """The table that holds rows of this class."""
    return _BY_CLASS[cls].table


def key(row: Row) -> Key:
    """The primary key of a row: its id, or a pair for a checkpoint."""
    return (row.experiment_id, row.epoch) if isinstance(row, CheckpointRow) else row.id


def _encode(kinds: Mapping[str, _Kind], name: str, value: Any) -> Cell:
    kind = kinds[name]
    if value is None:
        if not kind.optional:
            raise ValueError(f"{name} cannot be None")
        return None
    cell: Cell = value if kind.encode is None else kind.encode(value)
    return cell


def cells(table: str, values: Mapping[str, Any]) -> dict[str, Cell]:
    """Some fields of a row of this table as cells: ``cells("jobs", {"ended_at": when, "lost": True})``.

    The fields of a spec go by their own names, or as one ``spec``.

    Raises:
        ValueError: a value that the column cannot hold (``None`` where it must not be, NaN).
        KeyError: a name that is no field of this table.
    """
    if table == MEMBERS:
        return {"member_order": _real(values["member_order"])}
    kinds = _BY_TABLE[table].kinds
    found: dict[str, Cell] = {}
    for name, value in values.items():
        if name == "spec" and isinstance(value, Spec):
            found.update({k: _encode(_SPEC, k, getattr(value, k)) for k in _SPEC})
        else:
            found[name] = _encode(kinds, name, value)
    return found


def encode(row: Row) -> dict[str, Cell]:
    """All columns of a row but its key's, in the table's order."""
    shape = _BY_CLASS[type(row)]
    spec = getattr(row, "spec", None)
    found: dict[str, Cell] = {}
    for name, of_spec, encoder, optional in shape.encoders:
        value = getattr(spec if of_spec else row, name)
        if value is None:
            if not optional:
                raise ValueError(f"{name} cannot be None")
        elif encoder is not None:
            value = encoder(value)
        found[name] = value
    return found


def insert(row: Row) -> Change:
    """The change that makes this row, or makes an existing one equal to it."""
    return Change(_BY_CLASS[type(row)].table.name, key(row), encode(row))


def diff(before: R, after: R) -> dict[str, Cell]:
    """The columns, as cells of ``after``, in which two rows of one class differ."""
    old = encode(before)
    return {name: cell for name, cell in encode(after).items() if old[name] != cell}


def update(before: R, after: R) -> Change | None:
    """The change from one row to the other, ``None`` where they are equal."""
    changed = diff(before, after)
    return Change(_BY_CLASS[type(after)].table.name, key(after), changed) if changed else None


def patch_change(table: str, row_key: Key, **values: Any) -> Change:
    """The change of some fields of one row, given as Python values."""
    return Change(table, row_key, cells(table, values))


def remove(row: Row) -> Change:
    """The change that removes this row."""
    return Change(_BY_CLASS[type(row)].table.name, key(row), None)


def member(group_id: int, experiment_id: int, order: float | None) -> Change:
    """The change that puts an experiment into a group at this place, or takes it out (``None``)."""
    columns: dict[str, Cell] | None = None if order is None else {"member_order": _real(order)}
    return Change(MEMBERS, (group_id, experiment_id), columns)


def decode(cls: type[R], found: Sequence[Sequence[Any]]) -> list[R]:
    """Rows as dataclasses, from cells in the order of ``table_of(cls).all``."""
    shape = _BY_CLASS[cls]
    decoders, rest = shape.decoders, shape.rest
    rows: list[R] = []
    if shape.spec is None:
        for cells_ in found:
            values = list(cells_)
            for i, decoder in decoders:
                if values[i] is not None:
                    values[i] = decoder(values[i])
            rows.append(shape.cls(**dict(zip(rest, values, strict=True))))
        return rows
    start, end = shape.spec
    for cells_ in found:
        values = list(cells_)
        for i, decoder in decoders:
            if values[i] is not None:
                values[i] = decoder(values[i])
        spec = Spec(**dict(zip(_SPEC, values[start:end], strict=True)))
        rows.append(shape.cls(spec=spec, **dict(zip(rest, values[:start] + values[end:], strict=True))))
    return rows


def make(table: str, row_key: Key, columns: Mapping[str, Cell]) -> Row:
    """The row that an insert's columns make; what they leave out is ``None``."""
    shape = _BY_TABLE[table]
    found: dict[str, Cell] = dict.fromkeys(shape.table.columns)
    found.update(columns)
    keys = row_key if isinstance(row_key, tuple) else (row_key,)
    row: Row = decode(shape.cls, [(*keys, *found.values())])[0]
    return row


def patch(row: R, columns: Mapping[str, Cell]) -> R:
    """The row with some cells changed, without reading it again."""
    shape = _BY_CLASS[type(row)]
    spec: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, cell in columns.items():
        decoder = shape.kinds[name].decode
        value = cell if cell is None or decoder is None else decoder(cell)
        (spec if shape.spec and name in _SPEC_NAMES else own)[name] = value
    if spec:
        own["spec"] = dataclasses.replace(getattr(row, "spec"), **spec)  # noqa: B009  (experiments alone have one)
    return dataclasses.replace(row, **own)
