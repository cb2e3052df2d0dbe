"""The calls that the loop makes to a backend, and what came of them.

Decides how one call is carried out and how its end is classified: answered,
refused, unknown. Refuses to know when and why a call is made. Each function
blocks on the backend, runs on a worker, never raises for what a backend did,
and commits nothing but, through its gate, the permission to send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from skydeck_nb.backends.base import Backend, Launched, Order
from skydeck_nb.control.permission import Leading, Permission, Refused
from skydeck_nb.control.planning import SEND_WITHIN
from skydeck_nb.errors import BackendError, LaunchRejected, NeedsSignIn
from skydeck_nb.listing import Listing, Query, Resolution
from skydeck_nb.models import AttemptRow
from skydeck_nb.store.store import Store

log = logging.getLogger("skydeck_nb")

PREPARE: Final = timedelta(seconds=600)
"""A launch may take this long until its first write: a workdir is packed and uploaded."""


class Lost(Exception):
    """This process does not lead any more: whatever it was about to write or send is dropped."""


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

    ``refused``: it was not wanted any more, and certainly nothing was sent.
    ``rejected``: the backend said no, or failed before it sent anything.
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
    patience = backend.cadence.patience
    try:
        match call:
            case Observe(query=query):
                return Outcome(call=call, listing=backend.observe(query, deadline=patience))
            case Launch():
                return _launch(call, store, backend, leading, now)
            case Cancel(jobs=jobs, term=term):
                if leading.held() != term:
                    return Outcome(call=call, refused="another process leads")
                backend.cancel([job_id for _, job_id in jobs], deadline=patience)
                return Outcome(call=call, cancelled=True)
            case Resolve(attempt=attempt, refuse=refuse, term=term):
                if leading.held() != term:
                    return Outcome(call=call, refused="another process leads")
                if refuse:
                    backend.refuse(
                        attempt.claim, attempt.id, attempt.request_id, deadline=patience, since=attempt.created_at
                    )
                found = backend.resolve(
                    attempt.claim,
                    attempt.id,
                    attempt.request_id,
                    deadline=patience,
                    since=attempt.created_at,
                    user=attempt.sent_as,
                )
                return Outcome(call=call, resolution=found)
    except BackendError as error:
        return Outcome(
            call=call, error=str(error), code=type(error).__name__, needs_sign_in=isinstance(error, NeedsSignIn)
        )
    except Exception as error:  # a backend's own fault must not end the loop: it becomes a condition, with its trace
        log.exception("The backend %s failed in %s.", backend.kind, type(call).__name__)
        return Outcome(call=call, error=f"{type(error).__name__}: {error}", code=type(error).__name__)


def _launch(call: Launch, store: Store, backend: Backend, leading: Leading, now: Callable[[], datetime]) -> Outcome:
    """Prepare and send under a gate that is asked at each write: what fails before it first passed sent nothing."""
    permission = Permission(call.attempt, call.term, store, leading, now, lambda: backend.user)
    try:
        permission.check()
        launched = backend.launch(call.order, permission, deadline=(PREPARE + SEND_WITHIN).total_seconds())
    except LaunchRejected as rejection:
        return Outcome(call=call, rejected=rejection)
    except Refused as refusal:
        if not permission.passed:
            return Outcome(call=call, refused=str(refusal))
        return Outcome(call=call, error=f"The launch was stopped while it was sent: {refusal}.", code="Refused")
    except Exception as error:
        if permission.passed:
            raise
        if not isinstance(error, BackendError):
            log.exception("The backend %s failed before it sent the launch %s.", backend.kind, call.attempt.claim)
        return Outcome(call=call, rejected=_unsent(error))
    return Outcome(call=call, launched=launched)


def _unsent(error: Exception) -> LaunchRejected:
    """What came before the first write failed: nothing runs, and the same launch may be taken later."""
    kind = type(error).__name__
    said = str(error) if isinstance(error, BackendError) else f"{kind}: {error}"
    return LaunchRejected(said, retryable=True, reason=kind)
