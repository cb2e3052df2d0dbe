"""What every frame looks like: index, columns in order, dtypes, also when empty; and what is derived."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb import frames, states
from skydeck_nb.errors import InvalidSetting
from skydeck_nb.events import KINDS, micros
from skydeck_nb.frames import cells
from skydeck_nb.models import ExperimentRow, Spec

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
T = micros(NOW)
HOUR = 3_600_000_000


def row(names: Sequence[str], **given: Any) -> tuple[Any, ...]:
    assert set(given) <= set(names), set(given) - set(names)
    return tuple(given.get(name) for name in names)


def experiment(id: int = 1, **given: Any) -> tuple[Any, ...]:
    base: dict[str, Any] = {
        "name": f"e{id}", "id": id, "desired_state": "RUNNING", "run": 1, "observed_run": 1, "current_state": "RUNNING",
        "reason": "", "attention": 0, "starred": 0, "nodes": 1, "created_at": T - HOUR, "tags": "[]", "flags": "{}",
    }  # fmt: skip
    return row(frames.EXPERIMENT_COLUMNS, **(base | given))


def job(id: int = 1, **given: Any) -> tuple[Any, ...]:
    base = {
        "id": id,
        "experiment": "e1",
        "run": 1,
        "status": "RUNNING",
        "recoveries": 0,
        "generation": 1,
        "alive": 1,
        "lost": 0,
    }
    return row(frames.JOB_COLUMNS, **(base | given))


def checkpoint(epoch: int, experiment: str = "e1", **given: Any) -> tuple[Any, ...]:
    base: dict[str, Any] = {
        "experiment": experiment, "epoch": epoch, "experiment_id": 1, "model_path": f"v{epoch}.npz",
        "replay_paths": "[]", "created_at": T, "metrics": "{}", "flags": "{}",
    }  # fmt: skip
    return row(frames.CHECKPOINT_COLUMNS, **(base | given))


# -- the shape of each, by the page api.md --------------------------------------------------

STRING, INT, FLOAT, BOOL, OBJECT = "string", "Int64", "Float64", "boolean", "object"
TIME, SPAN, CATEGORY = "datetime64[us, UTC]", "timedelta64[us]", "category"

SHAPES: dict[str, tuple[Callable[[], pd.DataFrame], dict[str, str], dict[str, str]]] = {
    "experiments": (
        lambda: frames.experiments([], now=NOW),
        {"experiment": STRING},
        {
            "id": INT, "state": CATEGORY, "desired": CATEGORY, "reason": STRING, "attention": BOOL, "starred": BOOL,
            "groups": OBJECT, "epoch": INT, "jobs": INT, "restarts": INT, "recoveries": INT, "nodes": INT, "gpus": INT,
            "accelerators": STRING, "spot": BOOL, "git_commit": STRING, "age": SPAN, "runtime": SPAN,
            "gpu_hours": FLOAT, "cost": FLOAT, "tags": OBJECT,
        },
    ),
    "jobs": (
        lambda: frames.jobs([], now=NOW),
        {"job_id": INT},
        {
            "experiment": STRING, "attempt": STRING, "run": INT, "state": CATEGORY, "status": STRING,
            "started_at": TIME, "ended_at": TIME, "duration": SPAN, "exit_code": INT, "recoveries": INT,
            "infra": STRING, "nodes": INT, "gpus": INT, "accelerators": STRING, "gpu_hours": FLOAT, "cost": FLOAT,
            "generation": INT, "git_commit": STRING, "command": STRING, "user": STRING, "workspace": STRING,
            "url": STRING,
        },
    ),
    "metrics": (
        lambda: frames.metrics([]),
        {},
        {"experiment": STRING, "job_id": INT, "step": INT, "at": TIME, "name": STRING, "value": FLOAT},
    ),
    "checkpoints": (
        lambda: frames.checkpoints([]),
        {"experiment": STRING, "epoch": INT},
        {
            "id": INT, "model_path": STRING, "replay_paths": OBJECT, "size": INT, "created_at": TIME,
            "policy_version": STRING,
        },
    ),
    "events": (
        lambda: frames.events([]),
        {"sequence": INT},
        {"at": TIME, "type": CATEGORY, "experiment": STRING, "job_id": INT, "data": OBJECT},
    ),
    "groups": (
        lambda: frames.groups([]),
        {"group": STRING},
        {
            "id": INT, "experiments": INT, "alive": INT, "max_live": INT, "flags": OBJECT, "collapsed": BOOL,
            "created_at": TIME,
        },
    ),
    "sweeps": (
        lambda: frames.sweeps([]),
        {"sweep": STRING},
        {
            "id": INT, "experiments": INT, "alive": INT, "succeeded": INT, "failed": INT, "max_live": INT,
            "brake": CATEGORY, "brake_message": STRING, "created_at": TIME, "updated_at": TIME,
            "gpu_hours": FLOAT, "cost": FLOAT, "max_gpu_hours": FLOAT, "max_cost": FLOAT,
        },
    ),
    "orphans": (
        lambda: frames.orphans([], now=NOW),
        {"job_id": INT},
        {
            "name": STRING, "state": CATEGORY, "status": STRING, "submitted_at": TIME, "started_at": TIME,
            "duration": SPAN, "infra": STRING, "nodes": INT, "gpus": INT, "accelerators": STRING, "command": STRING,
            "user": STRING, "mine": BOOL, "workspace": STRING, "url": STRING,
        },
    ),
    "clusters": (
        lambda: frames.clusters([], now=NOW),
        {"cluster": STRING},
        {
            "experiment": STRING, "job_id": INT, "state": CATEGORY, "infra": STRING, "nodes": INT, "gpus": INT,
            "accelerators": STRING, "started_at": TIME, "duration": SPAN, "user": STRING,
        },
    ),
    "attempts": (
        lambda: frames.attempts([]),
        {"attempt": STRING},
        {
            "experiment": STRING, "run": INT, "generation": INT, "state": CATEGORY, "claim": STRING, "job_id": INT,
            "request_id": STRING, "term": INT, "created_at": TIME, "send_before": TIME, "ended_at": TIME,
            "misses": INT, "error": STRING,
        },
    ),
    "settings": (lambda: frames.settings([]), {"setting": STRING}, {"value": OBJECT, "source": STRING}),
    "outcomes": (
        lambda: frames.outcomes([]),
        {"experiment": STRING},
        {"action": STRING, "reason": STRING, "applies": STRING},
    ),
}  # fmt: skip


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def index(frame: pd.DataFrame) -> dict[str, str]:
    if isinstance(frame.index, pd.MultiIndex):
        return {str(name): str(frame.index.levels[i].dtype) for i, name in enumerate(frame.index.names)}
    return {} if frame.index.name is None else {str(frame.index.name): str(frame.index.dtype)}


@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_frame_has_its_columns_and_dtypes(name: str) -> None:
    make, indexed, columns = SHAPES[name]
    frame = make()
    assert len(frame) == 0
    assert list(frame.columns) == list(columns)
    assert dtypes(frame) == columns
    assert index(frame) == indexed


FULL: dict[str, Callable[[], pd.DataFrame]] = {
    "experiments": lambda: frames.experiments([experiment()], now=NOW),
    "jobs": lambda: frames.jobs([job(), job(2, gpus=4, nodes=1, started_at=T, exit_code=0)], now=NOW),
    "metrics": lambda: frames.metrics([("e1", 1, None, T, "loss", 0.5), ("e1", None, 2, T, "loss", None)]),
    "checkpoints": lambda: frames.checkpoints([checkpoint(1)]),
    "events": lambda: frames.events([(1, T, "job.lost", None, 3, "{}")]),
    "groups": lambda: frames.groups([("g", 1, 2, 0, None, '["lr"]', 0, T)]),
    "sweeps": lambda: frames.sweeps([("s", 1, 2, 1, 0, 0, None, "ARMED", "", T, T, 3, 0, None, None, 9.5)]),
    "orphans": lambda: frames.orphans([row(frames.ORPHAN_COLUMNS, id=1, status="RUNNING", alive=1, lost=0)], now=NOW),
    "clusters": lambda: frames.clusters(
        [row(frames.CLUSTER_COLUMNS, id=1, status="RUNNING", alive=1, lost=0)], now=NOW
    ),
    "attempts": lambda: frames.attempts([row(frames.ATTEMPT_COLUMNS, id="a", state="UNKNOWN")]),
    "settings": lambda: frames.settings([("poll_interval", 10, "default"), ("backend", "local", "argument")]),
    "outcomes": lambda: frames.outcomes([("e1", "started", "", None)]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_rows_change_no_dtype(name: str) -> None:
    assert dtypes(FULL[name]()) == SHAPES[name][2]
    assert index(FULL[name]()) == SHAPES[name][1]


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 2 cells for 6 columns"):
        frames.metrics([(1, 2)])


# -- experiments ------------------------------------------------------------------------------


def test_the_state_is_ordered_and_says_all_words() -> None:
    frame = frames.experiments(
        [
            experiment(1, current_state="FAILED"),
            experiment(2, run=2, current_state="SUCCEEDED"),  # asked for again, not planned yet
            experiment(3, desired_state="STOPPED"),
        ],
        now=NOW,
    )
    assert list(frame["state"]) == ["FAILED", "QUEUED", "STOPPING"]
    assert list(frame["state"].cat.categories) == list(states.STATES)
    assert frame["state"].cat.ordered
    assert list(frame[frame["state"] < "RUNNING"].index) == ["e2"]


def test_what_is_added_up_is_joined_by_id() -> None:
    frame = frames.experiments(
        [experiment(1, tags='["a","b"]'), experiment(2), experiment(3)],
        totals=[
            (3, 5, 3, 2, 8 * HOUR, 1, T - HOUR, None, 2.5 * HOUR),
            (1, 1, 0, 0, None, 0, T - 3 * HOUR, T - 2 * HOUR, None),
            (99, 1, 1, 1, 1, 1, 1, 1, 1),
        ],
        epochs=[(3, 40)],
        memberships=[(1, "first"), (3, "first"), (1, "second")],
        latest=[(1, "loss", 0.25), (3, "loss", None), (3, "acc", 1)],
        now=NOW,
    )
    assert list(frame["jobs"]) == [1, 0, 5]
    assert list(frame["restarts"]) == [0, 0, 2]
    assert list(frame["recoveries"]) == [0, 0, 2]
    assert frame["gpu_hours"].isna().tolist() == [True, False, False]
    assert frame["gpu_hours"].tolist()[1:] == [0.0, 8.0]
    assert frame["runtime"].tolist()[::2] == [timedelta(hours=1), timedelta(hours=1)]
    assert frame["runtime"].isna().tolist() == [False, True, False]
    assert frame["age"].tolist() == [timedelta(hours=1)] * 3
    assert frame["epoch"].isna().tolist() == [True, True, False]
    assert frame["groups"].tolist() == [("first", "second"), (), ("first",)]
    assert frame["tags"].tolist() == [("a", "b"), (), ()]
    assert list(frame.columns)[-2:] == ["metrics.acc", "metrics.loss"]
    loss = frame["metrics.loss"].array
    assert (loss[0], loss[1] is pd.NA, math.isnan(loss[2])) == (0.25, True, True)
    assert frame["cost"].isna().tolist() == [True, False, False]
    assert frame["cost"].tolist()[1:] == [0.0, 2.5]
    assert frame.attrs["cost"].startswith("an estimate in US dollars")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2, None], "Int64"),
        ([1, 0.5], "Float64"),
        ([True, None], "boolean"),
        ([True, 1], "object"),
        (["a", None], "string"),
        (["a", 1], "object"),
        ([[1, 2], [3]], "object"),
        ([2**70, 1], "object"),  # beyond 64 bits
        ([2**60 + 1, 0.5], "object"),  # no float is this integer
        ([None, None], "object"),
    ],
)
def test_a_flag_has_the_narrowest_dtype_that_holds_its_values(values: list[Any], dtype: str) -> None:
    rows = [experiment(i, flags=json.dumps({"x.y": v})) for i, v in enumerate(values)]
    column = frames.experiments(rows, now=NOW)["flags.x.y"]
    assert str(column.dtype) == dtype
    assert [None if v is None or v is pd.NA else v for v in column] == values


def test_a_flag_that_some_lack_is_missing_there_and_flags_are_sorted() -> None:
    frame = frames.experiments([experiment(1, flags='{"b":1,"a":2}'), experiment(2, flags='{"b":3}')], now=NOW)
    assert list(frame.columns)[-2:] == ["flags.a", "flags.b"]
    assert frame["flags.a"].isna().tolist() == [False, True]


def test_a_nan_flag_is_nan_and_not_missing() -> None:
    frame = frames.experiments([experiment(1, flags='{"x":NaN}'), experiment(2, flags='{"y":1}')], now=NOW)
    value = frame["flags.x"].array
    assert math.isnan(value[0])
    assert value[1] is pd.NA


def test_half_a_surrogate_pair_is_text_too() -> None:
    frame = frames.experiments([experiment(1, flags='{"x":"\\ud800"}'), experiment(2, flags='{"x":"y"}')], now=NOW)
    assert frame["flags.x"].tolist() == ["\ud800", "y"]


def test_without_flags_there_are_none() -> None:
    frame = frames.experiments([experiment(flags='{"x":1}')], flags=False, now=NOW)
    assert not [c for c in frame.columns if c.startswith("flags.")]


@pytest.mark.parametrize("damaged", ["{", "[1]", "1],[2", '"x"', "{} {}"])
def test_flags_that_cannot_be_read_are_named_and_everything_else_goes_on(damaged: str) -> None:
    rows = [experiment(1, flags='{"x":1}'), experiment(2, flags=damaged), experiment(3, flags='{"x":3}')]
    with pytest.warns(UserWarning, match="The flags of e2 cannot be read"):
        frame = frames.experiments(rows, now=NOW)
    assert frame["flags.x"].fillna(0).tolist() == [1, 0, 3]


def test_two_deleted_of_one_name_are_two_rows() -> None:
    assert len(frames.experiments([experiment(1, name="e"), experiment(2, name="e")], now=NOW)) == 2


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b.c", "d"]), SCALARS), max_size=6))
def test_no_flag_value_is_changed_by_its_column(flags: list[dict[str, Any]]) -> None:
    frame = frames.experiments([experiment(i, flags=json.dumps(f)) for i, f in enumerate(flags)], now=NOW)
    for i, each in enumerate(flags):
        for key, value in each.items():
            got = frame[f"flags.{key}"].iloc[i]
            if value is None:
                assert got is None or got is pd.NA
            else:
                assert got == value


# -- jobs --------------------------------------------------------------------------------------


def test_what_is_derived_of_a_job() -> None:
    frame = frames.jobs(
        [
            job(1, started_at=T - 2 * HOUR, nodes=2, gpus=4),
            job(2, status="FAILED_SETUP", alive=0, started_at=T - 2 * HOUR, ended_at=T - HOUR, nodes=1, gpus=1),
            job(3, status="SUCCEEDED", alive=0, started_at=T - HOUR),  # nobody saw its end
            job(4, status="RUNNING", lost=1, started_at=T - HOUR),
            job(5, status="SOMETHING_NEW"),
            job(6, status="PENDING"),
        ],
        now=NOW,
    )
    assert list(frame["state"]) == ["RUNNING", "FAILED", "SUCCEEDED", "LOST", "UNKNOWN", "PENDING"]
    assert list(frame["status"])[1] == "FAILED_SETUP"
    spans = [None if v is pd.NaT else v / timedelta(hours=1) for v in frame["duration"]]
    assert spans == [2, 1, None, 1, None, None]
    assert frame["gpu_hours"].isna().tolist() == [False, False, True, True, True, True]
    assert frame["gpu_hours"].tolist()[:2] == [16.0, 1.0]
    assert frame.loc[1, "started_at"] == NOW - timedelta(hours=2)
    assert list(frame.index) == [1, 2, 3, 4, 5, 6]


def test_a_clock_that_runs_behind_makes_no_negative_duration() -> None:
    assert frames.jobs([job(started_at=T + HOUR)], now=NOW)["duration"].tolist() == [timedelta(0)]


@pytest.mark.filterwarnings(
    "ignore:The 'lsuffix' and 'rsuffix':Warning"
)  # pandas 3.1 would have `suffixes=("", "_exp")`
def test_jobs_join_experiments_as_the_page_says() -> None:
    experiments = frames.experiments([experiment(1, nodes=7), experiment(2)], now=NOW)
    jobs = frames.jobs([job(1), job(2, experiment="e2"), job(3, experiment=None)], now=NOW)
    joined = jobs.join(experiments, on="experiment", rsuffix="_exp")
    assert joined["nodes_exp"].isna().tolist() == [False, False, True]
    assert joined.loc[1, "nodes_exp"] == 7
    assert str(joined["state_exp"].dtype) == "category"
    assert list(joined.columns[: len(jobs.columns)]) == list(jobs.columns)


# -- records -----------------------------------------------------------------------------------


def test_checkpoints_latest_and_best() -> None:
    rows = [
        checkpoint(1, metrics='{"acc":0.5}', size=10, replay_paths='["a","b"]'),
        checkpoint(2, metrics='{"acc":0.9}'),
        checkpoint(3, metrics='{"acc":0.9,"loss":2}'),
        checkpoint(10, metrics="{}"),
        checkpoint(4, "e2", metrics='{"acc":NaN}'),
    ]
    every = frames.checkpoints(rows)
    assert list(every.columns)[-2:] == ["metrics.acc", "metrics.loss"]
    assert every.loc[("e1", 1), "replay_paths"] == ("a", "b")
    assert list(frames.checkpoints(rows, latest=True).index) == [("e1", 10), ("e2", 4)]
    assert list(frames.checkpoints(rows, best="acc").index) == [("e1", 3)]
    assert list(frames.checkpoints(rows, best="metrics.acc", mode="min").index) == [("e1", 1)]
    with pytest.raises(InvalidSetting, match="No checkpoint has a metric 'ac'; near it: acc"):
        frames.checkpoints(rows, best="ac")
    with pytest.raises(InvalidSetting, match="one of them"):
        frames.checkpoints(rows, best="acc", latest=True)


def test_checkpoints_with_the_flags_of_their_experiment() -> None:
    frame = frames.checkpoints([checkpoint(1, flags='{"lr":0.1}')], flags=True)
    assert frame["flags.lr"].tolist() == [0.1]


def test_events_show_data_without_changes_and_know_the_whole_vocabulary() -> None:
    started = json.dumps({"task_id": 0, "started_at": T, "changes": [["jobs", 1, {"x": 1}]]})
    frame = frames.events([(7, T, "job.started", "e1", 1, started), (8, T, "from.the.future", None, None, '{"a":1}')])
    assert frame.loc[7, "data"] == {"task_id": 0, "started_at": NOW}
    assert frame.loc[8, "data"] == {"a": 1}
    assert list(frame["type"].cat.categories) == [*KINDS, "from.the.future"]
    assert frame["experiment"].isna().tolist() == [False, True]


def test_metrics_that_were_nan_are_kept() -> None:
    frame = frames.metrics([("e1", 1, 5, T, "loss", None), ("e1", 1, 6, T, "loss", 0.5)])
    assert frame["step"].tolist() == [5, 6]
    values = frame["value"].array
    assert (math.isnan(values[0]), values[1]) == (True, 0.5)


# -- what differs ------------------------------------------------------------------------------


def declared(name: str, **spec: Any) -> ExperimentRow:
    return ExperimentRow(id=1, name=name, spec=Spec(**spec), spec_hash="", created_at=NOW, updated_at=NOW)


def test_diff_shows_what_is_not_the_same_in_all() -> None:
    a = declared("a", nodes=1, flags={"lr": 0.1, "same": 1, "only": 2}, env={"X": "1"})
    b = declared("b", nodes=4, flags={"lr": 0.2, "same": 1}, env={"X": "2"})
    frame = frames.diff([a, b])
    assert list(frame.index) == ["nodes", "env.X", "flags.lr", "flags.only"]
    assert frame.index.name == "field"
    assert list(frame.columns) == ["a", "b"]
    assert list(frame.loc["nodes"]) == [1, 4]
    assert frame.loc["flags.only", "b"] is pd.NA


def test_diff_tells_types_apart_and_equals_from_nothing() -> None:
    a, b = declared("a", flags={"x": 1, "y": math.nan}), declared("b", flags={"x": True, "y": math.nan})
    assert list(frames.diff([a, b]).index) == ["flags.x"]
    same = frames.diff([a, replace(a, name="b"), replace(a, name="c")])
    assert (len(same), list(same.columns), same.index.name) == (0, ["a", "b", "c"], "field")
    with pytest.raises(InvalidSetting, match="two experiments or more; 1 given"):
        frames.diff([a])


# -- cells --------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62)), max_size=5))
def test_integers_are_exact(column: list[int | None]) -> None:
    assert [None if v is pd.NA else v for v in cells.integers(column)] == column


@given(st.lists(st.one_of(st.none(), st.integers(-(10**15), 10**16)), max_size=5))
def test_times_are_exact_to_the_microsecond(column: list[int | None]) -> None:
    got = [None if v is pd.NaT else micros(v.to_pydatetime()) for v in pd.Series(cells.times(column))]
    assert got == column


# -- what things cost ------------------------------------------------------------------------


def test_a_job_costs_its_hours_at_its_price_until_it_ended_or_until_now() -> None:
    frame = frames.jobs(
        [
            job(1, started_at=T - 2 * HOUR, hourly_cost=3.0),
            job(2, status="FAILED", alive=0, started_at=T - 3 * HOUR, ended_at=T - 2 * HOUR, hourly_cost=4.5),
            job(3, started_at=T - HOUR, hourly_cost=0.0),
            job(4, started_at=T - HOUR),
            job(5, status="PENDING", hourly_cost=3.0),
            job(6, status="SUCCEEDED", alive=0, started_at=T - HOUR, hourly_cost=3.0),  # nobody saw its end
        ],
        now=NOW,
    )
    assert frame["cost"].tolist()[:3] == [6.0, 4.5, 0.0]
    assert frame["cost"].isna().tolist()[3:] == [True] * 3
    assert frame.attrs["cost"].startswith("an estimate in US dollars")


def test_a_sweep_without_a_job_cost_nothing_and_one_without_a_price_nobody_knows_what() -> None:
    rows = [
        ("none", 1, 2, 0, 0, 0, None, "ARMED", "", T, T, None, None, None, None, None),
        ("dear", 2, 2, 0, 0, 0, None, "ARMED", "", T, T, 3, 8 * HOUR, 2.5 * HOUR, 100.0, 50.0),
        ("free", 3, 2, 0, 0, 0, None, "ARMED", "", T, T, 3, 8 * HOUR, None, None, None),
    ]
    frame = frames.sweeps(rows)
    assert frame["gpu_hours"].tolist() == [0.0, 8.0, 8.0]
    assert frame["cost"].tolist()[:2] == [0.0, 2.5]
    assert frame["cost"].isna().tolist() == [False, False, True]
    assert frame.loc[["dear"], ["max_gpu_hours", "max_cost"]].to_numpy().tolist() == [[100.0, 50.0]]
