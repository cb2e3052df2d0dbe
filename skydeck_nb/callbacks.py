"""``deck.on``: a function of the user's for each event of a kind, on a thread of its own.

Decides in which order callbacks run and what becomes of what they print and
raise: output goes to the log, an exception becomes a notice. Refuses to run
anything on the loop's thread.
"""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

from skydeck_nb.errors import InvalidSetting
from skydeck_nb.events import KINDS, Event
from skydeck_nb.notices import Notices

log = logging.getLogger("skydeck_nb.callbacks")

Callback = Callable[[Any], object]

BACKLOG: Final = 10_000
"""Events that may wait for slow callbacks; more are dropped, and a notice says so."""


class Callbacks:
    """The functions that are called, and the thread that calls them."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._lock = threading.Lock()
        self._of: dict[type[Any], dict[str, Callback]] = {}
        self._queue: queue.Queue[Event | None] = queue.Queue(BACKLOG)
        self._thread: threading.Thread | None = None

    def on(self, kind: Any, function: Callback) -> Callable[[], None]:
        """Call this function with every event of this kind; one of the same qualified name is replaced."""
        if kind not in KINDS.values():
            raise InvalidSetting(f"{kind!r:.60} is no kind of event: write one such as sd.JobFinished.")
        if not callable(function):
            raise InvalidSetting(f"{function!r:.60} cannot be called: deck.on(sd.JobFinished, f) takes a function.")
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
        with self._lock:
            self._of.setdefault(kind, {})[name] = function
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="skydeck-callbacks", daemon=True)
                self._thread.start()

        def off() -> None:
            with self._lock:
                if self._of.get(kind, {}).get(name) is function:
                    del self._of[kind][name]

        return off

    def wants(self, word: str) -> bool:
        """Whether anything is called with events of this type's word."""
        return bool(self._of) and any(kind.type == word and functions for kind, functions in list(self._of.items()))

    def offer(self, event: Event) -> None:
        """Hand over an event; returns at once."""
        if type(event) not in self._of:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._notices.put(
                f"Callbacks are too slow: more than {BACKLOG:,} events wait, and further ones are dropped."
            )

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        with self._lock:
            self._of.clear()
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
            if thread is not threading.current_thread():
                thread.join(0.5)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            with self._lock:
                functions = list(self._of.get(type(event), {}).items())
            for name, function in functions:
                self._call(name, function, event)

    def _call(self, name: str, function: Callback, event: Event) -> None:
        said = io.StringIO()
        try:
            with _heard_by(said):
                function(event)
        except Exception as error:  # a user's function may raise anything, and the deck goes on
            log.exception("The callback %s failed on %s", name, event.type)
            self._notices.put(f"The callback {name} failed on {event.type}: {type(error).__name__}: {error}")
        if said.getvalue():
            log.info("%s said: %s", name, said.getvalue().rstrip())


class _Ear:
    """A stream that hears one thread and passes on what all others write."""

    def __init__(self, stream: TextIO, said: io.StringIO) -> None:
        self._stream = stream
        self._said = said
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        heard = self._said if threading.get_ident() == self._thread else self._stream
        return heard.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _heard_by(said: io.StringIO) -> Iterator[None]:
    """Have what this thread prints go there. The running cell's own output is left where it goes."""
    ears = {}
    for name in ("stdout", "stderr"):
        ears[name] = _Ear(getattr(sys, name), said)
        setattr(sys, name, ears[name])
    try:
        yield
    finally:
        for name, ear in ears.items():
            if getattr(sys, name) is ear:
                setattr(sys, name, ear._stream)
