"""What jobs use: GPU hours, and US dollars as an estimate.

Decides how much one job has used by a moment and how fast it goes on. Refuses
to know limits, experiments' runs and where prices come from. A cost is the time
since the command began times the price an hour that the backend last listed:
what machines cost before that, storage and traffic are in no estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from skydeck_nb.models import JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Used until a moment (``gpu_hours``, ``cost``), and by the hour from then on (``gpus``, ``hourly_cost``)."""

    gpu_hours: float = 0.0
    cost: float = 0.0
    gpus: int = 0
    hourly_cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            gpu_hours=self.gpu_hours + other.gpu_hours,
            cost=self.cost + other.cost,
            gpus=self.gpus + other.gpus,
            hourly_cost=self.hourly_cost + other.hourly_cost,
        )


def of_job(job: JobRow, now: datetime) -> Usage:
    """What one job has used. Without a price it costs nothing here."""
    ended = now if job.alive and job.ended_at is None else job.ended_at
    if job.started_at is None or ended is None:
        return Usage()
    hours = max((ended - job.started_at).total_seconds(), 0.0) / 3600
    gpus = (job.nodes or 1) * (job.gpus or 0)
    price = job.hourly_cost or 0.0
    goes_on = job.ended_at is None
    return Usage(
        gpu_hours=hours * gpus,
        cost=hours * price,
        gpus=gpus if goes_on else 0,
        hourly_cost=price if goes_on else 0.0,
    )


def total(usages: Iterable[Usage]) -> Usage:
    return sum(usages, Usage())
