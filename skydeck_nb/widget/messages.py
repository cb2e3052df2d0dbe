"""The wire between the grid and the browser: one dataclass a message.

Decides what travels, how it is encoded, and what is accepted from a browser,
whose every byte is a stranger's. Refuses to know rows, threads and the widget.
Mirrored in ``js/src/messages.ts``; ``tests/fixtures/wire`` is read by both.

Python to browser: ``{"v": 1, "t": kind, "kernel": …, "seq": …, …}``; bulk data is
one binary buffer of JSON. Browser to Python: ``{"v": 1, "t": kind, "req": …, …}``.
The request's id is called ``req``: ipykernel 7.4 keeps a table of every ``id`` it sends.

A new kind is a dataclass with a ``type``; its fields are read by the readers below.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from skydeck_nb.errors import SkydeckError

VERSION: Final = 1
MAX_IDS: Final = 100_000
MAX_REQ: Final = 64
_MAX_SAFE: Final = 2**53 - 1


class WireError(SkydeckError):
    """A message from the browser that is not one of ours. ``req`` is its id where that could be read."""

    def __init__(self, message: str, req: str | None = None) -> None:
        super().__init__(message)
        self.req = req


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A block of columns for all rows. The first part brings columns, ids and the deck's line, and begins anew."""

    type: ClassVar[str] = "snapshot"
    bulk: ClassVar[frozenset[str]] = frozenset({"columns", "ids", "values"})
    part: int
    parts: int
    columns: Sequence[Any] | None
    ids: Sequence[int] | None
    values: Sequence[Any]
    summary: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Columns:
    """All columns, in their order, as ``[n, key, kind, pinned, shown, common]``."""

    type: ClassVar[str] = "columns"
    bulk: ClassVar[frozenset[str]] = frozenset({"columns"})
    columns: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Rows added ``[id, [cell, …]]``, changed ``[id, n, cell, n, cell, …]``, removed; ``order`` where it moved."""

    type: ClassVar[str] = "delta"
    bulk: ClassVar[frozenset[str]] = frozenset({"added", "changed", "removed", "order"})
    added: Sequence[Any] = ()
    changed: Sequence[Any] = ()
    removed: Sequence[int] = ()
    order: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The deck's line, or only a heartbeat where it did not change. The next comes within ``every`` seconds."""

    type: ClassVar[str] = "summary"
    bulk: ClassVar[frozenset[str]] = frozenset()
    now: int
    every: float
    seen: int | None = None
    summary: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What opens under a row."""

    type: ClassVar[str] = "detail"
    bulk: ClassVar[frozenset[str]] = frozenset({"detail"})
    row: int
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A passing word for a person."""

    type: ClassVar[str] = "notice"
    bulk: ClassVar[frozenset[str]] = frozenset()
    level: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """The rows that Python ticked."""

    type: ClassVar[str] = "selected"
    bulk: ClassVar[frozenset[str]] = frozenset({"ids"})
    ids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """A request arrived. ``main``: on the kernel's main thread, so that a busy cell would have held it up."""

    type: ClassVar[str] = "ack"
    bulk: ClassVar[frozenset[str]] = frozenset()
    req: str
    main: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A request was carried out; the rows that it changed travelled before."""

    type: ClassVar[str] = "done"
    bulk: ClassVar[frozenset[str]] = frozenset()
    req: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """A request was refused and changed nothing."""

    type: ClassVar[str] = "error"
    bulk: ClassVar[frozenset[str]] = frozenset()
    req: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Bye:
    """The last word of this grid: what is on screen stays as it was."""

    type: ClassVar[str] = "bye"
    bulk: ClassVar[frozenset[str]] = frozenset()
    now: int


Outgoing = Snapshot | Columns | Delta | Summary | Detail | Notice | Selected | Ack | Done | Error | Bye


def encode(message: Outgoing, kernel: int, seq: int) -> tuple[dict[str, Any], list[bytes]]:
    """Content and buffers. A field that is ``None`` does not travel."""
    content: dict[str, Any] = {"v": VERSION, "t": message.type, "kernel": kernel, "seq": seq}
    bulk: dict[str, Any] = {}
    for item in dataclasses.fields(message):
        value = getattr(message, item.name)
        if value is not None:
            (bulk if item.name in message.bulk else content)[item.name] = value
    if not message.bulk:
        return content, []
    return content, [json.dumps(bulk, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What every message from a browser carries."""

    type: ClassVar[str]
    req: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Act(Command):
    """A wish about rows: what :meth:`GridSource.act` is called with."""

    ids: tuple[int, ...]


class Start(Act):
    type: ClassVar[str] = "start"


class Stop(Act):
    type: ClassVar[str] = "stop"


class Retry(Act):
    type: ClassVar[str] = "retry"


class Restart(Act):
    type: ClassVar[str] = "restart"


class Terminate(Act):
    type: ClassVar[str] = "terminate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Select(Command):
    """The rows that are ticked now; may be none."""

    type: ClassVar[str] = "select"
    selection: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Command):
    """Open the detail under one row."""

    type: ClassVar[str] = "open"
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync(Command):
    """Send everything again: ``have`` is the last ``seq`` that arrived in order."""

    type: ClassVar[str] = "resync"
    have: int


COMMANDS: Final[Mapping[str, type[Command]]] = {
    cls.type: cls for cls in (Start, Stop, Retry, Restart, Terminate, Select, Open, Resync)
}
"""Every kind that a browser may send. Those of widget.md that are not here have nothing behind them yet."""


def parse(content: object) -> Command:
    """The message that a browser sent, or :class:`WireError`; nothing else, whatever arrives."""
    if not isinstance(content, dict):
        raise WireError("a message is an object")
    req = content.get("req")
    if not (isinstance(req, str) and 0 < len(req) <= MAX_REQ and req.isascii() and req.isprintable()):
        raise WireError("a message carries an id of its own, `req`, of at most 64 printable characters")
    if type(content.get("v")) is not int or content["v"] != VERSION:
        raise WireError("this page speaks another version of the grid: run the cell again and reload the page", req)
    kind = content.get("t")
    cls = COMMANDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise WireError("this grid does not know such a message", req)
    names = {item.name for item in dataclasses.fields(cls)} - {"req"}
    if set(content) - {"v", "t", "req"} != names:
        raise WireError(f"`{cls.type}` carries {', '.join(sorted(names)) or 'nothing else'}", req)
    fields: dict[str, Any] = {}
    for name in names:
        try:
            fields[name] = _READERS[name](content[name])
        except ValueError as error:
            raise WireError(f"`{name}` of `{cls.type}` {error}", req) from None
    return cls(req=req, **fields)


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_SAFE:
        raise ValueError("is not a whole number")
    return value


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_IDS:
        raise ValueError(f"is not a list of at most {MAX_IDS:,} ids")
    return tuple(dict.fromkeys(_integer(item) for item in value))


def _some_integers(value: object) -> tuple[int, ...]:
    ids = _integers(value)
    if not ids:
        raise ValueError("names no row")
    return ids


_READERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "ids": _some_integers,
    "selection": _integers,
    "row": _integer,
    "have": _integer,
}
"""How each field of a command is read, by its name."""
