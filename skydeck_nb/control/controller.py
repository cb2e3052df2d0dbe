"""One database's control loop, step by step, without threads and without a clock.

Decides when to look, whom to plan, what is committed before a call is made and
what its outcome means for the rows. Refuses to know threads, sleep and the
notebook: :class:`~skydeck_nb.control.runner.Runner` drives it in a kernel,
random worlds drive it in the tests.

The order in which things become durable is the whole point: an attempt's row is
committed before its call exists, and what a call did is committed before
anything that builds on it is planned.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from skydeck_nb import codec
from skydeck_nb.backends.base import Backend
from skydeck_nb.control import backoff, calls, explaining, observing, orders, planning
from skydeck_nb.control.calls import Call, Outcome
from skydeck_nb.control.explaining import Explanation, Planned
from skydeck_nb.control.looks import Looks
from skydeck_nb.control.planning import Evidence, Plan
from skydeck_nb.control.surroundings import LoopSettings, Surroundings, budgeted
from skydeck_nb.events import (
    REQUESTS,
    AttemptUnknown,
    CancelRequested,
    CancelSent,
    Cell,
    Change,
    ConditionChanged,
    DuplicateFound,
    Event,
    ExperimentHidden,
    JobAdopted,
    JobForgotten,
    JobSubmitted,
    LaunchRequested,
    PurgeRequested,
    ReconcileFailed,
    SweepChanged,
    micros,
)
from skydeck_nb.listing import Listing, Query
from skydeck_nb.models import AttemptRow, ExperimentRow, SweepRow
from skydeck_nb.store.ledger import Ledger
from skydeck_nb.store.mirror import Mirror, Touched
from skydeck_nb.store.store import Store
from skydeck_nb.store.transaction import Transaction

FACTS_AT_ONCE: Final = 5_000
"""Facts of one listing go to the store in transactions of this many, so that a request never waits long."""

ASKING: Final = ({kind.type for kind in REQUESTS} | {JobAdopted.type, JobForgotten.type}) - {
    LaunchRequested.type,
    CancelRequested.type,
}
"""What people write: it is answered even while the backend cannot be looked at."""

FREEING: Final = frozenset({JobForgotten.type, PurgeRequested.type})
"""What lowers the usage that a budget is held against."""

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"


class Controller:
    """The loop of one process on one database. Not thread-safe: one thread drives it.

    ``random`` jitters looks and draws attempt ids where a test wants them
    repeatable; without it both come from the system.
    """

    def __init__(
        self, store: Store, backend: Backend, settings: LoopSettings, *, seeded: random.Random | None = None
    ) -> None:
        self.store = store
        self.backend = backend
        self.settings = settings
        self.ledger = Ledger()
        self.mirror = self._load()
        self.news: list[Touched] = []
        """What was taken up since the driver last emptied this list."""
        cadence = backend.cadence
        self.looks = Looks(
            settings.hot if settings.hot is not None else cadence.hot,
            settings.discovery if settings.discovery is not None else cadence.discovery,
            seeded or random.Random(),
        )
        self._draw: Callable[[], str] = (
            (lambda: "".join(seeded.choice(_ALPHABET) for _ in range(10)))
            if seeded
            else (lambda: "".join(secrets.choice(_ALPHABET) for _ in range(10)))
        )
        self.evidence = Evidence(term=0)
        self._leading = False
        self._absences: Mapping[int, int] = {}
        self._dirty: set[int] = set()
        self._asked: set[int] = set()
        self._queued: set[int] = set()
        self._due: dict[int, datetime] = {}
        self._busy: Counter[int] = Counter()
        self._looked: dict[tuple[str, bool], datetime] = {}
        self._something_alive = False
        self._alive_as_of = -1
        self._errors: dict[int, int] = defaultdict(int)

    def _load(self) -> Mirror:
        with self.store.read() as tx:
            mirror = Mirror.load(tx)
            self.ledger.advance(tx, mirror, Touched(), wanted=self._budgeted(mirror))
        return mirror

    def _budgeted(self, mirror: Mirror) -> bool:
        return budgeted(self.settings) or any(map(budgeted, mirror.sweeps.values()))

    # -- following ----------------------------------------------------------------------

    def advance(self) -> Touched:
        """Take up what anybody has committed since; whom it concerns is planned in the next pass."""
        with self.store.read() as tx:
            touched = self.mirror.advance(tx)
            self.ledger.advance(tx, self.mirror, touched, wanted=self._budgeted(self.mirror))
        self._dirty |= touched.experiments
        self._asked |= {i.experiment_id for i in touched.events if i.experiment_id and i.type in ASKING}
        if touched.sweeps:
            self._dirty |= {r.id for r in self.mirror.experiments.values() if r.sweep_id in touched.sweeps}
        if touched.groups:
            self._dirty |= self._queued
        if any(line.type in FREEING for line in touched.events):
            self._dirty |= {r.id for r in self.mirror.experiments.values() if r.reason == "LimitReached"}
        self.news.append(touched)
        return touched

    # -- leading ------------------------------------------------------------------------

    def lead(self, term: int, now: datetime) -> None:
        """This process leads from now on: nothing that was seen before counts, everything is planned anew."""
        self.evidence = Evidence(term=term)
        self._leading = True
        self._absences = {}
        self._busy.clear()
        self._looked.clear()
        self._errors.clear()
        self.looks.restart()
        self._dirty = set(self.mirror.experiments)
        self._due.clear()
        self._queued.clear()

    def follow(self) -> None:
        """This process leads no more: outcomes that are still on their way are dropped."""
        self._leading = False
        self.evidence = Evidence(term=0)
        self._busy.clear()

    @property
    def leading(self) -> bool:
        return self._leading

    # -- looking ------------------------------------------------------------------------

    def plan_everything(self) -> None:
        """Offer every experiment to the next pass."""
        self._dirty |= set(self.mirror.experiments)

    def look(self, now: datetime) -> Call | None:
        """The look that is due, if one is and none is under way."""
        if not self._leading or self.looks.waits(now):
            return None
        live = frozenset(j.id for j in self.mirror.jobs.values() if j.alive and j.watched)
        claims = frozenset(a.claim for a in self.mirror.attempts.values() if a.open and a.state != "PREPARED")
        due, discovery = self.looks.due(now, bool(live or claims))
        if not due:
            return None
        query = Query(
            deck_id=self.store.deck_id,
            job_ids=live,
            claims=claims,
            discovery=discovery,
            everyone=discovery and self.looks.everyone(now),
        )
        return calls.Observe(query=query, term=self.evidence.term, number=self.looks.begin())

    def next_look(self) -> datetime | None:
        """When the next look is due; ``None``: at once."""
        if self._alive_as_of != self.mirror.sequence:
            jobs, attempts = self.mirror.jobs.values(), self.mirror.attempts.values()
            self._something_alive = any(j.alive and j.watched for j in jobs) or any(a.open for a in attempts)
            self._alive_as_of = self.mirror.sequence
        return self.looks.next(self._something_alive)

    def next_due(self, now: datetime) -> datetime | None:
        """When the next pass is due if nobody wakes it; ``None``: not before somebody does."""
        ready = self._dirty - self._busy.keys()
        if self.evidence.failed:  # then only those that somebody asked for are planned: the others wait for a look
            return now if ready & self._asked else None
        return now if ready else min((when for i, when in self._due.items() if i not in self._busy), default=None)

    # -- outcomes -----------------------------------------------------------------------

    def finish(self, outcome: Outcome, now: datetime, took: timedelta = timedelta(0)) -> None:
        """Commit what a call's end means. Raises :class:`calls.Lost` when this process leads no more."""
        if not self._leading or outcome.call.term != self.evidence.term:
            return
        match outcome.call:
            case calls.Observe(query=query):
                self.looks.end(
                    now,
                    took,
                    discovery=query.discovery,
                    failed=outcome.listing is None,
                    needs_sign_in=outcome.needs_sign_in,
                )
                self._observed(outcome, now)
            case calls.Launch(attempt=attempt):
                self._free(attempt.experiment_id)
                self._launched(outcome, attempt, now)
                self.looks.soon(now)
            case calls.Cancel(jobs=jobs):
                for experiment_id, _ in jobs:
                    self._free(experiment_id)
                self._cancelled(outcome, jobs, now)
                self.looks.soon(now)
            case calls.Resolve(attempt=attempt):
                self._free(attempt.experiment_id)
                self._resolved(outcome, attempt, now)

    def _free(self, experiment_id: int) -> None:
        self._busy[experiment_id] -= 1
        if self._busy[experiment_id] <= 0:
            del self._busy[experiment_id]
        self._dirty.add(experiment_id)

    def _observed(self, outcome: Outcome, now: datetime) -> None:
        if outcome.listing is None:
            failed = outcome.error or "The look was given up."
            self.evidence = replace(self.evidence, failed=failed, needs_sign_in=outcome.needs_sign_in)
            waiting = {r.id for r in self.mirror.experiments.values() if r.reason == "NotYetSeen"}
            self._dirty |= waiting
            self._asked |= waiting
            return
        listing = outcome.listing
        with self.store.read() as tx:
            strange = [j.id for j in listing.jobs if j.id not in self.mirror.jobs]
            over = tx.jobs_over(strange) if strange else frozenset()
            listing = replace(listing, jobs=tuple(j for j in listing.jobs if j.id not in over))
            known = self._known(listing, tx)
        found = observing.facts(known, listing, now)
        for start in range(0, len(found.events), FACTS_AT_ONCE):
            self._commit(found.events[start : start + FACTS_AT_ONCE])
        self._absences = found.absences
        recovered = bool(self.evidence.failed)
        self.evidence = replace(self.evidence, failed="", needs_sign_in=False, listed_at=listing.begun_at)
        first = self.evidence.complete_at is None
        if listing.complete and listing.query.discovery:
            self.evidence = replace(self.evidence, complete_at=listing.begun_at)
            self._dirty |= self._unsettled()
        if recovered or first:
            self._dirty |= set(self.mirror.experiments)

    def _unsettled(self) -> set[int]:
        """Whom a lost wake could have left behind: something is alive, under way, queued, or stopped too late."""
        ids = {j.experiment_id for j in self.mirror.jobs.values() if j.alive and j.experiment_id is not None}
        ids |= {a.experiment_id for a in self.mirror.attempts.values() if a.open}
        ids |= {r.id for r in self.mirror.experiments.values() if r.current_state in ("QUEUED", "LAUNCHING")}
        return ids | self._queued | set(self._due)

    def _known(self, listing: Listing, tx: Transaction) -> observing.Known:
        jobs = dict(self.mirror.jobs)
        experiments = dict(self.mirror.experiments)
        attempts = {a.claim: a for a in self.mirror.attempts.values()}
        strange = [j for j in listing.jobs if j.id not in jobs]
        if strange:
            jobs |= {j.id: j for j in tx.jobs(ids=[j.id for j in strange])}
            new = [j for j in strange if j.id not in jobs]
            attempts |= {a.claim: a for a in tx.attempts(claims=[j.name for j in new])} if new else {}
            owners = {int(i) for j in new if (i := j.metadata.get("experiment_id", "")).isdigit()}
            owners |= {attempts[j.name].experiment_id for j in new if j.name in attempts}
            hidden = owners - experiments.keys()
            experiments |= {e.id: e for e in tx.experiments(ids=hidden, deleted=None)} if hidden else {}
        return observing.Known(
            deck_id=self.store.deck_id,
            experiments=experiments,
            jobs=jobs,
            attempts=attempts,
            absences=self._absences,
        )

    def _launched(self, outcome: Outcome, attempt: AttemptRow, now: datetime) -> None:
        common: dict[str, Any] = {"at": now, "experiment_id": attempt.experiment_id, "attempt_id": attempt.id}
        columns: dict[str, Cell]
        present = self.mirror.attempts.get(attempt.id)
        named = outcome.launched is not None and outcome.launched.job_id is not None
        if not named and (present is None or not present.open):
            return  # a listing has shown its job meanwhile, and knows more than this end of the call
        if outcome.refused:
            self._commit([observing.not_launched(attempt, "Stopped", now)])
        elif outcome.rejected is not None:
            no = outcome.rejected
            self._commit([observing.rejected(attempt, str(no), now, retryable=no.retryable)])
        elif outcome.launched is not None and outcome.launched.job_id is not None:
            job_id = outcome.launched.job_id
            changes = self._job_changes(attempt, job_id, now)
            if changes:
                self._commit([JobSubmitted(**common, job_id=job_id, changes=changes)])
        else:
            request_id = outcome.launched.request_id if outcome.launched else None
            columns = {"state": "UNKNOWN"}
            if request_id:
                columns["request_id"] = request_id
            message = outcome.error or "The backend took the request and has not named its job yet."
            self._commit(
                [AttemptUnknown(**common, message=message, changes=(Change("attempts", attempt.id, columns),))]
            )

    def _job_changes(self, attempt: AttemptRow, job_id: int, now: datetime) -> tuple[Change, ...]:
        """The rows of an answered launch; a listing may have shown the job before the answer came."""
        with self.store.read() as tx:
            row = next(iter(tx.jobs(ids=[job_id])), None)
            present = next(iter(tx.attempts(ids=[attempt.id])), attempt)
        changes: list[Change] = []
        experiment = self.mirror.experiments[attempt.experiment_id]
        if row is None:
            changes.append(codec.insert(observing.launched(attempt, job_id, experiment, now)))
        if present.state != "SUBMITTED":
            changes += observing.answered(present, job_id, experiment, now)
        return tuple(changes)

    def _cancelled(self, outcome: Outcome, jobs: Sequence[tuple[int, int]], now: datetime) -> None:
        if outcome.refused:
            return
        events: list[Event] = []
        for experiment_id, job_id in jobs:
            row = self.mirror.jobs.get(job_id)
            if outcome.cancelled:
                self._errors.pop(experiment_id, None)
                count = (row.cancel_count if row else 0) + 1
                columns: dict[str, Cell] = {
                    "cancel_sent_at": micros(now),
                    "cancel_count": count,
                    "changed_at": micros(now),
                }
                events.append(
                    CancelSent(
                        at=now,
                        experiment_id=experiment_id or None,
                        job_id=job_id,
                        count=count,
                        changes=(Change("jobs", job_id, columns),),
                    )
                )
            else:
                events.append(self._trouble(experiment_id, outcome, now, job_id=job_id))
        self._commit(events)

    def _resolved(self, outcome: Outcome, attempt: AttemptRow, now: datetime) -> None:
        if outcome.refused:
            return
        if outcome.resolution is None:
            trouble = self._trouble(attempt.experiment_id, outcome, now, attempt_id=attempt.id)
            self._commit([trouble, *observing.miscounted(self.mirror.attempts.get(attempt.id), now)])
            return
        self._errors.pop(attempt.experiment_id, None)
        with self.store.read() as tx:
            present = next(iter(tx.attempts(ids=[attempt.id])), None)
        if present is None or not present.open:
            return
        events = observing.resolved(
            present, outcome.resolution, now, lambda job_id: self._job_changes(present, job_id, now)
        )
        if events:
            self._commit(events)

    def _trouble(
        self,
        experiment_id: int,
        outcome: Outcome,
        now: datetime,
        *,
        job_id: int | None = None,
        attempt_id: str | None = None,
    ) -> Event:
        """A call failed: it is made again after a back-off, and its experiment is left alone until then."""
        self._errors[experiment_id] += 1
        wait = backoff.delay(self._errors[experiment_id], base=timedelta(seconds=1))
        self._due[experiment_id] = now + wait
        self._dirty.discard(experiment_id)
        return ReconcileFailed(
            at=now,
            experiment_id=experiment_id or None,
            job_id=job_id,
            attempt_id=attempt_id,
            message=outcome.error,
            code=outcome.code,
            retryable=True,
        )

    # -- planning -----------------------------------------------------------------------

    def plan_pass(self, now: datetime) -> list[Call]:
        """Plan everyone who is dirty or due, commit, and return the calls that may be made now."""
        if not self._leading:
            return []
        due = {i for i, when in self._due.items() if when <= now}
        ids = (self._dirty | due) - self._busy.keys()
        if ids:  # who waits for others is not asked again while nothing has moved
            ids |= self._queued - self._busy.keys()
        if self.evidence.failed:
            ids &= self._asked
        self._dirty -= ids
        self._asked -= ids
        for experiment_id in due & ids:
            self._due.pop(experiment_id)
        rows = [self.mirror.experiments[i] for i in sorted(ids) if i in self.mirror.experiments]
        around = self._around()
        plans = around.plans(rows, now)
        self._queued -= ids
        self._queued |= {i for i, plan in plans.items() if plan.reason == "Queued"}
        events: list[Event] = []
        made: list[Call] = []
        cancels: list[tuple[int, int]] = []
        for row in rows:
            plan = plans[row.id]
            if plan.requeue_after is not None:
                self._due[row.id] = now + plan.requeue_after
            for action in plan.actions:
                self._act(row, plan, action, now, events, made, cancels)
            events += _conditions(row, plan, now)
        if any(plans[row.id].reason == "LimitReached" != row.reason for row in rows):
            self._dirty |= self._unsettled()  # a budget is used up for all who share it
        cancels += self._orphans_to_cancel(events, now)
        for sweep_id, verdict in around.braked(plans).items():
            events.append(_braked(self.mirror.sweeps[sweep_id], *verdict, now))
        if events:
            self._commit(events, durable=any(isinstance(e, LaunchRequested) for e in events))
        if cancels:
            made.insert(0, calls.Cancel(jobs=tuple(cancels), term=self.evidence.term))
        for call in made:
            self._busy.update(_whose(call))
        return made

    def _around(self) -> Surroundings:
        return Surroundings(self.mirror, self.backend, self.settings, self.evidence, self.ledger)

    def _act(
        self,
        row: ExperimentRow,
        plan: Plan,
        action: planning.Action,
        now: datetime,
        events: list[Event],
        made: list[Call],
        cancels: list[tuple[int, int]],
    ) -> None:
        match action:
            case planning.Launch():
                run_name = self._around().run_name(row)
                deck_id, term = self.store.deck_id, self.evidence.term
                attempt = orders.attempt(row, action, deck_id=deck_id, term=term, attempt_id=self._draw(), now=now)
                events.append(orders.requested(row, attempt, run_name))
                order = orders.order(row, attempt, deck_id=deck_id, run_name=run_name)
                made.append(calls.Launch(attempt=attempt, order=order, term=term))
            case planning.Cancel(job_id=job_id, reason=reason):
                events.append(CancelRequested(at=now, experiment_id=row.id, job_id=job_id, reason=reason))
                cancels.append((row.id, job_id))
            case planning.Keep(job_id=kept, duplicates=duplicates):
                moved = () if kept in (None, row.current_job_id) else (_current(row, kept),)
                for job_id in duplicates:
                    events.append(
                        DuplicateFound(at=now, experiment_id=row.id, job_id=job_id, kept=kept or 0, changes=moved)
                    )
                    moved = ()
                if moved:
                    events.append(JobSubmitted(at=now, experiment_id=row.id, job_id=kept, found=True, changes=moved))
            case planning.Abandon(attempt_id=attempt_id, reason=reason):
                events.append(observing.not_launched(self.mirror.attempts[attempt_id], reason, now))
            case planning.Resolve(attempt_id=attempt_id, refuse=refuse):
                attempt = self.mirror.attempts[attempt_id]
                looked = self._looked.get((attempt_id, refuse))
                if looked is not None and now < looked + (plan.requeue_after or timedelta(0)):
                    return
                self._looked[attempt_id, refuse] = now
                if attempt.state == "SENDING":
                    events.append(_unknown(attempt, now))
                    attempt = replace(attempt, state="UNKNOWN")
                made.append(calls.Resolve(attempt=attempt, refuse=refuse, term=self.evidence.term))

    def _orphans_to_cancel(self, events: list[Event], now: datetime) -> list[tuple[int, int]]:
        """Jobs without an experiment that a person named: nobody else's plan would cancel them."""
        asked = [j for j in self.mirror.jobs.values() if j.experiment_id is None and j.cancel_asked and j.alive]
        found, _, _ = planning.cancel_jobs(asked, self.evidence, "AskedFor")
        events += [CancelRequested(at=now, job_id=c.job_id, reason=c.reason) for c in found]
        return [(0, c.job_id) for c in found]

    # -- answers ------------------------------------------------------------------------

    def explain(self, experiment_id: int, now: datetime) -> Explanation:
        """The rule that decides about one experiment now, its inputs and the age of what was seen."""
        row = self.mirror.experiments[experiment_id]
        queued = [self.mirror.experiments[i] for i in self._queued - {experiment_id}]
        next_look = self._due.get(experiment_id) or self.next_look()
        return explaining.explain(self._around(), row, queued, now, next_look)

    def preview(self, rows: Sequence[ExperimentRow], now: datetime) -> list[Planned]:
        """What the next pass would do about these rows, which need not be stored."""
        return explaining.preview(self._around(), rows, now)

    # -- committing ---------------------------------------------------------------------

    def _commit(self, events: Sequence[Event], *, durable: bool = False) -> None:
        """Write under the lease and take it up at once; raises :class:`calls.Lost` when another process leads."""
        with self.store.write(durable=durable, term=self.evidence.term) as tx:
            lease = tx.lease()
            if lease is None or lease.term != self.evidence.term or lease.holder is None:
                raise calls.Lost("another process leads")
            tx.apply(events)
        self.advance()


def _conditions(row: ExperimentRow, plan: Plan, now: datetime) -> list[Event]:
    state = plan.state or row.current_state
    wanted: dict[str, Cell] = {
        "current_state": state,
        "reason": plan.reason,
        "message": plan.message,
        "attention": int(plan.attention),
        "observed_run": row.run if plan.state is not None else row.observed_run,
    }
    present = {
        "current_state": row.current_state,
        "reason": row.reason,
        "message": row.message,
        "attention": int(row.attention),
        "observed_run": row.observed_run,
    }
    changed: dict[str, Cell] = {k: v for k, v in wanted.items() if present[k] != v}
    if plan.conditions != row.conditions:
        changed |= codec.cells("experiments", {"conditions": plan.conditions})
    if not changed:
        return []
    events: list[Event] = [
        ConditionChanged(
            at=now,
            experiment_id=row.id,
            state=state,
            reason=plan.reason,
            message=plan.message,
            attention=plan.attention,
            changes=(Change("experiments", row.id, changed),),
        )
    ]
    if plan.reason == "Deleted" != row.reason:
        events.append(ExperimentHidden(at=now, experiment_id=row.id))
    return events


def _whose(call: Call) -> set[int]:
    """The experiments that have at most one changing call at a time, for one call."""
    match call:
        case calls.Cancel(jobs=jobs):
            return {experiment_id for experiment_id, _ in jobs if experiment_id}
        case calls.Launch(attempt=attempt) | calls.Resolve(attempt=attempt):
            return {attempt.experiment_id}
        case calls.Observe():
            return set()


def _current(row: ExperimentRow, job_id: int | None) -> Change:
    return Change("experiments", row.id, {"current_job_id": job_id})


def _unknown(attempt: AttemptRow, now: datetime) -> AttemptUnknown:
    return AttemptUnknown(
        at=now,
        experiment_id=attempt.experiment_id,
        attempt_id=attempt.id,
        message="Nobody who could still answer for this launch is left.",
        changes=(Change("attempts", attempt.id, {"state": "UNKNOWN"}),),
    )


def _braked(sweep: SweepRow, verdict: str, why: str, now: datetime) -> SweepChanged:
    columns: dict[str, Cell] = {"brake": verdict, "brake_message": why, "updated_at": micros(now)}
    what = "held" if verdict == "HELD" else "passed"
    return SweepChanged(at=now, sweep_id=sweep.id, what=what, changes=(Change("sweeps", sweep.id, columns),))
