"""When the loop looks at its backend: at what is alive, and for what it does not know of.

Decides the next look from how often people want it, how long the last one took,
whether it failed, and whether something was just changed. Refuses to know what a
look shows.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Final

from skydeck_nb.control import backoff

STRETCH: Final = 4.0
"""A look that took d seconds is not repeated before d times this: a slow server is not made slower."""

TROUBLE: Final = timedelta(seconds=60)
"""Longest pause between looks while they fail."""

SIGN_IN: Final = timedelta(seconds=5)
"""Longest pause while only a sign-in is missing: such a look is one small question, and whoever signs in waits."""

AT_ONCE: Final = timedelta(seconds=0.05)
"""Pause after a look before one that was asked for: many answers at once make one look."""

EVERYONE: Final = timedelta(minutes=10)
"""How long discoveries bring everybody's jobs after somebody wanted to see them: they may be thousands."""


class Looks:
    """The timetable of one leader. ``hot`` and ``discovery`` are seconds between looks while nothing presses."""

    def __init__(self, hot: float, discovery: float, jitter: random.Random) -> None:
        self._hot = hot
        self._discovery = discovery
        self._jitter = jitter
        self._failures = 0
        self._next_hot: datetime | None = None
        self._next_discovery: datetime | None = None
        self._not_before: datetime | None = None
        self._asked = False
        self._everyone_until: datetime | None = None
        self.under_way = False
        self.begun = 0
        """How many looks this process began."""

    def restart(self) -> None:
        """Know nothing: the next look is a discovery, and is now."""
        self.under_way = False
        self._failures = 0
        self._next_hot = self._next_discovery = self._not_before = None

    def ask(self) -> None:
        """Have a discovery now, or right after the look that is under way."""
        self._asked = True

    def ask_for_everyone(self, now: datetime) -> None:
        """Have discoveries bring everybody's jobs for a while; the first to ask has one now."""
        if not self.everyone(now):
            self.ask()
        self._everyone_until = now + EVERYONE

    def everyone(self, now: datetime) -> bool:
        """Whether somebody wants to see everybody's jobs."""
        return self._everyone_until is not None and now < self._everyone_until

    def soon(self, now: datetime) -> None:
        """Something was changed on the backend: see what became of it, as soon as its speed allows."""
        soon = max(now, self._not_before or now)
        self._next_hot = min(soon, self._next_hot or soon)

    def waits(self, now: datetime) -> bool:
        """Whether nothing is due, whatever may be alive: then nobody need ask what is."""
        if self.under_way:
            return True
        times = (self._next_hot, self._next_discovery)
        return not self._asked and all(when is not None and now < when for when in times)

    def due(self, now: datetime, something_alive: bool) -> tuple[bool, bool]:
        """Whether to look now, and whether that is a discovery."""
        if self.under_way:
            return False, False
        discovery = self._asked or self._next_discovery is None or now >= self._next_discovery
        hot = something_alive and (self._next_hot is None or now >= self._next_hot)
        return discovery or hot, discovery

    def begin(self) -> int:
        """A look is on its way; its number."""
        self.under_way, self._asked = True, False
        self.begun += 1
        return self.begun

    def end(
        self, now: datetime, took: timedelta, *, discovery: bool, failed: bool, needs_sign_in: bool = False
    ) -> None:
        """A look is over: put the next ones into the timetable."""
        self.under_way = False
        self._failures = self._failures + 1 if failed else 0
        stretch = min(took * STRETCH, TROUBLE) if failed else took * STRETCH
        trouble = backoff.delay(self._failures, base=timedelta(seconds=max(self._hot, 0.25)), cap=TROUBLE)

        def after(seconds: float) -> datetime:
            if needs_sign_in:
                return now + SIGN_IN
            jittered = timedelta(seconds=seconds * self._jitter.uniform(0.9, 1.1))
            return now + max(jittered, stretch, trouble)

        self._not_before = now + max(stretch, AT_ONCE)
        self._next_hot = after(self._hot)
        if discovery:
            self._next_discovery = self._next_hot if failed else after(self._discovery)

    def next(self, something_alive: bool) -> datetime | None:
        """When the next look is due; ``None``: at once."""
        if self._asked or self._next_discovery is None or (something_alive and self._next_hot is None):
            return None
        if something_alive and self._next_hot is not None:
            return min(self._next_discovery, self._next_hot)
        return self._next_discovery
