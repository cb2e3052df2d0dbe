"""What the grid shows and where it gets it from: rows, the deck's line, a row's detail.

Decides the shape of what a deck hands to its grid (:class:`GridSource`).
Refuses to know how the browser draws it and how the deck finds it.

Every method is called from threads of the grid and must answer from memory or
from the database, never from the network. Times are aware UTC. Nothing in here
may hold a token, a cookie or a presigned URL: rows are saved with the notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from skydeck_nb.models import FlagValue

Action = Literal["start", "stop", "retry", "restart"]
"""What the one button of a row does: *Start*, *Stop*, *Retry*, *Run again*."""

Role = Literal["leading", "following", "reading"]
Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One experiment as the grid shows it.

    ``action`` is ``None`` while nothing can be asked of it (it is stopping).
    ``started_at`` and ``ended_at`` are those of the present job; the browser
    counts age and runtime from them by itself.
    """

    id: int
    name: str
    state: str
    desired: str
    created_at: datetime
    action: Action | None = None
    reason: str = ""
    message: str = ""
    attention: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    epoch: int | None = None
    jobs: int = 0
    restarts: int = 0
    recoveries: int = 0
    nodes: int = 1
    gpus: int | None = None
    accelerators: str | None = None
    sweep: str | None = None
    groups: tuple[str, ...] = ()
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A sentence for a person, and what to do about it. Shown until the source no longer gives it."""

    text: str
    remedy: str = ""
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSummary:
    """The deck's line. ``seen_at``: when the newest complete listing was begun; ``None``: none yet.

    ``health`` is empty while all is well, else a sentence; ``remedy`` says what
    to do about it. ``terminal`` is the command that stops a row without this
    kernel, with ``{name}`` where the row's name stands.
    """

    backend: str
    role: Role = "leading"
    seen_at: datetime | None = None
    health: str = ""
    remedy: str = ""
    notices: tuple[Notice, ...] = ()
    terminal: str = "skydeck stop {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridJob:
    """One execution, in a row's detail."""

    id: int
    status: str
    run: int = 0
    attempt: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    infra: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GridDetail:
    """What opens under a row: why it is as it is, what is executed, its newest jobs first."""

    why: tuple[str, ...] = ()
    command: str = ""
    jobs: tuple[GridJob, ...] = ()


class GridSource(Protocol):
    """What a deck is to its grid."""

    def rows(self) -> Sequence[GridRow]:
        """All rows, in the deck's order. Called at most ten times a second, and only after a wake."""
        ...

    def summary(self) -> GridSummary:
        """The deck's line. Called after a wake and at every heartbeat."""
        ...

    def detail(self, id: int) -> GridDetail:
        """What opens under one row."""
        ...

    def act(self, kind: str, ids: tuple[int, ...], params: Mapping[str, Any]) -> str:
        """Do what a person asked for and say in one sentence what happened, what was skipped included.

        ``kind`` is ``start``, ``stop``, ``retry``, ``restart`` or ``terminate``; every id is
        one that :meth:`rows` gave. Called on the grid's worker thread, one at a time. A
        ``SkydeckError`` is shown as it reads; anything else is logged as a fault of ours.
        """
        ...

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` from any thread after rows or summary changed; it returns at once. Gives the unsubscribe."""
        ...
