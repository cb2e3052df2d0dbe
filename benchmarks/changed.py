"""(b) A listing of 10,000 jobs of which 10 changed: rows written, statements, and others beside it.

The deck has the size at which the original SkyDeck was measured: 1,000
experiments and 10,000 jobs, all of them listed. Beside it, in the same run, the
same listing goes row by row into a table of the same columns, as the original
does it: look for the row, write it, commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import original
from benchmarks.report import Line, milliseconds
from benchmarks.timing import Spent, Versus, clock
from benchmarks.world import Echo, Size, Worlds, kinds, leading, look, one_pass, sequence, traced, written
from skydeck_nb import codec
from skydeck_nb.backends.base import SeenJob
from skydeck_nb.control.controller import Controller
from skydeck_nb.models import JobRow
from skydeck_nb.store.store import Store

CHANGED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What one way of taking up one listing writes and asks."""

    rows_written: int
    statements: int
    selects: int
    commits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Ours beside a row-by-row upsert and beside the original."""

    jobs: int
    changed: int
    ours: Poll
    """Taking up the listing: the rows of jobs, and one event for each."""
    events_written: int
    planned: Poll
    """What planning those whose jobs changed adds: their conditions."""
    naive: Poll
    cpu: Versus
    unchanged: Spent
    """The same listing when nothing of it is new."""

    def lines(self) -> list[Line]:
        ours, naive = self.ours, self.naive
        least, most = original.POLL_CPU
        return [
            Line("rows of jobs written", f"{ours.rows_written - self.events_written} (naive {naive.rows_written:,})",
                 f"{self.changed} (original {original.UPDATES:,})",
                 ours.rows_written - self.events_written == self.changed),
            Line("  and events, in the same transaction", str(self.events_written)),
            Line("  then by planning them (conditions)", str(self.planned.rows_written)),
            Line("statements (BEGIN, COMMIT too)", f"{ours.statements} (naive {naive.statements:,})"),
            Line("SELECTs", f"{ours.selects} (naive {naive.selects:,})", f"original {original.SELECTS:,}",
                 ours.selects < original.SELECTS),
            Line("commits", f"{ours.commits} (naive {naive.commits:,})", f"original {original.COMMITS:,}",
                 ours.commits < original.COMMITS),
            Line("CPU", f"{milliseconds(self.cpu.ours.best)} (naive {milliseconds(self.cpu.theirs.best)})",
                 f"original {least:g} to {most:g} s"),
            Line("CPU, ours over naive", f"{self.cpu.ratio:.3f}", "under 1", self.cpu.ratio < 1),
            Line("CPU when nothing changed", milliseconds(self.unchanged.best)),
        ]  # fmt: skip


def run(worlds: Worlds, *, quick: bool = False) -> Changed:
    """Ten of 10,000 jobs change in each of some listings."""
    return measure(worlds, Size(1_000), repeats=2 if quick else 5)


def measure(worlds: Worlds, size: Size, *, repeats: int, changed: int = CHANGED) -> Changed:
    """The same at any size."""
    path = worlds.copy(size)
    store = Store.open(path)
    try:
        with store.read() as tx:
            rows = tx.jobs()
        with leading(store) as (controller, backend):
            one_pass(controller)
            ours, planned, events = _counted(store, controller, backend, changed)
            naive = Naive(path.with_name("naive.db"), rows)
            cpu = _timed(controller, backend, naive, changed, repeats)
            unchanged = _unchanged(controller, repeats)
            counted = naive.take(_next(backend, changed))
            naive.close()
    finally:
        store.close()
    return Changed(
        jobs=size.jobs,
        changed=changed,
        ours=ours,
        events_written=events,
        planned=planned,
        naive=counted,
        cpu=cpu,
        unchanged=unchanged,
    )


def _next(backend: Echo, changed: int) -> tuple[SeenJob, ...]:
    """Let some live jobs move, and give the whole listing."""
    live = [job for job in backend.told.values() if job.status in ("RUNNING", "RECOVERING")][:changed]
    assert len(live) == changed
    moved = {"RUNNING": "RECOVERING", "RECOVERING": "RUNNING"}
    backend.change([replace(job, status=moved[job.status]) for job in live])
    return tuple(backend.told.values())


def _counted(store: Store, controller: Controller, backend: Echo, changed: int) -> tuple[Poll, Poll, int]:
    _next(backend, changed)
    outcome = look(controller)
    rows, lines = written(store), sequence(store)
    with traced(store) as statements:
        controller.finish(outcome, datetime.now(UTC))
    after, events = written(store), sequence(store) - lines
    with traced(store) as more:
        controller.plan_pass(datetime.now(UTC))
    return _poll(after - rows, statements), _poll(written(store) - after, more), events


def _poll(rows: int, statements: Sequence[str]) -> Poll:
    words = kinds(statements)
    return Poll(
        rows_written=rows,
        statements=len(statements),
        selects=words.get("SELECT", 0),
        commits=words.get("COMMIT", 0),
    )


def _timed(controller: Controller, backend: Echo, naive: Naive, changed: int, repeats: int) -> Versus:
    """Ours and theirs take up the same listings, in turn."""
    ours, theirs = [], []
    for _ in range(repeats + 1):
        listed = _next(backend, changed)
        outcome = look(controller)
        ours.append(clock(lambda: controller.finish(outcome, datetime.now(UTC))))  # noqa: B023  (called at once)
        controller.plan_pass(datetime.now(UTC))
        theirs.append(clock(lambda: naive.upsert(listed)))  # noqa: B023
    return Versus(Spent.of(ours[1:]), Spent.of(theirs[1:]))


def _unchanged(controller: Controller, repeats: int) -> Spent:
    found = []
    for _ in range(repeats):
        outcome = look(controller)
        found.append(clock(lambda: controller.finish(outcome, datetime.now(UTC))))  # noqa: B023
    return Spent.of(found)


class Naive:
    """The same columns in a table of their own, written as the original does: for each job a look, a write, a commit.

    In WAL with ``synchronous=NORMAL``, as ours: the original paid a sync a row besides.
    """

    def __init__(self, path: Path, rows: Iterable[JobRow]) -> None:
        columns = codec.table_of(JobRow).all
        self._raw = sqlite3.connect(path, isolation_level=None)
        self._raw.execute("PRAGMA journal_mode = WAL")
        self._raw.execute("PRAGMA synchronous = NORMAL")
        self._raw.execute(f"CREATE TABLE jobs (id INTEGER PRIMARY KEY, {', '.join(columns[1:])})")
        self._raw.execute("BEGIN")
        self._raw.executemany(
            f"INSERT INTO jobs VALUES ({', '.join('?' * len(columns))})",
            [(row.id, *codec.encode(row).values()) for row in rows],
        )
        self._raw.execute("COMMIT")
        said = "status reason started_at ended_at exit_code recoveries infra cluster_name".split()
        self._said = said
        self._upsert = (
            f"INSERT INTO jobs (id, {', '.join(said)}) VALUES (?{', ?' * len(said)}) "
            f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in said)}"
        )

    def upsert(self, listed: Iterable[SeenJob]) -> None:
        """Take up one listing."""
        execute = self._raw.execute
        for job in listed:
            execute("BEGIN")
            execute("SELECT * FROM jobs WHERE id = ?", (job.id,)).fetchall()
            values = [getattr(job, name) for name in self._said]
            execute(self._upsert, (job.id, *(v.isoformat() if isinstance(v, datetime) else v for v in values)))
            execute("COMMIT")

    def take(self, listed: Iterable[SeenJob]) -> Poll:
        """The same, counted."""
        statements: list[str] = []
        before = self._raw.total_changes
        self._raw.set_trace_callback(statements.append)
        self.upsert(listed)
        self._raw.set_trace_callback(None)
        return _poll(self._raw.total_changes - before, statements)

    def close(self) -> None:
        self._raw.close()
