"""A backend in memory: jobs that walk by themselves, and faults one can name.

For tests, and for learning what the loop does::

    import skydeck_nb as sd

    backend = sd.FakeBackend(seed=1, faults=["LostAnswer(chance=0.3)"])
    deck = sd.open(backend=backend)
    backend.inject("FailedListing", times=2)     # the next two listings fail
    backend.heal()                               # from now on all is well

``clock.py`` holds the clock that stands still, ``faults.py`` the faults and
when they strike, ``server.py`` what really happens, ``backend.py`` what a
deck is told about it. This module decides nothing and only gathers the names.
"""

from __future__ import annotations

from skydeck_nb.backends.fake.backend import FakeBackend
from skydeck_nb.backends.fake.clock import FakeClock
from skydeck_nb.backends.fake.controls import Call
from skydeck_nb.backends.fake.faults import (
    CancelIgnored,
    Duplicate,
    FailedListing,
    Fault,
    LateDuplicate,
    LateListing,
    LateRequest,
    LostAnswer,
    LostRequest,
    PartialListing,
    Preemption,
    QueuedRequest,
    Rejected,
    RejectedLater,
    Retried,
    ServerRestart,
    SignInExpired,
    Slow,
    StaleListing,
    UnknownStatus,
    Unreachable,
    UnreadableRequests,
    VanishedJob,
)
from skydeck_nb.backends.fake.server import Outcome

__all__ = [
    "Call",
    "CancelIgnored",
    "Duplicate",
    "FailedListing",
    "FakeBackend",
    "FakeClock",
    "Fault",
    "LateDuplicate",
    "LateListing",
    "LateRequest",
    "LostAnswer",
    "LostRequest",
    "Outcome",
    "PartialListing",
    "Preemption",
    "QueuedRequest",
    "Rejected",
    "RejectedLater",
    "Retried",
    "ServerRestart",
    "SignInExpired",
    "Slow",
    "StaleListing",
    "UnknownStatus",
    "Unreachable",
    "UnreadableRequests",
    "VanishedJob",
]
