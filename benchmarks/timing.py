"""How time is taken: CPU of the calling thread and wall, of several repeats.

The machine may be shared, so that a single wall time means little. What is
compared is timed alternately in one run, and the ratio is taken of the least
(what the code costs when nobody disturbs it) and of the medians.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of repeats of one thing."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    @classmethod
    def of(cls, each: Sequence[tuple[float, float]]) -> Spent:
        """From pairs of CPU and wall, as :func:`clock` gives them."""
        return cls(tuple(cpu for cpu, _ in each), tuple(wall for _, wall in each))

    @property
    def best(self) -> float:
        """The least CPU."""
        return min(self.cpu)

    @property
    def median(self) -> float:
        """The median of CPU."""
        return statistics.median(self.cpu)

    @property
    def wall_median(self) -> float:
        return statistics.median(self.wall)


@dataclass(frozen=True, slots=True)
class Versus:
    """Ours over another's, timed alternately in one run."""

    ours: Spent
    theirs: Spent

    @property
    def ratio(self) -> float:
        """Of the least CPU times."""
        return self.ours.best / self.theirs.best

    @property
    def ratio_of_medians(self) -> float:
        return self.ours.median / self.theirs.median

    @property
    def ratio_of_walls(self) -> float:
        """Of the median wall times."""
        return self.ours.wall_median / self.theirs.wall_median


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    gc.collect()
    began, before = time.perf_counter(), time.thread_time()
    result = work()
    taken = time.thread_time() - before, time.perf_counter() - began
    del result
    return taken


def spent(work: Callable[[], object], repeats: int) -> Spent:
    """Time some work, again and again. What the first call alone fills (caches, imports) belongs to none of them."""
    work()
    return Spent.of([clock(work) for _ in range(repeats)])


def versus(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> Versus:
    """Time both, one after the other in each round, so that a busy moment meets both."""
    ours()
    theirs()
    pairs = [(clock(ours), clock(theirs)) for _ in range(repeats)]
    return Versus(Spent.of([a for a, _ in pairs]), Spent.of([b for _, b in pairs]))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
