"""The frame of experiments: one row an experiment, its flags and last metrics as columns.

Decides what is shown of an experiment and derives state, age, runtime, restarts,
GPU hours and cost. Refuses to know SQL: the constants below say which cells it wants,
in which order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from skydeck_nb import states
from skydeck_nb.frames import cells
from skydeck_nb.frames.cells import NAT, Array, Column, Ints

Rows = Sequence[Sequence[Any]]

EXPERIMENT_COLUMNS: Final = (
    "name", "id", "desired_state", "run", "observed_run", "current_state", "reason", "attention", "starred",
    "nodes", "gpus", "accelerators", "spot", "git_commit", "created_at", "tags", "flags",
)  # fmt: skip
"""Of ``experiments``, in the deck's order (``exp_order, id``). Where flags are not wanted, ``flags`` may be NULL."""

TOTAL_COLUMNS: Final = (
    "experiment_id", "jobs", "launched", "recoveries", "gpu_us", "alive", "started_at", "ended_at", "cost_us",
)  # fmt: skip
"""One row for each experiment that has jobs.

``jobs``: all of it. ``launched``, ``recoveries``: of its present run. ``gpu_us``:
microseconds times GPUs over all jobs, those alive counted until now, NULL where
no job says its GPUs. ``alive``, ``started_at`` and ``ended_at`` are those of its current job, else its last.
``cost_us``: microseconds times dollars an hour over all jobs that have a price, NULL where none has.
"""

EPOCH_COLUMNS: Final = ("experiment_id", "epoch")
"""The highest epoch of each experiment that has checkpoints."""

MEMBERSHIP_COLUMNS: Final = ("experiment_id", "group")
"""The groups' names, in the groups' order."""

LATEST_COLUMNS: Final = ("experiment_id", "name", "value")
"""Of ``metric_latest``. A NULL value is NaN."""


def experiments(
    rows: Rows,
    *,
    totals: Rows = (),
    epochs: Rows = (),
    memberships: Rows = (),
    latest: Rows | None = None,
    flags: bool = True,
    now: datetime,
) -> pd.DataFrame:
    """``deck.experiments()``; ``latest`` adds the last values of metrics. Groups and tags are tuples.

    ``cost`` is an estimate in US dollars over all its jobs: hours times the price
    an hour that the backend lists, alive ones counted until now. A job without a
    price adds nothing; where none has one, the cost is missing.
    """
    got = cells.columns(rows, EXPERIMENT_COLUMNS)
    ids, size = got["id"], len(rows)
    place = {id_: i for i, id_ in enumerate(ids)}
    us = cells.clock(now)
    jobs = _aligned(totals, TOTAL_COLUMNS, place)
    created = cells.instants(got["created_at"])
    frame: dict[str, Array] = {
        "id": cells.integers(ids),
        "state": cells.categories(
            list(map(_shown, got["desired_state"], got["run"], got["observed_run"], got["current_state"])),
            states.STATES,
            ordered=True,
        ),
        "desired": cells.categories(got["desired_state"], states.DESIRED),
        "reason": cells.strings(got["reason"]),
        "attention": cells.booleans(got["attention"]),
        "starred": cells.booleans(got["starred"]),
        "groups": _gathered(memberships, place, size),
        "epoch": cells.integers(_aligned(epochs, EPOCH_COLUMNS, place)["epoch"]),
        "jobs": cells.integers([n or 0 for n in jobs["jobs"]]),
        "restarts": cells.integers([max((n or 0) - 1, 0) for n in jobs["launched"]]),
        "recoveries": cells.integers([n or 0 for n in jobs["recoveries"]]),
        "nodes": cells.integers(got["nodes"]),
        "gpus": cells.integers(got["gpus"]),
        "accelerators": cells.strings(got["accelerators"]),
        "spot": cells.booleans(got["spot"]),
        "git_commit": cells.strings(got["git_commit"]),
        "age": cells.spans(cells.elapsed(created, np.full(size, us, dtype=np.int64))),
        "runtime": cells.spans(spans_of(jobs["alive"], jobs["started_at"], jobs["ended_at"], us)),
        "gpu_hours": cells.totals(jobs["jobs"], jobs["gpu_us"]),
        "cost": cells.totals(jobs["jobs"], jobs["cost_us"]),
        "tags": cells.tuples(got["tags"], "tags", got["name"]),
    }
    if flags:
        frame |= flag_columns(got["flags"], got["name"])
    if latest is not None:
        frame |= _metrics(latest, place, size)
    index = pd.Index(cells.strings(got["name"]), name="experiment")
    return cells.costed(pd.DataFrame(frame, index=index, copy=False))


def flag_columns(texts: Sequence[str | None], names: Sequence[str]) -> dict[str, Array]:
    """``flags.<key>`` for every key that occurs, sorted, each of the narrowest dtype that holds its values."""
    dicts = cells.parsed(texts, dict, "flags", names)
    return {f"flags.{key}": cells.narrowest(column) for key, column in cells.spread(dicts).items()}


def spans_of(alive: Column, started: Column, ended: Column, now: int) -> Ints:
    """Microseconds that jobs ran, those alive until now; unknown where the start or a finished one's end is."""
    start, end = cells.instants(started), cells.instants(ended)
    running, _ = cells.known(alive)
    end[(running != 0) & (end == NAT)] = now
    return cells.elapsed(start, end)


_seen: dict[tuple[Any, Any, Any], str] = {}


def _shown(desired: Any, run: int, observed: int, current: Any) -> str:
    key = (desired, observed < run, current)
    if (word := _seen.get(key)) is None:
        word = _seen[key] = states.shown(desired, run, observed, current if current in states.STATES else "UNKNOWN")
    return word


def _aligned(rows: Rows, names: Sequence[str], place: Mapping[int, int]) -> dict[str, list[Any]]:
    """Columns of rows that are known by their first cell, in the order of ``place``, ``None`` where there is none."""
    wanted: list[Sequence[Any] | None] = [None] * len(place)
    for row in rows:
        if (i := place.get(row[0])) is not None:
            wanted[i] = row
    empty = (None,) * len(names)
    got = cells.columns([empty if row is None else row for row in wanted], names)
    return {name: list(column) for name, column in got.items()}


def _gathered(rows: Rows, place: Mapping[int, int], size: int) -> Array:
    found: list[tuple[str, ...]] = [()] * size
    for id_, name in rows:
        if (i := place.get(id_)) is not None:
            found[i] = (*found[i], name)
    return cells.objects(found, size)


def _metrics(rows: Rows, place: Mapping[int, int], size: int) -> dict[str, Array]:
    values: dict[str, list[float | None]] = {}
    for id_, name, value in rows:
        if (i := place.get(id_)) is not None:
            values.setdefault(name, [None] * size)[i] = math.nan if value is None else float(value)
    return {f"metrics.{name}": cells.narrowest(values[name]) for name in sorted(values)}
