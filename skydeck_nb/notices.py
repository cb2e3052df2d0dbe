"""What needs a person, said once: in the next result, and in the grid for as long as it holds.

Decides which news become a notice and that none is said twice. Prints nothing:
a sentence from a thread would land in whichever cell happens to run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from skydeck_nb.events import ConditionChanged
from skydeck_nb.store.mirror import Touched

MOST: Final = 100
"""Notices kept until they are shown; the oldest go."""


class Notices:
    """Sentences that wait to be shown. Any thread may put, any may take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._said: dict[int, str] = {}

    def put(self, text: str) -> None:
        """Have this shown once."""
        with self._lock:
            self._waiting[text] = None
            while len(self._waiting) > MOST:
                self._waiting.popitem(last=False)

    def hear(self, touched: Touched) -> None:
        """Take up what the loop says: an experiment that waits for a person, each reason once."""
        for line in touched.events:
            event = line.event
            if not isinstance(event, ConditionChanged) or event.experiment_id is None:
                continue
            known = self._said.get(event.experiment_id)
            if event.attention and known != event.reason:
                self._said[event.experiment_id] = event.reason
                self.put(event.message)
            elif not event.attention:
                self._said.pop(event.experiment_id, None)

    def take(self, at_most: int = 3) -> list[str]:
        """What was not shown yet, the newest of it."""
        with self._lock:
            texts = list(self._waiting)
            self._waiting.clear()
        if len(texts) > at_most:
            return [*texts[-at_most:], f"{len(texts) - at_most} more need you: deck.experiments() has `attention`."]
        return texts

    def waiting(self) -> tuple[str, ...]:
        """The same without taking them."""
        with self._lock:
            return tuple(self._waiting)
