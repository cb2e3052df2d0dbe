"""What goes to the browser, in order, from one thread.

Decides when rows are looked at again, that at most ten deltas a second leave,
and that every message has its number. One outbox, one sender thread, one lock;
acks alone leave from the thread that asks. Refuses to know anywidget: it is
given a function that sends and that raises :class:`Gone` when nobody listens.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from skydeck_nb.widget import cells
from skydeck_nb.widget.messages import Bye, Notice, Outgoing, Summary, encode
from skydeck_nb.widget.source import GridSource, GridSummary
from skydeck_nb.widget.view import View, changes, snapshot, summary, view

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any], list[bytes]], None]

PAUSE: Final = 0.1
"""Seconds between two deltas. Ten a second is what an eye follows."""

SHARE: Final = 4
"""A look that took long is followed by a rest this many times as long: a big deck leaves the kernel its time."""


class Gone(Exception):
    """The comm is closed: there is nobody to send to, and never will be."""


class Feed:
    """The browser's side of one grid, seen from Python."""

    def __init__(self, source: GridSource, send: Send, *, kernel: int, heartbeat: float) -> None:
        self._source = source
        self._send = send
        self._kernel = kernel
        self._heartbeat = heartbeat
        self._lock = threading.RLock()
        self._seq = 0
        self._outbox: deque[Outgoing] = deque()
        self._changed = threading.Condition()
        self._dirty = False
        self._resync = False
        self._closed = False
        self._failing = ""
        self._thread: threading.Thread | None = None
        self.view = View.empty()
        self.line = GridSummary(backend="")
        self._said: dict[str, Any] | None = None

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def open(self) -> None:
        """Send the first snapshot from this thread, so that it leaves before the running cell goes on."""
        self._look()
        self._whole()
        self._thread = threading.Thread(target=self._run, name="skydeck-grid-feed", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Rows or summary may have changed. Any thread; returns at once."""
        with self._changed:
            self._dirty = True
            self._changed.notify()

    def put(self, message: Outgoing) -> None:
        """Send after the rows as they are now."""
        with self._changed:
            self._outbox.append(message)
            self._changed.notify()

    def resync(self) -> None:
        """Send everything again."""
        with self._changed:
            self._resync = True
            self._changed.notify()

    def post(self, message: Outgoing) -> None:
        """Send at once, from this thread."""
        with self._lock:
            self._seq += 1
            self._send(*encode(message, self._kernel, self._seq))

    def close(self) -> None:
        """Say bye and stop; any number of times, from any thread."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        try:
            self.post(Bye(_now()))
        except Exception:
            log.debug("the grid's last message found nobody", exc_info=True)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _run(self) -> None:
        beat = time.monotonic() + self._heartbeat
        look = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(self._pressing, max(0.0, beat - time.monotonic()))
                if self._closed:
                    return
                dirty, self._dirty = self._dirty, False
                resync, self._resync = self._resync, False
            began = max(look, time.monotonic()) if dirty else time.monotonic()
            if self._rest(began):
                return
            try:
                self._turn(dirty, resync, beat <= time.monotonic())
            except Gone:
                return
            except Exception:
                log.exception("the grid could not send")
            now = time.monotonic()
            if beat <= now:
                beat = now + self._heartbeat
            if dirty:
                look = now + max(PAUSE, SHARE * (now - began))

    def _rest(self, until: float) -> bool:
        """Wait for the next look; true when the grid was closed meanwhile."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, max(0.0, until - time.monotonic()))

    def _pressing(self) -> bool:
        return self._closed or self._dirty or self._resync or bool(self._outbox)

    def _turn(self, dirty: bool, resync: bool, beat: bool) -> None:
        """One look at the source and what follows from it."""
        with self._changed:
            answers = list(self._outbox)
            self._outbox.clear()
        if dirty or resync or beat:
            before = self.view
            seen = self._look(rows=dirty or resync)
            messages = None if resync else changes(before, self.view) if seen else []
            if messages is None:
                self._whole()
            else:
                for message in messages:
                    self.post(message)
                self._beat(always=beat)
        for answer in answers:
            self.post(answer)

    def _look(self, *, rows: bool = True) -> bool:
        """Ask the source; where it fails, what was seen last stays, and the grid says so once."""
        try:
            if rows:
                self.view = view(self._source.rows(), self.view)
            self.line = self._source.summary()
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if words != self._failing:
                self._failing = words
                log.exception("the grid could not read its deck")
                self.put(Notice(level="error", text=cells.text(f"The grid could not read the deck: {words}")))
            return False
        self._failing = ""
        return True

    def _whole(self) -> None:
        said = summary(self.line)
        for part in snapshot(self.view, said):
            self.post(part)
        self._said = None
        self._beat(always=True)

    def _beat(self, *, always: bool) -> None:
        """The deck's line where it changed; a heartbeat where it did not."""
        said = summary(self.line)
        words = {key: value for key, value in said.items() if key != "seen"}
        told = self._said is not None and words == {k: v for k, v in self._said.items() if k != "seen"}
        if told and not always:
            return
        self.post(Summary(now=_now(), every=self._heartbeat, seen=said["seen"], summary=None if told else said))
        self._said = said


def _now() -> int:
    return cells.moment(datetime.now(UTC)) or 0
