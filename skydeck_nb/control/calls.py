"""The calls that the loop makes to a backend, and what came of them.

Decides how one call is carried out and how its end is classified: answered,
refused, unknown. Refuses to know when and why a call is made. Each function
blocks on the backend, runs on a worker, never raises for what a backend did,
and commits nothing but the permission to send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from skydeck_nb.backends.base import Backend, Gate, Launched, Order
from skydeck_nb.errors import BackendError, LaunchRejected, NeedsSignIn
from skydeck_nb.events import Cell, Change, SendAllowed, micros
from skydeck_nb.listing import Listing, Query, Resolution
from skydeck_nb.models import AttemptRow
from skydeck_nb.store.store import Store

log = logging.getLogger("skydeck_nb")

SEND_WITHIN: Final = timedelta(seconds=60)
"""A launch may be sent this long after its permission; later, its transport refuses."""

DEADLINE: Final = 30.0
"""Seconds that a look, a cancel or a search may take; a launch has until its ``send_before``."""


class Lost(Exception):
    """This process does not lead any more: whatever it was about to write or send is dropped."""


class Refused(Exception):
    """A launch may not be sent: its experiment was stopped, its time is over, or another process leads."""


class Leading(Protocol):
    """What a call asks of the lease."""

    def held(self) -> int | None:
        """The term in which this process may act right now, else ``None``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    query: Query
    term: int
    number: int = 0
    """Which look of this process it is, counted from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    attempt: AttemptRow
    order: Order
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    jobs: tuple[tuple[int, int], ...]
    """Pairs of experiment id and job id."""
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    attempt: AttemptRow
    refuse: bool
    term: int


Call = Observe | Launch | Cancel | Resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one call ended. Exactly one of ``listing launched resolution error`` is set, or ``cancelled``.

    ``refused``: certainly nothing was sent. ``rejected``: the backend said no.
    """

    call: Call
    listing: Listing | None = None
    launched: Launched | None = None
    resolution: Resolution | None = None
    cancelled: bool = False
    refused: str = ""
    rejected: LaunchRejected | None = None
    error: str = ""
    code: str = ""
    needs_sign_in: bool = False


def perform(call: Call, store: Store, backend: Backend, leading: Leading, now: Callable[[], datetime]) -> Outcome:
    """Carry out one call and say how it ended."""
    try:
        match call:
            case Observe(query=query):
                return Outcome(call=call, listing=backend.observe(query, deadline=DEADLINE))
            case Launch():
                return _launch(call, store, backend, leading, now)
            case Cancel(jobs=jobs, term=term):
                if leading.held() != term:
                    return Outcome(call=call, refused="another process leads")
                backend.cancel([job_id for _, job_id in jobs], deadline=DEADLINE)
                return Outcome(call=call, cancelled=True)
            case Resolve(attempt=attempt, refuse=refuse, term=term):
                if leading.held() != term:
                    return Outcome(call=call, refused="another process leads")
                if refuse:
                    backend.refuse(attempt.claim, attempt.id, attempt.request_id, deadline=DEADLINE)
                found = backend.resolve(attempt.claim, attempt.id, attempt.request_id, deadline=DEADLINE)
                return Outcome(call=call, resolution=found)
    except BackendError as error:
        return Outcome(
            call=call, error=str(error), code=type(error).__name__, needs_sign_in=isinstance(error, NeedsSignIn)
        )
    except Exception as error:  # a backend's own fault must not end the loop: it becomes a condition, with its trace
        log.exception("The backend %s failed in %s.", backend.kind, type(call).__name__)
        return Outcome(call=call, error=f"{type(error).__name__}: {error}", code=type(error).__name__)


def _launch(call: Launch, store: Store, backend: Backend, leading: Leading, now: Callable[[], datetime]) -> Outcome:
    """Ask for the permission to send, then send under a gate that asks again at each write."""
    try:
        send_before = _allow(call, store, leading, now)
    except Refused as refusal:
        return Outcome(call=call, refused=str(refusal))
    gate = _gate(call, store, leading, now, send_before)
    try:
        launched = backend.launch(call.order, gate, deadline=(send_before - now()).total_seconds())
    except LaunchRejected as rejection:
        return Outcome(call=call, rejected=rejection)
    except Refused as refusal:
        return Outcome(call=call, error=f"The launch was stopped while it was sent: {refusal}.", code="Refused")
    return Outcome(call=call, launched=launched)


def _allow(call: Launch, store: Store, leading: Leading, now: Callable[[], datetime]) -> datetime:
    """Commit ``send_before`` if the launch is still wanted, in one durable transaction."""
    if leading.held() != call.term:
        raise Refused("another process leads")
    attempt = call.attempt
    with store.write(durable=True) as tx:
        lease = tx.lease()
        if lease is None or lease.term != call.term or lease.holder is None:
            raise Refused("another process leads")
        present = tx.attempts(ids=[attempt.id])
        if not present or present[0].state != "PREPARED":
            raise Refused("its attempt is closed")
        rows = tx.experiments(ids=[attempt.experiment_id], deleted=None)
        if not rows or rows[0].deleted or rows[0].desired_state != "RUNNING" or rows[0].run != attempt.run:
            raise Refused("its experiment was stopped")
        if tx.jobs(experiment_ids=[attempt.experiment_id], alive=True):
            raise Refused("a job of its experiment is alive")
        moment = now()
        send_before = moment + SEND_WITHIN
        columns: dict[str, Cell] = {"state": "SENDING", "send_before": micros(send_before)}
        tx.apply(
            [
                SendAllowed(
                    at=moment,
                    experiment_id=attempt.experiment_id,
                    attempt_id=attempt.id,
                    changes=(Change("attempts", attempt.id, columns),),
                )
            ]
        )
    return send_before


def _gate(call: Launch, store: Store, leading: Leading, now: Callable[[], datetime], send_before: datetime) -> Gate:
    attempt = call.attempt

    def gate() -> None:
        if leading.held() != call.term:
            raise Refused("another process leads")
        if now() >= send_before:
            raise Refused("its time is over")
        with store.read() as tx:
            rows = tx.experiments(ids=[attempt.experiment_id], deleted=None)
            present = tx.attempts(ids=[attempt.id])
        if not present or present[0].state != "SENDING":
            raise Refused("its attempt is closed")
        if not rows or rows[0].deleted or rows[0].desired_state != "RUNNING" or rows[0].run != attempt.run:
            raise Refused("its experiment was stopped")

    return gate
