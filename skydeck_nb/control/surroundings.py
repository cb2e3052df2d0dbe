"""What of a deck decides about one experiment: its sweep, its jobs, the limits, what is missing.

Decides how live rows become the planner's arguments. Refuses to write, to act
and to know when a plan is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from skydeck_nb.backends.base import Backend
from skydeck_nb.control import admission, orders, planning
from skydeck_nb.control.limits import Budget
from skydeck_nb.control.planning import Evidence, Launch, Plan, Seen, Want
from skydeck_nb.errors import SkydeckError
from skydeck_nb.flags.command import argv
from skydeck_nb.models import ExperimentRow, JobRow, SweepRow
from skydeck_nb.states import FAILED
from skydeck_nb.store.ledger import Ledger
from skydeck_nb.store.mirror import Mirror
from skydeck_nb.usage import of_job


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What a deck's settings say to its loop. Seconds; ``None`` takes the backend's own cadence."""

    hot: float | None = None
    discovery: float | None = None
    max_live: int | None = None
    max_gpus: int | None = None
    max_gpu_hours: float | None = None
    max_cost: float | None = None
    run_name: str = "{name}"
    user: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The live rows, the backend and the settings, read at one moment."""

    mirror: Mirror
    backend: Backend
    settings: LoopSettings
    evidence: Evidence
    ledger: Ledger

    def plans(self, rows: Iterable[ExperimentRow], now: datetime) -> dict[int, Plan]:
        """The plan of each, all limits taken together; those that wait have the reason ``Queued``."""
        rows = list(rows)
        orphans = self._orphans()
        budgets = self._budgets(now) if rows else {}
        plans: dict[int, Plan] = {}
        candidates: dict[int, tuple[ExperimentRow, Want, Seen]] = {}
        for row in rows:
            want, seen = self._want(row, budgets), self._seen(row, orphans)
            plan = planning.plan(want, seen, now)
            if launches(plan):
                missing = self._missing(row)
                if missing is None:
                    candidates[row.id] = (row, want, seen)
                else:
                    plan = planning.plan(replace(want, missing=missing), seen, now)
            plans[row.id] = plan
        held = {i: why for i, (verdict, why) in self.braked(plans).items() if verdict == "HELD"}
        for experiment_id, (row, want, seen) in list(candidates.items()):
            if row.sweep_id in held:
                want = replace(want, held=held[row.sweep_id], sweep=self.mirror.sweeps[row.sweep_id].name)
                plans[experiment_id] = planning.plan(want, seen, now)
                if not launches(plans[experiment_id]):
                    del candidates[experiment_id]
        queue = [_candidate(row) for row, _, _ in candidates.values()]
        admitted = admission.admit(queue, self._live(), self._scopes(), self._launching(now))
        for experiment_id, why in admitted.waits.items():
            _, want, seen = candidates[experiment_id]
            plans[experiment_id] = planning.plan(replace(want, waits=why), seen, now)
        for experiment_id, why in admitted.hopeless.items():
            row, want, seen = candidates[experiment_id]
            missing = ("TooManyGpus", f"{row.name} is not launched: {why}; lower its gpus or raise max_gpus.")
            plans[experiment_id] = planning.plan(replace(want, missing=missing), seen, now)
        return plans

    def braked(self, plans: Mapping[int, Plan]) -> dict[int, tuple[str, str]]:
        """The sweeps whose brake is decided by these plans, with the verdict and why."""
        sweeps = {row.sweep_id for i in plans if (row := self.mirror.experiments.get(i)) is not None}
        ended: dict[int, list[admission.Ended]] = {
            i: [] for i in sweeps if i is not None and (s := self.mirror.sweeps.get(i)) and s.brake == "ARMED"
        }
        if not ended:
            return {}
        left: set[int] = set()
        for row in self.mirror.experiments.values():
            if row.sweep_id in ended and not row.deleted:
                one = self._ended(row, plans.get(row.id))
                if one is None:
                    left.add(row.sweep_id)
                else:
                    ended[row.sweep_id].append(one)
        verdicts = {i: admission.brake(runs) for i, runs in ended.items() if i in left}
        return {i: verdict for i, verdict in verdicts.items() if verdict is not None}

    def facts(self, row: ExperimentRow) -> Seen:
        """What is known of one experiment's jobs."""
        return self._seen(row, self._orphans())

    def _want(self, row: ExperimentRow, budgets: Mapping[int | None, Budget]) -> Want:
        sweep = self.mirror.sweeps.get(row.sweep_id) if row.sweep_id is not None else None
        shared = tuple(budgets[i] for i in dict.fromkeys((row.sweep_id, None)) if i in budgets) if budgets else ()
        if sweep is None or sweep.brake != "HELD":
            return Want(row=row, budgets=shared)
        return Want(row=row, held=sweep.brake_message, sweep=sweep.name, budgets=shared)

    def _budgets(self, now: datetime) -> Mapping[int | None, Budget]:
        """The budgets of sweeps by id, the deck's under ``None``: over all jobs ever, whatever their run."""
        sweeps = [s for s in self.mirror.sweeps.values() if budgeted(s)]
        of_deck = budgeted(self.settings)
        if not sweeps and not of_deck:
            return {}
        everybody, of_sweeps = self.ledger.of_deck(), {s.id: self.ledger.of_sweep(s.id) for s in sweeps}
        for job in self.mirror.jobs.values():
            row = self.mirror.experiments.get(job.experiment_id) if job.experiment_id is not None else None
            if row is None or not job.alive:
                continue
            used = of_job(job, now)
            everybody += used
            if row.sweep_id in of_sweeps:
                of_sweeps[row.sweep_id] += used
        budgets: dict[int | None, Budget] = {
            s.id: Budget(
                whose=f"sweep {s.name}'s",
                remedy="a larger one in the cell that declares the sweep lets it go on",
                max_gpu_hours=s.max_gpu_hours,
                max_cost=s.max_cost,
                usage=of_sweeps[s.id],
            )
            for s in sweeps
        }
        if of_deck:
            budgets[None] = Budget(
                whose="this deck's",
                remedy="open the deck with a larger one",
                max_gpu_hours=self.settings.max_gpu_hours,
                max_cost=self.settings.max_cost if self.backend.prices else None,
                usage=everybody,
            )
        return budgets

    def _seen(self, row: ExperimentRow, orphans: Mapping[str, Sequence[JobRow]]) -> Seen:
        return Seen(
            evidence=self.evidence,
            jobs=self.mirror.jobs_of(row.id),
            attempts=self.mirror.attempts_of(row.id),
            unclaimed=tuple(orphans.get(row.name, ())),
        )

    def _orphans(self) -> Mapping[str, Sequence[JobRow]]:
        found: dict[str, list[JobRow]] = defaultdict(list)
        for job in self.mirror.jobs.values():
            if job.experiment_id is None and job.alive and job.mine:
                found[job.name].append(job)
        return found

    def _missing(self, row: ExperimentRow) -> tuple[str, str] | None:
        """What keeps this process from launching it at all: a file, a secret, a command that cannot be rendered."""
        run_name = self.run_name(row)
        try:
            argv(row.spec, name=run_name)
            spec = orders.rendered(row, run_name)
        except SkydeckError as error:
            return type(error).__name__, str(error)
        return self.backend.missing(spec)

    def run_name(self, row: ExperimentRow) -> str:
        """What its runs are called: frozen at its first launch."""
        return row.run_name or self.settings.run_name.format(name=row.name, user=self.settings.user)

    def _live(self) -> dict[int, int]:
        ids = {j.experiment_id for j in self.mirror.jobs.values() if j.alive and j.experiment_id is not None}
        ids |= {a.experiment_id for a in self.mirror.attempts.values() if a.open}
        return {i: self.mirror.experiments[i].spec.total_gpus for i in ids if i in self.mirror.experiments}

    def _launching(self, now: datetime) -> set[int]:
        """Whose launch is under way on the server, for all one knows."""
        return {a.experiment_id for a in self.mirror.attempts.values() if planning.under_way(a, now)}

    def _scopes(self) -> list[admission.Scope]:
        scopes = [
            admission.Scope(name="this deck", max_live=self.settings.max_live),
            admission.Scope(name="this deck", max_gpus=self.settings.max_gpus),
        ]
        limited = {s.id: s for s in self.mirror.sweeps.values() if s.max_live is not None}
        if limited:
            members: dict[int, set[int]] = {i: set() for i in limited}
            for row in self.mirror.experiments.values():
                if row.sweep_id in members:
                    members[row.sweep_id].add(row.id)
            scopes += [
                admission.Scope(name=f"sweep {s.name}", max_live=s.max_live, members=frozenset(members[s.id]))
                for s in limited.values()
            ]
        for group in self.mirror.groups.values():
            if group.max_live is not None:
                inside = frozenset(self.mirror.members.get(group.id, {}))
                scopes.append(admission.Scope(name=f"group {group.name}", max_live=group.max_live, members=inside))
        scopes.append(admission.Scope(name="the server", max_launches=self.backend.cadence.launches))
        return scopes

    def _ended(self, row: ExperimentRow, plan: Plan | None) -> admission.Ended | None:
        state = plan.state if plan is not None and plan.state is not None else row.current_state
        if row.deleted or row.desired_state != "RUNNING" or state not in ("SUCCEEDED", "FAILED"):
            return None
        job = self.mirror.jobs.get(row.current_job_id) if row.current_job_id is not None else None
        if job is not None and job.run == row.run and job.ended_at is not None:
            error = job.error_message or job.reason or job.status
            return admission.Ended(
                ended_at=job.ended_at, experiment_id=row.id, failed=job.status in FAILED, error=error
            )
        refused = [a for a in self.mirror.attempts_of(row.id) if a.run == row.run and a.state == "REJECTED"]
        if not refused or refused[-1].ended_at is None:
            return None
        return admission.Ended(
            ended_at=refused[-1].ended_at, experiment_id=row.id, failed=True, error=refused[-1].error or ""
        )


def budgeted(of: SweepRow | LoopSettings) -> bool:
    """Whether it has a budget in GPU hours or dollars."""
    return of.max_gpu_hours is not None or of.max_cost is not None


def launches(plan: Plan) -> bool:
    return any(isinstance(action, Launch) for action in plan.actions)


def _candidate(row: ExperimentRow) -> admission.Candidate:
    return admission.Candidate(
        experiment_id=row.id, gpus=row.spec.total_gpus, priority=row.priority, since=row.wanted_at or row.created_at
    )
