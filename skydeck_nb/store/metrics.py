"""Curves of metrics, bounded: at most 200 points each, however long the run.

Decides which points stay: the newest 100 as they are, and of the older ones
every second, again and again, so that the whole curve keeps its shape. A point
that is not newer than the newest of its job (by step, else by time) is dropped:
a file of metrics may be read again from its start. Outside the log and its fold.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from skydeck_nb.events import micros, moment
from skydeck_nb.store.records import Latest, Metric

BOUND: Final = 200
EXACT: Final = 100
_ROOM: Final = 50
LATEST: Final = "experiment_id, name, step, value, at, job_id"

T = TypeVar("T")


def thin(points: Sequence[T]) -> list[T]:
    """At most 150 points, oldest first: the newest 100, and of the older ones the first and every n-th."""
    if len(points) <= BOUND - _ROOM:
        return list(points)
    old, new = points[:-EXACT], points[-EXACT:]
    while len(old) > BOUND - _ROOM - EXACT:
        old = old[::2]
    return [*old, *new]


def value_of(cell: float | None) -> float:
    """A stored value: SQLite keeps NaN as NULL."""
    return math.nan if cell is None else cell


def latest(found: Iterable[tuple[Any, ...]]) -> dict[tuple[int, str], Latest]:
    """Rows of :data:`LATEST` by experiment and name."""
    return {
        (experiment, name): Latest(step, value_of(value), moment(at), job)
        for experiment, name, step, value, at, job in found
    }


def add(raw: sqlite3.Connection, rows: Iterable[Metric]) -> int:
    """Add readings to their curves; how many were new. Those of experiments that are gone are not kept."""
    curves: dict[tuple[int, str], list[Metric]] = {}
    for row in rows:
        curves.setdefault((row.experiment_id, row.name), []).append(row)
    ids = json.dumps(sorted({e for e, _ in curves}))
    found = raw.execute("SELECT id FROM experiments WHERE id IN (SELECT value FROM json_each(?))", (ids,)).fetchall()
    there = {i for (i,) in found}
    newest = {
        (experiment, name): (n, job, step, at)
        for experiment, name, n, job, step, at in raw.execute(
            "SELECT experiment_id, name, n, job_id, step, at FROM metric_latest "
            "WHERE experiment_id IN (SELECT value FROM json_each(?))",
            (ids,),
        ).fetchall()
    }
    added: list[tuple[Any, ...]] = []
    ends: list[tuple[Any, ...]] = []
    crowded: list[tuple[int, str]] = []
    count = 0
    for curve, points in curves.items():
        if curve[0] not in there:
            continue
        n, job, step, at = newest.get(curve, (-1, None, None, 0))
        fresh: list[tuple[int, Metric]] = []
        for point in points:
            when = micros(point.at)
            known = step is not None and point.step is not None
            if n + len(fresh) >= 0 and point.job_id == job and (point.step <= step if known else when <= at):
                continue
            job, step, at = point.job_id, point.step, when
            fresh.append((when, point))
        if not fresh:
            continue
        count += len(fresh)
        first, last = n + 1, n + len(fresh)
        numbered = thin([(first + i, when, point) for i, (when, point) in enumerate(fresh)])
        made = [(*curve, i, p.job_id, p.step, p.value, when) for i, when, p in numbered]
        added += made
        ends.append(made[-1])
        if first // _ROOM != (last + 1) // _ROOM:
            crowded.append(curve)
    raw.executemany(
        "INSERT INTO metrics (experiment_id, name, n, job_id, step, value, at) VALUES (?, ?, ?, ?, ?, ?, ?)", added
    )
    raw.executemany(
        "INSERT OR REPLACE INTO metric_latest (experiment_id, name, n, job_id, step, value, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        ends,
    )
    for curve in crowded:
        _thin(raw, curve)
    return count


def _thin(raw: sqlite3.Connection, curve: tuple[int, str]) -> None:
    found = raw.execute("SELECT n FROM metrics WHERE experiment_id = ? AND name = ? ORDER BY n", curve).fetchall()
    numbers = [n for (n,) in found]
    gone = set(numbers) - set(thin(numbers))
    raw.executemany("DELETE FROM metrics WHERE experiment_id = ? AND name = ? AND n = ?", [(*curve, n) for n in gone])
