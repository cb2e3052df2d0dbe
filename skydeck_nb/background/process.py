"""The background loop itself: a deck's loop without a notebook, in a process of its own.

Decides what the process does with its terminal, its log, its signals, and when
its files go away. Refuses to know who starts it, and what the loop decides.
"""

from __future__ import annotations

import contextlib
import faulthandler
import getpass
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skydeck_nb import config
from skydeck_nb.background.client import leads
from skydeck_nb.background.pidfile import GLANCE, PidFile, Place, inode
from skydeck_nb.errors import SkydeckError
from skydeck_nb.logfile import LogFile

if TYPE_CHECKING:
    from skydeck_nb.control.runner import Runner
    from skydeck_nb.control.surroundings import LoopSettings
    from skydeck_nb.store import Store

log = logging.getLogger("skydeck_nb.background")

ROLE: Final = 5.0
"""Seconds for a loop that came up to lead, or to see who does; and for a hand-over."""
END: Final = 2.0
"""Seconds after which a loop that was asked to end does so whatever still hangs: jobs are not its children."""
TICK: Final = 0.5
"""Seconds between two looks of the loop's process at its own files."""


@contextlib.contextmanager
def without_pandas() -> Iterator[None]:
    """Keep sqlite-utils from importing pandas, which it does where it can, for a type that the store never writes.

    It would be most of the time of a short command, and of the memory of a process that stays.
    """
    if "pandas" in sys.modules:
        yield
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # how Python is told that a module is not to be had
    try:
        yield
    finally:
        del sys.modules["pandas"]


def loop_settings(settings: config.Settings) -> LoopSettings:
    """What the settings say to the loop."""
    from skydeck_nb.control.surroundings import LoopSettings

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "user"
    return LoopSettings(
        hot=settings.poll_interval,
        discovery=settings.reconcile_interval,
        max_live=settings.max_live,
        max_gpus=settings.max_gpus,
        max_gpu_hours=settings.max_gpu_hours,
        max_cost=settings.max_cost,
        run_name=settings.run_name,
        user=user,
    )


class LoopLog(LogFile):
    """A log that takes standard output and errors along, so that nothing is said into the void."""

    def opened(self, fd: int) -> None:
        for standard in (1, 2):
            os.dup2(fd, standard)


def main() -> int:
    """What ``python -m skydeck_nb.background`` does: settings as JSON on stdin, one answer as JSON on stdout."""
    if os.fork():  # before anything else exists; whoever started this waits for nobody and leaves no zombie
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    arguments = json.load(sys.stdin)
    answer_fd = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)

    def answer(**said: Any) -> None:
        nonlocal answer_fd
        fd, answer_fd = answer_fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # the starter has gone: the loop was wanted all the same
                os.write(fd, json.dumps(said).encode() + b"\n")
            os.close(fd)

    try:
        settings = config.load(arguments)
        place = Place.of(settings)
        file = PidFile(place.pid_file)
        if not file.take():
            answer(fresh=False)
            return 0
        _log_to(place.log)
        try:
            return _serve(place, settings, file, end, lambda: answer(fresh=True))
        finally:
            file.leave()
    except SkydeckError as error:
        log.error("The background loop ends: %s", error)  # noqa: TRY400  it says what, and is nobody's bug
        answer(failed=str(error))
        return 1
    except Exception as error:
        log.exception("The background loop failed")
        answer(failed=f"The background loop failed: {type(error).__name__}: {error}")
        return 1


def _log_to(path: Path) -> None:
    logging.basicConfig(handlers=[LoopLog(path)], level=logging.WARNING, force=True)
    logging.getLogger("skydeck_nb").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    faulthandler.enable()


def _serve(
    place: Place, settings: config.Settings, file: PidFile, end: threading.Event, ready: Callable[[], None]
) -> int:
    """Run the loop until somebody asks for its end, or there is nothing left to lead."""
    with without_pandas():
        from skydeck_nb.control.runner import Runner
        from skydeck_nb.opening import make_backend
        from skydeck_nb.store import Store
    backend = make_backend(settings)
    with contextlib.closing(backend):
        store = Store.open(place.database)
        with contextlib.closing(store):
            store.claim_identity(asdict(backend.identity))
            was = inode(place.database)
            for sentence in (*store.notices, *settings.notes):
                log.warning("%s", sentence)
            runner = Runner(store, backend, loop_settings(settings))
            runner.start()
            log.info("The background loop of %s is up, pid %d, on %s", place.database, os.getpid(), backend.identity)
            try:
                _settle(store, runner, end)
                file.say(ready=True)
                ready()
                why = _watch(place, file, runner, was, end)
            finally:
                last = threading.Timer(END, os._exit, (0,))
                last.daemon = True
                last.start()
                runner.close(END * 0.75)
    if why:
        log.error("The background loop ends: %s", why)
        return 1
    log.info("The background loop ends, as it was asked to; what runs goes on")
    return 0


def _settle(store: Store, runner: Runner, end: threading.Event) -> None:
    """Wait until this process leads, or somebody else does who lives."""
    until = time.monotonic() + ROLE
    while not runner.status().leading and time.monotonic() < until and not end.wait(GLANCE):
        with store.read() as tx:
            if leads(tx.lease(), datetime.now(UTC)):
                return


def _watch(place: Place, file: PidFile, runner: Runner, was: tuple[int, int] | None, end: threading.Event) -> str:
    """Wait for the end; why it came by itself, or nothing."""
    role: object = None
    while not end.wait(TICK):
        status = runner.status()
        if role != (status.leading, status.holder):
            role = (status.leading, status.holder)
            if not status.leading:
                log.info("It follows %s", status.holder or "nobody: none leads this database now")
        if inode(place.database) != was:
            return f"{place.database} was deleted or replaced; nothing is launched, cancelled or written any more."
        if not status.alive:
            return status.error or "its loop ended."
        if not file.kept():
            return f"{place.pid_file} was removed, and another background loop has it now."
    return ""
