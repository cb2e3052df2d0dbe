"""The threads that make the loop's calls: which call is given up when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from skydeck_nb.control.calls import PREPARE, Call, Cancel, Launch, Outcome
from skydeck_nb.control.orders import order
from skydeck_nb.control.workers import GIVE_UP, LAUNCHES, MOST, Workers
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


def test_a_stop_does_not_wait_for_launches_however_many_prepare(hanging: Hanging) -> None:
    for _ in range(LAUNCHES + 20):
        hanging.workers.submit(launch())
    for _ in range(LAUNCHES):
        assert hanging.begun.acquire(timeout=10)
    hanging.submit(Cancel(jobs=((1, 1),), term=3))
    assert not hanging.begun.acquire(timeout=0.2), "no launch more than may be under way"
    hanging.release.set()
    for _ in range(20):
        assert hanging.begun.acquire(timeout=10)


def test_what_waits_for_a_thread_gets_that_of_a_call_that_is_given_up(hanging: Hanging) -> None:
    cancels = [Cancel(jobs=((i, i),), term=3) for i in range(MOST)]
    hanging.submit(*cancels)
    hanging.workers.submit(Cancel(jobs=((99, 99),), term=3))
    assert not hanging.begun.acquire(timeout=0.1)
    assert len(hanging.workers.give_up(time.monotonic() + GIVE_UP + 1)) == MOST
    assert hanging.begun.acquire(timeout=10)
