"""The promises on a real server: one job for one wish, stop beats start, whatever dies or is lost."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import skydeck_nb as sd
from tests.sky.faults import CutAnswer, DelayAnswer, DropAnswer, DropRequest, Twice
from tests.sky.proxy import Proxy
from tests.sky.stack import Stack
from tests.sky.yard import PATIENCE, SMALL, Yard, one_each, until

FOREVER = ["sh", "-c", "sleep 3600", "run"]

pytestmark = [pytest.mark.sky, pytest.mark.timeout(2400)]


@pytest.fixture
def make_yard(sky_stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Yard]]:
    yards: list[Yard] = []
    numbers = itertools.count()

    def make(url: str | None = None) -> Yard:
        made = Yard(tmp_path / f"yard-{next(numbers)}", sky_stack, url)
        yards.append(made)
        return made

    yield make
    for yard in yards:
        yard.close()


def test_thirty_started_and_stopped_at_once_leave_none_alive(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard()
    deck = yard.open()
    deck.sweep("s", FOREVER, flags={"i": list(range(30))}, **SMALL)
    deck.refresh(timeout=PATIENCE)
    deck.start("s-*")
    until(lambda: len(deck.attempts()) >= 4, deck.attempts)
    deck.stop("s-*")
    sent = len(yard.requests())
    deck.sweeps["s"].wait(timeout=PATIENCE)
    yard.await_none_alive()
    assert sent <= len(yard.requests()) <= 8, "what was not sent when stop() returned stays unsent"
    assert set(deck.experiments()["state"]) == {"STOPPED"}
    assert not deck.jobs(live=True).size


def test_twenty_starts_from_four_processes_make_one_job(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard()
    deck = yard.open()
    deck.create("one", FOREVER, **SMALL)
    deck.refresh(timeout=PATIENCE)
    program = (
        "import sys, threading, skydeck_nb as sd\n"
        "from skydeck_nb.backends.skypilot import SkyPilotBackend\n"
        "deck = sd.open(sys.argv[1], backend=SkyPilotBackend())\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "starts = [threading.Thread(target=deck.start, args=('one',)) for _ in range(5)]\n"
        "[one.start() for one in starts]; [one.join() for one in starts]\n"
        "print('started', flush=True); sys.stdin.readline()\n"
        "deck.close()\n"
    )
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(yard.path)],
            env=yard.environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for word in ("ready", "started"):
            for caller in callers:
                assert caller.stdout is not None
                assert caller.stdout.readline().strip() == word
            for caller in callers if word == "ready" else ():
                assert caller.stdin is not None
                caller.stdin.write("go\n")
                caller.stdin.flush()
        until(lambda: one_each(yard, ["one"]), yard.truth)
        deck.reconcile(timeout=PATIENCE)
        assert len(yard.truth()) == 1
        assert len(yard.requests()) == 1
    finally:
        for caller in callers:
            caller.communicate("end\n", timeout=60)


STEPS = (
    "before the attempt",
    "after the attempt",
    "at the gate",
    "after the permission",
    "after the answer",
    "after the job is known",
)

DYING = """
import os, signal, sys, threading
import skydeck_nb as sd
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.store.store import Store
from contextlib import contextmanager

path, step = sys.argv[1:]

def die(where):
    if where == step:
        os.write(1, b"died\\n")
        os.kill(os.getpid(), signal.SIGKILL)

write = Store.write
@contextmanager
def watched(store, **how):
    with write(store, **how) as tx:
        apply, said = tx.apply, []
        def heard(events):
            said.extend(event.type for event in events)
            return apply(events)
        tx.apply = heard
        yield tx
        if "launch.requested" in said:
            die("before the attempt")
    if "launch.requested" in said:
        die("after the attempt")
    if "attempt.sending" in said:
        die("after the permission")
    if "job.submitted" in said:
        die("after the job is known")
Store.write = watched

launch = SkyPilotBackend.launch
def launched(self, order, gate, *, deadline):
    def asked():
        die("at the gate")
        gate()
    answer = launch(self, order, asked, deadline=deadline)
    die("after the answer")
    return answer
SkyPilotBackend.launch = launched

deck = sd.open(path, backend=SkyPilotBackend(), poll_interval=3.0, reconcile_interval=20.0)
deck.create("one", ["sleep", "3600"], infra="slurm", resources={"cpus": 1}, start=True)
threading.Event().wait()
"""


class Campaign:
    """Stories told side by side on one server: what is lost in one may not trouble another."""

    def __init__(self, make_yard: Callable[..., Yard], stack: Stack, count: int) -> None:
        self.make_yard, self.stack, self.count = make_yard, stack, count

    def wished(self, yard: Yard) -> sd.Deck:
        """A deck with so many experiments, none of them started."""
        deck = yard.open()
        deck.sweep("s", FOREVER, flags={"i": list(range(self.count))}, **SMALL)
        deck.refresh(timeout=PATIENCE)
        return deck

    def settled(self, yard: Yard, deck: sd.Deck) -> None:
        """One live job each and one job a claim, in the server's own words; then none."""
        names = list(deck.experiments().index)
        until(lambda: one_each(yard, names), lambda: f"{yard.alive()}\n{deck.attempts()}", 3 * PATIENCE)
        deck.reconcile(timeout=PATIENCE)
        assert one_each(yard, names), yard.alive()
        assert set(deck.attempts()["state"]) <= {"SUBMITTED", "NOT_LAUNCHED", "REJECTED"}, deck.attempts()
        deck.stop(deck.experiments())
        yard.await_none_alive()

    def answers_lost(self) -> None:
        """Requests and answers are dropped, doubled, cut and delayed on the way."""
        with Proxy(self.stack.endpoint, seed=7) as proxy:
            yard = self.make_yard(proxy.endpoint)
            deck = self.wished(yard)
            for fault, times in ((DropAnswer(), 2), (Twice(), 1), (DropRequest(), 1)):
                proxy.on(fault, "POST", "/jobs/launch", count=times)
            proxy.on(CutAnswer(), "GET", "/api/get", chance=0.2)
            proxy.on(DelayAnswer(2.0), "GET", "/api/status", chance=0.3)
            deck.start("s-*")
            until(lambda: len(proxy.log("POST", "/jobs/launch")) >= self.count, deck.attempts, 2 * PATIENCE)
            proxy.heal()
            self.settled(yard, deck)
            assert max(Counter(job["job_name"] for job in yard.truth()).values()) == 2, (
                "one launch was carried out twice"
            )

    def server_killed(self) -> None:
        """The API server dies when half of the launches are out, and is started again."""
        yard = self.make_yard()
        deck = self.wished(yard)
        deck.start("s-*")
        half = self.count // 2
        until(lambda: deck.attempts()["request_id"].notna().sum() >= half, deck.attempts)
        self.stack.kill_server()
        self.stack.start_server()
        self.settled(yard, deck)
        made = Counter(job["job_name"] for job in yard.truth())
        assert max(made.values()) == 1, "no claim made two jobs"

    def kernel_killed(self, step: str) -> None:
        """A kernel is killed at one step of a launch, and another one opens its deck."""
        yard = self.make_yard()
        kernel = subprocess.Popen(
            [sys.executable, "-c", DYING, str(yard.path), step],
            env=yard.environ(),
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert kernel.stdout is not None
        with kernel.stdout as words:
            assert words.readline() == b"died\n", step
        assert kernel.wait(60) == -signal.SIGKILL
        self.settled(yard, yard.open())
        assert len(yard.truth()) == 1, f"{step}: {yard.truth()}"


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.parametrize(("count", "steps"), [(3, STEPS[1::2]), (20, STEPS)], ids=["sample", "campaign"])
def test_whatever_dies_or_is_lost_leaves_one_job_each(
    make_yard: Callable[..., Yard], sky_stack: Stack, count: int, steps: tuple[str, ...]
) -> None:
    campaign = Campaign(make_yard, sky_stack, count)
    stories: list[Callable[[], None]] = [campaign.server_killed, campaign.answers_lost]
    stories += [partial(campaign.kernel_killed, step) for step in steps]
    with ThreadPoolExecutor(len(stories)) as pool:
        for told in [pool.submit(story) for story in stories]:
            told.result()
