"""A cell that declares, run again on a real store (must-show 5 and 8f)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import skydeck_nb as sd
from tests.deck.conftest import until

POINTS: dict[str, Any] = {"lr": [0.1, 0.2, 0.3, 0.4], "layers": 3}


def log(deck: sd.Deck) -> int:
    return len(deck.events())


def test_a_sweep_says_what_it_declares_and_what_it_would_cost(deck: sd.Deck) -> None:
    sweep = deck.sweep("ppo", "python train.py", flags=POINTS, gpus=4, nodes=[1, 4], max_live=3, max_hours=2)
    first, axes, how = repr(sweep).splitlines()
    assert first == ("Sweep ppo: 8 experiments declared, 0 started; 3 at once: up to 48 GPUs, at most 160 GPU hours.")
    assert axes == "lr: 0.1 0.2 0.3 0.4, nodes: 1 4"
    assert how == "sweep.start() sweep.start(first=2)"
    assert "<b>Sweep ppo" in sweep._repr_html_()
    time.sleep(1.1)
    assert repr(sweep).startswith("Sweep ppo: 8 experiments (8 STOPPED); 3 at once")


def test_a_sweep_costs_no_more_than_its_budget(tmp_path: Path) -> None:
    with sd.open(tmp_path / "p.db", backend=sd.FakeBackend(prices={"*": 1.0})) as deck:

        def first(**said: Any) -> str:
            return repr(deck.sweep("ppo", "train", flags=POINTS, **said)).splitlines()[0].partition("; ")[2]

        assert first(gpus=4, max_gpu_hours=100) == "up to 16 GPUs, at most 100 GPU hours."
        assert first(gpus=4, max_gpu_hours=100, max_hours=2) == "up to 16 GPUs, at most 32 GPU hours."
        assert first(gpus=4, max_gpu_hours=10, max_hours=2, max_cost=9.5) == (
            "up to 16 GPUs, at most 10 GPU hours, at most $9.50."
        )
        assert "up to 16 GPUs, at most 10 GPU hours, at most $9.50." in repr(deck.sweeps["ppo"])
        assert "That is up to 16 GPUs, at most 10 GPU hours, at most $9.50." in repr(deck.start(deck.sweeps["ppo"]))
        deck.create("a", "train", gpus=2, max_hours=3, max_cost=5)
        assert "up to 2 GPUs, at most 6 GPU hours, at most $5." in repr(deck.start("a"))
        deck.create("b", "train", gpus=2)
        assert "at most" not in repr(deck.restart(["b", *(row for row in deck if row.startswith("ppo"))]))


def test_three_times_the_same_cell_is_once(deck: sd.Deck) -> None:
    for _ in range(3):
        deck.sweep("s", "train", flags=POINTS, start=True)
    until(lambda: set(deck.experiments()["state"]) == {"RUNNING"})
    before = log(deck)
    again = deck.sweep("s", "train", flags=POINTS, start=True)
    assert repr(again).startswith("Sweep s: 4 experiments, nothing changed.")
    assert log(deck) == before
    assert len(deck.attempts()) == 4


def test_edited_stopped_and_deleted_points_are_left_and_named(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags=POINTS, start=True)
    deck.update("s-lr0.1", flags={"layers": 9})
    deck.stop("s-lr0.2")
    deck.delete("s-lr0.3")
    until(lambda: len(deck.jobs(live=True)) == 2)
    said = repr(deck.sweep("s", "train", flags={**POINTS, "lr": [0.1, 0.2, 0.3, 0.4, 0.5]}, start=True))
    assert "5 experiments, 1 new, 1 started" in said
    assert "Edited elsewhere and left so: s-lr0.1 (edited elsewhere: layers is 9, the cell says 3" in said
    assert "Left as it is: s-lr0.2 (stopped" in said
    assert "Left deleted: s-lr0.3 (stays deleted; deck.undelete('s-lr0.3')" in said
    assert deck["s-lr0.1"].flags["layers"] == 9
    assert deck["s-lr0.2"].desired == "STOPPED"
    assert "s-lr0.3" not in deck
    assert deck._desk.read(lambda tx: tx.folded() == tx.tables())


def test_a_changed_common_flag_reaches_a_live_run_only_by_restart(deck: sd.Deck) -> None:
    deck.create("a", "train", flags={"x": 1}, start=True)
    until(lambda: deck["a"].state == "RUNNING")
    said = repr(deck.create("a", "train", flags={"x": 2}, start=True))
    assert "x 1 → 2; applies after restart" in said
    until(lambda: deck["a"].reason == "RestartToApply")
    assert len(deck.jobs()) == 1


def test_groups_are_shown(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags=POINTS, groups=["mine"])
    assert deck.groups().index.tolist() == ["mine"]
    assert deck["s-lr0.1"].groups == ("mine",)
    assert deck.experiments()["groups"].tolist() == [("mine",)] * 4


def test_names_are_one_owners(deck: sd.Deck) -> None:
    deck.create("s-lr0.1", "train")
    with pytest.raises(sd.NameTaken, match="s-lr"):
        deck.sweep("s", "train", flags=POINTS)
    assert len(deck) == 1
    assert "s" not in deck.sweeps
    with pytest.raises(sd.UnknownExperiment, match="no sweep 's'"):
        deck.sweeps["s"]


def test_leftovers_are_named_and_pruned(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags=POINTS)
    fewer = {"lr": [0.1, 0.2], "layers": 3}
    assert "Left over: s-lr0.3, s-lr0.4" in repr(deck.sweep("s", "train", flags=fewer))
    deck.sweep("s", "train", flags=fewer, prune=True)
    assert list(deck) == ["s-lr0.1", "s-lr0.2"]


def test_the_local_backend_lends_its_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with sd.open(tmp_path / "l.db", local_root=tmp_path / "local") as deck:
        deck.create("a", "train", workdir="code", git_ref=None)
        spec = deck._row(1).spec
        assert spec.workdir == str(tmp_path / "code")
        assert spec.interpreter
        assert spec.path
        with pytest.raises(sd.InvalidSetting, match="max_cost"):
            deck.create("b", "train", max_cost=3)
        with pytest.raises(sd.InvalidCommand, match="SkyPilot's"):
            deck.create("b", task="task.yaml")
        with pytest.raises(sd.InvalidCommand, match=r"git_ref='main'.*set workdir="):
            deck.create("b", "train", git_ref="main")
        assert list(deck) == ["a"]


def test_ten_thousand_points_declared_and_declared_again(deck: sd.Deck) -> None:
    flags = {"seed": list(range(100)), "lr": [number / 1000 for number in range(1, 101)], "trainer.layers": 4}
    took = []
    for _ in range(2):
        began = time.process_time()
        deck.sweep("big", "python train.py", flags=flags)
        took.append(time.process_time() - began)
    assert len(deck) == 10_000
    assert max(took) < 20, took
