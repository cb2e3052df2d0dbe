"""Folding the log gives the stored rows, and a mirror that follows holds what a fresh one would."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skydeck_nb import codec
from skydeck_nb.errors import DatabaseError
from skydeck_nb.events import Change
from skydeck_nb.store import Store, Stored
from skydeck_nb.store.mirror import Mirror
from tests.store.histories import history
from tests.store.rows import changed, declared, experiment

MEMORY = next((f for f in ("/dev/shm",) if Path(f).is_dir()), None)
"""Where a file costs no disk, if there is such a place."""
SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def held(mirror: Mirror) -> dict[str, Any]:
    """Everything in a mirror that one can see."""
    return {
        "sequence": mirror.sequence,
        "experiments": mirror.experiments,
        "jobs": mirror.jobs,
        "attempts": mirror.attempts,
        "sweeps": mirror.sweeps,
        "groups": mirror.groups,
        "members": mirror.members,
        "names": {e.name: mirror.by_name(e.name) for e in mirror.experiments.values()},
        "jobs_of": {i: mirror.jobs_of(i) for i in mirror.experiments},
        "open": {i: mirror.open_attempt(i) for i in mirror.experiments},
    }


@SOME
@given(seed=st.integers(0, 10**9), length=st.integers(1, 60))
def test_the_log_of_any_history_folds_to_the_stored_cells(seed: int, length: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        store = Store.open(Path(folder) / "d.db")
        for events in history(seed, length):
            store.apply(events)
        with store.read() as tx:
            assert tx.folded() == tx.tables()
            assert [line.sequence for line in tx.log()] == list(range(1, tx.sequence + 1))
        store.close()


@SOME
@given(seed=st.integers(0, 10**9), length=st.integers(1, 60), every=st.integers(1, 7))
def test_a_mirror_that_follows_equals_one_that_is_loaded(seed: int, length: int, every: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        store = Store.open(Path(folder) / "d.db")
        with store.read() as tx:
            followed, absorbed = Mirror.load(tx), Mirror.load(tx)
        lines: list[Stored] = []
        store.subscribe(lines.extend)
        for n, events in enumerate(history(seed, length)):
            store.apply(events)
            if n % every:
                continue
            with store.read() as tx:
                followed.advance(tx)
                if absorbed.absorb(lines) is None:
                    absorbed.advance(tx)
                fresh = Mirror.load(tx)
            lines.clear()
            assert held(followed) == held(fresh)
            assert held(absorbed) == held(fresh)
        store.close()


def test_an_unchanged_row_costs_no_write(store: Store) -> None:
    store.apply(declared(experiment(1), experiment(2)))
    with store.write() as tx:
        before = tx.db.conn.total_changes
        tx.apply([changed(1, codec.insert(experiment(1)), codec.patch_change("experiments", 2, starred=False))])
        assert tx.db.conn.total_changes - before == 1, "the event alone"


def test_ids_are_never_given_twice(store: Store) -> None:
    store.apply(declared(experiment(1), experiment(2)))
    store.apply([changed(2, codec.remove(experiment(2)))])
    with store.write() as tx:
        assert tx.next_id("experiments") == 3
        with pytest.raises(DatabaseError, match=r"\[2\] of experiments were given before"):
            tx.apply(declared(experiment(2)))


def test_a_change_of_a_row_that_is_gone_undoes_its_whole_transaction(store: Store) -> None:
    store.apply(declared(experiment(1)))
    with pytest.raises(DatabaseError, match="change of experiments 7 finds no such row"):
        store.apply([changed(1, codec.patch_change("experiments", i, starred=True)) for i in (1, 7)])
    with store.read() as tx:
        assert tx.sequence == 1
        assert not tx.experiments()[0].starred
        assert tx.folded() == tx.tables()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Change("leases", 1, {"term": 1}), "leases, which is no table"),
        (Change("experiments", 1, {"nmae": "x"}), "experiments.nmae, which is no column"),
        (Change("experiments", 1, {"id": 1}), "experiments.id, which is no column"),
        (Change("experiments", 1, {}), "without saying which columns"),
    ],
)
def test_a_change_that_the_fold_would_not_see_alike_is_refused(store: Store, change: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        store.apply([changed(1, change)])
