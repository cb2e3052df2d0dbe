"""What was wanted and what happened: ``Event = Request | Fact``, one frozen dataclass a kind.

Decides the vocabulary, its encoding, and the fold of a log into rows. Refuses
to know SQL, clocks and who listens.

Every change of experiments, attempts, jobs, groups, sweeps and checkpoints is
an event that carries the changed columns (:class:`Change`), in the store's own
scalars, so that folding the log gives the stored rows. Events are history:
replaying them launches nothing. Kinds with ``recorded = False`` are published
to whoever listens and never written (a gauge, a log line).

Decoding is lenient: an unknown kind, written by a newer deck, is skipped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Union, get_args

Cell = str | int | float | None
"""What SQLite stores of ours: integers for times (microseconds, UTC) and booleans, text for JSON."""

Key = int | str | tuple[int, int]
"""A row's primary key; a pair for the members of groups and for checkpoints."""


@dataclass(frozen=True, slots=True)
class Change:
    """The changed columns of one row; ``columns is None`` removes the row."""

    table: str
    key: Key
    columns: Mapping[str, Cell] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    type: ClassVar[str]
    recorded: ClassVar[bool] = True
    at: datetime
    """When it happened, by the clock of whoever saw it; the log adds when it was recorded."""
    experiment_id: int | None = None
    job_id: int | None = None
    changes: tuple[Change, ...] = ()


# -- Requests: somebody wants something -------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecChanged(_Base):
    """An experiment was declared, edited, renamed, tagged or starred."""

    type: ClassVar[str] = "spec.changed"
    what: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequested(_Base):
    """An experiment should run. ``how`` is start, retry or restart."""

    type: ClassVar[str] = "start.requested"
    how: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(_Base):
    """No job of this experiment should be alive."""

    type: ClassVar[str] = "stop.requested"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateRequested(_Base):
    """No job and no cluster of this experiment should be alive."""

    type: ClassVar[str] = "terminate.requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequested(_Base):
    """An experiment should be stopped, then hidden."""

    type: ClassVar[str] = "delete.requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class UndeleteRequested(_Base):
    """A deleted experiment should be shown again, stopped."""

    type: ClassVar[str] = "undelete.requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeRequested(_Base):
    """The rows of a deleted experiment are removed for good."""

    type: ClassVar[str] = "purge.requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(_Base):
    """One job is to be cancelled. ``by`` is loop or user."""

    type: ClassVar[str] = "cancel.requested"
    reason: str
    by: str = "loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequested(_Base):
    """The loop wants one job. Written before the backend is called; its attempt is the claim."""

    type: ClassVar[str] = "launch.requested"
    attempt_id: str
    run: int
    generation: int
    spec_hash: str
    replacing: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepChanged(_Base):
    """A sweep was declared, changed, held by its brake or released from it."""

    type: ClassVar[str] = "sweep.changed"
    sweep_id: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChanged(_Base):
    """A group or its members changed."""

    type: ClassVar[str] = "group.changed"
    group_id: int
    what: str


# -- Facts: it happened -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAllowed(_Base):
    """A prepared launch may be sent until the ``send_before`` that the changes carry."""

    type: ClassVar[str] = "attempt.sending"
    attempt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptUnknown(_Base):
    """A launch may have been sent and no answer is known: it is looked for, never repeated."""

    type: ClassVar[str] = "attempt.unknown"
    attempt_id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptMissed(_Base):
    """One clean miss of an unknown launch was counted, or the count was restarted."""

    type: ClassVar[str] = "attempt.missed"
    attempt_id: str
    misses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptNotLaunched(_Base):
    """It is certain that this launch made no job; a new attempt may follow."""

    type: ClassVar[str] = "attempt.not_launched"
    attempt_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRejected(_Base):
    """The backend refused the launch."""

    type: ClassVar[str] = "attempt.rejected"
    attempt_id: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(_Base):
    """The backend took the job, or the job of an unanswered launch was found."""

    type: ClassVar[str] = "job.submitted"
    attempt_id: str | None = None
    found: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAdopted(_Base):
    """A person put an orphan under an experiment."""

    type: ClassVar[str] = "job.adopted"
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen(_Base):
    """A job that carries no claim of this deck was seen for the first time, or changed."""

    type: ClassVar[str] = "job.seen"
    name: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlaced(_Base):
    """The backend gave the job machines."""

    type: ClassVar[str] = "job.placed"
    cluster: str | None = None
    infra: str | None = None
    accelerators: str | None = None
    nodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(_Base):
    """The job's command began."""

    type: ClassVar[str] = "job.started"
    task_id: int = 0
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStateChanged(_Base):
    """The job's status moved; both words are the backend's own."""

    type: ClassVar[str] = "job.state"
    previous: str
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPreempted(_Base):
    """The job lost its machines and the backend recovers it."""

    type: ClassVar[str] = "job.preempted"
    reason: str = ""
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecovered(_Base):
    """The job runs again; ``recoveries`` jumps by more than one when polls missed some."""

    type: ClassVar[str] = "job.recovered"
    recoveries: int
    infra: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(_Base):
    """The job reached a terminal status. ``duration`` in seconds."""

    type: ClassVar[str] = "job.finished"
    status: str
    success: bool
    duration: float | None = None
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLost(_Base):
    """The job is gone from two covering listings: it counts as alive until a person decides."""

    type: ClassVar[str] = "job.lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFound(_Base):
    """A lost job was seen again."""

    type: ClassVar[str] = "job.found"
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobForgotten(_Base):
    """A person said that this job is gone."""

    type: ClassVar[str] = "job.forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSent(_Base):
    """The backend was told to cancel; only a listing shows whether it did."""

    type: ClassVar[str] = "cancel.sent"
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateFound(_Base):
    """Two live jobs carry claims of one experiment; ``job_id`` is cancelled, ``kept`` stays."""

    type: ClassVar[str] = "duplicate.found"
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileFailed(_Base):
    """A call or a pass failed; ``retryable`` says whether the loop tries again by itself."""

    type: ClassVar[str] = "reconcile.failed"
    attempt_id: str | None = None
    message: str
    code: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionChanged(_Base):
    """The loop's answer to *why* is another one now."""

    type: ClassVar[str] = "condition.changed"
    state: str
    reason: str
    message: str
    attention: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentHidden(_Base):
    """Nothing of a deleted experiment is alive any more."""

    type: ClassVar[str] = "experiment.hidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFound(_Base):
    """A checkpoint was written, or changed."""

    type: ClassVar[str] = "checkpoint.found"
    epoch: int
    model_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFailed(_Base):
    """Metrics or checkpoints of an experiment could not be read."""

    type: ClassVar[str] = "sync.failed"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTaken(_Base):
    """A process leads: from here on, its term alone may act."""

    type: ClassVar[str] = "lease.taken"
    term: int
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(_Base):
    """A process noticed that it does not lead any more, or gave the lease up."""

    type: ClassVar[str] = "lease.lost"
    term: int
    holder: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSampled(_Base):
    """One reading of a run."""

    type: ClassVar[str] = "metric.sampled"
    recorded: ClassVar[bool] = False
    name: str
    value: float
    step: int | None = None


Request = Union[  # noqa: UP007  (get_args reads it)
    SpecChanged,
    StartRequested,
    StopRequested,
    TerminateRequested,
    DeleteRequested,
    UndeleteRequested,
    PurgeRequested,
    CancelRequested,
    LaunchRequested,
    SweepChanged,
    GroupChanged,
]
Fact = Union[  # noqa: UP007
    SendAllowed,
    AttemptUnknown,
    AttemptMissed,
    AttemptNotLaunched,
    AttemptRejected,
    JobSubmitted,
    JobAdopted,
    JobSeen,
    JobPlaced,
    JobStarted,
    JobStateChanged,
    JobPreempted,
    JobRecovered,
    JobFinished,
    JobLost,
    JobFound,
    JobForgotten,
    CancelSent,
    DuplicateFound,
    ReconcileFailed,
    ConditionChanged,
    ExperimentHidden,
    CheckpointFound,
    SyncFailed,
    LeaseTaken,
    LeaseLost,
    MetricSampled,
]
Event = Request | Fact

REQUESTS: Final[tuple[type[_Base], ...]] = get_args(Request)
FACTS: Final[tuple[type[_Base], ...]] = get_args(Fact)
KINDS: Final[Mapping[str, type[Any]]] = {cls.type: cls for cls in (*REQUESTS, *FACTS)}
"""Every kind by the word that tags it in the log."""

_COMMON: Final = frozenset({"at", "experiment_id", "job_id", "changes"})
_DATETIMES: Final = frozenset({"started_at"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def micros(when: datetime) -> int:
    """Microseconds since 1970, UTC; the store's only way to write a time."""
    delta = when - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment(us: int) -> datetime:
    """The aware UTC datetime of a stored time."""
    seconds, micro = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micro)


def data(event: Event) -> dict[str, Any]:
    """The fields of this kind alone, without time, ids and changes: what ``deck.events()`` shows."""
    return {f.name: getattr(event, f.name) for f in dataclasses.fields(event) if f.name not in _COMMON}


def encode(event: Event) -> str:
    """The payload of one event; its type, time and ids stand in columns beside it."""
    fields = {k: micros(v) if isinstance(v, datetime) else v for k, v in data(event).items()}
    changes = [[c.table, list(c.key) if isinstance(c.key, tuple) else c.key, c.columns] for c in event.changes]
    return json.dumps({**fields, "changes": changes} if changes else fields, separators=(",", ":"))


def decode_changes(payload: str) -> tuple[Change, ...]:
    """The changes alone, also of a kind that this build does not know."""
    return tuple(
        Change(table, tuple(key) if isinstance(key, list) else key, columns)
        for table, key, columns in json.loads(payload).get("changes", ())
    )


def decode(type_: str, at: int, experiment_id: int | None, job_id: int | None, payload: str) -> Event | None:
    """One event of the log, or ``None`` when this build cannot read it (another build wrote it)."""
    cls = KINDS.get(type_)
    if cls is None:
        return None
    fields: dict[str, Any] = json.loads(payload)
    names = {f.name for f in dataclasses.fields(cls)}
    known = {k: moment(v) if k in _DATETIMES else v for k, v in fields.items() if k in names - _COMMON}
    try:
        event: Event = cls(
            at=moment(at), experiment_id=experiment_id, job_id=job_id, changes=decode_changes(payload), **known
        )
    except TypeError:
        return None
    return event


Tables = MutableMapping[str, MutableMapping[Key, dict[str, Cell]]]
"""``{table: {key: {column: cell}}}``: what a log folds to."""


def fold(tables: Tables, changes: Iterable[Change]) -> None:
    """Apply changes in order, in place."""
    for change in changes:
        rows = tables.setdefault(change.table, {})
        if change.columns is None:
            rows.pop(change.key, None)
        else:
            rows.setdefault(change.key, {}).update(change.columns)
