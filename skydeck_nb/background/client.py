"""Starting, ending and handing over to a background loop, from another process.

Decides that a database has at most one such process for each home folder and how
it is asked. Refuses to know what the loop does, and how a command line or a
notebook speaks of it. A starter hands its settings over a pipe (they may hold a
password), and the loop answers by another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from skydeck_nb import config
from skydeck_nb.background.pidfile import GLANCE, Place, Running, born_at, find, locked
from skydeck_nb.errors import BackendUnavailable, SkydeckError

if TYPE_CHECKING:
    from skydeck_nb.control.runner import Runner
    from skydeck_nb.store import LeaseRow, Store

UP: Final = 60.0
"""Seconds for a loop to come up: a migration may be part of it."""
ROLE: Final = 5.0
"""Seconds for a loop that came up to lead, or to see who does; and for a hand-over."""
DOWN: Final = 10.0
"""Seconds for a loop to end that was asked to; it takes two."""
LEASE_LIFE: Final = timedelta(seconds=15)
"""As :data:`skydeck_nb.control.lease.LIFE`: a row that was not renewed for so long names nobody."""


def leads(row: LeaseRow | None, now: datetime) -> bool:
    """Whether the process that the lease names seems to live, for people: the lease itself decides by other means."""
    if row is None or row.holder is None or row.renewed_at is None or abs(now - row.renewed_at) > LEASE_LIFE:
        return False
    return row.host != socket.gethostname() or (row.pid is not None and born_at(row.pid) != 0.0)


@dataclass(frozen=True, slots=True)
class Started:
    running: Running
    fresh: bool
    """Whether this call started it."""


def start(settings: config.Settings, *, timeout: float = UP) -> Started:
    """Start the background loop of a database, unless it runs; returns when it leads or follows.

    Raises:
        SkydeckError: it could not start; the message is the loop's own.
    """
    place = Place.of(settings)
    until = time.monotonic() + timeout
    fresh = False
    while True:
        running = find(place)
        if running is not None and running.ready:
            return Started(running, fresh)
        if time.monotonic() > until:
            raise BackendUnavailable(f"The background loop did not come up within {timeout:g} s: see {place.log}.")
        if running is None:
            fresh = _spawn(place, settings, until)
        else:
            time.sleep(GLANCE)


def _spawn(place: Place, settings: config.Settings, until: float) -> bool:
    """Start a process and hear what became of it; false where another was quicker."""
    config.private_folder(place.folder)
    arguments = {one.name: one.value for one in settings if "." not in one.name} | {
        "links": dict(settings.links),
        "db_path": place.database,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "skydeck_nb.background"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
    ) as process:  # leaves its own child behind at once, which is nobody's then
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(arguments, default=str).encode())
            process.stdin.close()
        said = _hear(process.stdout.fileno(), until)
    lines = said.decode(errors="replace").splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        why = lines[-1] if lines else "it ended without a word"
        raise BackendUnavailable(f"The background loop did not start: {why}. Its log is {place.log}.") from None
    if "failed" in answer:
        raise SkydeckError(str(answer["failed"]))
    return bool(answer["fresh"])


def _hear(fd: int, until: float) -> bytes:
    """All that comes until the other side closes, or the time is up."""
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while selector.select(max(until - time.monotonic(), 0.0)):
            some = os.read(fd, 65536)
            if not some:
                return said
            said += some
    return said + b"\nit did not answer in time"


def stop(place: Place, *, timeout: float = DOWN) -> Running | None:
    """Ask the background loop to end, and wait until it has; ``None`` where none runs. Jobs stay alive.

    Raises:
        BackendUnavailable: it runs, and cannot be asked from here, or does not end.
    """
    running = find(place)
    if running is None:
        return None
    if not running.here:
        raise BackendUnavailable(f"The background loop runs on {running.host}: stop it there.")
    if running.pid is None:
        raise BackendUnavailable(
            f"A process holds {place.pid_file} and the file does not say which: `lsof {place.pid_file}` does. "
            "Nothing was stopped."
        )
    _signal(running.pid, running.born)
    until = time.monotonic() + timeout
    while locked(place.pid_file):
        if time.monotonic() > until:
            raise BackendUnavailable(
                f"The background loop (pid {running.pid}) did not end within {timeout:g} s: "
                f"`kill -9 {running.pid}` ends it, and its jobs go on."
            )
        time.sleep(GLANCE)
    return running


def _signal(pid: int, born: float) -> None:
    """Ask this very process to end: one that has the number since is left alone."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if born_at(pid) == born:
                os.kill(pid, signal.SIGTERM)
            return
        fd = os.pidfd_open(pid)
        try:
            if born_at(pid) == born:
                signal.pidfd_send_signal(fd, signal.SIGTERM)
        finally:
            os.close(fd)


def detach(store: Store, settings: config.Settings, runner: Runner) -> str:
    """Have the background loop lead this database in place of this process; a sentence that says who leads.

    Raises:
        SkydeckError: it could not start; this process goes on leading.
    """
    started = start(settings)
    pid = started.running.pid
    if runner.status().leading:
        runner.hand_over()
    until = time.monotonic() + ROLE
    while True:
        with store.read() as tx:
            row = tx.lease()
        known = leads(row, datetime.now(UTC)) and row is not None
        if known and row is not None and row.pid == pid and row.host == started.running.host:
            return (
                f"The background loop (pid {pid}) leads from now on: this notebook may be closed, and the runs go on."
            )
        if known and row is not None and row.pid != os.getpid():
            return f"{row.holder} leads; the background loop (pid {pid}) takes over when that one ends."
        if time.monotonic() > until:
            raise BackendUnavailable(
                f"The background loop (pid {pid}) runs and did not take the lead within {ROLE:g} s: "
                f"keep this notebook open, and see {Place.of(settings).log}."
            )
        time.sleep(GLANCE)
