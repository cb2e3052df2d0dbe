"""Three kernels on one database: one acts, the others see what it does, and one of them takes over when it is gone."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest

from tests.kill.kernels import Kernel
from tests.kill.place import Place, show, until

pytestmark = pytest.mark.kill

GONE, FROZEN, SEEN = 3.0, 20.0, 1.0
"""Seconds that the issue gives: to take over from one that was killed or closed, from one that is frozen; to see."""

NOW = "__import__('time').clock_gettime(7)"  # CLOCK_BOOTTIME


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def three(place: Place) -> list[Kernel]:
    """Three kernels, the one that leads first."""
    kernels = [place.kernel() for _ in range(3)]
    leader = place.await_leader(*kernels)
    return sorted(kernels, key=lambda kernel: kernel is not leader)


def acts(place: Place, kernel: Kernel, name: str) -> None:
    """The one that leads does what any of them is asked for."""
    kernel.run(f"deck.create({name!r}, {place.command(0.05)!r}, start=True)")
    until(lambda: place.row(name).current_state == "SUCCEEDED", lambda: str(place.row(name)))
    assert len(place.executions(name)) == 1


@pytest.mark.parametrize("how", ["kill", "close"])
def test_another_takes_over_within_3_seconds(place: Place, three: list[Kernel], how: str) -> None:
    first, *others = three
    term = place.lease().term
    acts(place, others[1], "before")
    begun = time.monotonic()
    if how == "kill":
        first.kill()
    else:
        first.send("deck.close()")
    second = place.await_leader(*others, patience=GONE)
    took = time.monotonic() - begun
    assert place.lease().term == term + 1
    assert took < GONE
    show(f"{how}: {took:.2f} s")
    acts(place, others[1 - others.index(second)], "after")
    if how == "close":
        assert first.ask("deck._loop.closed")
        assert not first.dead(), "the kernel lives on"
    place.check_rows()
    place.check_nothing_left()


def test_a_frozen_leader_is_replaced_within_20_seconds_and_sends_nothing_when_it_thaws(
    place: Place, three: list[Kernel]
) -> None:
    first, *others = three
    term = place.lease().term
    latch = place.folder / "latch"
    for kernel in three:
        kernel.run(f"watch = inside.Watch(deck, {str(place.folder / 'calls')!r})")
    first.run(f"watch.latch = {str(latch)!r}")
    command = place.command(600)
    others[0].run(f"deck.create('held', {command!r}, start=True)\ndeck.create('other', {command!r})")
    until(lambda: any(line["what"] == "at the gate" for line in place.lines("calls")), "a launch at the gate")
    first.freeze()
    begun = time.monotonic()
    second = place.await_leader(*others, patience=FROZEN)
    took = time.monotonic() - begun
    assert place.lease().term == term + 1
    assert took < FROZEN
    show(f"frozen: {took:.2f} s")
    until(lambda: place.row("held").current_state == "RUNNING", lambda: str(place.row("held")))
    others[0].run("deck.start('other')")
    until(lambda: place.row("other").current_state == "RUNNING", lambda: str(place.row("other")))
    thawed = now()
    latch.touch()
    first.thaw()
    until(lambda: any(_of(line, first, "refused") for line in place.lines("calls")), lambda: str(place.lines("calls")))
    others[0].run("deck.stop(['held', 'other'])")
    until(lambda: place.row("held").current_state == place.row("other").current_state == "STOPPED")
    assert not first.ask("deck._loop.status().leading")
    for line in place.lines("calls"):
        assert line["term"] == (term + 1 if line["pid"] == second.pid else line["term"]), line
        if line["pid"] == first.pid:
            assert line["what"] != "passed", "a launch of its old term reached the backend"
            assert line["at"] < thawed or line["what"] == "refused", line
        else:
            assert line["pid"] == second.pid, "the third one made a call"
    assert [len(place.jobs(place.row(name))) for name in ("held", "other")] == [1, 1]
    assert [len(place.executions(name)) for name in ("held", "other")] == [1, 1]
    place.check_rows()
    place.check_nothing_left()


def _of(line: dict[str, Any], kernel: Kernel, what: str) -> bool:
    return bool(line["pid"] == kernel.pid and line["what"] == what)


def changes(seen: dict[str, float], state: str) -> dict[str, float]:
    """By experiment, and whether in a frame or live, when it came to be in a state that it does not leave by itself."""
    found: dict[str, float] = {}
    for key, at in seen.items():
        where, name, now, _, *before = key.split(" ")
        if now == state and before != [""]:  # "" is before it was declared
            found.setdefault(f"{where} {name}", at)
    return found


def test_all_three_see_the_same_within_a_second(place: Place, three: list[Kernel]) -> None:
    for kernel in three:
        kernel.run("sight = inside.Sight(deck)")
    names = [f"from-{number}" for number in range(len(three))]
    wanted = {f"{where} {name}" for where in ("frame", "live") for name in names}
    for name, kernel in zip(names, three, strict=True):
        kernel.run(f"deck.create({name!r}, {place.command(600)!r})")

    def when(state: str) -> list[dict[str, float]]:
        return [changes(kernel.ask("sight.seen"), state) for kernel in three]

    spreads = []
    for state, begin in (("RUNNING", "deck.start('*')"), ("STOPPED", "deck.stop('*')")):
        asked = three[1].run(begin, NOW)
        all_see = partial(lambda state: all(one.keys() == wanted for one in when(state)), state)
        until(all_see, partial(when, state))
        seen = when(state)
        after = [one[key] - asked for one in seen for key in wanted]
        spreads += [max(one[key] for one in seen) - min(one[key] for one in seen) for key in wanted]
        show(f"{state}: seen between {min(after):.2f} s and {max(after):.2f} s after {begin}")
    show(f"between the first of three to see a change and the last: at most {max(spreads):.2f} s")
    assert max(spreads) < SEEN
