"""What to do next about one experiment, from what is wanted and what is seen.

Decides actions, the shown state and the reason. Refuses I/O, clocks and
randomness: the same arguments give the same plan, whatever happened before. It
takes state, never an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from skydeck_nb.control import backoff, limits
from skydeck_nb.control.conditions import DYNAMIC, REASONS, seconds, sentence, times
from skydeck_nb.control.limits import Budget, UsedUp
from skydeck_nb.models import AttemptRow, Condition, ExperimentRow, JobRow
from skydeck_nb.states import FAILED, PERMANENT, PROGRESS, State, of_job

CANCEL_AGAIN: Final = timedelta(seconds=60)
"""A cancel is repeated only when a listing begun this much later shows the job unchanged."""

CANCELS: Final = 3
"""After this many cancels without effect a person must look."""

SEND_WITHIN: Final = timedelta(seconds=60)
"""A launch may be sent this long after its permission; later, its transport refuses."""

GOOD: Final = frozenset({"Running", "CostUnknown", "Succeeded"})
"""The reasons of an experiment that runs, or ran, as it was wanted."""

LOOKED_FOR: Final = timedelta(minutes=10)
"""After this long a launch that can be neither found nor ruled out needs a person; it is still looked for."""

ANSWER_GRACE: Final = timedelta(seconds=15)
"""How long after ``send_before`` the sender itself is still expected to report."""

NAMED_WITHIN: Final = timedelta(minutes=5)
"""A server that took a launch is trusted this long after ``send_before`` to name its job."""

NAMED_SOON: Final = timedelta(seconds=30)
"""Most jobs are named this long after the permission to send: until then one looks every other second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the last looks at the backend are worth.

    ``complete_at``: when the last complete listing of our ids and claims was
    begun, ``None`` before the first one of this ``term``. ``failed``: why the
    last look failed, empty when it did not; ``needs_sign_in``: for want of a
    sign-in, which is said once for the deck and not in each row.
    """

    term: int
    complete_at: datetime | None = None
    listed_at: datetime | None = None
    failed: str = ""
    needs_sign_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One experiment and what of its surroundings decides about it."""

    row: ExperimentRow
    held: str = ""
    """Why its sweep's brake holds what has not started; empty when it does not."""
    sweep: str = ""
    missing: tuple[str, str] | None = None
    """Reason and sentence of what it needs and the loop's process lacks."""
    waits: str | None = None
    """Why it is not admitted; ``None`` when it is."""
    budgets: tuple[Budget, ...] = ()
    """Those that it shares with others, its sweep's and the deck's, with what all of them have used by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of one experiment's jobs: all that are alive, and all of its present run."""

    evidence: Evidence
    jobs: tuple[JobRow, ...] = ()
    attempts: tuple[AttemptRow, ...] = ()
    """The open one, and those of the present run."""
    unclaimed: tuple[JobRow, ...] = ()
    """Live jobs of the own user that have the experiment's name and no claim of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    run: int
    generation: int
    replacing: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    job_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Of several live jobs, this one is the experiment's; the others are duplicates."""

    job_id: int | None
    duplicates: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandon:
    """Close an attempt of which certainly nothing was sent."""

    attempt_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Look for an unanswered launch; ``refuse`` also keeps it from making a job, as far as the backend can."""

    attempt_id: str
    refuse: bool = False


Action = Launch | Cancel | Keep | Abandon | Resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do and why. ``requeue_after`` says when to look again without being woken."""

    actions: tuple[Action, ...] = ()
    state: State | None = None
    """``None`` keeps the state that is shown."""
    reason: str
    message: str
    rule: str
    attention: bool = False
    conditions: tuple[Condition, ...] = ()
    requeue_after: timedelta | None = None


def plan(want: Want, seen: Seen, now: datetime) -> Plan:
    """One experiment's next step: purely computational, whatever the history."""
    row, evidence = want.row, seen.evidence
    if evidence.failed:
        if evidence.needs_sign_in:
            return _because(row, "NeedsSignIn")
        return _because(row, "ListingFailed", error=evidence.failed)
    alive = tuple(sorted((j for j in seen.jobs if j.alive), key=lambda j: j.id))
    attempt = next((a for a in seen.attempts if a.open), None)
    if row.desired_state != "RUNNING" or row.deleted:
        return _unwanted(row, seen, alive, attempt, now)
    older = tuple(j for j in alive if j.run != row.run)
    if older or (attempt is not None and attempt.run != row.run):
        return _older(row, seen, alive, attempt, now)
    if attempt is not None and not alive:
        return _unanswered(row, attempt, evidence, now)
    if alive:
        return _alive(want, seen, alive, attempt, now)
    return _idle(want, seen, now)


# -- nothing wanted ---------------------------------------------------------------------


def _unwanted(
    row: ExperimentRow, seen: Seen, alive: tuple[JobRow, ...], attempt: AttemptRow | None, now: datetime
) -> Plan:
    close, wait = _close(attempt, seen.evidence, now, "Stopped")
    cancels, again, stuck = cancel_jobs(alive, seen.evidence, "Stopped")
    if stuck is not None:
        return _because(
            row,
            "CancelHadNoEffect",
            actions=(*close, *cancels),
            state="STOPPING",
            job=stuck.id,
            count=stuck.cancel_count,
        )
    lost = [j for j in alive if j.lost]
    if lost and len(lost) == len(alive) and attempt is None:
        return _because(row, "JobLost", state="LOST", job=lost[0].id)
    if attempt is not None and not alive and _given_time(attempt, now):
        return _because(
            row,
            "LaunchLost",
            actions=close,
            state="STOPPING",
            requeue_after=wait,
            claim=attempt.claim,
            attempt=attempt.id,
        )
    if alive or attempt is not None:
        what = (
            f"job {alive[0].id} is being cancelled"
            if alive
            else f"its launch {attempt.id if attempt else ''} is looked for"
        )
        return _because(
            row,
            "Stopping",
            actions=(*close, *cancels),
            state="STOPPING",
            requeue_after=_soonest(wait, again),
            what=what,
        )
    last = _last(row, seen.jobs)
    if row.deleted:
        return _because(row, "Deleted", state="STOPPED")
    if last is not None and last.status == "SUCCEEDED":
        return _done(row, last)
    if row.run == 0:
        return _because(row, "NeverStarted", state="STOPPED")
    if row.desired_state == "TERMINATED":
        return _because(row, "Terminated", state="STOPPED")
    return _because(row, "Stopped", state="STOPPED", why=f" and job {last.id} has ended" if last else "")


def cancel_jobs(
    alive: Iterable[JobRow], evidence: Evidence, reason: str
) -> tuple[tuple[Cancel, ...], timedelta | None, JobRow | None]:
    """The cancels to send now, when to look again, and a job on which they had no effect."""
    cancels: list[Cancel] = []
    again: timedelta | None = None
    stuck: JobRow | None = None
    for job in alive:
        if job.lost or (job.status == "CANCELLING" and job.cancel_sent_at is None):
            continue
        if job.cancel_sent_at is None:
            cancels.append(Cancel(job_id=job.id, reason=reason))
            continue
        again = CANCEL_AGAIN
        unchanged = evidence.listed_at is not None and evidence.listed_at >= job.cancel_sent_at + CANCEL_AGAIN
        if unchanged and job.status != "CANCELLING":
            if job.cancel_count < CANCELS:
                cancels.append(Cancel(job_id=job.id, reason=reason))
            else:
                stuck = job
    return tuple(cancels), again, stuck


def _close(
    attempt: AttemptRow | None, evidence: Evidence, now: datetime, reason: str
) -> tuple[tuple[Action, ...], timedelta | None]:
    """What to do about an open attempt that is not wanted any more, and when to look again."""
    if attempt is None:
        return (), None
    if attempt.state == "PREPARED":
        return (Abandon(attempt_id=attempt.id, reason=reason),), None
    return (Resolve(attempt_id=attempt.id, refuse=True),), _next_look(attempt, now)


# -- wanted, something is alive or under way --------------------------------------------


def _older(
    row: ExperimentRow, seen: Seen, alive: tuple[JobRow, ...], attempt: AttemptRow | None, now: datetime
) -> Plan:
    older = tuple(j for j in alive if j.run != row.run)
    present = tuple(j for j in alive if j.run == row.run and not j.lost)
    kept = keeper(row, present, seen)
    twins = tuple(j for j in present if kept is None or j.id != kept.id)
    stale = attempt if attempt is not None and attempt.run != row.run else None
    close, wait = _close(stale, seen.evidence, now, "OlderRun")
    cancels, again, stuck = cancel_jobs((*older, *twins), seen.evidence, "OlderRun")
    if stuck is not None:
        return _because(
            row,
            "CancelHadNoEffect",
            actions=(*close, *cancels),
            state="STOPPING",
            job=stuck.id,
            count=stuck.cancel_count,
        )
    lost = next((j for j in older if j.lost), None)
    if lost is not None:
        return _because(row, "JobLost", actions=(*close, *cancels), state="LOST", job=lost.id)
    if not older and stale is not None:
        return _because(row, "LaunchUnknown", actions=close, state="STOPPING", requeue_after=wait, claim=stale.claim)
    return _because(
        row,
        "OlderRun",
        actions=(*close, *cancels),
        state="STOPPING",
        requeue_after=_soonest(wait, again),
        job=older[0].id,
    )


def _unanswered(row: ExperimentRow, attempt: AttemptRow, evidence: Evidence, now: datetime) -> Plan:
    if attempt.state == "PREPARED":
        if attempt.term != evidence.term:
            return _because(
                row, "Launching", actions=(Abandon(attempt_id=attempt.id, reason="LeaderGone"),), state="QUEUED"
            )
        return _because(row, "Launching", state="LAUNCHING")
    sender_expected = (
        attempt.state == "SENDING"
        and attempt.term == evidence.term
        and attempt.send_before is not None
        and now < attempt.send_before + ANSWER_GRACE
    )
    if sender_expected:
        return _because(row, "Launching", state="LAUNCHING", requeue_after=ANSWER_GRACE)
    reason = (
        "LaunchAccepted" if _accepted(attempt, now) else "LaunchLost" if _given_time(attempt, now) else "LaunchUnknown"
    )
    return _because(
        row,
        reason,
        actions=(Resolve(attempt_id=attempt.id),),
        state="LAUNCHING",
        requeue_after=_next_look(attempt, now),
        claim=attempt.claim,
        request=attempt.request_id,
        attempt=attempt.id,
    )


def _given_time(attempt: AttemptRow, now: datetime) -> bool:
    """Whether it was looked for long enough for a person to be asked."""
    return now > (attempt.send_before or attempt.created_at) + LOOKED_FOR


def under_way(attempt: AttemptRow, now: datetime) -> bool:
    """Whether a launch still keeps the server busy, for all one knows: one lost answer does not do so for ever."""
    if attempt.state == "PREPARED":
        return True
    return attempt.open and attempt.misses == 0 and now < _named_before(attempt)


def _named_before(attempt: AttemptRow) -> datetime:
    return (attempt.send_before or attempt.created_at) + NAMED_WITHIN


def _accepted(attempt: AttemptRow, now: datetime) -> bool:
    """Whether the server took the launch and may still be about to name its job."""
    return attempt.request_id is not None and attempt.misses == 0 and now < _named_before(attempt)


def _next_look(attempt: AttemptRow, now: datetime) -> timedelta:
    """When an unanswered launch is looked for again: often at first, then each minute, then rarer.

    It is looked for while any doubt is left, for days if need be.
    """
    age = now - (attempt.send_before or attempt.created_at)
    if _accepted(attempt, now) and age < NAMED_SOON - SEND_WITHIN:
        return timedelta(seconds=2)
    if age < timedelta(minutes=2):
        return timedelta(seconds=5)
    return timedelta(seconds=20) if age < timedelta(minutes=30) else timedelta(minutes=5)


def _alive(want: Want, seen: Seen, alive: tuple[JobRow, ...], attempt: AttemptRow | None, now: datetime) -> Plan:
    row = want.row
    actions, requeue = _close(attempt, seen.evidence, now, "DuplicateFound")
    present = tuple(j for j in alive if not j.lost)
    if not present:
        return _because(row, "JobLost", actions=actions, state="LOST", requeue_after=requeue, job=alive[0].id)
    kept = keeper(row, present, seen)
    ending = tuple(j for j in present if kept is None or j.id != kept.id or j.cancel_asked)
    over = limits.used_up(row, seen.jobs, now) or limits.spent(want.budgets)
    cancels, again, stuck = cancel_jobs(
        present if over else ending, seen.evidence, "LimitReached" if over else "DuplicateFound"
    )
    actions = (*actions, *cancels)
    requeue = _soonest(requeue, again, limits.until(row, seen.jobs, now, want.budgets) if not over else None)
    state: State = "STOPPING" if over or kept is None else of_job(kept.status)
    if stuck is not None:
        return _because(row, "CancelHadNoEffect", actions=actions, state=state, job=stuck.id, count=stuck.cancel_count)
    if over:
        return _over(row, over, actions=actions, state=state, requeue_after=requeue)
    if kept is None:
        found = Keep(job_id=row.current_job_id, duplicates=tuple(c.job_id for c in cancels))
        return _because(
            row, "LateTwin", actions=(found, *actions), state=state, requeue_after=requeue, job=ending[0].id
        )
    if len(present) > 1 or row.current_job_id != kept.id:
        duplicates = tuple(c.job_id for c in cancels if c.job_id != kept.id)
        if duplicates or row.current_job_id != kept.id:
            actions = (Keep(job_id=kept.id, duplicates=duplicates), *actions)
    facts: dict[str, object] = {"job": kept.id, "kept": kept.id, "count": len(present), "status": kept.status}
    reason = {
        "RUNNING": "Running",
        "STARTING": "Starting",
        "PENDING": "Pending",
        "RECOVERING": "Recovering",
        "STOPPING": "BeingCancelled",
    }.get(state, "UnknownStatus")
    if len(present) > 1:
        reason = "DuplicateFound"
    elif len(alive) > 1:
        reason, facts["job"] = "JobLost", next(j.id for j in alive if j.lost)
    elif kept.cancel_asked:
        reason, state = "Stopping", "STOPPING"
    elif whose := limits.unpriced(row, kept, want.budgets):
        reason, facts["whose"] = "CostUnknown", whose
    elif kept.generation != row.generation:
        reason = "RestartToApply"
    plan = _because(
        row,
        reason,
        actions=actions,
        state=state,
        requeue_after=requeue,
        why=f" ({(kept.error_message or kept.reason).rstrip('.')})" if kept.error_message or kept.reason else "",
        what=f"job {kept.id} is being cancelled",
        **facts,
    )
    if kept.reason and reason in ("Pending", "Starting", "Recovering"):  # the backend's own word says more
        return replace(plan, reason=kept.reason, conditions=_conditions(kept.reason, plan.message))
    return plan


def keeper(row: ExperimentRow, present: Sequence[JobRow], seen: Seen) -> JobRow | None:
    """Of the live jobs of one run the one that stays: the recorded one, else the furthest along, else the lowest id.

    ``None`` when the run has ended already and what lives is a twin that came
    late: a launch given up for good, or one that the backend carried out twice.
    """
    recorded = {a.job_id for a in seen.attempts if a.state == "SUBMITTED"}
    ended = any(j.run == row.run and not j.alive and not j.forgotten for j in seen.jobs)

    def rank(job: JobRow) -> tuple[bool, bool, int, int]:
        going = job.status == "CANCELLING" or job.cancel_sent_at is not None
        progress = PROGRESS.index(job.status) if job.status in PROGRESS else len(PROGRESS)
        return going, job.id != row.current_job_id, progress, job.id

    own = [j for j in present if not ended or j.adopted or j.id in recorded]
    return min(own, key=rank, default=None)


# -- wanted, nothing is alive -----------------------------------------------------------


def _idle(want: Want, seen: Seen, now: datetime) -> Plan:
    row = want.row
    jobs = tuple(j for j in seen.jobs if j.run == row.run and not j.forgotten)
    last = _last(row, jobs)
    if last is not None and last.status == "SUCCEEDED":
        return _done(row, last)
    ended: State = "FAILED" if last and last.status in FAILED else "CANCELLED"
    if over := limits.used_up(row, jobs, now):
        return _over(row, over, state=ended)
    if last is not None and last.status == "CANCELLED" and (last.cancel_sent_at is None or last.cancel_asked):
        return _because(row, "CancelledElsewhere", state="CANCELLED", job=last.id)
    if last is not None and (refusal := _after_failure(row, jobs, last, now)) is not None:
        return refusal
    if (refusal := _after_rejection(row, seen.attempts, now)) is not None:
        return refusal
    if over := limits.spent(want.budgets):
        return _over(row, over, state=ended if last else "QUEUED")
    if want.held and last is None and row.run == 1:  # what a person asked for again goes on
        return _because(row, "SweepHeld", state="QUEUED", sweep=want.sweep, why=want.held)
    if seen.unclaimed:
        return _because(row, "UnclaimedJobAlive", state="QUEUED", job=seen.unclaimed[0].id)
    if want.missing is not None:
        reason, message = want.missing
        return Plan(
            state="QUEUED",
            reason=reason,
            message=message,
            rule=DYNAMIC,
            attention=True,
            conditions=_conditions(reason, message),
            requeue_after=backoff.BASE,
        )
    if seen.evidence.complete_at is None:
        return _because(row, "NotYetSeen", state="QUEUED")
    if want.waits is not None:
        return _because(row, "Queued", state="QUEUED", why=want.waits)
    launch = Launch(run=row.run, generation=row.generation, replacing=last.id if last else None)
    return _because(row, "Launching", actions=(launch,), state="LAUNCHING")


def _after_failure(row: ExperimentRow, jobs: Sequence[JobRow], last: JobRow, now: datetime) -> Plan | None:
    """Why the last failure keeps it from being launched (again), else ``None``."""
    if last.status not in FAILED:
        return None
    said = last.error_message or last.reason or last.status
    if last.status in PERMANENT:
        return _because(row, "FailedSetup", state="FAILED", job=last.id, last=said)
    if last.status == "FAILED_CONTROLLER":
        return _because(row, "NeedsPerson", state="FAILED", job=last.id)
    ended = last.ended_at or last.changed_at
    if last.status == "FAILED_NO_RESOURCE":
        wait = backoff.delay(backoff.shortages(jobs), base=backoff.NO_RESOURCE, cap=backoff.NO_RESOURCE_CAP)
        left = backoff.due(ended, wait, now)
        return (
            None
            if not left
            else _because(row, "NoResource", state="QUEUED", requeue_after=left, delay=seconds(wait.total_seconds()))
        )
    used = len(backoff.failed_runs(jobs))
    if used > row.max_restarts:
        if row.max_restarts == 0:
            return _because(row, "Failed", state="FAILED", job=last.id, last=said)
        limit = "restart is" if row.max_restarts == 1 else f"{row.max_restarts} restarts are"
        return _because(row, "RestartLimit", state="FAILED", failures=times(used), limit=limit, last=said)
    streak = backoff.streak(jobs)
    left = backoff.due(ended, backoff.delay(streak), now)
    return (
        None
        if not left
        else _because(
            row,
            "BackOff",
            state="QUEUED",
            requeue_after=left,
            failures=times(streak),
            last=said,
            delay=seconds(backoff.delay(streak).total_seconds()),
            used=used,
            limit=row.max_restarts,
        )
    )


def _after_rejection(row: ExperimentRow, attempts: Sequence[AttemptRow], now: datetime) -> Plan | None:
    closed = sorted((a for a in attempts if a.run == row.run and a.ended_at), key=lambda a: (a.created_at, a.id))
    if not closed or closed[-1].state != "REJECTED":
        return None
    last = closed[-1]
    error = last.error or "the backend gave no reason"
    if not error.startswith(f"{backoff.REJECTED_AGAIN}: "):
        return _because(row, "LaunchRejected", state="FAILED", error=error)
    in_a_row = 0
    for attempt in reversed(closed):
        if attempt.state != "REJECTED":
            break
        in_a_row += 1
    wait = backoff.delay(in_a_row)
    left = backoff.due(last.ended_at or now, wait, now)
    return (
        None
        if not left
        else _because(
            row,
            "LaunchRetry",
            state="QUEUED",
            requeue_after=left,
            error=error.removeprefix(f"{backoff.REJECTED_AGAIN}: ").rstrip("."),
            delay=seconds(wait.total_seconds()),
        )
    )


def _done(row: ExperimentRow, last: JobRow) -> Plan:
    reason = "Succeeded" if last.generation == row.generation else "Outdated"
    return _because(row, reason, state="SUCCEEDED", job=last.id)


def _last(row: ExperimentRow, jobs: Sequence[JobRow]) -> JobRow | None:
    """The last job of the present run; of duplicates, the one the experiment records as its own."""
    ended = [j for j in jobs if j.run == row.run and not j.alive and not j.forgotten]
    if row.current_job_id is not None:
        current = next((j for j in ended if j.id == row.current_job_id), None)
        if current is not None:
            return current
    return max(ended, key=lambda j: (j.submitted_at or j.created_at, j.id), default=None)


# -- words ------------------------------------------------------------------------------


def _because(
    row: ExperimentRow,
    reason: str,
    *,
    actions: tuple[Action, ...] = (),
    state: State | None = None,
    requeue_after: timedelta | None = None,
    **facts: object,
) -> Plan:
    text = REASONS[reason]
    message = sentence(reason, name=row.name, **facts)
    return Plan(
        actions=actions,
        state=state,
        reason=reason,
        message=message,
        rule=text.rule,
        attention=text.attention,
        conditions=_conditions(reason, message),
        requeue_after=requeue_after,
    )


def _over(
    row: ExperimentRow,
    over: UsedUp,
    *,
    actions: tuple[Action, ...] = (),
    state: State,
    requeue_after: timedelta | None = None,
) -> Plan:
    return _because(
        row,
        "LimitReached",
        actions=actions,
        state=state,
        requeue_after=requeue_after,
        limit=over.what,
        remedy=over.remedy,
    )


def _conditions(reason: str, message: str) -> tuple[Condition, ...]:
    if reason in ("ListingFailed", "NeedsSignIn"):
        return (Condition(type="Observed", status="Unknown", reason=reason, message=message),)
    ready = Condition(type="Ready", status="True" if reason in GOOD else "False", reason=reason, message=message)
    if reason in ("RestartToApply", "Outdated"):
        return ready, Condition(type="UpToDate", status="False", reason=reason, message=message)
    return (ready,)


def _soonest(*waits: timedelta | None) -> timedelta | None:
    return min((w for w in waits if w is not None), default=None)
