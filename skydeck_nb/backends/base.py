"""What a place where jobs run must do, and the records that pass between it and the loop.

Decides the seam: queries, listings, launch orders, answers. Refuses to know
the database, the planner and threads. A backend holds no intent: it does what
it is told once, and reports what it sees.

The contract, which ``tests/backends/contract.py`` holds every backend to:

* ``observe`` answers a query or raises :class:`~skydeck_nb.errors.BackendError`.
  An empty listing is an answer; a failure is never an empty listing. A listing
  that may lack rows says ``complete=False``. Jobs of other users come only to a
  query that asks for ``everyone``, by its ids or by its claims, with ``mine=False``.
* ``launch`` prepares first (renders, packs, uploads), for which its deadline
  leaves ten minutes, and then calls ``gate()`` before each write of the
  request. The first ``gate()`` commits the permission to send, which lasts a
  minute: after it ``launch`` sends at once, and answers or raises within that
  minute. Each further write, a retry say, asks again; when the gate raises,
  nothing (more) is sent and its exception comes out as it is. What ``launch``
  raises before the gate passed means that certainly nothing was sent: it is
  launched again after a back-off. Afterwards it returns what it was told,
  raises :class:`~skydeck_nb.errors.LaunchRejected` when certainly nothing runs,
  and anything else it raises means that the outcome is unknown.
* ``resolve`` looks for the job of a launch whose outcome is unknown, one that
  was answered with a request id alone included.
* ``cancel`` takes ids only and returns when the backend was told, not when the
  jobs are gone; an id that is gone already is no error.
* Every method may be called from any thread, blocks no longer than its
  ``deadline`` (seconds), and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from skydeck_nb.listing import Listing, Query, Resolution, SeenJob
from skydeck_nb.models import Spec

__all__ = [
    "Backend",
    "Cadence",
    "Capacity",
    "Gate",
    "Identity",
    "Launched",
    "Listing",
    "Order",
    "Query",
    "Resolution",
    "SeenJob",
]

Gate = Callable[[], None]
"""Raises when the launch may not be sent (any more): lease lost, stopped, too late. May wait for a commit.

The loop's own also has ``wanted()``: whether it is worth going on preparing. It promises nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which backend a database belongs to: written at the first open, compared at each later one."""

    kind: str
    place: str
    """Host or endpoint."""
    scope: str = ""
    """User or workspace."""

    def __str__(self) -> str:
        return f"{self.kind} on {self.place}" + (f" as {self.scope}" if self.scope else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How much of the loop a backend bears.

    ``hot`` and ``discovery`` are the seconds between two looks: at live jobs, and
    for what it does not know of. ``launches`` is how many launches may be under
    way at once, ``None`` for any number; those beyond it wait, and are not begun.
    ``patience`` is the deadline, in seconds, of a look, a search and a cancel, and
    ``follow`` the pause between two readings of a log that somebody follows.
    """

    hot: float
    discovery: float
    launches: int | None = None
    patience: float = 30.0
    follow: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One launch. ``claim`` is the job's name on the backend and the key by which it is found again."""

    deck_id: str
    attempt_id: str
    experiment_id: int
    experiment: str
    claim: str
    run_name: str
    spec: Spec
    argv: tuple[str, ...]
    metadata: Mapping[str, str]
    priority: int = 0
    max_seconds: float | None = None
    max_restarts: int = 0
    """How often the loop itself launches again after a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The backend's answer. ``job_id`` is ``None`` while only a request id is known: the job is named later."""

    job_id: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the backend counts itself, for the deck's line; ``None`` where it does not."""

    slots: int | None = None
    slots_free: int | None = None
    gpus: int | None = None
    gpus_free: int | None = None


@runtime_checkable
class Backend(Protocol):
    """Where jobs run."""

    kind: str
    prices: bool
    """Whether it lists what some jobs cost (``SeenJob.hourly_cost``): without, no budget in dollars can be held."""

    @property
    def identity(self) -> Identity: ...

    @property
    def cadence(self) -> Cadence: ...

    def check(self, spec: Spec) -> None:
        """Refuse, at declaration, what this backend can never run (raises ``InvalidCommand``)."""

    def missing(self, spec: Spec) -> tuple[str, str] | None:
        """What the spec needs and this process lacks now: ``(Reason, sentence)``, else ``None``.

        For example ``("SecretMissing", "The secret WANDB_API_KEY is not set where the loop runs; …")``.
        """

    def observe(self, query: Query, *, deadline: float) -> Listing: ...

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched: ...

    @property
    def user(self) -> str | None:
        """Who launches, as the backend has it, where it lets each see only what is theirs; else ``None``."""

    def resolve(
        self,
        order_claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
        user: str | None = None,
    ) -> Resolution:
        """What one look for an unanswered launch proves.

        ``since``: nothing of it was sent before. ``user``: who sent it, as :attr:`user`
        was then. Both ``None`` where it is not known.
        """

    def refuse(
        self,
        claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
    ) -> None:
        """Keep an unanswered launch from making a job, as far as the backend lets one; idempotent."""

    def cancel(self, job_ids: Sequence[int], *, deadline: float) -> None: ...

    def logs(self, job_id: int, *, tail: int | None, deadline: float) -> str: ...

    def run_dir(self, job_id: int) -> Path | None:
        """The run's folder where it can be read from here, else ``None``."""

    def checkpoint_dir(self, job_id: int) -> Path | None:
        """The folder of its experiment's checkpoints where it can be read from here, else ``None``."""

    def capacity(self) -> Capacity | None: ...

    def describe(self) -> Mapping[str, Any]:
        """JSON-able facts for ``deck.health()``: never a token, a cookie or a secret."""

    def close(self) -> None: ...
