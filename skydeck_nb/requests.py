"""The calls of a deck that ask for something: select, prepare, write or plan, answer.

Decides how a request is answered: a frame of outcomes, or with ``dry_run`` a
plan of what would be done. Refuses to decide what a word means for a row
(:mod:`skydeck_nb.control.requesting` does) and how it is written (the desk does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from skydeck_nb import codec
from skydeck_nb.control import editing, requesting
from skydeck_nb.control.declaring import Call, Declared
from skydeck_nb.control.requesting import How, Outcome, Prepared, Work
from skydeck_nb.declarations import Declaration, cost, surroundings, told
from skydeck_nb.desk import Desk, Draft, utcnow, work
from skydeck_nb.errors import InvalidSetting, UnknownExperiment
from skydeck_nb.events import Event, Key
from skydeck_nb.models import ExperimentRow, JobRow
from skydeck_nb.notices import Notices
from skydeck_nb.plan import Plan
from skydeck_nb.results import Result
from skydeck_nb.roster import Lookup
from skydeck_nb.selection import Picked, Selection

if TYPE_CHECKING:
    from skydeck_nb.backends.base import Backend
    from skydeck_nb.control.runner import LoopStatus, Runner
    from skydeck_nb.store.transaction import Transaction

Rows = Sequence[ExperimentRow]
Word = Callable[[Rows, Work, datetime], Prepared]
STARTED = frozenset({"started", "retried", "restarted"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call did to which experiments, and when an edit applies."""

    outcomes: Sequence[Outcome]
    applies: Sequence[str] | None = None
    notices: Sequence[str] = ()


class Requests:
    """Everything a deck's calls ask for."""

    def __init__(self, desk: Desk, lookup: Lookup, runner: Runner, backend: Backend, notices: Notices) -> None:
        self._desk = desk
        self._lookup = lookup
        self._runner = runner
        self._backend = backend
        self._notices = notices

    # -- words about experiments ---------------------------------------------------------

    def act(self, selection: Selection, word: Word, *, dry_run: bool, deleted: bool | None = False) -> Result | Plan:
        """Apply one word to a selection."""
        return self.act_on(self._lookup.pick(selection, deleted=deleted), word, dry_run=dry_run)

    def act_on(
        self,
        picked: Picked,
        word: Word,
        *,
        dry_run: bool,
        also: Callable[[Transaction, datetime], tuple[Sequence[Event], str]] | None = None,
    ) -> Result | Plan:
        """The same for rows that are known; ``also`` asks for something besides, and says so."""
        ids = [row.id for row in picked.rows]
        now = utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            rows = _in_order(tx.experiments(ids, deleted=None), ids) if ids else []
            events, outcomes = word(rows, work(tx, rows), now)
            first, said = also(tx, now) if also is not None else ((), "")
            started = {outcome.experiment_id for outcome in outcomes if outcome.action in STARTED}
            going = [row for row in rows if row.id in started]
            sweeps = {row.sweep_id for row in going if row.sweep_id is not None}
            price = cost(going, None, tx.sweeps(sweeps) if sweeps else ())
            notices = [*picked.notices, said, f"That is {price}." if price else ""]
            before = {row.id: row for row in rows}
            return Draft([*first, *events], Answer(outcomes, notices=notices), ids=ids, before=before)

        return self._answer(prepare, dry_run=dry_run)

    def start(self, selection: Selection, how: How, *, dry_run: bool) -> Result | Plan:
        return self.act(
            selection, lambda rows, known, now: requesting.start(rows, known, now, how=how), dry_run=dry_run
        )

    def start_sweep(self, sweep_id: int, rows: Rows, first: int | None, *, dry_run: bool) -> Result | Plan:
        """Start points of a sweep, the next ``first`` of them, and let go what its brake holds."""

        def word(found: Rows, known: Work, now: datetime) -> Prepared:
            if first is not None:
                found = [row for row in found if requesting.phase(row, known) in ("new", "stopped")][:first]
            return requesting.start([row for row in found if not row.deleted], known, now)

        def also(tx: Transaction, now: datetime) -> tuple[Sequence[Event], str]:
            sweep = tx.sweeps([sweep_id])[0]
            events = requesting.release(sweep, now)
            if events and first is not None:
                raise InvalidSetting(
                    f"The sweep {sweep.name} is held by its brake: sweep.start() lets all that waits go on, and "
                    f"first={first} chooses among points that were never asked for; call it without first."
                )
            return events, "What its brake held goes on." if events else ""

        return self.act_on(Picked(tuple(rows)), word, dry_run=dry_run, also=also)

    def undelete(self, selection: Selection, *, dry_run: bool) -> Result | Plan:
        picked = self._lookup.pick(selection, deleted=True)
        ids = [row.id for row in picked.rows]
        now = utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            rows = _in_order(tx.experiments(ids, deleted=None), ids) if ids else []
            events, outcomes = requesting.undelete(rows, _taken(tx), now)
            before = {row.id: row for row in rows}
            return Draft(events, Answer(outcomes, notices=picked.notices), ids=ids, names=True, before=before)

        return self._answer(prepare, dry_run=dry_run)

    def purge(self, selection: Selection, *, dry_run: bool) -> Result | Plan:
        picked = self._lookup.pick(selection, deleted=True)
        ids = [row.id for row in picked.rows]
        now = utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            rows = _in_order(tx.experiments(ids, deleted=None), ids) if ids else []
            events, outcomes = requesting.purge(rows, work(tx, rows), _owned(tx, ids), now)
            before = {row.id: row for row in rows}
            return Draft(events, Answer(outcomes, notices=picked.notices), ids=ids, before=before)

        return self._answer(prepare, dry_run=dry_run)

    def rename(self, selection: Selection, to: str, *, dry_run: bool) -> Result | Plan:
        row_id = self.one(selection).id
        now = utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            row = tx.experiments([row_id], deleted=None)[0]
            events, outcomes = requesting.rename(row, to, _taken(tx), now)
            return Draft(events, Answer(outcomes), ids=[row.id], names=True, before={row.id: row})

        return self._answer(prepare, dry_run=dry_run)

    # -- declarations and edits ----------------------------------------------------------

    def declare(self, call: Call, *, of_sweep: bool, dry_run: bool) -> tuple[Declared, list[str]] | Plan:
        """Declare one experiment or a sweep; what came of it, in rows and in sentences."""
        declaration = Declaration(call, of_sweep, surroundings(self._backend), utcnow())
        if dry_run:
            draft, read_at = self._desk.draft(declaration.draft)
            answer = draft.answer

            def apply() -> Result:
                declared = self._desk.apply(draft, read_at)
                return Result.of(declared.outcomes, self._said(call, declared, of_sweep))

            return self._plan(draft, answer.outcomes, self._said(call, answer, of_sweep), apply)
        declared = self._desk.commit(declaration.draft)
        return declared, [*self._said(call, declared, of_sweep), *self._loop_says()]

    def _said(self, call: Call, declared: Declared, of_sweep: bool) -> list[str]:
        return told(call, declared, of_sweep=of_sweep)

    def update(self, selection: Selection, edit: editing.Edit, *, dry_run: bool) -> Result | Plan:
        picked = self._lookup.pick(selection)
        ids = [row.id for row in picked.rows]
        around, now = surroundings(self._backend), utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            rows = _in_order(tx.experiments(ids, deleted=None), ids) if ids else []
            events, done = editing.update(rows, edit, work(tx, rows), around, now)
            answer = Answer([each.outcome for each in done], [each.applies for each in done], picked.notices)
            return Draft(events, answer, ids=ids, before={row.id: row for row in rows})

        return self._answer(prepare, dry_run=dry_run)

    def duplicate(
        self, selection: Selection, to: str, flags: Mapping[Any, Any] | None, *, dry_run: bool
    ) -> ExperimentRow | Plan:
        row_id = self.one(selection).id
        around, now = surroundings(self._backend), utcnow()

        def prepare(tx: Transaction) -> Draft[ExperimentRow]:
            row = tx.experiments([row_id], deleted=None)[0]
            events, copy = editing.duplicate(row, to, flags, _taken(tx), tx.next_id("experiments"), around, now)
            return Draft(events, copy, ids=[row.id], names=True, before={row.id: row})

        if not dry_run:
            return self._desk.commit(prepare)
        draft, read_at = self._desk.draft(prepare)

        def apply() -> Result:
            copy = self._desk.apply(draft, read_at)
            return Result.of([Outcome(copy.id, copy.name, "created", "declared")])

        return self._plan(draft, [Outcome(draft.answer.id, to, "created", "declared")], (), apply)

    # -- single jobs ---------------------------------------------------------------------

    def cancel(self, job_id: int, *, others: bool, dry_run: bool) -> Result | Plan:
        return self._of_job(
            job_id, lambda job, row, known, now: requesting.cancel(job, row, known, now, others=others), dry_run=dry_run
        )

    def forget(self, job_id: int, *, dry_run: bool) -> Result | Plan:
        return self._of_job(job_id, lambda job, row, known, now: requesting.forget(job, row, now), dry_run=dry_run)

    def give_up(self, attempt_id: str, *, dry_run: bool) -> Result | Plan:
        now = utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            attempt = next(iter(tx.attempts(ids=[attempt_id])), None)
            if attempt is None:
                raise UnknownExperiment(f"There is no launch {attempt_id!r:.60}: deck.attempts() lists them.")
            rows = tx.experiments([attempt.experiment_id], deleted=None)
            events, outcomes = requesting.give_up(attempt, rows[0], now)
            return Draft(events, Answer(outcomes), ids={attempt.experiment_id}, before={rows[0].id: rows[0]})

        return self._answer(prepare, dry_run=dry_run)

    def adopt(self, job_id: int, selection: Selection, *, others: bool, dry_run: bool) -> Result | Plan:
        target = self.one(selection).id

        def adopt(job: JobRow, owner: ExperimentRow | None, known: Work, now: datetime) -> Prepared:
            row = next(row for row in rows if row.id == target)
            return requesting.adopt(job, row, known, owner, now, others=others)

        rows: list[ExperimentRow] = []
        return self._of_job(job_id, adopt, dry_run=dry_run, besides=(target,), found=rows)

    def _of_job(
        self,
        job_id: int,
        word: Callable[[JobRow, ExperimentRow | None, Work, datetime], Prepared],
        *,
        dry_run: bool,
        besides: Collection[int] = (),
        found: list[ExperimentRow] | None = None,
    ) -> Result | Plan:
        now = utcnow()

        def prepare(tx: Transaction) -> Draft[Answer]:
            job = next(iter(tx.jobs([job_id])), None)
            if job is None:
                raise UnknownExperiment(f"There is no job {job_id}: deck.jobs() and deck.orphans() list them.")
            ids = {*besides, *([job.experiment_id] if job.experiment_id is not None else [])}
            rows = tx.experiments(ids, deleted=None) if ids else []
            if found is not None:
                found[:] = rows
            owner = next((row for row in rows if row.id == job.experiment_id), None)
            events, outcomes = word(job, owner, work(tx, rows), now)
            before = {row.id: row for row in rows}
            return Draft(events, Answer(outcomes), ids=ids, jobs=[job_id], before=before)

        return self._answer(prepare, dry_run=dry_run)

    # -- answering -----------------------------------------------------------------------

    def one(self, selection: Selection) -> ExperimentRow:
        """The one experiment that a call is about."""
        rows = self._lookup.pick(selection).rows
        if len(rows) != 1:
            raise UnknownExperiment(f"{selection!r:.60} names {len(rows)} experiments, and this call takes one.")
        return rows[0]

    def _answer(self, prepare: Callable[[Transaction], Draft[Answer]], *, dry_run: bool) -> Result | Plan:
        if not dry_run:
            answer = self._desk.commit(prepare)
            return self._result(answer)
        draft, read_at = self._desk.draft(prepare)
        return self._plan(
            draft,
            draft.answer.outcomes,
            draft.answer.notices,
            lambda: self._result(self._desk.apply(draft, read_at)),
        )

    def _result(self, answer: Answer) -> Result:
        return Result.of(answer.outcomes, [*answer.notices, *self._loop_says()], applies=answer.applies)

    def _plan(
        self, draft: Draft[Any], outcomes: Iterable[Outcome], notices: Iterable[str], apply: Callable[[], Any]
    ) -> Plan:
        """What the call changes, then what the next pass of the loop would do about it."""
        after = {row.id: row for row in draft.after()}
        rows = [
            (outcome.name, _imperative(outcome.action), outcome.reason, _gpus(after.get(outcome.experiment_id)))
            for outcome in outcomes
        ]
        changed = {event.experiment_id for event in draft.events}
        previews = self._runner.preview([row for row in after.values() if row.id in changed])
        rows += [(step.name, step.action, step.reason, step.gpus) for step in previews]
        return Plan.of(rows, apply, [notice for notice in notices if notice])

    def _loop_says(self) -> list[str]:
        """What is to be said with whatever was asked: nobody leads, somebody is needed."""
        return [*filter(None, [leaderless(self._runner.status())]), *self._notices.take()]


def leaderless(status: LoopStatus) -> str:
    """A sentence where nothing will be done about a request for now."""
    if not status.alive:
        why = f" ({status.error})" if status.error else ""
        return f"This deck's loop has ended{why}: what was asked is written; close the deck and open it again."
    if status.leading or status.holder is not None:
        return ""
    if not status.error:
        return ""  # it takes the lease in a moment
    return f"Nobody leads this deck now ({status.error}): what was asked is written, and the next leader does it first."


def _in_order(rows: Iterable[ExperimentRow], ids: Sequence[int]) -> list[ExperimentRow]:
    by_id = {row.id: row for row in rows}
    return [by_id[i] for i in ids if i in by_id]


def _taken(tx: Transaction) -> dict[str, int]:
    return {name: number for name, number, deleted in tx.rows("experiments", ["name", "id", "deleted"]) if not deleted}


def _owned(tx: Transaction, ids: Collection[int]) -> dict[int, list[tuple[str, Key]]]:
    """The rows that refer to these experiments, those that refer to others first."""
    owned: dict[int, list[tuple[str, Key]]] = {i: [] for i in ids}
    if not ids:
        return owned
    for point in tx.checkpoints(ids):
        owned[point.experiment_id].append(("checkpoints", (point.experiment_id, point.epoch)))
    for attempt in tx.attempts(experiment_ids=ids):
        owned[attempt.experiment_id].append(("attempts", attempt.id))
    for job in tx.jobs(experiment_ids=ids):
        if job.experiment_id is not None:
            owned[job.experiment_id].append(("jobs", job.id))
    for group, member, _ in tx.members():
        if member in owned:
            owned[member].append((codec.MEMBERS, (group, member)))
    return owned


def _gpus(row: ExperimentRow | None) -> int:
    return row.spec.total_gpus if row is not None else 0


_IMPERATIVES: Mapping[str, str] = {
    "started": "start",
    "retried": "retry",
    "restarted": "restart",
    "stopped": "stop",
    "terminated": "terminate",
    "deleted": "delete",
    "undeleted": "undelete",
    "purged": "purge",
    "renamed": "rename",
    "updated": "update",
    "created": "create",
    "changed": "change",
    "pruned": "prune",
    "cancelled": "cancel",
    "adopted": "adopt",
    "forgotten": "forget",
    "starred": "star",
    "unstarred": "unstar",
    "skipped": "skip",
}


def _imperative(action: str) -> str:
    return _IMPERATIVES.get(action, action)
