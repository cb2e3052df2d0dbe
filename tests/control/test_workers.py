"""The threads that make the loop's calls: which call is given up when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from skydeck_nb.control.calls import PREPARE, Call, Cancel, Launch, Outcome
from skydeck_nb.control.orders import order
from skydeck_nb.control.workers import GIVE_UP, Workers
from tests.control.rows import attempt, experiment


class Hanging:
    """Calls that hang until they are let go."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = threading.Semaphore(0)
        self.workers = Workers(self._perform, lambda outcome, took: None)

    def _perform(self, call: Call) -> Outcome:
        self.begun.release()
        self.release.wait(20)
        return Outcome(call=call)

    def submit(self, *calls: Call) -> None:
        for call in calls:
            self.workers.submit(call)
        for _ in calls:
            assert self.begun.acquire(timeout=10)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.release.set()
    made.workers.close()


def launch() -> Launch:
    tried = attempt(state="PREPARED")
    return Launch(attempt=tried, order=order(experiment(), tried, deck_id="abcdef", run_name="exp"), term=3)


def test_a_launch_that_prepares_is_not_given_up_as_a_cancel_is(hanging: Hanging) -> None:
    cancel, preparing = Cancel(jobs=((1, 1),), term=3), launch()
    hanging.submit(cancel, preparing)
    begun = time.monotonic()
    assert hanging.workers.give_up(begun) == []
    assert hanging.workers.give_up(begun + GIVE_UP + 1) == [cancel]
    assert hanging.workers.give_up(begun + PREPARE.total_seconds() + GIVE_UP - 1) == []
    assert hanging.workers.give_up(begun + PREPARE.total_seconds() + GIVE_UP + 1) == [preparing]
