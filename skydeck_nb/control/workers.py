"""A bounded set of threads that make the loop's calls.

Decides which call goes first (stops ahead of looks, looks ahead of launches)
and when a call is given up. Refuses to know what a call does. Threads are
daemons, so that a hanging server never keeps a kernel from ending; the outcome
of a call that was given up is dropped.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from skydeck_nb.control.calls import PREPARE, Call, Cancel, Launch, Observe, Outcome, Resolve

MOST: Final = 8
"""Threads at most: a server's slots are shared, and one SQLite writes one transaction at a time."""

LAUNCHES: Final = MOST - 2
"""Launches at once at most: they may prepare for minutes, and a look and a stop never wait for that."""

GIVE_UP: Final = 90.0
"""Seconds after which a call is given up, a launch's preparing apart: every backend answers or raises before that."""


@dataclass(slots=True)
class _Running:
    call: Call
    since: float
    given_up: bool = False


@dataclass(order=True, slots=True)
class _Waiting:
    rank: int
    number: int
    call: Call = field(compare=False)


class Workers:
    """Makes calls and reports each end to ``report(outcome, seconds)``, on the worker's thread."""

    def __init__(self, perform: Callable[[Call], Outcome], report: Callable[[Outcome, float], None]) -> None:
        self._perform = perform
        self._report = report
        self._wake = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._running: dict[int, _Running] = {}
        self._idle = 0
        self._numbers = itertools.count()
        self._closing = False

    def submit(self, call: Call) -> None:
        """Queue one call. Returns at once."""
        with self._wake:
            heapq.heappush(self._waiting, _Waiting(_rank(call), next(self._numbers), call))
            self._staff()

    def drop(self) -> None:
        """Forget every call that no thread has begun."""
        with self._wake:
            self._waiting.clear()

    def give_up(self, now: float | None = None) -> list[Call]:
        """The calls that hang; their outcomes, should they ever come, are dropped."""
        at = time.monotonic() if now is None else now
        with self._wake:
            stuck = [r for r in self._running.values() if not r.given_up and at - r.since > _patience(r.call)]
            for running in stuck:
                running.given_up = True
                self._staff()
            return [r.call for r in stuck]

    def settle(self, timeout: float) -> bool:
        """Wait until no call is under way; whether that came about."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._running, timeout)

    def close(self) -> None:
        """Begin no more calls and let the threads end."""
        with self._wake:
            self._closing = True
            self._waiting.clear()
            self._wake.notify_all()

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._something_to_do())
                self._idle -= 1
                if self._closing:
                    return
                call = heapq.heappop(self._waiting).call
                running = self._running[me] = _Running(call, time.monotonic())
            outcome = self._perform(call)
            took = time.monotonic() - running.since
            with self._wake:
                del self._running[me]
                self._wake.notify_all()
                if running.given_up:
                    return
                self._idle += 1
            self._report(outcome, took)

    def _staff(self) -> None:
        """Have a thread for what waits, where one more may be."""
        busy = sum(not r.given_up for r in self._running.values())
        if self._idle < len(self._waiting) and self._idle + busy < MOST:
            self._idle += 1
            threading.Thread(target=self._work, name="skydeck-worker", daemon=True).start()
        self._wake.notify()

    def _something_to_do(self) -> bool:
        """Whether the first that waits may begin; launches are last, so behind one there is nothing else."""
        if not self._waiting or not isinstance(self._waiting[0].call, Launch):
            return bool(self._waiting)
        return sum(isinstance(r.call, Launch) and not r.given_up for r in self._running.values()) < LAUNCHES


def _patience(call: Call) -> float:
    """Seconds after which this call is given up."""
    return GIVE_UP + PREPARE.total_seconds() if isinstance(call, Launch) else GIVE_UP


def _rank(call: Call) -> int:
    match call:
        case Cancel():
            return 0
        case Observe():
            return 1
        case Resolve():
            return 2
        case Launch():
            return 3
