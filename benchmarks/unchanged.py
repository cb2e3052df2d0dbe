"""(a) One pass in which nothing changed: what it writes, how often it asks, what it costs.

A real controller leads a deck whose backend says what is stored. The pass takes
up the log, looks (a discovery: every job of the deck is listed), compares,
and plans every experiment, not only those that something woke. Counted at three
sizes, so that a query that grows with the rows would show.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.report import Line, milliseconds
from benchmarks.timing import Spent, spent
from benchmarks.world import Size, Worlds, echo_of, kinds, leading, one_pass, sequence, traced, written
from skydeck_nb.control.controller import Controller
from skydeck_nb.control.runner import Runner
from skydeck_nb.control.surroundings import LoopSettings
from skydeck_nb.store.mirror import Mirror
from skydeck_nb.store.store import Store

CPU_BAR = 1.0
"""Seconds of CPU that a whole pass at 10,000 experiments may take."""
REST_BAR = 0.05
"""Share of one core for a loop that only stands by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One pass at one size."""

    size: Size
    rows_written: int
    events_written: int
    calls: int
    statements: int
    """BEGIN and COMMIT among them."""
    selects: int
    by_word: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """What one unchanged pass writes, asks and costs."""

    counted: tuple[Counted, ...]
    """By size, the largest last."""
    discovery: Spent
    """A pass whose look lists every job."""
    hot: Spent
    """A pass whose look lists those that are alive."""
    planning: Spent
    """Of that, offering every experiment to the planner."""
    rest: float
    """Share of one core that a process with a real loop at rest takes, leading this deck: glances, lease and looks."""
    load: Spent
    """Taking over: the rows are read anew."""

    @property
    def queries_fixed(self) -> bool:
        """Whether the number of queries is the same at every size."""
        return len({c.statements for c in self.counted}) == 1

    def lines(self) -> list[Line]:
        large = self.counted[-1]
        rows = max(c.rows_written for c in self.counted)
        events = max(c.events_written for c in self.counted)
        per_size = ", ".join(f"{c.statements} at {c.size.experiments:,}" for c in self.counted)
        size = f"{large.size.experiments:,} experiments, {large.size.jobs:,} jobs"
        return [
            Line("rows written", str(rows), "0", rows == 0),
            Line("events written", str(events), "0", events == 0),
            Line("statements (BEGIN, COMMIT too)", per_size, "the same at every size", self.queries_fixed),
            Line("  of them SELECTs", str(large.selects)),
            Line(
                f"CPU, {size}", milliseconds(self.discovery.best), f"under {CPU_BAR:g} s", self.discovery.best < CPU_BAR
            ),
            Line("  wall, median", milliseconds(self.discovery.wall_median)),
            Line("CPU, only live jobs are listed", milliseconds(self.hot.best)),
            Line("  of that, planning every experiment", milliseconds(self.planning.best)),
            Line("loop at rest, share of one core", f"{self.rest:.1%}", f"under {REST_BAR:.0%}", self.rest < REST_BAR),
            Line("CPU to take over (rows read anew)", milliseconds(self.load.best)),
        ]


def run(worlds: Worlds, *, quick: bool = False) -> Unchanged:
    """Count at three sizes and time at the largest."""
    sizes = (Size(100), Size(200), Size(400)) if quick else (Size(100), Size(1_000), Size(10_000))
    counted = tuple(count_at(worlds, size) for size in sizes)
    repeats = 2 if quick else 5
    store = Store.open(worlds.copy(sizes[-1]))
    try:
        load = spent(lambda: _load(store), repeats)
        rest = _rest(store, 2.0 if quick else 12.0)
        with leading(store) as (controller, _):
            one_pass(controller)
            return Unchanged(
                counted=counted,
                discovery=spent(lambda: one_pass(controller), repeats),
                hot=spent(lambda: one_pass(controller, discovery=False), repeats),
                planning=spent(lambda: _plan(controller), repeats),
                load=load,
                rest=rest,
            )
    finally:
        store.close()


def count_at(worlds: Worlds, size: Size) -> Counted:
    """One pass in which nothing changed, at one size, with every statement that it ran."""
    store = Store.open(worlds.copy(size))
    try:
        with leading(store) as (controller, _):
            one_pass(controller)  # the first one of a term: everything is planned anew, and nothing is new
            rows, lines = written(store), sequence(store)
            with traced(store) as statements:
                calls = one_pass(controller)
            by_word = kinds(statements)
            return Counted(
                size=size,
                rows_written=written(store) - rows,
                events_written=sequence(store) - lines,
                calls=len(calls),
                statements=len(statements),
                selects=by_word.get("SELECT", 0),
                by_word=by_word,
            )
    finally:
        store.close()


def count_load(worlds: Worlds, size: Size) -> dict[str, int]:
    """The statements by which a mirror of this size is read, by their first words."""
    store = Store.open(worlds.copy(size))
    try:
        with traced(store) as statements:
            _load(store)
        return kinds(statements)
    finally:
        store.close()


def _rest(store: Store, seconds: float) -> float:
    """Let a real loop lead this deck until it is done with its first looks, then see what it takes to stand by."""
    runner = Runner(store, echo_of(store), LoopSettings(hot=10.0, discovery=60.0))
    runner.start()
    try:
        runner.reconcile(timeout=60.0)
        gc.collect()
        began, before = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return (time.process_time() - before) / (time.perf_counter() - began)
    finally:
        runner.close()


def _load(store: Store) -> Mirror:
    with store.read() as tx:
        return Mirror.load(tx)


def _plan(controller: Controller) -> None:
    controller.plan_everything()
    controller.plan_pass(datetime.now(UTC))
