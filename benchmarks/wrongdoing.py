"""(g) A SkyPilot server that does wrong: for how long the notebook's main thread is ever kept from running.

A real deck on the SkyPilot backend looks at a server in a process of its own that
does one wrong after the other; a thread asks for the next look twenty times a
second, where the loop itself would wait. Meanwhile the main thread sleeps a
millisecond again and again, as a kernel at rest does, and notes how much later
than that it came back. What the machine itself takes is measured in the same way,
without a deck, before and after.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import skydeck_nb as sd
from benchmarks.report import Line, milliseconds
from benchmarks.world import Worlds
from skydeck_nb.backends.base import Cadence
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.backends.skypilot.access import Access, Credentials
from skydeck_nb.errors import BackendError
from tests.backends.skypilot import misdeeds
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import Answer, shows

BAR: Final = 0.05
"""Seconds."""

TICK: Final = 0.001
MOST: Final = 20
"""Whiles that are waited for a first request: the one before may still be under way."""
PACE: Final = 0.05

RIGHT: Final = "nothing wrong"

LARGE: Final = "4 MB that are taken"
"""As much as is read of an answer at most: parsing it holds the interpreter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """What happened while a server did one thing."""

    mode: str
    longest: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrongdoing:
    """The longest stalls of the main thread by what the server did."""

    machine: tuple[float, ...]
    """Without a deck: the longest by which the machine itself was late, before, after."""
    right: Stall
    wrong: tuple[Stall, ...]

    def lines(self) -> list[Line]:
        worst = max(self.wrong, key=lambda one: one.longest)
        idle = [one.mode for one in self.wrong if not one.requests]
        return [
            Line("longest stall without a deck", milliseconds(max(self.machine))),
            Line("  with a server that does right", milliseconds(self.right.longest)),
            Line(f"  over {len(self.wrong)} ways of doing wrong", milliseconds(worst.longest),
                 f"under {milliseconds(BAR)}", worst.longest < BAR),
            Line("ways in which the server was not asked", ", ".join(idle) or "none", "none", not idle),
            Line("requests that it did wrong", f"{sum(one.requests for one in self.wrong):,}"),
            *(Line(f"    {one.mode}", milliseconds(one.longest)) for one in self.wrong),
        ]  # fmt: skip


class Hasty(SkyPilotBackend):
    """Does not wait for long."""

    patience = 60.0

    @property
    def cadence(self) -> Cadence:
        return Cadence(hot=0.05, discovery=0.05, launches=4, patience=self.patience, follow=10.0)


def run(worlds: Worlds, *, quick: bool = False) -> Wrongdoing:
    """Every way of doing wrong for a while."""
    return measure(worlds.fresh(), seconds=0.2 if quick else 1.5)


def measure(folder: Path, *, seconds: float) -> Wrongdoing:
    """The same for any while."""
    before = longest_stall(seconds)
    log = logging.getLogger("skydeck_nb")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with serving() as (url, tell):
            credentials = Credentials(None, folder / "no-cookies.txt")
            backend = Hasty(access=Access(url=url, credentials=credentials, user_id="u1", user_name="ada"))
            with sd.open(folder / "wrongdoing.db", backend=backend) as deck:
                deck.refresh()
                backend.patience = 0.5
                with looking(deck):
                    found = [_stall(backend, tell, mode, seconds) for mode in (RIGHT, *modes())]
            backend.close()
    finally:
        log.setLevel(level)
    return Wrongdoing(machine=(before, longest_stall(seconds)), right=found[0], wrong=tuple(found[1:]))


def modes() -> dict[str, Answer]:
    """What the server is told to do, by name."""
    wrong = {name: answer for name, (answer, _) in misdeeds.ALL.items()}
    return {**wrong, LARGE: shows([{"job_id": n, "status": "RUNNING", "name": f"job-{n}"} for n in range(75_000)])}


def _stall(backend: Hasty, tell: Connection, mode: str, seconds: float) -> Stall:
    tell.send(mode)
    assert tell.recv() == mode
    asked = backend.describe()["requests"]
    longest, requests = 0.0, 0
    for _ in range(MOST):
        longest = max(longest, longest_stall(seconds))
        requests = backend.describe()["requests"] - asked
        if requests:
            break
    return Stall(mode=mode, longest=longest, requests=requests)


@contextmanager
def looking(deck: sd.Deck) -> Iterator[None]:
    """One look after the other, whatever becomes of them."""
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            with contextlib.suppress(BackendError):
                deck.refresh()
            ended.wait(PACE)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def longest_stall(seconds: float) -> float:
    """By how much a sleep of a millisecond was ever late."""
    longest, before = 0.0, time.perf_counter()
    end = before + seconds
    while before < end:
        time.sleep(TICK)
        now = time.perf_counter()
        longest, before = max(longest, now - before - TICK), now
    return longest


@contextmanager
def serving() -> Iterator[tuple[str, Connection]]:
    """A server in a process of its own, its address and the end by which it is told what to do."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        ours.send(None)
        process.join()
        ours.close()


def _serve(told: Connection) -> None:
    answers = modes()
    with Server() as server:
        told.send(server.url)
        while (mode := told.recv()) is not None:
            server.do_wrong(answers.get(mode))
            told.send(mode)
