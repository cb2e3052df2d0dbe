"""What the benchmarks count, at small sizes. No time is looked at: those are for `make bench`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import changed, declaring, importing, report, unchanged
from benchmarks.timing import percentile
from benchmarks.world import ALIVE_EVERY, JOBS_EACH, Size, Worlds, echo_of, kinds, leading, one_pass
from skydeck_nb.store.store import Store


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return Worlds(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def store(worlds: Worlds) -> Iterator[Store]:
    made = Store.open(worlds.copy(Size(200)))
    yield made
    made.close()


def test_a_pass_in_which_nothing_changed_writes_nothing(worlds: Worlds) -> None:
    counted = unchanged.count_at(worlds, Size(200))
    assert (counted.rows_written, counted.events_written, counted.calls) == (0, 0, 0)


def test_a_pass_asks_as_often_however_many_rows_there_are(worlds: Worlds) -> None:
    small, large = (unchanged.count_at(worlds, Size(n)) for n in (100, 400))
    assert small.by_word == large.by_word
    assert large.statements <= 12
    assert large.selects <= 5


def test_taking_over_asks_as_often_however_many_rows_there_are(worlds: Worlds) -> None:
    asked = [unchanged.count_load(worlds, Size(n)) for n in (100, 400)]
    assert asked[0] == asked[1]
    assert asked[0]["SELECT"] <= 9


def test_a_listing_writes_the_rows_that_changed_and_no_other(worlds: Worlds) -> None:
    found = changed.measure(worlds, Size(200), repeats=1, changed=3)
    assert found.ours.rows_written - found.events_written == 3
    assert found.ours.commits <= 3
    assert found.ours.selects <= 8
    assert found.planned.rows_written == 2 * 3
    assert found.naive.rows_written == found.jobs == found.naive.commits


def test_declaring_again_writes_nothing(worlds: Worlds) -> None:
    found = declaring.measure(worlds, 12)
    assert found.points == 144
    assert found.first.events == 144 + 1
    assert found.again.events == 0
    assert found.more.events == 12 + 1
    assert found.again.by_word.keys() <= {"BEGIN", "COMMIT", "SELECT", "PRAGMA"}


def test_declaring_again_asks_as_often_however_many_points_there_are(worlds: Worlds) -> None:
    few, many = (declaring.measure(worlds, side) for side in (3, 12))
    assert few.again.by_word == many.again.by_word


def test_the_import_brings_nothing_that_is_imported_late(worlds: Worlds) -> None:
    assert importing.too_early() == ()


def test_the_world_is_what_it_says(store: Store) -> None:
    with store.read() as tx:
        rows, jobs, alive = tx.experiments(), tx.jobs(), tx.jobs(alive=True)
        assert tx.folded() == tx.tables()
    assert len(rows) == 200
    assert len(jobs) == 200 * JOBS_EACH
    assert len(alive) == 200 // ALIVE_EVERY
    assert len(echo_of(store).told) == len(jobs)


def test_the_world_is_settled(store: Store) -> None:
    with leading(store) as (controller, _):
        assert one_pass(controller) == []


def test_kinds_of_statements() -> None:
    assert kinds(["BEGIN IMMEDIATE", "select 1", "SELECT 2"]) == {"BEGIN": 1, "SELECT": 2}


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(i) for i in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([1.0], 0.95)) == (100.0, 190.0, 1.0)


def test_results_are_saved_with_the_machine(worlds: Worlds, tmp_path: Path) -> None:
    figures = unchanged.run(worlds, quick=True)
    measured = [report.Measured("a", "one pass", figures)]
    report.save(measured, report.machine(), tmp_path / "latest.json")
    saved = json.loads((tmp_path / "latest.json").read_text())
    assert saved["machine"]["pandas"]
    assert saved["benchmarks"]["a"]["figures"]["queries_fixed"] is True
    assert "rows written" in report.table(measured)
    assert not [each for each in report.missed(measured) if "rows" in each or "events" in each]
