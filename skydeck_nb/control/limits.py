"""Wall time and GPU hours of a run, against what it may use.

Decides when a limit is used up and when that will be. Refuses to know what
follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from skydeck_nb.control.conditions import seconds
from skydeck_nb.models import ExperimentRow, JobRow


def used_up(row: ExperimentRow, jobs: Sequence[JobRow], now: datetime) -> str:
    """Which limit of the present run is used up, in words; empty when none is."""
    mine = _counted(row, jobs)
    if row.max_hours is not None:
        began = min((j.started_at for j in mine if j.started_at), default=None)
        if began is not None and _spent(mine, began, now) >= timedelta(hours=row.max_hours):
            return f"wall time of {seconds(row.max_hours * 3600)}"
    if row.max_gpu_hours is not None and _gpu_hours(row, mine, now) >= row.max_gpu_hours:
        return f"budget of {row.max_gpu_hours:g} GPU hours"
    return ""


def _spent(jobs: Sequence[JobRow], began: datetime, now: datetime) -> timedelta:
    """Wall time of a run: from its first RUNNING until now, or until its last job ended."""
    if any(j.alive for j in jobs):
        return now - began
    return max((j.ended_at for j in jobs if j.ended_at), default=began) - began


def _gpu_hours(row: ExperimentRow, jobs: Sequence[JobRow], now: datetime) -> float:
    total = 0.0
    for job in jobs:
        if job.started_at is not None:
            gpus = (job.nodes or row.spec.nodes) * (job.gpus if job.gpus is not None else row.spec.gpus or 0)
            total += ((job.ended_at or now) - job.started_at).total_seconds() / 3600 * gpus
    return total


def until(row: ExperimentRow, jobs: Sequence[JobRow], now: datetime) -> timedelta | None:
    mine = [j for j in _counted(row, jobs) if j.started_at]
    if not mine:
        return None
    waits: list[timedelta] = []
    if row.max_hours is not None:
        began = min(j.started_at for j in mine if j.started_at)
        waits.append(began + timedelta(hours=row.max_hours) - now)
    if row.max_gpu_hours is not None and row.spec.total_gpus:
        left = row.max_gpu_hours - _gpu_hours(row, mine, now)
        waits.append(timedelta(hours=left / row.spec.total_gpus))
    return max(min(waits), timedelta(0)) if waits else None


def _counted(row: ExperimentRow, jobs: Sequence[JobRow]) -> list[JobRow]:
    """The jobs of the present run; one that a person called gone uses nothing any more."""
    return [j for j in jobs if j.run == row.run and not j.forgotten]
