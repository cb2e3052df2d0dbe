"""(d) From the call of ``start()`` until the backend is told, on a real deck with its loop.

The clock starts before ``deck.start(name)`` and stops when the gate before the
backend's write has opened for the last time: the request, the attempt and the
permission to send are committed (three syncs) and two threads have handed over.
One experiment after the other, each in a deck at rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import original
from benchmarks.report import Line, milliseconds
from benchmarks.timing import clock, percentile
from benchmarks.world import Echo, Size, Worlds, echo_of
from skydeck_nb.backends.base import Backend, Gate, Launched, Order
from skydeck_nb.backends.fake import FakeBackend, Outcome
from skydeck_nb.backends.local import LocalBackend
from skydeck_nb.store.store import Store

P95_BAR = 0.1
"""Seconds."""
WAIT = 30.0
STARTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """Seconds from call to submit, in the order of the calls."""

    seconds: tuple[float, ...]
    returned: tuple[float, ...]
    """Until ``start()`` itself returned."""
    sync: float
    """What one durable commit takes on this disk, median of 50: the least that three of them can take is thrice."""

    @property
    def p50(self) -> float:
        return percentile(self.seconds, 0.5)

    @property
    def p95(self) -> float:
        return percentile(self.seconds, 0.95)

    @property
    def most(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """By backend, and on a deck that is large."""

    fake: Delays
    local: Delays
    large: Delays
    large_size: Size

    def lines(self) -> list[Line]:
        size = self.large_size
        named = {
            "fake backend": self.fake,
            "local backend, real processes": self.local,
            f"fake, deck of {size.experiments:,} and {size.jobs:,} jobs": self.large,
        }
        found: list[Line] = []
        for what, delays in named.items():
            many = len(delays.seconds)
            most = max(original.START)
            found += [
                Line(f"{what}: p50 of {many}", milliseconds(delays.p50), f"original up to {most:.0f} s"),
                Line(f"{' ' * len(what)}  p95", milliseconds(delays.p95), f"under {P95_BAR * 1e3:g} ms",
                     delays.p95 < P95_BAR),
                Line(f"{' ' * len(what)}  most", milliseconds(delays.most)),
            ]  # fmt: skip
        found.append(Line("start() itself returns after, p50", milliseconds(percentile(self.fake.returned, 0.5))))
        found.append(Line("one durable commit on this disk", milliseconds(self.fake.sync)))
        return found


def run(worlds: Worlds, *, quick: bool = False) -> Latency:
    """Two hundred starts, one after the other, on each."""
    starts = 10 if quick else STARTS
    size = Size(400) if quick else Size(10_000)
    fake = Timed(seed=1, outcomes={"*": Outcome(after=0.0, pending=0.0, starting=0.0)})
    folder = worlds.fresh()
    local = TimedLocal(folder / "spool", slots=starts + 1)
    try:
        return Latency(
            fake=measure(worlds.fresh() / "deck.db", fake, starts),
            local=measure(folder / "deck.db", local, starts, ended=True),
            large=_large(worlds.copy(size), starts),
            large_size=size,
        )
    finally:
        local.close()


def _large(path: Path, starts: int) -> Delays:
    store = Store.open(path)
    told = list(echo_of(store).told.values())
    store.close()
    return measure(path, TimedEcho(told), starts)


def measure(path: Path, backend: Backend, starts: int, *, ended: bool = False) -> Delays:
    """Start so many experiments of a new sweep, one after the other; ``ended``: each when the one before has ended."""
    import skydeck_nb as sd

    submitted: Submits = backend.submits  # type: ignore[attr-defined]
    seconds: list[float] = []
    returned: list[float] = []
    with sd.open(path, backend=backend) as deck:
        sweep = deck.sweep("bench", ["true"], flags={"point": list(range(starts + 3))})
        names = [str(name) for name in deck.experiments(sweep).index]
        deck.reconcile(timeout=WAIT)
        for name in names:
            began = time.perf_counter()
            deck.start(name)
            returned.append(time.perf_counter() - began)
            seconds.append(submitted.of(name) - began)
            over = ("SUCCEEDED",) if ended else ("PENDING", "STARTING", "RUNNING", "SUCCEEDED")
            _until(lambda: deck[name].state in over)  # noqa: B023  (called at once)
        sync = _sync(path)
    # the first ones pay for threads and caches that a deck in use has
    return Delays(seconds=tuple(seconds[3:]), returned=tuple(returned[3:]), sync=sync)


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"Nothing came of it within {WAIT:g} s.")
        time.sleep(0.02)


def _sync(path: Path) -> float:
    """The median of what one durable commit of one row takes beside this deck's file."""
    store = Store.open(path.with_name("sync.db"))
    try:

        def commit() -> None:
            with store.write(durable=True) as tx:
                tx.set_setting("benchmark", time.perf_counter())

        return percentile([clock(commit)[1] for _ in range(50)], 0.5)
    finally:
        store.close()


# -- Backends that note when they are told --------------------------------------------------


class Submits:
    """When each experiment's launch was let through to the backend's write."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._came = threading.Condition()

    def gate(self, order: Order, gate: Gate) -> Gate:
        def passed() -> None:
            gate()
            with self._came:
                self._at[order.experiment] = time.perf_counter()
                self._came.notify_all()

        return passed

    def of(self, experiment: str) -> float:
        with self._came:
            if not self._came.wait_for(lambda: experiment in self._at, WAIT):
                raise TimeoutError(f"{experiment} was not submitted within {WAIT:g} s.")
            return self._at[experiment]


class Timed(FakeBackend):
    """A fake backend that notes its submits."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.submits = Submits()

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        return super().launch(order, self.submits.gate(order, gate), deadline=deadline)


class TimedLocal(LocalBackend):
    """The local backend, noting its submits."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.submits = Submits()

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        return super().launch(order, self.submits.gate(order, gate), deadline=deadline)


class TimedEcho(Echo):
    """Lists what is stored, takes launches, and shows their jobs as running."""

    def __init__(self, told: Sequence[Any]) -> None:
        super().__init__(told)
        self.submits = Submits()

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        from skydeck_nb.backends.base import SeenJob

        self.submits.gate(order, gate)()
        number = max(self.told, default=0) + 1
        self.change([SeenJob(id=number, name=order.claim, status="RUNNING", metadata=order.metadata, user="me")])
        return Launched(job_id=number)
