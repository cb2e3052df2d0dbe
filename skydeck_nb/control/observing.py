"""What happened between what was known and one listing, as facts.

Decides which job is ours, what changed, what is lost and which unanswered
launches are found. Refuses to know the database, the planner and the clock.

A listing is evidence about a job or claim only if it covers it and was begun
after the last change that we know of; whatever else it is, it is not news.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from skydeck_nb import codec
from skydeck_nb.control.backoff import REJECTED_AGAIN
from skydeck_nb.events import (
    AttemptMissed,
    AttemptNotLaunched,
    AttemptRejected,
    Cell,
    Change,
    Event,
    JobFinished,
    JobFound,
    JobLost,
    JobPlaced,
    JobPreempted,
    JobRecovered,
    JobStarted,
    JobStateChanged,
    JobSubmitted,
    micros,
)
from skydeck_nb.events import JobSeen as OrphanSeen
from skydeck_nb.listing import Listing, Resolution, SeenJob
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow, Spec
from skydeck_nb.states import TERMINAL

ABSENCES: Final = 2
"""A job that this many covering listings in a row do not show is lost."""

FIRST_MISS: Final = timedelta(seconds=120)
"""The first clean miss counts this long after ``send_before`` at the earliest: late rows are not late for ever."""

NEXT_MISS: Final = timedelta(seconds=60)

CLEAN_MISSES: Final = 2

NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known before a listing is looked at.

    ``jobs``: every job of the listing that has a row, and all that are alive.
    ``attempts``: by claim, for every name in the listing that is a claim of
    ours. ``absences``: how many covering listings in a row lacked a job.
    """

    deck_id: str
    experiments: Mapping[int, ExperimentRow]
    jobs: Mapping[int, JobRow]
    attempts: Mapping[str, AttemptRow]
    absences: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    events: tuple[Event, ...]
    absences: Mapping[int, int]
    """The next listing's ``Known.absences``."""


def facts(known: Known, listing: Listing, now: datetime) -> Facts:
    """What one listing says that was not known. An unchanged world makes no event."""
    events: list[Event] = []
    shown: set[int] = set()
    taken: set[int] = set()
    absences: dict[int, int] = {}
    for job in listing.jobs:
        row = known.jobs.get(job.id)
        if row is None:
            shown.add(job.id)
            events += _first_sight(known, job, now, everyone=listing.query.everyone)
        elif _same(row, job):
            shown.add(job.id)
            if listing.begun_at >= row.changed_at:
                events += _changes(row, job, now)
        else:
            taken.add(job.id)
    for row in known.jobs.values():
        if row.id in shown or not row.alive or not listing.covers(row.id) or listing.begun_at < row.changed_at:
            continue
        if row.experiment_id is None:
            events.append(_gone(row, now))
        elif listing.proves_death:
            events.append(_died(row, now))
        elif not row.lost:
            count = known.absences.get(row.id, 0) + 1
            if count < ABSENCES and row.id not in taken:
                absences[row.id] = count
            else:
                events.append(_lost(row, now))
    return Facts(events=tuple(events), absences=absences)


def _same(row: JobRow, job: SeenJob) -> bool:
    """Whether the listed job is the one that the row is about: an id alone is no proof."""
    if row.adopted or row.experiment_id is None or row.attempt_id is None:
        users = row.user is None or job.user is None or row.user == job.user
        return row.name == job.name and users and _at_once(row.submitted_at, job.submitted_at)
    return job.metadata.get("attempt_id") == row.attempt_id or job.name == row.name


def _at_once(one: datetime | None, other: datetime | None) -> bool:
    return one is None or other is None or abs(one - other) < timedelta(seconds=1)


def _claims(job: SeenJob, deck_id: str) -> Mapping[str, str]:
    """What a job's metadata says of this deck; nothing where its name is not one of this deck's.

    Metadata alone is copied with a task's YAML, by whoever runs it under a name of their own.
    """
    return job.metadata if job.metadata.get("deck_id") == deck_id and f"-sd{deck_id}-" in job.name else {}


def _first_sight(known: Known, job: SeenJob, now: datetime, *, everyone: bool) -> list[Event]:
    attempt = known.attempts.get(job.name)
    claimed = _claims(job, known.deck_id)
    experiment_id = _int(claimed.get("experiment_id")) or (attempt.experiment_id if attempt else None)
    owner = known.experiments.get(experiment_id) if experiment_id is not None else None
    if (attempt is None and not claimed) or owner is None:
        if job.status in TERMINAL or not (job.mine or everyone):
            return []
        orphan = codec.insert(_row(job, now))
        return [OrphanSeen(at=now, job_id=job.id, name=job.name, status=job.status, changes=(orphan,))]
    row = _row(
        _as_asked(job, owner.spec),
        now,
        experiment_id=experiment_id,
        attempt_id=claimed.get("attempt_id") or (attempt.id if attempt else None),
        run=_int(claimed.get("run")) or (attempt.run if attempt else 0),
        generation=_int(claimed.get("generation")) or (attempt.generation if attempt else 0),
    )
    changes = [codec.insert(row)]
    if attempt is not None and attempt.open:
        changes += answered(attempt, job.id, known.experiments[attempt.experiment_id], now)
    events: list[Event] = [
        JobSubmitted(
            at=job.submitted_at or now,
            experiment_id=experiment_id,
            job_id=job.id,
            attempt_id=row.attempt_id,
            found=True,
            changes=tuple(changes),
        )
    ]
    if job.status in TERMINAL:
        events.append(_finished(job, experiment_id, now))
    return events


def _as_asked(job: SeenJob, spec: Spec) -> SeenJob:
    """What the backend leaves unsaid of its machines is as it was asked for."""
    return replace(
        job,
        nodes=spec.nodes if job.nodes is None else job.nodes,
        gpus=spec.gpus if job.gpus is None else job.gpus,
        accelerators=spec.accelerators if job.accelerators is None else job.accelerators,
    )


def launched(attempt: AttemptRow, job_id: int, experiment: ExperimentRow, now: datetime) -> JobRow:
    """The row of a job of which only its id was answered."""
    spec = experiment.spec
    return JobRow(
        id=job_id,
        experiment_id=experiment.id,
        attempt_id=attempt.id,
        run=attempt.run,
        generation=attempt.generation,
        name=attempt.claim,
        nodes=spec.nodes,
        gpus=spec.gpus,
        accelerators=spec.accelerators,
        git_commit=spec.git_commit,
        created_at=now,
        submitted_at=now,
        changed_at=now,
    )


def answered(attempt: AttemptRow, job_id: int, experiment: ExperimentRow, now: datetime) -> list[Change]:
    """The attempt is answered by this job, which becomes its experiment's current one if the run is the same."""
    changes = [
        Change("attempts", attempt.id, {"state": "SUBMITTED", "job_id": job_id, "ended_at": micros(now), "error": None})
    ]
    if experiment.run == attempt.run:
        changes.append(Change("experiments", experiment.id, {"current_job_id": job_id}))
    return changes


_PLAIN: Final = (
    "status",
    "reason",
    "exit_code",
    "recoveries",
    "infra",
    "cluster_name",
    "nodes",
    "gpus",
    "accelerators",
    "command",
    "logs_path",
    "run_dir",
    "user",
    "workspace",
    "url",
    "hourly_cost",
)
_UNPLACED: Final = frozenset({"PENDING", "SUBMITTED"})
_TIMES: Final = ("submitted_at", "started_at", "ended_at")


def _row(job: SeenJob, now: datetime, **ours: Any) -> JobRow:
    """A job that has no row yet; its ``changed_at`` lies before every listing."""
    said = {name: getattr(job, name) for name in (*_PLAIN, *_TIMES)}
    return JobRow(
        id=job.id,
        name=job.name,
        mine=job.mine,
        created_at=now,
        changed_at=NEVER,
        error_message=job.message or None,
        git_commit=_commit(job),
        **said,
        **ours,
    )


def _changes(row: JobRow, job: SeenJob, now: datetime) -> list[Event]:
    """What changed of a job that is known; nothing that a backend left unsaid erases what it said before."""
    if row.status in TERMINAL and not row.lost and not row.forgotten:
        return []
    changed: dict[str, Cell] = {}
    for name in _PLAIN:
        value: Any = getattr(job, name)
        if value is not None and value != getattr(row, name):
            changed[name] = value
    for name in _TIMES:
        when: datetime | None = getattr(job, name)
        if when is not None and when != getattr(row, name):
            changed[name] = micros(when)
    if (job.message or None) != row.error_message:
        changed["error_message"] = job.message or None
    if (commit := _commit(job)) is not None and commit != row.git_commit:
        changed["git_commit"] = commit
    back = row.lost or (row.forgotten and job.status not in TERMINAL)
    if back:
        changed |= {"lost": 0, "forgotten": 0}
    elif row.forgotten:
        return []
    if not changed:
        return []
    moved = job.status != row.status
    if moved and job.status in TERMINAL and job.ended_at is None and row.ended_at is None:
        changed["ended_at"] = micros(now)

    extra: list[Event] = []
    common: dict[str, Any] = {"at": now, "experiment_id": row.experiment_id, "job_id": row.id}
    if back and row.experiment_id is not None:
        extra.append(JobFound(**common, status=job.status))
    if {"infra", "cluster_name", "accelerators"} & changed.keys() and job.status not in _UNPLACED:
        extra.append(
            JobPlaced(
                **common, cluster=job.cluster_name, infra=job.infra, accelerators=job.accelerators, nodes=job.nodes
            )
        )
    if "started_at" in changed and row.started_at is None and job.started_at is not None:
        extra.append(JobStarted(**common, started_at=job.started_at))
    if job.recoveries > row.recoveries:
        extra.append(JobRecovered(**common, recoveries=job.recoveries, infra=job.infra))
    if moved and job.status == "RECOVERING":
        extra.append(JobPreempted(**common, reason=job.reason))
    if moved and job.status in TERMINAL:
        extra.append(_finished(job, row.experiment_id, now, began=row.started_at))
    elif moved or not extra:
        extra.append(JobStateChanged(**common, previous=row.status, status=job.status, reason=job.reason))
    first, *rest = extra
    return [_with(first, Change("jobs", row.id, changed)), *rest]


def _finished(job: SeenJob, experiment_id: int | None, now: datetime, began: datetime | None = None) -> JobFinished:
    started, ended = job.started_at or began, job.ended_at or now
    return JobFinished(
        at=ended,
        experiment_id=experiment_id,
        job_id=job.id,
        status=job.status,
        success=job.status == "SUCCEEDED",
        duration=(ended - started).total_seconds() if started else None,
        exit_code=job.exit_code,
        error=job.message or None if job.status != "SUCCEEDED" else None,
    )


def _with(event: Event, change: Change) -> Event:
    return replace(event, changes=(change,))


def _lost(row: JobRow, now: datetime) -> JobLost:
    return JobLost(
        at=now, experiment_id=row.experiment_id, job_id=row.id, changes=(Change("jobs", row.id, {"lost": 1}),)
    )


def _died(row: JobRow, now: datetime) -> JobFinished:
    error = "The job's folder is gone and nothing of it runs."
    columns: dict[str, Cell] = {
        "status": "FAILED",
        "reason": "JobGone",
        "error_message": error,
        "ended_at": micros(now),
        "lost": 0,
    }
    return JobFinished(
        at=now,
        experiment_id=row.experiment_id,
        job_id=row.id,
        status="FAILED",
        success=False,
        error=error,
        changes=(Change("jobs", row.id, columns),),
    )


def _gone(row: JobRow, now: datetime) -> JobStateChanged:
    """An orphan that is not listed any more, or nobody asks for: it was never ours to judge, so it is only hidden."""
    return JobStateChanged(
        at=now,
        job_id=row.id,
        previous=row.status,
        status=row.status,
        reason="NotListed",
        changes=(Change("jobs", row.id, {"forgotten": 1}),),
    )


def _commit(job: SeenJob) -> str | None:
    """The commit that the job was launched at, as ``git describe --dirty`` marks a tree that was more than that."""
    commit = job.metadata.get("git_commit")
    return f"{commit}-dirty" if commit and job.metadata.get("git_dirty") == "1" else commit


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


# -- launches without an answer ---------------------------------------------------------


def resolved(
    attempt: AttemptRow, found: Resolution, now: datetime, job: Callable[[int], tuple[Change, ...]]
) -> tuple[Event, ...]:
    """What one look for an unanswered launch proves; ``job`` makes the changes for a job id that it found."""
    common: dict[str, Any] = {"at": now, "experiment_id": attempt.experiment_id, "attempt_id": attempt.id}
    if found.job_id is not None:
        return (JobSubmitted(**common, job_id=found.job_id, found=True, changes=job(found.job_id)),)
    if found.rejected:
        return (rejected(attempt, found.rejected, now, retryable=found.retryable),)
    if found.never:
        return (not_launched(attempt, "NeverSent", now),)
    if not found.clean_miss:
        return miscounted(attempt, now)
    since = attempt.send_before or attempt.created_at
    if found.begun_at < since + FIRST_MISS:
        return ()
    if attempt.missed_at is not None and found.begun_at < attempt.missed_at + NEXT_MISS:
        return ()
    misses = attempt.misses + 1
    if misses >= CLEAN_MISSES:
        return (not_launched(attempt, "NotFound", now),)
    missed = Change("attempts", attempt.id, {"misses": misses, "missed_at": micros(found.begun_at)})
    return (AttemptMissed(**common, misses=misses, changes=(missed,)),)


def miscounted(attempt: AttemptRow | None, now: datetime) -> tuple[Event, ...]:
    """Anything but a clean miss, a look that failed too, begins the count anew."""
    if attempt is None or attempt.misses == 0:
        return ()
    cleared = Change("attempts", attempt.id, {"misses": 0, "missed_at": None})
    common: dict[str, Any] = {"at": now, "experiment_id": attempt.experiment_id, "attempt_id": attempt.id}
    return (AttemptMissed(**common, misses=0, changes=(cleared,)),)


def not_launched(attempt: AttemptRow, reason: str, now: datetime) -> AttemptNotLaunched:
    """It is certain that this attempt makes no job."""
    columns: dict[str, Cell] = {"state": "NOT_LAUNCHED", "ended_at": micros(now), "error": reason}
    return AttemptNotLaunched(
        at=now,
        experiment_id=attempt.experiment_id,
        attempt_id=attempt.id,
        reason=reason,
        changes=(Change("attempts", attempt.id, columns),),
    )


def rejected(attempt: AttemptRow, message: str, now: datetime, *, retryable: bool) -> AttemptRejected:
    """The backend said no to this attempt, at once or later: it makes no job."""
    error = f"{REJECTED_AGAIN}: {message}" if retryable else message
    columns: dict[str, Cell] = {"state": "REJECTED", "error": error, "ended_at": micros(now)}
    return AttemptRejected(
        at=now,
        experiment_id=attempt.experiment_id,
        attempt_id=attempt.id,
        message=message,
        retryable=retryable,
        changes=(Change("attempts", attempt.id, columns),),
    )
