"""Rows for the store's tests: made with one line each, with whatever a test is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.events import Change
from skydeck_nb.models import AttemptRow, ExperimentRow, GroupRow, JobRow, Spec, SweepRow

T0 = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def experiment(i: int, **fields: Any) -> ExperimentRow:
    spec = fields.pop("spec", None) or Spec(command=("python", "train.py"), flags={"lr": 0.1, "net.depth": 3})
    fields = {"name": f"e{i}", "spec_hash": "h", "created_at": T0, "updated_at": T0, **fields}
    return ExperimentRow(id=i, spec=spec, **fields)


def job(i: int, experiment_id: int | None, **fields: Any) -> JobRow:
    return JobRow(id=i, experiment_id=experiment_id, **{"created_at": T0, "changed_at": T0, **fields})


def attempt(i: str, experiment_id: int, **fields: Any) -> AttemptRow:
    fields = {"run": 1, "generation": 1, "claim": f"c-{i}", "spec_hash": "h", "term": 1, "created_at": T0, **fields}
    return AttemptRow(id=i, experiment_id=experiment_id, **fields)


def sweep(i: int, **fields: Any) -> SweepRow:
    return SweepRow(id=i, **{"name": f"s{i}", "definition": {}, "created_at": T0, "updated_at": T0, **fields})


def group(i: int, **fields: Any) -> GroupRow:
    return GroupRow(id=i, **{"name": f"g{i}", "created_at": T0, "updated_at": T0, **fields})


def changed(experiment_id: int | None, *changes: Change, when: datetime = T0) -> ev.Event:
    """An event of no particular kind that carries these changes."""
    return ev.SpecChanged(at=when, experiment_id=experiment_id, what="declared", generation=1, changes=changes)


def declared(*rows: ExperimentRow) -> list[ev.Event]:
    return [changed(row.id, codec.insert(row)) for row in rows]
