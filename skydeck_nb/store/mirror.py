"""The rows that planning and the grid look at, in memory, advanced by the log.

Decides which rows are kept: every experiment but those deleted, hidden and
without anything alive; of jobs and attempts those that are alive or open, those
of an experiment's present run, and its current job. Loaded with a fixed number
of queries, then advanced by reading what the log names. A mirror is one
thread's; refuses to know who reads it, and writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from skydeck_nb import codec
from skydeck_nb.codec import MEMBERS
from skydeck_nb.events import Change
from skydeck_nb.models import AttemptRow, ExperimentRow, GroupRow, JobRow, SweepRow
from skydeck_nb.store.records import Line
from skydeck_nb.store.transaction import Transaction

K = TypeVar("K", int, str)
R = TypeVar("R", SweepRow, GroupRow)


@dataclass(frozen=True, slots=True)
class Touched:
    """What an advance met: ids of rows that changed, came or went, and the lines that said so.

    ``experiments`` counts an experiment also when a job, attempt, checkpoint or
    membership of it changed, or an event named it. ``groups`` likewise counts members.
    """

    experiments: frozenset[int] = frozenset()
    jobs: frozenset[int] = frozenset()
    sweeps: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    events: tuple[Line, ...] = ()


@dataclass(slots=True)
class _Keys:
    """The keys that some lines touch."""

    experiments: set[int] = field(default_factory=set)
    """Rows of experiments that changed."""
    jobs: set[int] = field(default_factory=set)
    attempts: set[str] = field(default_factory=set)
    sweeps: set[int] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)
    members: set[int] = field(default_factory=set)
    """Groups of which a membership changed."""
    named: set[int] = field(default_factory=set)
    """Experiments that a line names, or of which a membership or checkpoint changed."""

    def add(self, change: Change) -> None:
        key = change.key
        match change.table, key:
            case "experiments", int():
                self.experiments.add(key)
            case "jobs", int():
                self.jobs.add(key)
            case "attempts", str():
                self.attempts.add(key)
            case "sweeps", int():
                self.sweeps.add(key)
            case "experiment_groups", int():
                self.groups.add(key)
            case "experiment_group_members", (group, experiment):
                self.members.add(group)
                self.named.add(experiment)
            case "checkpoints", (experiment, _):
                self.named.add(experiment)
            case _:
                pass  # a table of a newer build, which this one does not hold


class Mirror:
    """Rows by key. ``sequence``: the last line of the log that they hold.

    Read the mappings; change nothing in them.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.experiments: dict[int, ExperimentRow] = {}
        self.jobs: dict[int, JobRow] = {}
        self.attempts: dict[str, AttemptRow] = {}
        self.sweeps: dict[int, SweepRow] = {}
        self.groups: dict[int, GroupRow] = {}
        self.members: dict[int, dict[int, float]] = {}
        self._hidden: frozenset[int] = frozenset()
        self._names: dict[str, int] = {}
        self._jobs_of: defaultdict[int, set[int]] = defaultdict(set)
        self._attempts_of: defaultdict[int, set[str]] = defaultdict(set)

    @classmethod
    def load(cls, tx: Transaction) -> Mirror:
        """Everything that a deck's loop and grid need, by seven queries whatever the number of rows."""
        self = cls()
        self.sequence = tx.sequence
        self._hidden = tx.hidden()
        for job in tx.jobs_of_present_runs():
            self._put_job(job)
        for attempt in tx.attempts_of_present_runs():
            self._put_attempt(attempt)
        for experiment in tx.experiments(deleted=None):
            self._put_experiment(experiment)
        self._settle(set(self._hidden))
        self.sweeps = {row.id: row for row in tx.sweeps()}
        self.groups = {row.id: row for row in tx.groups()}
        for group, member, order in tx.members():
            self.members.setdefault(group, {})[member] = order
        return self

    # -- looking -----------------------------------------------------------------------

    def by_name(self, name: str) -> ExperimentRow | None:
        """The experiment of this name that is not deleted."""
        found = self._names.get(name)
        return None if found is None else self.experiments[found]

    def jobs_of(self, experiment_id: int) -> tuple[JobRow, ...]:
        """The jobs of an experiment that are kept here, by id."""
        return tuple(self.jobs[i] for i in sorted(self._jobs_of.get(experiment_id, ())))

    def attempts_of(self, experiment_id: int) -> tuple[AttemptRow, ...]:
        """The attempts of an experiment that are kept here, oldest first."""
        found = (self.attempts[i] for i in self._attempts_of.get(experiment_id, ()))
        return tuple(sorted(found, key=lambda a: (a.created_at, a.id)))

    def open_attempt(self, experiment_id: int) -> AttemptRow | None:
        """The one launch of an experiment that is not decided yet."""
        return next((a for a in self.attempts_of(experiment_id) if a.open), None)

    # -- going on ----------------------------------------------------------------------

    def advance(self, tx: Transaction) -> Touched:
        """Read the log after ``sequence``, and the rows that it names as they are in this snapshot."""
        lines = tx.log(self.sequence)
        keys = _keys(lines)
        self._hidden = _hidden(self._hidden, lines)
        old_jobs, old_attempts = self._owners(keys)
        known = set(self.experiments)
        found = {e.id: e for e in tx.experiments(keys.experiments, deleted=None)} if keys.experiments else {}
        for i in keys.experiments:
            self._drop_experiment(i)
        for experiment in found.values():
            self._put_experiment(experiment)
        fresh = {j.id: j for j in tx.jobs(keys.jobs)} if keys.jobs else {}
        for job_id in keys.jobs:
            self._drop_job(job_id)
        for job in fresh.values():
            self._put_job(job)
        tried = tx.attempts(keys.attempts) if keys.attempts else []
        for attempt_id in keys.attempts:
            self._drop_attempt(attempt_id)
        for attempt in tried:
            self._put_attempt(attempt)
        owners = {j.experiment_id for j in fresh.values()} | {a.experiment_id for a in tried}
        absent = {i for i in owners if i is not None and i not in self.experiments}
        for experiment in tx.experiments(absent, deleted=None) if absent else ():
            self._put_experiment(experiment)
        self._fetch_entering(tx, (set(found) | absent) - known, set(found))
        if keys.sweeps:
            _renew(self.sweeps, keys.sweeps, tx.sweeps(keys.sweeps))
        if keys.groups:
            _renew(self.groups, keys.groups, tx.groups(keys.groups))
        if keys.members:
            for group in keys.members:
                self.members.pop(group, None)
            for group, experiment_id, order in tx.members(keys.members):
                self.members.setdefault(group, {})[experiment_id] = order
        self.sequence = tx.sequence
        return self._finish(keys, old_jobs | old_attempts, lines)

    def absorb(self, lines: Sequence[Line]) -> Touched | None:
        """The same from lines at hand (commits of this process), without reading.

        ``None``, and nothing changed, where that is impossible: a line between is
        missing, or one changes a row that is not kept here. Then :meth:`advance`.
        """
        lines = [line for line in lines if line.sequence > self.sequence]
        if not lines:
            return Touched()
        if [line.sequence for line in lines] != list(range(self.sequence + 1, self.sequence + 1 + len(lines))):
            return None
        changes = [change for line in lines for change in line.changes]
        keys = _keys(lines)
        rows = self._patched(changes)
        if rows is None:
            return None
        for (table, key), row in rows.items():
            if table == "experiments" and isinstance(row, ExperimentRow):
                before = self.experiments.get(row.id)
                current = row.current_job_id
                lacks_job = current is not None and current not in self.jobs and ("jobs", current) not in rows
                moved = before is not None and before.run > row.run
                if moved or (lacks_job and (before is None or before.current_job_id != current)):
                    return None
            elif isinstance(row, JobRow | AttemptRow):
                owner = row.experiment_id
                if owner is not None and owner not in self.experiments and rows.get(("experiments", owner)) is None:
                    return None
            elif row is None and table == "experiments" and key not in self.experiments:
                return None
        owners = self._owners(keys)
        self._hidden = _hidden(self._hidden, lines)
        self._take(rows)
        for change in changes:
            if change.table == MEMBERS and isinstance(change.key, tuple):
                self._member(*change.key, change.columns)
        self.sequence = lines[-1].sequence
        return self._finish(keys, owners[0] | owners[1], lines)

    # -- inside ------------------------------------------------------------------------

    def _patched(self, changes: Iterable[Change]) -> dict[tuple[str, int | str], codec.Row | None] | None:
        """The rows as these changes leave them; ``None`` where one is not kept here and not made by them."""
        kept: Mapping[str, Mapping[Any, codec.Row]] = {
            "experiments": self.experiments,
            "jobs": self.jobs,
            "attempts": self.attempts,
            "sweeps": self.sweeps,
            "experiment_groups": self.groups,
        }
        rows: dict[tuple[str, int | str], codec.Row | None] = {}
        for change in changes:
            if change.table not in kept or isinstance(change.key, tuple):
                continue
            at = (change.table, change.key)
            row = rows[at] if at in rows else kept[change.table].get(change.key)
            if change.columns is None:
                rows[at] = None
            elif row is not None:
                rows[at] = codec.patch(row, change.columns)
            elif codec.TABLES[change.table].required <= set(change.columns):
                rows[at] = codec.make(change.table, change.key, change.columns)
            else:
                return None
        return rows

    def _take(self, rows: Mapping[tuple[str, int | str], codec.Row | None]) -> None:
        for (table, key), row in rows.items():
            match row:
                case ExperimentRow():
                    self._drop_experiment(row.id)
                    self._put_experiment(row)
                case JobRow():
                    self._drop_job(row.id)
                    self._put_job(row)
                case AttemptRow():
                    self._drop_attempt(row.id)
                    self._put_attempt(row)
                case SweepRow():
                    self.sweeps[row.id] = row
                case GroupRow():
                    self.groups[row.id] = row
                case _:
                    self._drop(table, key)

    def _drop(self, table: str, key: int | str) -> None:
        match table, key:
            case "experiments", int():
                self._drop_experiment(key)
            case "jobs", int():
                self._drop_job(key)
            case "attempts", str():
                self._drop_attempt(key)
            case "sweeps", int():
                self.sweeps.pop(key, None)
            case "experiment_groups", int():
                self.groups.pop(key, None)

    def _member(self, group: int, experiment: int, columns: Mapping[str, object] | None) -> None:
        if columns is not None:
            order = columns["member_order"]
            assert isinstance(order, int | float)
            self.members.setdefault(group, {})[experiment] = order
        elif group in self.members:
            self.members[group].pop(experiment, None)
            if not self.members[group]:
                del self.members[group]

    def _fetch_entering(self, tx: Transaction, entering: set[int], changed: set[int]) -> None:
        """Read jobs and attempts that come in because their experiment did, or names another current job."""
        currents = {e.current_job_id for i in changed | entering if (e := self.experiments.get(i)) is not None}
        lacking = {i for i in currents if i is not None and i not in self.jobs}
        for job in tx.jobs(lacking) if lacking else ():
            self._put_job(job)
        if entering:
            for job in tx.jobs(experiment_ids=entering):
                self._drop_job(job.id)
                self._put_job(job)
            for attempt in tx.attempts(experiment_ids=entering):
                self._put_attempt(attempt)

    def _owners(self, keys: _Keys) -> tuple[set[int], set[int]]:
        jobs = (self.jobs[i].experiment_id for i in keys.jobs if i in self.jobs)
        attempts = (self.attempts[i].experiment_id for i in keys.attempts if i in self.attempts)
        return {i for i in jobs if i is not None}, set(attempts)

    def _finish(self, keys: _Keys, owners: set[int], lines: Sequence[Line]) -> Touched:
        jobs, attempts = self._owners(keys)
        touched = keys.experiments | keys.named | owners | jobs | attempts
        self._settle(touched)
        for job_id in keys.jobs:
            orphan = self.jobs.get(job_id)
            if orphan is not None and orphan.experiment_id is None and not orphan.alive:
                self._drop_job(job_id)
        return Touched(
            frozenset(touched),
            frozenset(keys.jobs),
            frozenset(keys.sweeps),
            frozenset(keys.groups | keys.members),
            tuple(lines),
        )

    def _settle(self, ids: Iterable[int]) -> None:
        """Let go of what these experiments need no more."""
        for i in ids:
            experiment = self.experiments.get(i)
            run = -1 if experiment is None else experiment.run
            current = None if experiment is None else experiment.current_job_id
            for job_id in list(self._jobs_of.get(i, ())):
                job = self.jobs[job_id]
                if not (job.alive or job.run == run or job_id == current):
                    self._drop_job(job_id)
            for attempt_id in list(self._attempts_of.get(i, ())):
                attempt = self.attempts[attempt_id]
                if not (attempt.open or attempt.run == run):
                    self._drop_attempt(attempt_id)
            if experiment is None or not experiment.deleted or i not in self._hidden:
                continue
            busy = any(self.jobs[j].alive for j in self._jobs_of.get(i, ()))
            if not busy and not any(self.attempts[a].open for a in self._attempts_of.get(i, ())):
                self._drop_experiment(i)
                for job_id in list(self._jobs_of.get(i, ())):
                    self._drop_job(job_id)
                for attempt_id in list(self._attempts_of.get(i, ())):
                    self._drop_attempt(attempt_id)

    def _put_experiment(self, row: ExperimentRow) -> None:
        self.experiments[row.id] = row
        if not row.deleted:
            self._names[row.name] = row.id

    def _drop_experiment(self, i: int) -> None:
        row = self.experiments.pop(i, None)
        if row is not None and self._names.get(row.name) == i:
            del self._names[row.name]

    def _put_job(self, row: JobRow) -> None:
        self.jobs[row.id] = row
        if row.experiment_id is not None:
            self._jobs_of[row.experiment_id].add(row.id)

    def _drop_job(self, i: int) -> None:
        row = self.jobs.pop(i, None)
        if row is not None and row.experiment_id is not None:
            _discard(self._jobs_of, row.experiment_id, i)

    def _put_attempt(self, row: AttemptRow) -> None:
        self.attempts[row.id] = row
        self._attempts_of[row.experiment_id].add(row.id)

    def _drop_attempt(self, i: str) -> None:
        row = self.attempts.pop(i, None)
        if row is not None:
            _discard(self._attempts_of, row.experiment_id, i)


def _discard(index: defaultdict[int, set[K]], owner: int, key: K) -> None:
    index[owner].discard(key)
    if not index[owner]:
        del index[owner]


def _keys(lines: Iterable[Line]) -> _Keys:
    keys = _Keys()
    for line in lines:
        if line.experiment_id is not None:
            keys.named.add(line.experiment_id)
        for change in line.changes:
            keys.add(change)
    return keys


def _hidden(before: frozenset[int], lines: Iterable[Line]) -> frozenset[int]:
    now: set[int] | None = None
    for line in lines:
        if line.experiment_id is not None:
            if line.type == "experiment.hidden":
                now = set(before) if now is None else now
                now.add(line.experiment_id)
            elif line.type in ("delete.requested", "undelete.requested"):
                now = set(before) if now is None else now
                now.discard(line.experiment_id)
    return before if now is None else frozenset(now)


def _renew(kept: dict[int, R], ids: set[int], found: Iterable[R]) -> None:
    for i in ids:
        kept.pop(i, None)
    for row in found:
        kept[row.id] = row
