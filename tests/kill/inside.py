"""What the tests' cells use, in the kernel: a deck, a fuse that kills the kernel at its k-th step, a latch at the gate.

A step is a point at which a process may die: inside a transaction before its
COMMIT, after it, before and after each call of the backend, and inside those
before each system call that changes the disk or starts a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import skydeck_nb as sd
from skydeck_nb.backends.base import Gate, Launched, Order
from skydeck_nb.backends.local import LocalBackend
from skydeck_nb.deck import Deck
from skydeck_nb.store.store import Store

CALLS = ("observe", "launch", "cancel", "resolve", "refuse")
CHANGES = ("open", "mkdir", "link", "rename", "unlink", "fsync")

_open = os.open
"""Which is not counted."""


def open_deck(folder: str, **settings: Any) -> Deck:
    return sd.open(Path(folder, "deck.db"), local_root=Path(folder, "local"), gpus=0, **settings)


def term(deck: Deck) -> int | None:
    """The term by which this process may act at this moment."""
    return deck._loop.runner._lease.held()


class Fuse:
    """Kills this process at a step that it is set to; the note says who led at that moment."""

    def __init__(self, deck: Deck) -> None:
        self.steps: list[str] = []
        """What was passed since it was last set, each with its thread."""
        self._deck = deck
        self._turn = threading.Lock()
        self._step = ""
        self._left = 0
        self._note = ""
        self._amid = threading.local()

    def set(self, step: str = "", nth: int = 1, note: str = "") -> None:
        """Die at the n-th passing of a step from now on; without one, count only."""
        with self._turn:
            self._step, self._left, self._note = step, nth, note
            self.steps = []

    def step(self, where: str) -> None:
        thread = threading.current_thread().name
        if thread in ("skydeck-lease", "skydeck-sync"):
            return  # they have nothing to do with what is asked
        with self._turn:
            step = f"{where} ({thread})"
            self.steps.append(step)
            if step != self._step:
                return
            self._left -= 1
            if self._left:
                return
            fd = _open(self._note, os.O_WRONLY | os.O_CREAT)
            os.write(fd, json.dumps({"term": term(self._deck)}).encode())
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def install(self) -> None:
        """Have the steps of this process counted, for good."""
        self._around_commits()
        for name in CALLS:
            self._around_call(name)
        for name in CHANGES:
            setattr(os, name, self._before(f"os.{name}", getattr(os, name), _changes if name == "open" else None))
        popen = subprocess.Popen.__init__
        subprocess.Popen.__init__ = self._before("Popen", popen, None)  # type: ignore[method-assign]

    def _around_commits(self) -> None:
        real, fuse = Store.write, self

        @contextmanager
        def write(store: Store, **how: Any) -> Iterator[Any]:
            with real(store, **how) as tx:
                yield tx
                fuse.step("before a commit")
            fuse.step("after a commit")

        Store.write = write  # type: ignore[assignment,method-assign]

    def _around_call(self, name: str) -> None:
        real, fuse = getattr(LocalBackend, name), self

        def call(backend: LocalBackend, *arguments: Any, **named: Any) -> Any:
            fuse.step(f"before {name}")
            fuse._amid.call = name
            try:
                return real(backend, *arguments, **named)
            finally:
                fuse._amid.call = ""
                fuse.step(f"after {name}")

        setattr(LocalBackend, name, call)

    def _before(self, what: str, real: Callable[..., Any], counts: Callable[..., bool] | None) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            amid = getattr(self._amid, "call", "")
            if amid and (counts is None or counts(*arguments, **named)):
                self.step(f"{what} in {amid}")
            return real(*arguments, **named)

        return call


def _changes(path: Any, flags: int, *_: Any, **__: Any) -> bool:
    return bool(flags & os.O_CREAT) and not os.path.lexists(path)  # noqa: PTH118, RUF100  (os.path, as it is patched)


class Watch:
    """Writes a line for each call that may change something, with its time and the term of this process.

    While ``latch`` names a file that does not exist, a launch waits at the gate, before it asks.
    """

    def __init__(self, deck: Deck, log: str) -> None:
        self._deck = deck
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.latch = ""
        self._install()

    def note(self, what: str, about: str) -> None:
        line = {"at": time.clock_gettime(time.CLOCK_BOOTTIME), "pid": os.getpid(), "term": term(self._deck)}
        os.write(self._log, (json.dumps({**line, "what": what, "about": about}) + "\n").encode())

    def _install(self) -> None:
        launch, cancel, watch = LocalBackend.launch, LocalBackend.cancel, self

        def watched_launch(backend: LocalBackend, order: Order, gate: Gate, *, deadline: float) -> Launched:
            def watched_gate() -> None:
                watch.note("at the gate", order.experiment)
                while watch.latch and not Path(watch.latch).exists():
                    time.sleep(0.005)
                try:
                    gate()
                except BaseException:
                    watch.note("refused", order.experiment)
                    raise
                watch.note("passed", order.experiment)

            watch.note("launch", order.experiment)
            return launch(backend, order, watched_gate, deadline=deadline)

        def watched_cancel(backend: LocalBackend, job_ids: Sequence[int], *, deadline: float) -> None:
            watch.note("cancel", str(list(job_ids)))
            cancel(backend, job_ids, deadline=deadline)

        LocalBackend.launch = watched_launch  # type: ignore[assignment,method-assign]
        LocalBackend.cancel = watched_cancel  # type: ignore[assignment,method-assign]


class Sight:
    """Looks at the deck all the time, in a thread of its own, and keeps when it saw each change of a state."""

    def __init__(self, deck: Deck) -> None:
        self.seen: dict[str, float] = {}
        """``<where> <experiment> <state> after <state>``; where is a frame, or the live rows that feed the grid."""
        self._deck = deck
        self._states: dict[str, str] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._deck._loop.closed:
            frame = self._deck.experiments(flags=False)
            self._note("frame", zip(frame.index, frame["state"], strict=True))
            live = self._deck._loop.runner.view(
                lambda mirror: [(row.name, row.current_state) for row in mirror.experiments.values()]
            )
            self._note("live", live)
            time.sleep(0.03)

    def _note(self, where: str, states: Iterable[tuple[str, str]]) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for name, state in states:
            key = f"{where} {name}"
            before = self._states.get(key, "")
            if state != before:
                self._states[key] = state
                self.seen.setdefault(f"{key} {state} after {before}", now)
