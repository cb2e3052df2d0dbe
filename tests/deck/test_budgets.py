"""Budgets of sweeps and of the deck, held by the loop on a backend that knows prices; and where it knows none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import skydeck_nb as sd
from skydeck_nb.backends.fake import Outcome
from tests.deck.conftest import FOREVER, QUICK, until

TEN_A_SECOND = 36_000.0
POINTS = {"lr": [0.1, 0.2, 0.3]}


@pytest.fixture
def priced() -> sd.FakeBackend:
    """A node costs ten dollars a second, and jobs run until they are told."""
    return sd.FakeBackend(
        seed=1,
        speed=100,
        outcomes={"*": FOREVER},
        pending=(0, 0),
        starting=(0, 0),
        cancelling=(0, 0),
        cadence=QUICK,
        prices={"*": TEN_A_SECOND, "V100:8": 0.0},
    )


@pytest.fixture
def deck(priced: sd.FakeBackend, tmp_path: Path) -> Iterator[sd.Deck]:
    with sd.open(tmp_path / "deck.db", backend=priced) as deck:
        yield deck


def over(deck: sd.Deck) -> bool:
    return set(deck.experiments()["reason"]) == {"LimitReached"} and deck.jobs(live=True).empty


def test_a_sweep_over_its_budget_is_cancelled_with_the_reason_and_goes_on_when_it_is_raised(deck: sd.Deck) -> None:
    def cell(dollars: float) -> sd.Sweep:
        return deck.sweep("ppo", "train", flags=POINTS, max_live=2, max_cost=dollars, start=True)

    assert "3 started; 2 at once, at most $20." in repr(cell(20))
    until(lambda: over(deck))
    assert {deck.explain(e).message for e in deck.sweeps["ppo"]} == {
        f"ppo-lr{lr} may not run: sweep ppo's budget of $20 is used up; a larger one in the cell that declares the "
        "sweep lets it go on."
        for lr in POINTS["lr"]
    }
    assert sorted(deck.experiments()["state"]) == ["CANCELLED", "CANCELLED", "QUEUED"], "one never ran"
    frame = deck.sweeps.frame()
    assert frame["max_cost"].tolist() == [20]
    assert 20 <= frame["cost"].sum() < 60
    assert deck.jobs()["cost"].sum() == pytest.approx(frame["cost"].sum())
    assert deck.experiments()["cost"].sum() == pytest.approx(frame["cost"].sum())
    again = cell(9_000)
    assert repr(again).startswith("Sweep ppo: 3 experiments, its limits changed; 2 at once, at most $9,000.")
    until(lambda: len(deck.jobs(live=True)) == 2)
    assert "LimitReached" not in set(deck.experiments()["reason"])
    assert len(deck.jobs()) == 4, "two before, two after"
    assert deck._desk.read(lambda tx: tx.folded() == tx.tables())


def test_a_run_over_its_cost_is_cancelled_and_a_new_run_begins_anew(deck: sd.Deck) -> None:
    deck.create("a", "train", max_cost=5, start=True)
    until(lambda: over(deck))
    assert "its budget of $5 is used up" in deck.explain("a").message
    deck.restart("a")
    until(lambda: deck["a"].state == "RUNNING")


def test_the_deck_has_a_budget_too_and_it_counts_what_was_before(priced: sd.FakeBackend, tmp_path: Path) -> None:
    path = tmp_path / "deck.db"
    with sd.open(path, backend=priced) as deck:
        deck.create("a", "train", gpus=8, start=True)
        until(lambda: not deck.jobs(live=True).empty and deck.jobs()["gpu_hours"].fillna(0).sum() > 0.002)
        deck.stop("a")
        until(lambda: deck.jobs(live=True).empty)
    with sd.open(path, backend=priced, max_gpu_hours=0.002) as deck:
        deck.create("b", "train", start=True)
        until(lambda: deck["b"].reason == "LimitReached")
        assert (
            "this deck's budget of 0.002 GPU hours is used up; open the deck with a larger one"
            in deck.explain("b").message
        )
        assert len(deck.jobs()) == 1
    with sd.open(path, backend=priced, max_gpu_hours=50) as deck:
        until(lambda: deck["b"].state == "RUNNING")


def test_what_runs_where_there_is_no_price_is_left_running_and_says_so(tmp_path: Path) -> None:
    backend = sd.FakeBackend(
        outcomes={"*": Outcome("SUCCEEDED", after=1.5)}, pending=(0, 0), starting=(0, 0),
        cadence=QUICK, prices={"H100:8": 1.0},
    )  # fmt: skip
    with sd.open(tmp_path / "deck.db", backend=backend) as deck:
        a = deck.create("a", "train", max_cost=5, start=True)
        until(lambda: a.reason == "CostUnknown")
        assert a.attention
        assert a.state == "RUNNING"
        assert deck.experiments()["cost"].isna().all()
        assert list(a.wait(timeout=20)["state"]) == ["SUCCEEDED"], "nobody is needed for its end"


def test_what_is_free_costs_nothing(deck: sd.Deck) -> None:
    deck.create("a", "train", accelerators="V100:8", max_cost=5, start=True)
    until(lambda: deck["a"].state == "RUNNING")
    assert deck["a"].reason == "Running"
    assert deck.jobs()["cost"].tolist() == [0.0]


def test_a_list_is_no_budget_of_a_sweep(deck: sd.Deck) -> None:
    for word in ("max_gpu_hours", "max_cost"):
        with pytest.raises(sd.InvalidSetting, match=rf"{word}=\[1, 2\]: one number .* deck.update\(sel, {word}=…\)"):
            deck.sweep("s", "train", flags=POINTS, **{word: [1, 2]})  # type: ignore[arg-type]
    assert len(deck) == 0


def test_where_no_prices_are_known_a_budget_in_dollars_is_refused(tmp_path: Path) -> None:
    with sd.open(tmp_path / "deck.db", backend=sd.FakeBackend()) as deck:
        with pytest.raises(sd.InvalidSetting, match=r"max_cost=5: this fake backend knows no prices; use max_gpu_ho"):
            deck.create("a", "train", max_cost=5)
        with pytest.raises(sd.InvalidSetting, match="max_cost=5"):
            deck.sweep("s", "train", flags=POINTS, max_cost=5)
        deck.create("a", "train")
        with pytest.raises(sd.InvalidSetting, match="max_cost=5"):
            deck.update("a", max_cost=5)


def test_a_setting_that_holds_nothing_says_so_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    backend = sd.FakeBackend(outcomes={"*": FOREVER}, pending=(0, 0), starting=(0, 0), cadence=QUICK)
    with sd.open(tmp_path / "deck.db", backend=backend, max_cost=5) as deck:
        said = repr(deck.create("a", "train", start=True))
        assert "The setting max_cost (argument) holds nothing here: the fake backend lists no prices" in said
        until(lambda: deck["a"].state == "RUNNING")
        assert deck["a"].reason == "Running"
