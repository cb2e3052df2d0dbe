"""500 experiments started and stopped at once, at any moment of the launch: none is alive in the end."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from skydeck_nb.models import JobRow
from tests.kill.kernels import Kernel
from tests.kill.place import Place, show, until

pytestmark = [pytest.mark.kill, pytest.mark.timeout(300)]

MANY = 500


class Moment(NamedTuple):
    """When they are stopped: so many seconds after the start, or once so many launches were made."""

    seconds: float = 0.0
    launches: int = 0
    asked_of: str = "the same process"
    """Who stops them: the one that was asked to start them, another one, or another while the leader is killed."""


AT_THE_GATE = "another process, while launches wait at the gate"
KILLED = "another process, as the leader is killed"

MOMENTS = (
    Moment(seconds=0.0),
    Moment(seconds=0.05),
    Moment(seconds=0.3),
    Moment(seconds=2.0),
    Moment(launches=1, asked_of="another process"),
    Moment(launches=20, asked_of="the same process"),
    Moment(asked_of=AT_THE_GATE),
    Moment(launches=10, asked_of=KILLED),
)


def unsettled(place: Place) -> list[tuple[str, str, str]]:
    """Who is not stopped, by one cheap question."""
    with place.read() as tx:
        wanted = "desired_state != 'STOPPED' OR current_state != 'STOPPED' OR observed_run != run"
        return tx.rows("experiments", ["name", "current_state", "message"], wanted)


def launches(place: Place) -> int:
    """How many were made so far; refused ones have a file too, which says so."""
    return sum(path.read_bytes().startswith(b"job") for path in Path(place.spool.path("attempts")).iterdir())


def sent(place: Place, job: JobRow) -> float:
    """When a launch counted: its file was linked among the attempts."""
    return Path(place.spool.path("attempts", str(job.attempt_id))).stat().st_ctime


def timestamps(times: list[datetime | None]) -> list[float]:
    return [at.timestamp() for at in times if at is not None]


def stop_at_the_gate(place: Place, stop: str, leader: Kernel, other: Kernel) -> float:
    """Stop them while some are permitted and not sent; they are let go once stop() has returned."""
    latch, made, known = place.folder / "latch", launches(place), len(place.lines("calls"))

    def calls(what: str) -> int:
        return sum(line["what"] == what for line in place.lines("calls")[known:])

    leader.run(f"watch.latch = {str(latch)!r}\ndeck.start('*')")
    until(lambda: calls("at the gate") >= 4, "the launches")
    stopped: float = other.run(stop, "stopped")
    assert calls("passed") == 0
    latch.touch()
    until(lambda: not unsettled(place), lambda: f"the end of {unsettled(place)[:5]}", beat=0.1)
    assert calls("refused") >= 4
    assert calls("passed") == 0
    assert launches(place) == made
    return stopped


def start_and_stop(place: Place, run: int, moment: Moment, leader: Kernel, other: Kernel) -> None:
    """All 500, once."""
    before = launches(place)
    stop = "deck.stop('*')\nstopped = time.time()"
    if moment.asked_of == AT_THE_GATE:
        stopped = stop_at_the_gate(place, stop, leader, other)
    elif not moment.launches:
        stopped = leader.run(f"deck.start('*')\ntime.sleep({moment.seconds})\n{stop}", "stopped")
    else:
        stops = leader if moment.asked_of == "the same process" else other
        leader.run("deck.start('*')")
        until(lambda: launches(place) >= before + moment.launches, "the launches", beat=0.02)
        stopped = stops.run(stop, "stopped")
        if moment.asked_of == KILLED:
            assert place.lease().pid == leader.pid
            leader.kill()
    until(lambda: not unsettled(place), lambda: f"the end of {unsettled(place)[:5]}", beat=0.1)
    with place.read() as tx:
        found = [job for job in tx.jobs() if job.run == run]
        assert not tx.jobs(alive=True)
        assert not tx.attempts(open=True)
    began, ended = ([getattr(job, at) for job in found] for at in ("started_at", "ended_at"))
    late = [at - stopped for job in found if (at := sent(place, job)) > stopped]
    after = [at - stopped for at in timestamps(began) if at > stopped]
    show(
        f"{moment}: {len(found)} launched, {len(timestamps(began))} began; after stop() had returned "
        f"{len(late)} were sent (the last after {max(late, default=0):.3f} s), {len(after)} began (the last after "
        f"{max(after, default=0):.2f} s); all were gone {max([*timestamps(ended), stopped]) - stopped:.2f} s after it"
    )
    place.check_nothing_left()


def test_500_started_and_stopped_at_once_leave_nothing_alive(place: Place) -> None:
    first, second = place.kernel(), place.kernel()
    leader = place.await_leader(first, second)
    other = second if leader is first else first
    for kernel in (leader, other):
        kernel.run("import time")
    leader.run(f"watch = inside.Watch(deck, {str(place.folder / 'calls')!r})")
    command = "['sleep', '{i}']"
    leader.run(f"deck.sweep('s', {command}, flags={{'i': list(range(10000, {10000 + MANY}))}})")
    for run, moment in enumerate(MOMENTS, 1):
        start_and_stop(place, run, moment, leader, other)
    place.check_rows()
    with place.read() as tx:
        before = (len(tx.jobs()), len(tx.attempts()), tx.sequence)
    other.run("deck.reconcile()")
    with place.read() as tx:
        assert (len(tx.jobs()), len(tx.attempts()), tx.sequence) == before, "something started later"
    place.check_nothing_left()
