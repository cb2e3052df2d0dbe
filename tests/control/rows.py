"""Rows for the tables of the control tests: short to write, complete to read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from skydeck_nb.control.limits import Budget
from skydeck_nb.control.planning import Evidence, Plan, Seen, Want, plan
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow, Spec
from skydeck_nb.usage import Usage

T = datetime(2026, 1, 1, tzinfo=UTC)
SEEN = Evidence(term=3, complete_at=T, listed_at=T)


def ago(seconds: float) -> datetime:
    return T - timedelta(seconds=seconds)


def experiment(**columns: Any) -> ExperimentRow:
    defaults: dict[str, Any] = {
        "id": 1,
        "name": "exp",
        "spec": Spec(command=("true",), gpus=2, nodes=2),
        "spec_hash": "h",
        "desired_state": "RUNNING",
        "run": 1,
        "created_at": ago(3600),
        "updated_at": ago(3600),
        "wanted_at": ago(60),
    }
    return ExperimentRow(**defaults | columns)


def job(id: int = 1, status: str = "RUNNING", **columns: Any) -> JobRow:
    defaults: dict[str, Any] = {
        "id": id,
        "experiment_id": 1,
        "attempt_id": f"attempt{id}",
        "run": 1,
        "generation": 1,
        "name": f"exp-sdabcdef-attempt{id}",
        "status": status,
        "created_at": ago(100 - id),
        "submitted_at": ago(100 - id),
        "nodes": 2,
        "gpus": 2,
        "changed_at": ago(100 - id),
    }
    return JobRow(**defaults | columns)


def failed(id: int = 1, status: str = "FAILED", *, ended: float = 0, up: float = 5, **columns: Any) -> JobRow:
    """A job that failed ``ended`` seconds ago after ``up`` seconds."""
    return job(id, status, started_at=ago(ended + up), ended_at=ago(ended), **columns)


def attempt(id: str = "attempt1", state: str = "UNKNOWN", **columns: Any) -> AttemptRow:
    defaults: dict[str, Any] = {
        "id": id,
        "experiment_id": 1,
        "run": 1,
        "generation": 1,
        "claim": f"exp-sdabcdef-{id}",
        "spec_hash": "h",
        "term": 3,
        "state": state,
        "created_at": ago(90),
        "send_before": None if state == "PREPARED" else ago(30),
    }
    return AttemptRow(**defaults | columns)


def budget(whose: str = "sweep s's", **what: Any) -> Budget:
    """A budget that several share; what is left of its words is usage."""
    limits = {name: what.pop(name) for name in ("max_gpu_hours", "max_cost") if name in what}
    return Budget(whose=whose, remedy="a larger one lets it go on", usage=Usage(**what), **limits)


def planned(
    row: ExperimentRow,
    *jobs: JobRow,
    attempts: tuple[AttemptRow, ...] = (),
    evidence: Evidence = SEEN,
    unclaimed: tuple[JobRow, ...] = (),
    now: datetime = T,
    **surroundings: Any,
) -> Plan:
    return plan(
        Want(row=row, **surroundings), Seen(evidence=evidence, jobs=jobs, attempts=attempts, unclaimed=unclaimed), now
    )
