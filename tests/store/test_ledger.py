"""What ended jobs used: read once, then only of whom something ended, and always what the rows say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.world import traced
from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.store import Mirror, Store, Touched
from skydeck_nb.store.ledger import Ledger
from skydeck_nb.usage import Usage, of_job, total
from tests.store.histories import history
from tests.store.rows import T0, at, changed, declared, experiment, job, sweep

HOUR = 3600


def read(store: Store) -> tuple[Mirror, Ledger]:
    ledger = Ledger()
    with store.read() as tx:
        mirror = Mirror.load(tx)
        ledger.advance(tx, mirror, Touched(), wanted=True)
    return mirror, ledger


def advanced(store: Store, mirror: Mirror, ledger: Ledger) -> int:
    """Take up what was written; how often the ledger asked for it."""
    with traced(store) as statements, store.read() as tx:
        ledger.advance(tx, mirror, mirror.advance(tx), wanted=True)
    return asked(statements)


def asked(statements: list[str]) -> int:
    return sum("GROUP BY j.experiment_id" in each for each in statements)


def put(store: Store, *rows: codec.Row) -> None:
    store.apply([changed(None, *map(codec.insert, rows))])


def test_all_jobs_that_a_sweep_ever_had_are_counted_whatever_their_run(store: Store) -> None:
    put(store, sweep(1), sweep(2))
    store.apply(declared(experiment(1, sweep_id=1, run=3), experiment(2, sweep_id=1, deleted=True), experiment(3)))
    ran = {"started_at": at(0), "ended_at": at(HOUR), "status": "SUCCEEDED"}
    put(
        store,
        job(1, 1, run=1, nodes=2, gpus=4, hourly_cost=10.0, **ran),
        job(2, 1, run=2, gpus=1, **ran),
        job(3, 2, hourly_cost=5.0, **ran),
        job(4, 3, gpus=1, hourly_cost=1.0, **ran),
        job(5, 1, run=3, gpus=1, status="RUNNING", started_at=at(0)),
        job(6, 1, run=3, gpus=1, status="CANCELLED"),
    )
    _, ledger = read(store)
    assert ledger.of_sweep(1) == Usage(gpu_hours=9.0, cost=15.0)
    assert ledger.of_sweep(2) == Usage()
    assert ledger.of_deck() == Usage(gpu_hours=10.0, cost=16.0)


def test_it_is_read_when_something_has_ended_and_at_no_other_time(store: Store) -> None:
    put(store, sweep(1))
    store.apply(declared(experiment(1, sweep_id=1, run=1)))
    one = job(1, 1, run=1, gpus=2, status="PENDING")
    put(store, one)
    mirror, ledger = read(store)
    running = replace(one, status="RUNNING", started_at=at(0))
    over = replace(running, status="FAILED", ended_at=at(HOUR))
    counts = []
    for before, after in ((one, running), (running, over), (over, over)):
        change = codec.update(before, after)
        store.apply([changed(1, *([change] if change else []))])
        counts.append(advanced(store, mirror, ledger))
    assert counts == [0, 1, 0]
    assert ledger.of_sweep(1).gpu_hours == 2.0


def test_nothing_is_read_while_nobody_has_a_budget(store: Store) -> None:
    with traced(store) as statements, store.read() as tx:
        Ledger().advance(tx, Mirror.load(tx), Touched(), wanted=False)
    assert asked(statements) == 0


def test_what_is_purged_is_forgotten(store: Store) -> None:
    store.apply(declared(experiment(1, deleted=True)))
    put(store, job(1, 1, gpus=1, status="FAILED", started_at=at(0), ended_at=at(HOUR)))
    mirror, ledger = read(store)
    assert ledger.of_deck().gpu_hours == 1.0
    gone = (ev.Change("jobs", 1, None), ev.Change("experiments", 1, None))
    store.apply([ev.PurgeRequested(at=T0, experiment_id=1, changes=gone)])
    advanced(store, mirror, ledger)
    assert ledger.of_deck() == Usage()


@pytest.mark.parametrize("seed", range(12))
def test_after_any_history_ledger_and_live_jobs_are_all_that_was_used(store: Store, seed: int) -> None:
    mirror, ledger = read(store)
    now = at(60)
    for events in history(seed, 120):
        store.apply(events)
        advanced(store, mirror, ledger)
        with store.read() as tx:
            jobs = [j for j in tx.jobs() if j.experiment_id is not None]
        live = (of_job(j, now) for j in mirror.jobs.values() if j.alive and j.experiment_id is not None)
        found, wanted = total([ledger.of_deck(), *live]), total(of_job(j, now) for j in jobs)
        assert math.isclose(found.gpu_hours, wanted.gpu_hours, abs_tol=1e-9)
        assert math.isclose(found.cost, wanted.cost, abs_tol=1e-9)
        assert (found.gpus, found.hourly_cost) == (wanted.gpus, wanted.hourly_cost)
