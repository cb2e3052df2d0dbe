"""What a call takes for a number, and how answers and refusals read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import skydeck_nb as sd
from tests.deck.conftest import until

REFUSED: dict[str, Callable[[sd.Deck], object]] = {
    "job_id='x'": lambda deck: deck.cancel("x"),  # type: ignore[arg-type]
    "job_id=1.5": lambda deck: deck.forget(1.5),  # type: ignore[arg-type]
    "job_id=None": lambda deck: deck.adopt(None, "s-n1"),  # type: ignore[arg-type]
    "job_id=True": lambda deck: deck.logs(True),
    "tail='x'": lambda deck: deck.logs(1, tail="x"),  # type: ignore[arg-type]
    "id='s-n1'": lambda deck: deck.by_id("s-n1"),  # type: ignore[arg-type]
    "max_live='2'": lambda deck: deck.sweep("t", "train", flags={"n": [1, 2]}, max_live="2"),  # type: ignore[arg-type]
    "first='1'": lambda deck: deck.sweeps["s"].start(first="1"),  # type: ignore[arg-type]
    "timeout='x'": lambda deck: deck["s-n1"].wait(timeout="x"),  # type: ignore[arg-type]
    "timeout=nan": lambda deck: deck.sweeps["s"].wait(timeout=float("nan")),
    "timeout=-1": lambda deck: deck.refresh(-1),
    "timeout='soon'": lambda deck: deck.reconcile("soon"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_is_no_number_is_named(deck: sd.Deck, argument: str) -> None:
    deck.sweep("s", "train", flags={"n": [1, 2]})
    with pytest.raises(sd.InvalidSetting, match=f"^{argument}: write "):
        REFUSED[argument](deck)


def test_numbers_of_our_own_frames_are_taken(deck: sd.Deck, backend: sd.FakeBackend) -> None:
    sweep = deck.sweep("s", "train", flags={"n": [1, 2]}, max_live=np.int64(2))  # type: ignore[arg-type]
    sweep.start(first=np.int64(1))  # type: ignore[arg-type]
    until(lambda: deck["s-n1"].state == "RUNNING")
    assert deck.by_id(deck.experiments()["id"].iloc[0]).name == "s-n1"
    job: Any = deck.jobs().index[0]
    kind = type(job)
    assert kind is np.int64
    deck.logs(job, tail=np.int64(3))  # type: ignore[arg-type]
    assert deck.cancel(job)["action"].tolist() == ["cancelled"]
    assert deck["s-n1"].wait(timeout=np.float64(20))["state"].tolist() == ["STOPPED"]
    own: Any = np.int64(backend.add_foreign_job("s-n2", user="you", status="RUNNING"))
    until(lambda: own in deck.orphans().index)
    assert deck.adopt(own, "s-n2")["action"].tolist() == ["adopted"]
    with pytest.raises(sd.UnknownExperiment, match="no job 999"):
        deck.forget(np.int64(999))  # type: ignore[arg-type]


def test_a_deck_counts_what_was_declared_a_moment_ago(deck: sd.Deck) -> None:
    for n in range(1, 6):
        deck.create(f"e{n}", "train")
        assert f"{n} experiment" in repr(deck)


def test_reasons_are_shown_whole(deck: sd.Deck) -> None:
    names = [f"{'a-rather-long-name-' * 3}{n}" for n in range(2)]
    for name in names:
        deck.create(name, "train")
    long = "because " * 20 + "of the end"
    answer, plan = deck.star(names), deck.start(names, dry_run=True)
    for frame in (answer, plan):
        frame.loc[:, "reason"] = long
        assert long in repr(frame)
        assert long in frame._repr_html_()


def test_a_view_of_the_grid_is_refused(deck: sd.Deck) -> None:
    with pytest.raises(sd.InvalidSetting, match="Views come with the complete grid"):
        deck.grid(view={"sort": "name"})
