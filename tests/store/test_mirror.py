"""Which rows a mirror keeps, lets go and brings back; what an advance says it met; what looking costs."""

from __future__ import annotations

from dataclasses import replace

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.store import Mirror, Store, Stored, Touched
from tests.store.rows import T0, attempt, changed, declared, experiment, group, job, sweep


def loaded(store: Store) -> Mirror:
    with store.read() as tx:
        return Mirror.load(tx)


def advanced(mirror: Mirror, store: Store) -> Touched:
    with store.read() as tx:
        return mirror.advance(tx)


def test_jobs_and_attempts_of_older_runs_are_let_go_unless_alive_or_current(store: Store) -> None:
    store.apply(declared(experiment(1, run=3, current_job_id=2)))
    jobs = [
        job(1, 1, run=1, status="FAILED"),
        job(2, 1, run=1, status="FAILED"),
        job(3, 1, run=2, status="RUNNING"),
        job(4, 1, run=3, status="FAILED"),
        job(5, None, status="RUNNING"),
        job(6, None, status="FAILED"),
    ]
    attempts = [
        attempt("old", 1, run=1, state="SUBMITTED"),
        attempt("open", 1, run=2, state="UNKNOWN"),
        attempt("now", 1, run=3, state="REJECTED"),
    ]
    both: list[codec.Row] = [*jobs, *attempts]
    store.apply([changed(1, *map(codec.insert, both))])
    mirror = loaded(store)
    assert sorted(mirror.jobs) == [2, 3, 4, 5]
    assert [j.id for j in mirror.jobs_of(1)] == [2, 3, 4]
    assert sorted(mirror.attempts) == ["now", "open"]
    found = mirror.open_attempt(1)
    assert found is not None
    assert found.id == "open"


def test_an_old_job_that_becomes_the_current_one_is_read(store: Store) -> None:
    store.apply(declared(experiment(1, run=3)))
    store.apply([changed(1, codec.insert(job(1, 1, run=1, status="FAILED")))])
    mirror = loaded(store)
    assert mirror.jobs == {}
    heard: list[Stored] = []
    store.subscribe(heard.extend)
    store.apply([changed(1, codec.patch_change("experiments", 1, current_job_id=1))])
    assert mirror.absorb(heard) is None, "it cannot be known from the log alone"
    advanced(mirror, store)
    assert list(mirror.jobs) == [1]


def test_a_deleted_experiment_is_kept_until_hidden_and_nothing_of_it_is_alive(store: Store) -> None:
    row = experiment(1, run=1)
    store.apply(declared(row))
    store.apply([changed(1, codec.insert(job(1, 1, run=1, status="RUNNING")))])
    gone = replace(row, deleted=True)
    change = codec.update(row, gone)
    assert change is not None
    store.apply([ev.DeleteRequested(at=T0, experiment_id=1, changes=(change,))])
    mirror = loaded(store)
    assert mirror.by_name("e1") is None
    assert list(mirror.experiments) == [1]
    store.apply([ev.ExperimentHidden(at=T0, experiment_id=1)])
    advanced(mirror, store)
    assert (list(mirror.experiments), list(mirror.jobs)) == ([1], [1]), "hidden, but its job is alive"
    assert list(loaded(store).experiments) == [1]
    store.apply([changed(1, codec.patch_change("jobs", 1, status="CANCELLED"))])
    advanced(mirror, store)
    assert (mirror.experiments, mirror.jobs) == ({}, {})
    assert loaded(store).experiments == {}


def test_a_late_twin_brings_its_hidden_experiment_back(store: Store) -> None:
    store.apply(declared(experiment(1, run=1, deleted=True)))
    store.apply([ev.ExperimentHidden(at=T0, experiment_id=1)])
    mirror = loaded(store)
    assert mirror.experiments == {}
    store.apply([changed(1, codec.insert(job(7, 1, run=1, status="PENDING")))])
    touched = advanced(mirror, store)
    assert (list(mirror.experiments), list(mirror.jobs)) == ([1], [7])
    assert (set(touched.experiments), set(touched.jobs)) == ({1}, {7})


def test_an_advance_says_what_it_met(store: Store) -> None:
    store.apply(declared(experiment(1), experiment(2), experiment(3), experiment(4)))
    store.apply([changed(None, codec.insert(group(1)), codec.insert(sweep(1)), codec.insert(job(5, 2)))])
    mirror = loaded(store)
    store.apply(
        [
            ev.StopRequested(at=T0, experiment_id=1),
            changed(None, codec.patch_change("jobs", 5, status="RUNNING")),
            changed(None, codec.member(1, 3, 1.0)),
            changed(None, codec.patch_change("sweeps", 1, brake="HELD")),
        ]
    )
    touched = advanced(mirror, store)
    assert touched.experiments == {1, 2, 3}
    assert (set(touched.jobs), set(touched.groups), set(touched.sweeps)) == ({5}, {1}, {1})
    assert [line.sequence for line in touched.events] == [6, 7, 8, 9]
    assert mirror.members == {1: {3: 1.0}}
    assert mirror.sweeps[1].brake == "HELD"
    assert advanced(mirror, store) == Touched()


def test_commits_of_this_process_are_absorbed_without_reading(store: Store) -> None:
    store.apply(declared(experiment(1)))
    mirror = loaded(store)
    heard: list[Stored] = []
    store.subscribe(heard.extend)
    store.apply([changed(1, codec.patch_change("experiments", 1, name="new", starred=True))])
    store.apply([changed(1, codec.insert(job(1, 1, status="RUNNING")))])
    assert mirror.absorb(heard[1:]) is None, "a line between is missing"
    with store.trace() as statements:
        touched = mirror.absorb(heard)
    assert statements == []
    assert touched is not None
    assert (set(touched.experiments), set(touched.jobs)) == ({1}, {1})
    assert mirror.by_name("e1") is None
    found = mirror.by_name("new")
    assert found is not None
    assert found.starred
    assert mirror.absorb(heard) == Touched(), "known already"


def test_loading_and_advancing_cost_a_fixed_number_of_queries(store: Store) -> None:
    def queries(n: int) -> tuple[int, int]:
        store.apply(declared(*(experiment(i, run=1) for i in range(n, 2 * n))))
        with store.trace() as load:
            mirror = loaded(store)
        store.apply([changed(i, codec.insert(job(i, i, run=1))) for i in range(n, 2 * n)])
        with store.trace() as advance:
            advanced(mirror, store)
        return len(load), len(advance)

    assert queries(1) == queries(2) == queries(64)
    mirror = loaded(store)
    with store.trace() as idle:
        advanced(mirror, store)
    assert len(idle) <= 5
