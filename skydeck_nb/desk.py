"""Where calls read the deck's rows and write what was asked: prepare, check that nothing moved, commit, wake.

Decides what of the log makes a prepared call stale, and that a call is one
durable transaction. Refuses to know what calls mean and what is shown of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from skydeck_nb import codec
from skydeck_nb.control.requesting import Work
from skydeck_nb.errors import StalePlan
from skydeck_nb.events import Event
from skydeck_nb.models import ExperimentRow, JobRow

if TYPE_CHECKING:
    from skydeck_nb.control.runner import Runner
    from skydeck_nb.store.store import Store
    from skydeck_nb.store.transaction import Transaction

T = TypeVar("T")

TRIES: Final = 3
"""Preparations outside the transaction; the next one is made inside it, where nothing can move."""

FEW: Final = 300
"""Up to so many experiments their whole histories are read; beyond, the jobs of all present runs are quicker."""

HARMLESS: Final = frozenset(
    {"condition.changed", "attempt.missed", "metric.sampled", "checkpoint.found", "sync.failed"}
)
"""Kinds of events about an experiment that no call's answer depends on."""

NAMING: Final = frozenset(
    {"spec.changed", "delete.requested", "undelete.requested", "purge.requested", "sweep.changed", "group.changed"}
)
"""Kinds that may give or free a name."""


@dataclass(frozen=True, slots=True)
class Draft(Generic[T]):
    """What a call would write and answer, and on what it depends."""

    events: Sequence[Event]
    answer: T
    ids: Collection[int] = ()
    """The experiments it read."""
    names: bool = False
    """Whether it depends on which names are taken."""
    jobs: Collection[int] = ()
    before: Mapping[int, ExperimentRow] = field(default_factory=dict)
    """The rows that the events change, as they were read."""

    def after(self) -> list[ExperimentRow]:
        """The rows as the events leave them."""
        rows = dict(self.before)
        for event in self.events:
            for change in event.changes:
                if change.table != "experiments" or not isinstance(change.key, int) or change.columns is None:
                    continue
                if change.key in rows:
                    rows[change.key] = codec.patch(rows[change.key], change.columns)
                else:
                    made = codec.make("experiments", change.key, change.columns)
                    if isinstance(made, ExperimentRow):
                        rows[change.key] = made
        return list(rows.values())


Prepare = Callable[["Transaction"], Draft[T]]


class Desk:
    """The one place through which a deck's calls reach its rows."""

    def __init__(self, store: Store, runner: Runner) -> None:
        self._store = store
        self._runner = runner

    def read(self, question: Callable[[Transaction], T]) -> T:
        """Ask of one consistent snapshot."""
        with self._store.read() as tx:
            return question(tx)

    def points(self, sweep_id: int) -> list[ExperimentRow]:
        """The experiments of a sweep that are not deleted, in the deck's order."""

        def read(tx: Transaction) -> list[ExperimentRow]:
            cells = tx.rows("experiments", ["id", "sweep_id", "deleted"])
            return ordered(tx.experiments([number for number, of, deleted in cells if of == sweep_id and not deleted]))

        return self.read(read)

    def draft(self, prepare: Prepare[T]) -> tuple[Draft[T], int]:
        """A call prepared and not written, with the sequence at which it was read."""
        with self._store.read() as tx:
            return prepare(tx), tx.sequence

    def commit(self, prepare: Prepare[T]) -> T:
        """Write what the call asks for, durably, in one transaction; the loop is woken."""
        for _ in range(TRIES):
            draft, read_at = self.draft(prepare)
            if not draft.events:
                return draft.answer
            with self._store.write(durable=True) as tx:
                if _moved(tx, read_at, draft):
                    continue
                tx.apply(draft.events)
            return self._written(draft)
        with self._store.write(durable=True) as tx:
            draft = prepare(tx)
            tx.apply(draft.events)
        return self._written(draft)

    def apply(self, draft: Draft[T], read_at: int) -> T:
        """Write a draft as it stands, or raise :class:`StalePlan`."""
        with self._store.write(durable=True) as tx:
            if _moved(tx, read_at, draft):
                raise StalePlan("What this plan read has changed since: make it again.")
            tx.apply(draft.events)
        return self._written(draft)

    def _written(self, draft: Draft[T]) -> T:
        self._runner.wake({event.experiment_id for event in draft.events if event.experiment_id is not None})
        return draft.answer


def _moved(tx: Transaction, read_at: int, draft: Draft[Any]) -> bool:
    if tx.sequence == read_at:
        return False
    ids, jobs = set(draft.ids), set(draft.jobs)
    for line in tx.log(read_at):
        if line.job_id in jobs or (draft.names and line.type in NAMING):
            return True
        if line.experiment_id in ids and line.type not in HARMLESS:
            return True
    return False


# -- What calls read --------------------------------------------------------------------


def work(tx: Transaction, rows: Collection[ExperimentRow]) -> Work:
    """What is known to run for these experiments."""
    ids = {row.id for row in rows}
    if not ids:
        return Work()
    few = len(ids) <= FEW
    found = tx.jobs(experiment_ids=ids) if few else tx.jobs_of_present_runs()
    open_ = tx.attempts(experiment_ids=ids, open=True) if few else tx.attempts(open=True)
    jobs: dict[int, list[JobRow]] = {}
    for job in found:
        if job.experiment_id in ids and job.experiment_id is not None:
            jobs.setdefault(job.experiment_id, []).append(job)
    return Work(jobs, {attempt.experiment_id for attempt in open_})


def ordered(rows: Iterable[ExperimentRow]) -> list[ExperimentRow]:
    """Rows in the deck's order."""
    return sorted(rows, key=lambda row: (row.exp_order, row.id))


def utcnow() -> datetime:
    return datetime.now(UTC)
