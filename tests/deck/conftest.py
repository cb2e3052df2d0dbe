"""A deck on the fake backend, quick, in a folder of its own; and patience for what the loop does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skydeck_nb as sd
from skydeck_nb.backends.base import Cadence
from skydeck_nb.backends.fake import Outcome

FOREVER = Outcome("RUNNING")
QUICK = Cadence(hot=0.05, discovery=0.2)


@pytest.fixture
def backend() -> sd.FakeBackend:
    """Jobs run until they are told, but for those called `*-ok` and `*-bad`, which end at once."""
    outcomes = {"*ok": Outcome("SUCCEEDED", after=0.0), "*bad": Outcome("FAILED", after=0.0, exit_code=3), "*": FOREVER}
    return sd.FakeBackend(
        seed=1, speed=100, outcomes=outcomes, pending=(0, 0), starting=(0, 0), cancelling=(0, 0), cadence=QUICK
    )


@pytest.fixture
def deck(backend: sd.FakeBackend, tmp_path: Path) -> Iterator[sd.Deck]:
    with sd.open(tmp_path / "deck.db", backend=backend) as deck:
        yield deck


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for what the loop brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
