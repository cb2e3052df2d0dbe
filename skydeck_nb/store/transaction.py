"""One transaction: rows and their events written together, rows and the log read together.

Decides how events reach the tables and the log, and which questions can be
asked. All SQL that others need is a method here. Refuses to know when
transactions begin and end, and who is told afterwards.

Everything is read to its end at once: a cursor left half-read would hold the
file's log open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.events import Cell, Event, Key, Tables, micros, moment
from skydeck_nb.models import AttemptRow, CheckpointRow, ExperimentRow, GroupRow, JobRow, SweepRow
from skydeck_nb.store import metrics
from skydeck_nb.store.changes import Writer, top_id
from skydeck_nb.store.connection import Connection
from skydeck_nb.store.framerows import FrameRows
from skydeck_nb.store.records import Latest, LogLine, Metric, Stored
from skydeck_nb.store.schema import ALIVE_SQL, OPEN_SQL, TERMINAL_SQL

if TYPE_CHECKING:
    from sqlite_utils import Database

R = TypeVar("R", bound=codec.Row)
AutoTable = Literal["experiments", "sweeps", "experiment_groups"]

_REQUESTS: Final = frozenset(ev.REQUESTS)
_NAME: Final = re.compile(r"[a-z_]+")
_LINE: Final = "sequence, recorded_at, type, at, experiment_id, job_id, is_request, term, payload"


class _Where:
    """Conditions and their parameters, joined by AND; ``None`` asks for nothing."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self.params: list[Cell] = []

    def among(self, column: str, values: Collection[Any] | None) -> _Where:
        if values is not None:
            self.terms.append(f"{column} IN (SELECT value FROM json_each(?))")
            self.params.append(json.dumps(list(values)))
        return self

    def holds(self, sql: str, wanted: bool | None) -> _Where:
        if wanted is not None:
            self.terms.append(f"({sql})" if wanted else f"NOT ({sql})")
        return self

    @property
    def sql(self) -> str:
        return f" WHERE {' AND '.join(self.terms)}" if self.terms else ""


class Transaction(FrameRows):
    """The rows as of one moment. Valid inside the ``with`` block that gave it, in its thread.

    ``sequence``: the highest sequence of the log that this transaction sees.
    """

    def __init__(
        self, connection: Connection, now: Callable[[], datetime], *, writable: bool, term: int | None = None
    ) -> None:
        super().__init__(connection.raw, now, writable=writable)
        self._connection = connection
        self.stored: list[Stored] = []
        self._term = term
        self.sequence: int = self._all("SELECT coalesce(max(sequence), 0) FROM events")[0][0]

    @property
    def db(self) -> Database:
        """The same connection as a ``sqlite_utils.Database``: for looking round by hand."""
        return self._connection.db

    # -- writing -----------------------------------------------------------------------

    def apply(self, events: Iterable[Event]) -> list[int]:
        """Write events and the rows that they change; the sequences they got, in order.

        A change with all NOT NULL columns makes the row, or makes an existing one
        so; any other changes an existing row. What is equal already costs no write.
        An event is recorded also when it changes nothing: whoever emits it decides.

        Raises:
            NameTaken: the name belongs to another experiment, sweep or group.
            DatabaseError: a row to change is gone, an id was given before, a rule of the schema is broken.
            ValueError: a kind that is published only, or a change that names no table or column of the log.
        """
        self._check_writable()
        found = list(events)
        for event in found:
            if not event.recorded:
                raise ValueError(f"{event.type} is published, never recorded: use publish().")
        writer = Writer(self._raw)
        for event in found:
            writer.add(event.changes)
        writer.flush()
        recorded_at = micros(self._now())
        first = self.sequence + 1
        self._raw.executemany(
            f"INSERT INTO events ({_LINE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    first + i,
                    recorded_at,
                    e.type,
                    micros(e.at),
                    e.experiment_id,
                    e.job_id,
                    type(e) in _REQUESTS,
                    self._term,
                    ev.encode(e),
                )
                for i, e in enumerate(found)
            ],
        )
        self.sequence += len(found)
        self.stored.extend(Stored(first + i, e) for i, e in enumerate(found))
        return list(range(first, first + len(found)))

    def next_id(self, table: AutoTable) -> int:
        """The id that the next new row of this table carries; several take it, it + 1, …

        It holds within this write transaction. An id is never given twice, also after its row was purged.
        """
        return top_id(self._raw, table) + 1

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a JSON-able value, such as a view of the grid; an equal one costs no write."""
        self._check_writable()
        self._raw.execute(
            "INSERT INTO user_settings (key, value, updated_at) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET value = excluded.value, updated_at = excluded.updated_at WHERE value IS NOT excluded.value",
            (key, json.dumps(value), micros(self._now())),
        )

    def claim_identity(self, identity: str) -> None:
        """Write the backend's identity (JSON) where none is written."""
        self._check_writable()
        self._raw.execute("INSERT INTO deck (key, value) VALUES ('identity', ?) ON CONFLICT DO NOTHING", (identity,))

    def add_metrics(self, rows: Iterable[Metric]) -> int:
        """Keep readings, oldest first; how many were new. See :mod:`skydeck_nb.store.metrics` for the bound."""
        self._check_writable()
        return metrics.add(self._raw, rows)

    # -- reading -----------------------------------------------------------------------

    def experiments(
        self,
        ids: Collection[int] | None = None,
        *,
        names: Collection[str] | None = None,
        deleted: bool | None = False,
    ) -> list[ExperimentRow]:
        """Experiments by id; ``deleted=None`` gives those that are and those that are not."""
        where = _Where().among("id", ids).among("name", names).holds("deleted = 1", deleted)
        return self._rows(ExperimentRow, where)

    def jobs(
        self,
        ids: Collection[int] | None = None,
        *,
        experiment_ids: Collection[int] | None = None,
        alive: bool | None = None,
    ) -> list[JobRow]:
        """Jobs by id, orphans among them; ``alive`` as :attr:`JobRow.alive` says."""
        where = _Where().among("id", ids).among("experiment_id", experiment_ids)
        if alive:
            where.terms.append(ALIVE_SQL)
        elif alive is not None:
            where.terms.append(f"(forgotten = 1 OR status IN {TERMINAL_SQL})")
        return self._rows(JobRow, where)

    def jobs_over(self, ids: Collection[int]) -> frozenset[int]:
        """Which of these have ended for good: no listing says anything new of them."""
        where = _Where().among("id", ids).holds(f"status IN {TERMINAL_SQL} AND lost = 0 AND forgotten = 0", True)
        return frozenset(i for (i,) in self._all(f"SELECT id FROM jobs{where.sql}", where.params))

    def jobs_of_present_runs(self) -> list[JobRow]:
        """Jobs that are alive, of an experiment's present run, or its current one: what planning looks at."""
        columns = ", ".join(codec.table_of(JobRow).all)
        found = self._all(
            f"SELECT {columns} FROM jobs WHERE id IN ("
            f"SELECT id FROM jobs WHERE {ALIVE_SQL} "
            "UNION SELECT j.id FROM experiments e JOIN jobs j ON j.experiment_id = e.id AND j.run = e.run "
            "UNION SELECT current_job_id FROM experiments WHERE current_job_id IS NOT NULL) ORDER BY id"
        )
        return codec.decode(JobRow, found)

    def ended_usage(self, experiment_ids: Collection[int] | None = None) -> list[tuple[int, int | None, float, float]]:
        """``(experiment, sweep, GPU hours, US dollars)`` of all jobs that have ended, where start and end are known.

        What says no GPUs adds no GPU hours, and what has no price no dollars.
        """
        where = _Where().among("j.experiment_id", experiment_ids)
        where.terms.append(f"(j.forgotten = 1 OR j.status IN {TERMINAL_SQL}) AND j.ended_at > j.started_at")
        return self._all(
            "SELECT j.experiment_id, e.sweep_id, "
            "sum((j.ended_at - j.started_at) / 3.6e9 * coalesce(j.nodes, 1) * coalesce(j.gpus, 0)), "
            "sum((j.ended_at - j.started_at) / 3.6e9 * coalesce(j.hourly_cost, 0)) "
            f"FROM jobs j JOIN experiments e ON e.id = j.experiment_id{where.sql} GROUP BY j.experiment_id",
            where.params,
        )

    def attempts(
        self,
        ids: Collection[str] | None = None,
        *,
        experiment_ids: Collection[int] | None = None,
        open: bool | None = None,
        claims: Collection[str] | None = None,
    ) -> list[AttemptRow]:
        """Attempts, oldest first."""
        where = _Where().among("id", ids).among("experiment_id", experiment_ids).among("claim", claims)
        return self._rows(AttemptRow, where.holds(OPEN_SQL, open), order="created_at, id")

    def attempts_of_present_runs(self) -> list[AttemptRow]:
        """Attempts that are open, or of an experiment's present run, oldest first."""
        columns = ", ".join(codec.table_of(AttemptRow).all)
        found = self._all(
            f"SELECT {columns} FROM attempts WHERE id IN (SELECT id FROM attempts WHERE {OPEN_SQL} "
            "UNION SELECT a.id FROM experiments e JOIN attempts a ON a.experiment_id = e.id AND a.run = e.run) "
            "ORDER BY created_at, id"
        )
        return codec.decode(AttemptRow, found)

    def sweeps(self, ids: Collection[int] | None = None) -> list[SweepRow]:
        """Sweeps by id."""
        return self._rows(SweepRow, _Where().among("id", ids))

    def groups(self, ids: Collection[int] | None = None) -> list[GroupRow]:
        """Groups in their order."""
        return self._rows(GroupRow, _Where().among("id", ids), order="group_order, id")

    def members(self, group_ids: Collection[int] | None = None) -> list[tuple[int, int, float]]:
        """``(group_id, experiment_id, member_order)`` of all groups, or these, in order."""
        where = _Where().among("group_id", group_ids)
        return self._all(
            f"SELECT group_id, experiment_id, member_order FROM experiment_group_members{where.sql} "
            "ORDER BY group_id, member_order, experiment_id",
            where.params,
        )

    def checkpoints(self, experiment_ids: Collection[int] | None = None) -> list[CheckpointRow]:
        """Checkpoints by experiment and epoch."""
        return self._rows(CheckpointRow, _Where().among("experiment_id", experiment_ids))

    def hidden(self) -> frozenset[int]:
        """Deleted experiments that were seen without anything alive after they were last deleted."""
        found = self._all(
            "SELECT e.id FROM experiments e WHERE e.deleted = 1 AND 'experiment.hidden' = ("
            "SELECT type FROM events v WHERE v.experiment_id = e.id "
            "AND v.type IN ('experiment.hidden', 'delete.requested', 'undelete.requested') "
            "ORDER BY v.sequence DESC LIMIT 1)"
        )
        return frozenset(row[0] for row in found)

    def log(
        self,
        since: int = 0,
        *,
        limit: int | None = None,
        experiment_ids: Collection[int] | None = None,
        types: Collection[str] | None = None,
    ) -> list[LogLine]:
        """Lines of the log after a sequence, in order."""
        where = _Where().among("experiment_id", experiment_ids).among("type", types)
        where.terms.append("sequence > ?")
        where.params.append(since)
        found = self._all(
            f"SELECT {_LINE} FROM events{where.sql} ORDER BY sequence LIMIT ?",
            [*where.params, -1 if limit is None else limit],
        )
        return [
            LogLine(sequence, moment(recorded), type_, moment(at), experiment, job, bool(request), term, payload)
            for sequence, recorded, type_, at, experiment, job, request, term, payload in found
        ]

    def rows(
        self, table: str, columns: Sequence[str], where: str = "", params: Sequence[Cell] = ()
    ) -> list[tuple[Any, ...]]:
        """Raw cells of some columns, by one SELECT; ``where`` is an SQL condition, without its keyword."""
        for name in (table, *columns):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no table and no column.")
        condition = f" WHERE {where}" if where else ""
        return self._all(f"SELECT {', '.join(columns)} FROM {table}{condition}", params)

    def setting(self, key: str) -> Any:
        """A value kept by :meth:`set_setting`, else ``None``."""
        found = self._all("SELECT value FROM user_settings WHERE key = ?", (key,))
        return json.loads(found[0][0]) if found else None

    def latest_metrics(self, experiment_ids: Collection[int] | None = None) -> dict[tuple[int, str], Latest]:
        """The newest reading of each curve, by experiment and name."""
        where = _Where().among("experiment_id", experiment_ids)
        return metrics.latest(self._all(f"SELECT {metrics.LATEST} FROM metric_latest{where.sql}", where.params))

    def recent_metric(self, experiment_id: int, name: str) -> list[tuple[int | None, float]]:
        """``(step, value)`` of one curve as far as it is kept, oldest first."""
        found = self._all(
            "SELECT step, value FROM metrics WHERE experiment_id = ? AND name = ? ORDER BY n", (experiment_id, name)
        )
        return [(step, metrics.value_of(value)) for step, value in found]

    # -- the fold ----------------------------------------------------------------------

    def tables(self) -> dict[str, dict[Key, dict[str, Cell]]]:
        """All folded tables as raw cells, ``{table: {key: {column: cell}}}``, without key columns."""
        dump: dict[str, dict[Key, dict[str, Cell]]] = {}
        for table in codec.TABLES.values():
            n = len(table.key)
            dump[table.name] = {
                row[0] if n == 1 else row[:n]: dict(zip(table.columns, row[n:], strict=True))
                for row in self._all(f"SELECT {', '.join(table.all)} FROM {table.name}")
            }
        return dump

    def folded(self) -> dict[str, dict[Key, dict[str, Cell]]]:
        """What the whole log folds to, in the shape of :meth:`tables`: the two are equal."""
        folded: Tables = {name: {} for name in codec.TABLES}
        for (payload,) in self._all("SELECT payload FROM events ORDER BY sequence"):
            ev.fold(folded, ev.decode_changes(payload))
        return {
            name: {k: {c: folded[name][k].get(c) for c in table.columns} for k in folded[name]}
            for name, table in codec.TABLES.items()
        }

    def _rows(self, cls: type[R], where: _Where, *, order: str | None = None) -> list[R]:
        table = codec.table_of(cls)
        found = self._all(
            f"SELECT {', '.join(table.all)} FROM {table.name}{where.sql} ORDER BY {order or ', '.join(table.key)}",
            where.params,
        )
        return codec.decode(cls, found)
