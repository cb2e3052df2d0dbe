"""A clock that stands still until somebody moves it.

Decides what time it is in a test. Refuses to know who asks.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class FakeClock:
    """``clock()`` is an aware UTC time; ``clock.advance(5)`` makes it five seconds later.

    Works wherever a ``Callable[[], datetime]`` does; :meth:`monotonic` and
    :meth:`sleep` stand in for those of :mod:`time`. Safe from any thread.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("FakeClock needs an aware start, such as datetime(2026, 1, 1, tzinfo=UTC).")
        self._start = self._now = start
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> datetime:
        """Move on by so many seconds, never back; the new time."""
        if seconds < 0:
            raise ValueError(f"A clock does not go back; got advance({seconds}).")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            return self._now

    def monotonic(self) -> float:
        """Seconds since the start."""
        return (self._now - self._start).total_seconds()

    def sleep(self, seconds: float) -> None:
        """As :func:`time.sleep`, at once."""
        self.advance(seconds)

    def __repr__(self) -> str:
        return f"FakeClock({self._now.isoformat()})"
