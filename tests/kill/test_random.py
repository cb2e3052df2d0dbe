"""Kill the leader at random moments of a sweep of 50, while people start, stop and restart its points."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from skydeck_nb.models import ExperimentRow, JobRow
from tests.kill.place import Place, show, until

POINTS = 50
OPEN = 3
"""Kernels at a time, so that one takes over while another starts."""

WORDS = ("restart", "restart", "restart", "start", "stop")


class Campaign:
    """A sweep, three kernels, and a hand that kills whichever leads."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.dice = random.Random(seed)
        self.kernels = [place.kernel() for _ in range(OPEN)]
        self.takeovers: list[float] = []
        self.amid: Counter[str] = Counter()
        command = [*place.command("{s}", "{code}")]
        # Every seventh fails, and is started once more by itself, ten seconds later.
        self.kernels[0].run(
            f"import skydeck_nb as sd\n"
            f"axes = sd.zipped(i=list(range({POINTS})), s=[0.3 + i % 8 / 10 for i in range({POINTS})],"
            f" code=[int(i % 7 == 3) for i in range({POINTS})])\n"
            f"deck.sweep('s', {command!r}, names='s-{{i}}', flags=axes, max_restarts=1, start=True)"
        )

    def ask(self) -> None:
        """People ask in any kernel, the leader's too, and do not wait for an answer."""
        for _ in range(self.dice.randint(1, 3)):
            word, kernel = self.dice.choice(WORDS), self.dice.choice(self.kernels)
            names = [f"s-{self.dice.randrange(POINTS)}" for _ in range(self.dice.choice((1, 1, 2, 8)))]
            kernel.send(f"deck.{word}({names!r})")

    def kill_leader(self) -> None:
        """Kill the process that leads, see that it did, and how long it takes until another does."""
        leader = self.place.await_leader(*self.kernels)
        self.ask()
        time.sleep(self.dice.choice((0.0, self.dice.uniform(0, 0.3), self.dice.uniform(0, 1.5))))
        with self.place.read() as tx:
            before = tx.lease()
            self.amid.update(attempt.state for attempt in tx.attempts(open=True))
            self.amid["alive jobs"] += len(tx.jobs(alive=True))
        leader.kill()
        at = time.monotonic()
        after = self.place.lease()
        assert before is not None
        assert (before.pid, before.holder is not None) == (leader.pid, True), "it led when it was killed"
        assert (after.pid, after.term) == (leader.pid, before.term) or after.term == before.term + 1
        self.kernels.remove(leader)
        leader.close()
        self.place.kernels.remove(leader)
        fresh = self.place.kernel(waits=False)
        self.kernels.append(fresh)
        self.place.await_leader(*self.kernels)
        self.takeovers.append(time.monotonic() - at)
        assert self.place.lease().term == before.term + 1

    def settle(self) -> None:
        """A new kernel alone brings everything to its end."""
        for kernel in self.kernels:
            kernel.ask("1")  # whatever was asked of it is written, or was refused with a reason
            kernel.kill()
        place = self.place
        last = place.kernel()
        place.await_leader(last)
        last.run("deck.sweeps['s'].start()")  # those that were stopped, and what a brake may hold
        until(lambda: not self._unsettled(), self._unsettled, 120)
        check(place)
        done = [place.row(f"s-{i}") for i in range(POINTS)]
        assert [row.current_state for row in done] == ["FAILED" if i % 7 == 3 else "SUCCEEDED" for i in range(POINTS)]
        last.kill()

    def _unsettled(self) -> list[str]:
        with self.place.read() as tx:
            rows = tx.experiments(deleted=None)
        return [f"{r.name} {r.desired_state} {r.current_state} {r.message}" for r in rows if not _settled(r)]


def _settled(row: ExperimentRow) -> bool:
    return row.observed_run == row.run and (
        row.current_state == "SUCCEEDED" or (row.current_state == "FAILED" and row.reason == "RestartLimit")
    )


def check(place: Place) -> None:
    """Nothing ran twice, nothing runs, and each run of an experiment has the jobs that it may have."""
    place.check_nothing_left()
    place.check_rows()
    place.check_executions()
    with place.read() as tx:
        jobs = tx.jobs()
    runs: dict[tuple[int | None, int | None], list[JobRow]] = {}
    for job in jobs:
        assert not job.alive
        runs.setdefault((job.experiment_id, job.run), []).append(job)
    for of in runs.values():
        assert len(of) <= 2, of  # one restart after a failure
        assert all(job.status == "FAILED" for job in of[:-1]), of


def told(takeovers: list[float]) -> str:
    times = sorted(takeovers)
    p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
    return f"takeover p50 {p50:.2f} s, p95 {p95:.2f} s, max {times[-1]:.2f} s"


def campaign(place: Place, kills: int, seed: int) -> None:
    one = Campaign(place, seed)
    for _ in range(kills):
        one.kill_leader()
        place.check_rows()
    one.settle()
    with place.read() as tx:
        numbers = f"{len(tx.jobs())} jobs, {len(tx.attempts())} attempts, {tx.sequence} events"
    show(f"{kills} kills (seed {seed}), {numbers}; {told(one.takeovers)}; at the kills: {dict(one.amid)}")
    assert len(one.takeovers) == kills
    assert one.amid["alive jobs"] >= kills, "there was always something to lose"


@pytest.mark.kill
def test_the_leader_is_killed_8_times_at_random(make_place: Callable[..., Place]) -> None:
    campaign(make_place(slots=6), 8, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_leader_is_killed_200_times_at_random(make_place: Callable[..., Place]) -> None:
    campaign(make_place(), 200, seed=random.randrange(10**6))
