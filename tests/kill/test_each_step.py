"""Kill the leader at every step between a request, its attempt, its launch, the answer and the commit."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import pytest

from skydeck_nb.models import ExperimentRow
from tests.kill.kernels import Kernel, KernelDied
from tests.kill.place import Place, show, until

LANES = 2
"""Databases on which steps are tried side by side: each waits most of its time."""


class Story(NamedTuple):
    """What is asked of an experiment, and how one sees that it came to its end."""

    word: str
    seconds: str
    """Of its first execution, of its second."""
    begins: bool
    """Whether it runs before it is asked."""
    done: Callable[[ExperimentRow], bool]
    executions: int
    """That it has seen in the end."""
    calls: tuple[str, ...]
    """Of the backend, that it leads to."""


STORIES = {
    "start": Story("start", "0.1", False, lambda row: row.current_state == "SUCCEEDED", 1, ("launch",)),
    "stop": Story(
        "stop", "600", True, lambda row: (row.desired_state, row.current_state) == ("STOPPED",) * 2, 1, ("cancel",)
    ),
    "restart": Story(
        "restart",
        "600,0.1",
        True,
        lambda row: row.run == 2 and row.current_state == "SUCCEEDED",
        2,
        ("cancel", "launch"),
    ),
}


class Lane:
    """A leader to be killed, and the follower that takes over, on one database."""

    def __init__(self, place: Place, story: Story) -> None:
        self.place, self.story = place, story
        self.leader, self.heir = self._open(place.kernel()), place.kernel()
        self.died: list[str] = []
        self.missed: list[str] = []

    def _open(self, kernel: Kernel) -> Kernel:
        kernel.run("fuse.install()")
        return kernel

    def steps(self, name: str) -> list[tuple[str, int]]:
        """Tell the story once; the steps that it takes, each with a number where it is taken more than once."""
        self._declare(name)
        self.leader.run(f"fuse.set()\ndeck.{self.story.word}({name!r})")
        self._check(name)
        passed: Counter[str] = Counter()
        found = []
        for step in self.leader.ask("fuse.steps"):
            passed[step] += 1
            found.append((step, passed[step]))
        return found

    def dies_at(self, name: str, step: str, nth: int) -> bool:
        """Tell the story with a leader that dies there; whether it came there, for looks are taken when they are."""
        self._declare(name)
        note = self.place.folder / f"note-{name}"
        before = self.place.lease()
        assert before.pid == self.leader.pid
        self.leader.send(f"fuse.set({step!r}, {nth}, {str(note)!r})\ndeck.{self.story.word}({name!r})")
        until(lambda: self.leader.dead() or self._done(name), lambda: f"the end of {name}: {self.told(name)}")
        if survived := self._disarmed():
            self.missed.append(f"{step} {nth}")
        else:
            self.died.append(f"{step} {nth}")
            self.leader.await_death()
            assert json.loads(note.read_text())["term"] == before.term, "it led when it was killed"
            self._inherit(before.term)
        self._check(name)
        return not survived

    def _disarmed(self) -> bool:
        """Whether it still lives, and will."""
        try:
            return not self.leader.dead() and self.leader.run("fuse.set()", "True") is True
        except KernelDied:
            return False

    def _inherit(self, term: int) -> None:
        """Another kernel takes over from the one that died."""
        both = (self.heir, self.place.kernel(waits=False))
        leader = self.place.await_leader(*both)
        assert self.place.lease().term == term + 1
        self.leader, self.heir = self._open(leader), both[leader is both[0]]

    def _declare(self, name: str) -> None:
        command = self.place.command(self.story.seconds)
        self.leader.run(f"deck.create({name!r}, {command!r}, start={self.story.begins})")
        if self.story.begins:
            until(
                lambda: self.place.row(name).current_state == "RUNNING" and self.place.executions(name),
                lambda: f"the begin of {name}: {self.told(name)}",
            )

    def told(self, name: str) -> str:
        """For a person who must find out what went wrong."""
        row = self.place.row(name)
        return "\n".join(
            [
                f"{row.desired_state} {row.run} {row.current_state} {row.message}, after {self.died[-1:]}",
                *map(str, self.place.jobs(row)),
                *map(str, self.place.executions(name)),
                str(self.place.lease()),
                *(kernel.log()[-3000:] for kernel in (self.leader, self.heir)),
            ]
        )

    def _done(self, name: str) -> bool:
        return self.story.done(self.place.row(name))

    def _check(self, name: str) -> None:
        """It came to its end: what was asked, or nothing where the kernel died before it was written."""
        place, story = self.place, self.story
        row = place.row(name)
        if (row.run, row.desired_state) == (int(story.begins), "RUNNING" if story.begins else "STOPPED"):
            assert len(place.executions(name)) == int(story.begins), "nobody asked for it"
            self.leader.run(f"deck.{story.word}({name!r})")
        until(lambda: self._done(name), lambda: f"the end of {name}: {self.told(name)}")
        ran = place.executions(name)
        assert len(ran) == story.executions, f"{self.died[-1:]}: {ran}"
        jobs = place.jobs(place.row(name))
        assert sorted(job.run for job in jobs) == list(range(1, story.executions + 1))
        assert not any(job.alive for job in jobs)
        place.check_rows()

    def finish(self) -> None:
        """A new kernel finds nothing to do, and nothing is left."""
        self.leader.kill()
        self.heir.kill()
        place = self.place
        place.await_leader(place.kernel())
        place.check_executions()
        place.check_nothing_left()
        place.check_rows()


@pytest.mark.kill
@pytest.mark.timeout(600)
@pytest.mark.parametrize("word", STORIES)
def test_a_leader_killed_at_each_step_is_survived(make_place: Callable[..., Place], word: str) -> None:
    story = STORIES[word]
    lanes = [Lane(make_place(slots=2), story) for _ in range(LANES)]
    for lane in lanes:
        lane.steps("first")  # which makes folders and lock files, once and for all
    steps = lanes[0].steps("second")
    left = deque(enumerate(steps, 1))

    def run(lane: Lane) -> None:
        with suppress(IndexError):
            while True:
                number, (step, nth) = left.popleft()
                lane.dies_at(f"x{number}", step, nth)
        lane.finish()

    with ThreadPoolExecutor(LANES) as pool:
        for done in [pool.submit(run, lane) for lane in lanes]:
            done.result()
    died = [where for lane in lanes for where in lane.died]
    missed = [where for lane in lanes for where in lane.missed]
    show(f"{word}: the leader died at {len(died)} steps: {', '.join(sorted(died))}; not reached again: {missed}")
    assert len(died) + len(missed) == len(steps)
    assert len(died) > 12
    assert all("observe" in step or "(skydeck-loop)" in step for step in missed), "all others are taken every time"
    wanted = {f"{when} {call} (skydeck-worker) 1" for call in story.calls for when in ("before", "after")}
    wanted |= {"before a commit (MainThread) 1", "after a commit (MainThread) 1", "after a commit (skydeck-loop) 1"}
    assert wanted <= set(died)
