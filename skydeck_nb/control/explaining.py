"""The loop's answers to *why* and *what next*, without acting.

Decides what an explanation holds and how a dry run reads. Refuses to decide
anything about an experiment: the planner does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from skydeck_nb.control import planning
from skydeck_nb.control.surroundings import Surroundings
from skydeck_nb.models import ExperimentRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one experiment is as it is: the rule that decided, its inputs, the age of what was seen."""

    experiment_id: int
    name: str
    state: str
    reason: str
    message: str
    rule: str
    attention: bool
    actions: tuple[str, ...]
    """What the next pass does about it, in the planner's words."""
    inputs: Mapping[str, object] = field(default_factory=dict)
    seen_at: datetime | None = None
    next_look_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One thing that the next pass would do. ``gpus`` counts over all nodes."""

    experiment_id: int
    name: str
    action: str
    reason: str
    gpus: int


def explain(
    around: Surroundings,
    row: ExperimentRow,
    queued: Sequence[ExperimentRow],
    now: datetime,
    next_look_at: datetime | None,
) -> Explanation:
    """Why this one is as it is; ``queued`` are those that wait with it."""
    plan = around.plans([*queued, row], now)[row.id]
    seen = around.facts(row)
    return Explanation(
        experiment_id=row.id,
        name=row.name,
        state=plan.state or row.current_state,
        reason=plan.reason,
        message=plan.message,
        rule=plan.rule,
        attention=plan.attention,
        actions=tuple(type(a).__name__ for a in plan.actions),
        inputs={
            "desired": row.desired_state,
            "run": row.run,
            "generation": row.generation,
            "jobs": {j.id: j.status for j in seen.jobs},
            "attempts": {a.id: a.state for a in seen.attempts},
            "term": around.evidence.term or None,
        },
        seen_at=around.evidence.listed_at,
        next_look_at=next_look_at,
    )


def preview(around: Surroundings, rows: Sequence[ExperimentRow], now: datetime) -> list[Planned]:
    """What the next pass would do about these rows, which need not be stored.

    A deck that has not seen its backend yet is previewed as if it had just now.
    """
    if around.evidence.complete_at is None:
        around = replace(around, evidence=replace(around.evidence, complete_at=now, failed=""))
    plans = around.plans(rows, now)
    made: list[Planned] = []
    for row in rows:
        plan = plans[row.id]
        if plan.reason == "Queued":
            made.append(_planned(row, "queue", plan.message))
        acts = (action for action in plan.actions if not isinstance(action, planning.Keep))
        made += [_planned(row, type(action).__name__.lower(), plan.message) for action in acts]
    return made


def _planned(row: ExperimentRow, action: str, reason: str) -> Planned:
    return Planned(experiment_id=row.id, name=row.name, action=action, reason=reason, gpus=row.spec.total_gpus)
