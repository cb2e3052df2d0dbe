"""The frames of what ran: jobs, orphans, clusters and attempts.

Decides what is shown of an execution and derives state, duration, GPU hours
and cost.
Refuses to know SQL: the constants below say which cells it wants, in which order;
``experiment`` is the experiment's present name, NULL where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from skydeck_nb import states
from skydeck_nb.frames import cells
from skydeck_nb.frames.cells import Array, Column
from skydeck_nb.frames.experiments import spans_of

Rows = Sequence[Sequence[Any]]

JOB_COLUMNS: Final = (
    "id", "experiment", "attempt_id", "run", "status", "started_at", "ended_at", "exit_code", "recoveries", "infra",
    "nodes", "gpus", "accelerators", "generation", "git_commit", "command", "user", "workspace", "url", "alive", "lost",
    "hourly_cost",
)  # fmt: skip
"""Of ``jobs``, ordered by id, with the experiment's name joined. ``alive`` is 1 where it may still use a machine,
``lost`` where it was lost or forgotten."""

ORPHAN_COLUMNS: Final = (
    "id", "name", "status", "submitted_at", "started_at", "ended_at", "infra", "nodes", "gpus", "accelerators",
    "command", "user", "mine", "workspace", "url", "alive", "lost",
)  # fmt: skip
"""Of ``jobs`` that belong to no experiment."""

CLUSTER_COLUMNS: Final = (
    "cluster_name", "experiment", "id", "status", "infra", "nodes", "gpus", "accelerators", "started_at", "user",
    "alive", "lost",
)  # fmt: skip
"""Of the jobs that are alive and say their cluster."""

ATTEMPT_COLUMNS: Final = (
    "id", "experiment", "run", "generation", "state", "claim", "job_id", "request_id", "term", "created_at",
    "send_before", "ended_at", "misses", "error",
)  # fmt: skip
"""Of ``attempts``, ordered by created_at."""

ATTEMPT_STATES: Final = ("PREPARED", "SENDING", "UNKNOWN", "SUBMITTED", "REJECTED", "NOT_LAUNCHED")


def jobs(rows: Rows, *, now: datetime) -> pd.DataFrame:
    """``deck.jobs()``. ``attempt`` is the attempt's id, the index of ``deck.attempts()``.

    ``cost`` is an estimate in US dollars: the job's hours times the price an hour
    that the backend lists, alive ones counted until now, missing without a price.
    """
    got = cells.columns(rows, JOB_COLUMNS)
    ran = spans_of(got["alive"], got["started_at"], got["ended_at"], cells.clock(now))
    frame = pd.DataFrame(
        {
            "experiment": cells.strings(got["experiment"]),
            "attempt": cells.strings(got["attempt_id"]),
            "run": cells.integers(got["run"]),
            "state": _states(got["status"], got["lost"]),
            "status": cells.strings(got["status"]),
            "started_at": cells.times(got["started_at"]),
            "ended_at": cells.times(got["ended_at"]),
            "duration": cells.spans(ran),
            "exit_code": cells.integers(got["exit_code"]),
            "recoveries": cells.integers(got["recoveries"]),
            "infra": cells.strings(got["infra"]),
            "nodes": cells.integers(got["nodes"]),
            "gpus": cells.integers(got["gpus"]),
            "accelerators": cells.strings(got["accelerators"]),
            "gpu_hours": _gpu_hours(ran, got["nodes"], got["gpus"]),
            "cost": _cost(ran, got["hourly_cost"]),
            "generation": cells.integers(got["generation"]),
            "git_commit": cells.strings(got["git_commit"]),
            "command": cells.strings(got["command"]),
            "user": cells.strings(got["user"]),
            "workspace": cells.strings(got["workspace"]),
            "url": cells.strings(got["url"]),
        },
        index=pd.Index(cells.integers(got["id"]), name="job_id"),
        copy=False,
    )
    return cells.costed(frame)


def orphans(rows: Rows, *, now: datetime) -> pd.DataFrame:
    """``deck.orphans()``: what ``deck.adopt(job_id, name)`` may take."""
    got = cells.columns(rows, ORPHAN_COLUMNS)
    ran = spans_of(got["alive"], got["started_at"], got["ended_at"], cells.clock(now))
    return pd.DataFrame(
        {
            "name": cells.strings(got["name"]),
            "state": _states(got["status"], got["lost"]),
            "status": cells.strings(got["status"]),
            "submitted_at": cells.times(got["submitted_at"]),
            "started_at": cells.times(got["started_at"]),
            "duration": cells.spans(ran),
            "infra": cells.strings(got["infra"]),
            "nodes": cells.integers(got["nodes"]),
            "gpus": cells.integers(got["gpus"]),
            "accelerators": cells.strings(got["accelerators"]),
            "command": cells.strings(got["command"]),
            "user": cells.strings(got["user"]),
            "mine": cells.booleans(got["mine"]),
            "workspace": cells.strings(got["workspace"]),
            "url": cells.strings(got["url"]),
        },
        index=pd.Index(cells.integers(got["id"]), name="job_id"),
        copy=False,
    )


def clusters(rows: Rows, *, now: datetime) -> pd.DataFrame:
    """``deck.clusters()``: where something of this deck is alive."""
    got = cells.columns(rows, CLUSTER_COLUMNS)
    ran = spans_of(got["alive"], got["started_at"], (None,) * len(rows), cells.clock(now))
    return pd.DataFrame(
        {
            "experiment": cells.strings(got["experiment"]),
            "job_id": cells.integers(got["id"]),
            "state": _states(got["status"], got["lost"]),
            "infra": cells.strings(got["infra"]),
            "nodes": cells.integers(got["nodes"]),
            "gpus": cells.integers(got["gpus"]),
            "accelerators": cells.strings(got["accelerators"]),
            "started_at": cells.times(got["started_at"]),
            "duration": cells.spans(ran),
            "user": cells.strings(got["user"]),
        },
        index=pd.Index(cells.strings(got["cluster_name"]), name="cluster"),
        copy=False,
    )


def attempts(rows: Rows) -> pd.DataFrame:
    """``deck.attempts()``: every intent to launch and what became of it."""
    got = cells.columns(rows, ATTEMPT_COLUMNS)
    return pd.DataFrame(
        {
            "experiment": cells.strings(got["experiment"]),
            "run": cells.integers(got["run"]),
            "generation": cells.integers(got["generation"]),
            "state": cells.categories(got["state"], ATTEMPT_STATES),
            "claim": cells.strings(got["claim"]),
            "job_id": cells.integers(got["job_id"]),
            "request_id": cells.strings(got["request_id"]),
            "term": cells.integers(got["term"]),
            "created_at": cells.times(got["created_at"]),
            "send_before": cells.times(got["send_before"]),
            "ended_at": cells.times(got["ended_at"]),
            "misses": cells.integers(got["misses"]),
            "error": cells.strings(got["error"]),
        },
        index=pd.Index(cells.strings(got["id"]), name="attempt"),
        copy=False,
    )


def _states(status: Column, lost: Column) -> Array:
    word = {each: states.of_job(each) for each in set(status)}
    shown: list[str] = list(map(word.__getitem__, status))
    if any(lost):
        shown = ["LOST" if gone else each for each, gone in zip(shown, lost, strict=True)]
    return cells.categories(shown, states.STATES, ordered=True)


def _gpu_hours(ran: cells.Ints, nodes: Column, gpus: Column) -> Array:
    values, unknown = cells.hours(ran)
    count, one = cells.known(nodes)
    each, none = cells.known(gpus)
    return cells.masked_floats(values * count * each, unknown | one | none)


def _cost(ran: cells.Ints, price: Column) -> Array:
    values, unknown = cells.hours(ran)
    costs = values * np.array(price, dtype=np.float64)
    return cells.masked_floats(costs, unknown | np.isnan(costs))
