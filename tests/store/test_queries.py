"""What can be asked of a transaction, the lease's row, settings and curves."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb import codec
from skydeck_nb.events import micros
from skydeck_nb.models import CheckpointRow, Condition, Spec
from skydeck_nb.store import Latest, Metric, Store, metrics
from tests.store.rows import T0, at, attempt, changed, declared, experiment, group, job, sweep

RICH = experiment(
    1,
    spec=Spec(
        command=("python", "a b", "q\"'$(x)\n", "é"),
        flags={"z": [1, None, True, "x"], "a": 0.1, "n": None, "big": 2**80},
        gpus=0,
        spot=False,
        resources={"any_of": [{"infra": "slurm"}]},
        env={"A": ""},
        secrets=("TOKEN",),
        file_mounts={"/d": "s3://b"},
    ),
    tags=("x", "y"),
    coordinates={"lr": 0.1},
    max_hours=2,
    conditions=(Condition(type="Ready", status="Unknown", reason="NotListed", message="…"),),
    wanted_at=datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)


def test_rows_come_back_as_they_went_in(store: Store) -> None:
    rows = [RICH, replace(experiment(2), spec=Spec(script="x", command=None)), experiment(3, deleted=True)]
    store.apply(declared(*rows))
    jobs = [job(5, 1, exit_code=-9, lost=True, ended_at=at(1)), job(6, None, mine=False)]
    point = CheckpointRow(experiment_id=1, epoch=3, model_path="m", metrics={"loss": math.inf}, created_at=T0)
    rest: list[codec.Row] = [*jobs, attempt("a", 1), sweep(1), group(1), point]
    store.apply([changed(1, *map(codec.insert, rest))])
    with store.read() as tx:
        assert tx.experiments(deleted=None) == rows
        assert list(tx.experiments([1])[0].spec.flags) == ["z", "a", "n", "big"], "in the order given"
        assert tx.jobs() == jobs
        assert (tx.attempts(), tx.sweeps(), tx.groups()) == ([attempt("a", 1)], [sweep(1)], [group(1)])
        assert tx.checkpoints() == [point]


def test_experiments_by_id_name_and_whether_deleted(store: Store) -> None:
    store.apply(declared(experiment(1), experiment(2), experiment(3, name="e1", deleted=True)))
    with store.read() as tx:
        assert [e.id for e in tx.experiments()] == [1, 2]
        assert [e.id for e in tx.experiments(deleted=True)] == [3]
        assert [e.id for e in tx.experiments(names=["e1"], deleted=None)] == [1, 3]
        assert [e.id for e in tx.experiments(range(2, 5000), deleted=None)] == [2, 3]
        assert tx.experiments([]) == []


def test_jobs_by_owner_and_life(store: Store) -> None:
    store.apply(declared(experiment(1)))
    rows = [
        job(1, 1, status="SUCCEEDED"),
        job(2, 1, status="RUNNING"),
        job(3, 1, status="RUNNING", forgotten=True),
        job(4, None, status="SOMETHING_NEW"),
    ]
    store.apply([changed(1, *(codec.insert(r) for r in rows))])
    with store.read() as tx:
        assert [j.id for j in tx.jobs(alive=True)] == [j.id for j in rows if j.alive] == [2, 4]
        assert [j.id for j in tx.jobs(alive=False)] == [1, 3]
        assert [j.id for j in tx.jobs(experiment_ids=[1], alive=True)] == [2]
        assert tx.rows("jobs", ["id", "status"], "experiment_id = ? AND id > ?", [1, 1]) == [
            (2, "RUNNING"),
            (3, "RUNNING"),
        ]
        with pytest.raises(ValueError, match="no table and no column"):
            tx.rows("jobs; DROP TABLE jobs", ["id"])


def test_attempts_by_claim_and_whether_open(store: Store) -> None:
    store.apply(declared(experiment(1)))
    rows = [attempt("b", 1, state="REJECTED"), attempt("a", 1, created_at=at(5))]
    store.apply([changed(1, *(codec.insert(r) for r in rows))])
    with store.read() as tx:
        assert tx.attempts() == rows
        assert tx.attempts(open=True) == [rows[1]]
        assert tx.attempts(open=False, experiment_ids=[1]) == [rows[0]]
        assert tx.attempts(claims=["c-a", "c-z"]) == [rows[1]]


def test_several_new_rows_take_ids_in_a_row(store: Store) -> None:
    with store.write() as tx:
        first = tx.next_id("experiments")
        tx.apply(declared(experiment(first), experiment(first + 1)))
        assert (first, tx.next_id("experiments"), tx.next_id("sweeps")) == (1, 3, 1)


def test_settings_are_json_and_equal_ones_cost_no_write(store: Store) -> None:
    with store.write() as tx:
        tx.set_setting("grid.columns", {"hidden": ["a"], "width": 3})
        before = tx.db.conn.total_changes
        tx.set_setting("grid.columns", {"hidden": ["a"], "width": 3})
        assert tx.db.conn.total_changes == before
    with store.read() as tx:
        assert tx.setting("grid.columns") == {"hidden": ["a"], "width": 3}
        assert tx.setting("grid.rows") is None
        assert tx.folded() == tx.tables(), "outside the log"


# -- the lease ----------------------------------------------------------------------------


def test_every_take_is_a_new_term_also_by_the_same_holder(store: Store) -> None:
    with store.write(durable=True) as tx:
        assert tx.lease() is None
        assert [tx.take_lease(h, "box", 7) for h in ("a", "a", "b")] == [1, 2, 3]
        lease = tx.lease()
    assert lease is not None
    assert (lease.holder, lease.host, lease.pid, lease.term, lease.counter) == ("b", "box", 7, 3, 0)


def test_only_the_present_term_and_holder_renew_and_release(store: Store) -> None:
    with store.write() as tx:
        term = tx.take_lease("a", "box", 7)
        assert tx.renew_lease(term, "a", listed_at=T0, next_look_at=at(5))
        assert not tx.renew_lease(term, "b", listed_at=T0, next_look_at=None)
        assert not tx.renew_lease(term - 1, "a", listed_at=T0, next_look_at=None)
        lease = tx.lease()
        assert lease is not None
        assert (lease.counter, lease.listed_at, lease.next_look_at) == (1, T0, at(5))
        assert not tx.release_lease(term + 1, "a")
        assert tx.release_lease(term, "a")
        assert not tx.renew_lease(term, "a", listed_at=T0, next_look_at=None)
        lease = tx.lease()
        assert lease is not None
        assert (lease.holder, lease.term) == (None, term)
        assert tx.take_lease("a", "box", 7) == term + 1
        assert tx.sequence == 0, "the caller records what it took and lost"


# -- curves -------------------------------------------------------------------------------


def points(first: int, last: int, *, job_id: int = 1, experiment_id: int = 1) -> list[Metric]:
    return [Metric(experiment_id, job_id, "loss", n, 1 / (n + 1), at(n)) for n in range(first, last)]


def test_a_curve_is_bounded_keeps_its_newest_points_and_its_shape(store: Store) -> None:
    store.apply(declared(experiment(1)))
    for start in range(0, 3000, 37):
        with store.write() as tx:
            assert tx.add_metrics(points(start, start + 37)) == 37
            kept = tx.recent_metric(1, "loss")
            assert len(kept) <= metrics.BOUND
            end = start + 37
            assert [s for s, _ in kept][-min(end, 100) :] == list(range(max(0, end - 100), end))
            assert kept[0] == (0, 1.0)
            assert tx.latest_metrics([1]) == {(1, "loss"): Latest(end - 1, 1 / end, at(end - 1), 1)}


def test_points_that_were_read_before_are_dropped(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with store.write() as tx:
        assert tx.add_metrics(points(0, 10)) == 10
        assert tx.add_metrics(points(0, 12)) == 2
        assert tx.add_metrics(points(0, 3, job_id=2)) == 3, "another job begins at its own first step"
        assert [s for s, _ in tx.recent_metric(1, "loss")] == [*range(12), 0, 1, 2]
        assert tx.latest_metrics()[1, "loss"].job_id == 2


def test_points_of_experiments_that_are_gone_are_not_kept(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with store.write() as tx:
        assert tx.add_metrics([*points(0, 3), *points(0, 3, experiment_id=9)]) == 3
    store.apply([changed(1, codec.remove(experiment(1)))])
    with store.read() as tx:
        assert tx.latest_metrics() == {}
        assert tx.recent_metric(1, "loss") == []


def test_not_a_number_stays_one(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with store.write() as tx:
        tx.add_metrics([Metric(1, 1, "loss", None, math.nan, T0), Metric(1, 1, "loss", None, math.inf, at(1))])
        [(_, first), (_, second)] = tx.recent_metric(1, "loss")
    assert math.isnan(first)
    assert second == math.inf


@given(st.integers(0, 1000))
def test_thinning_keeps_first_and_newest(n: int) -> None:
    kept = metrics.thin(range(n))
    assert len(kept) <= 150
    assert kept[-100:] == list(range(n))[-100:]
    assert kept[:1] == list(range(n))[:1]
    assert kept == sorted(set(kept))


def test_what_a_sweep_used_counts_the_jobs_of_deleted_experiments_too(store: Store) -> None:
    put: list[codec.Row] = [
        sweep(1),
        sweep(2, max_gpu_hours=9.0),
        experiment(1, sweep_id=1),
        experiment(2, sweep_id=1, deleted=True),
        job(1, 1, status="SUCCEEDED", started_at=at(0), ended_at=at(60), nodes=2, gpus=4, hourly_cost=10.0),
        job(2, 2, status="FAILED", started_at=at(0), ended_at=at(30), gpus=1),
        job(3, 1, status="RUNNING", started_at=at(40), hourly_cost=5.0),
    ]
    store.apply([changed(None, *map(codec.insert, put))])
    with store.read() as tx:
        used, empty = (row[11:] for row in tx.sweep_cells(micros(at(60))))
        [total] = tx.job_totals(micros(at(60)), [1])
    assert used == (3, 510 * 1_000_000, 700.0 * 1_000_000, None, None)
    assert empty == (None, None, None, 9.0, None)
    assert (total[1], total[4], total[8]) == (2, 480 * 1_000_000, 700.0 * 1_000_000)
