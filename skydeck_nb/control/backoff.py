"""How long to wait before trying again, and which failures count.

Decides delays and streaks. Refuses to know what is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from skydeck_nb.models import JobRow
from skydeck_nb.states import FAILED

BASE: Final = timedelta(seconds=10)
"""First delay after a failure: Kubernetes' crash loop curve, which people know."""

CAP: Final = timedelta(minutes=5)
"""A longer delay would outlive the patience of whoever fixes the cause."""

HEALTHY: Final = timedelta(minutes=10)
"""A run that stayed up this long was not broken from the start: the delay begins anew."""

NO_RESOURCE: Final = timedelta(minutes=5)
"""First delay when no cloud had a machine; asking sooner asks the same empty shelf."""

NO_RESOURCE_CAP: Final = timedelta(hours=1)

REJECTED_AGAIN: Final = "Retry"
"""How an attempt's ``error`` begins when the refused launch may be taken later."""


def delay(failures: int, *, base: timedelta = BASE, cap: timedelta = CAP) -> timedelta:
    """``base``, twice that, four times that … ``cap``, after this many failures in a row (0: at once)."""
    return timedelta(0) if failures <= 0 else min(base * 2 ** min(failures - 1, 30), cap)


def failed_runs(jobs: Sequence[JobRow]) -> tuple[JobRow, ...]:
    """The failures that count as used restarts, oldest first: not those where no machine was had."""
    return tuple(j for j in _in_order(jobs) if j.status in FAILED and j.status != "FAILED_NO_RESOURCE")


def streak(jobs: Sequence[JobRow]) -> int:
    """Failures in a row, counted back from the last, up to one that stayed up long enough to be healthy."""
    count = 0
    for job in reversed(failed_runs(jobs)):
        if _uptime(job) >= HEALTHY:
            return count + 1
        count += 1
    return count


def shortages(jobs: Sequence[JobRow]) -> int:
    """How often in a row, counted back from the last job, no machine was had."""
    count = 0
    for job in reversed(_in_order(jobs)):
        if job.status != "FAILED_NO_RESOURCE":
            break
        count += 1
    return count


def _in_order(jobs: Sequence[JobRow]) -> list[JobRow]:
    return sorted(jobs, key=lambda j: (j.submitted_at or j.created_at, j.id))


def _uptime(job: JobRow) -> timedelta:
    return job.ended_at - job.started_at if job.started_at and job.ended_at else timedelta(0)


def due(ended_at: datetime, wait: timedelta, now: datetime) -> timedelta:
    """How long from ``now`` until ``wait`` after ``ended_at`` has passed; zero when it has."""
    return max(ended_at + wait - now, timedelta(0))
