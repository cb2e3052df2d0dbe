"""Wall time and budgets, against what was used.

Decides when a limit of a run, or a budget of a sweep or of the deck, is used up
and when that will be. Refuses to know what follows from it, and how the jobs of
a whole sweep or deck are counted: their usage comes in as data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from skydeck_nb.control.conditions import money, seconds
from skydeck_nb.models import ExperimentRow, JobRow
from skydeck_nb.usage import Usage, of_job, total

NEARLY: Final = 1 - 1e-9
"""This share of a budget is all of it: sums of floats meet no limit exactly."""

FAR: Final = timedelta(days=365)
"""Nothing is looked at again later than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedUp:
    """Which limit is used up, and what would let the experiment go on; both in words."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be used in all, and the usage that it is held against at this moment."""

    whose: str
    """As in ``sweep ppo's``."""
    remedy: str
    max_gpu_hours: float | None = None
    max_cost: float | None = None
    usage: Usage

    def used_up(self) -> UsedUp | None:
        if self.max_gpu_hours is not None and self.usage.gpu_hours >= self.max_gpu_hours * NEARLY:
            return UsedUp(what=f"{self.whose} budget of {self.max_gpu_hours:,.6g} GPU hours", remedy=self.remedy)
        if self.max_cost is not None and self.usage.cost >= self.max_cost * NEARLY:
            return UsedUp(what=f"{self.whose} budget of {money(self.max_cost)}", remedy=self.remedy)
        return None

    def until(self) -> timedelta | None:
        """How long it lasts if everything goes on as it does; ``None``: nothing uses it."""
        if self.used_up():
            return timedelta(0)
        lasts = [
            (most - used) / rate
            for most, used, rate in (
                (self.max_gpu_hours, self.usage.gpu_hours, self.usage.gpus),
                (self.max_cost, self.usage.cost, self.usage.hourly_cost),
            )
            if most is not None and rate > 0
        ]
        if not lasts:
            return None
        hours = min(*lasts, FAR / timedelta(hours=1))
        return timedelta(microseconds=math.ceil(hours * 3.6e9))


def used_up(row: ExperimentRow, jobs: Sequence[JobRow], now: datetime) -> UsedUp | None:
    """Which limit of the experiment's present run is used up."""
    mine = _counted(row, jobs)
    if row.max_hours is not None:
        began = min((j.started_at for j in mine if j.started_at), default=None)
        if began is not None and _spent(mine, began, now) >= timedelta(hours=row.max_hours):
            return UsedUp(what=f"its wall time of {seconds(row.max_hours * 3600)}", remedy=_remedy(row))
    return _own(row, mine, now).used_up()


def spent(budgets: Iterable[Budget]) -> UsedUp | None:
    """The first of these that is used up."""
    return next((over for budget in budgets if (over := budget.used_up()) is not None), None)


def until(row: ExperimentRow, jobs: Sequence[JobRow], now: datetime, budgets: Iterable[Budget]) -> timedelta | None:
    """How long until a limit of the run, or one of these budgets, is used up; ``None``: nothing that runs has one."""
    mine = _counted(row, jobs)
    waits = [wait for budget in (_own(row, mine, now), *budgets) if (wait := budget.until()) is not None]
    if row.max_hours is not None and any(j.alive for j in mine):
        began = min((j.started_at for j in mine if j.started_at), default=None)
        if began is not None:
            waits.append(max(began + timedelta(hours=row.max_hours) - now, timedelta(0)))
    return min(waits, default=None)


def unpriced(row: ExperimentRow, job: JobRow, budgets: Iterable[Budget]) -> str:
    """Whose ``max_cost`` cannot be held while this job runs, since it has no price; empty where none is meant."""
    if job.started_at is None or job.hourly_cost is not None:
        return ""
    if row.max_cost is not None:
        return "its"
    return next((budget.whose for budget in budgets if budget.max_cost is not None), "")


def _own(row: ExperimentRow, mine: Iterable[JobRow], now: datetime) -> Budget:
    return Budget(
        whose="its",
        remedy=_remedy(row),
        max_gpu_hours=row.max_gpu_hours,
        max_cost=row.max_cost,
        usage=total(of_job(job, now) for job in mine),
    )


def _remedy(row: ExperimentRow) -> str:
    return f"raise the limit, or deck.restart({row.name!r}) begins a new run"


def _spent(jobs: Sequence[JobRow], began: datetime, now: datetime) -> timedelta:
    """Wall time of a run: from its first RUNNING until now, or until its last job ended."""
    if any(j.alive for j in jobs):
        return now - began
    return max((j.ended_at for j in jobs if j.ended_at), default=began) - began


def _counted(row: ExperimentRow, jobs: Sequence[JobRow]) -> list[JobRow]:
    """The jobs of the present run; one that a person called gone uses nothing any more."""
    return [j for j in jobs if j.run == row.run and not j.forgotten]
