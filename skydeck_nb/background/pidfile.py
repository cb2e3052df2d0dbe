"""The PID file of a background loop: a lock that its process holds while it lives.

Decides where a loop's files lie and whether one runs. **What is believed is a
lock**, never a number: the process holds ``flock`` on the file for life, so the
system says whether it lives. The number inside serves to send a signal, and only
while the process of that number began when the file says. A file that nobody
locks is litter, whatever stands in it. Refuses to know what the loop does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from skydeck_nb import config
from skydeck_nb.errors import InvalidSetting

GLANCE: Final = 0.02
"""Seconds between two looks at a lock or a row, while somebody waits for it."""


@dataclass(frozen=True, slots=True)
class Place:
    """The database of a loop, and where its two files lie."""

    database: Path
    folder: Path

    @classmethod
    def of(cls, settings: config.Settings) -> Place:
        if settings.db_path is None or settings.backend == "fake":
            raise InvalidSetting(
                "The fake backend lives in one process, so nothing can run it in the background: "
                "choose another, as in --backend local."
            )
        return cls(Path(os.path.realpath(settings.db_path)), config.home())

    @property
    def _name(self) -> str:
        return f"loop-{self.database.stem}-{hashlib.sha256(os.fsencode(self.database)).hexdigest()[:8]}"

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self._name}.pid"

    @property
    def log(self) -> Path:
        return self.folder / f"{self._name}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A background loop that lives: its lock is held. ``pid`` is ``None`` where the file does not name the holder."""

    pid: int | None
    host: str
    born: float
    since: datetime | None
    ready: bool

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()


def find(place: Place) -> Running | None:
    """The background loop of this database, or ``None``. Takes a moment only while one is just starting."""
    until = time.monotonic() + 1.0
    while locked(place.pid_file):
        found = _read(place.pid_file)
        if found is not None and (not found.here or (found.pid is not None and born_at(found.pid) == found.born)):
            return found
        if time.monotonic() > until:  # locked, by nobody whom the file names
            return Running(pid=None, host=socket.gethostname(), born=0.0, since=None, ready=True)
        time.sleep(GLANCE)
    return None


def locked(file: Path) -> bool:
    """Whether a process holds the lock. A shared lock asks: two who ask do not hinder each other."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _read(file: Path) -> Running | None:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Running(
            pid=int(said["pid"]),
            host=str(said["host"]),
            born=float(said["born"]),
            since=datetime.fromisoformat(said["since"]),
            ready=bool(said["ready"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def born_at(pid: int) -> float:
    """When the process of this PID began, in what this system counts it in; 0 where there is none."""
    from skydeck_nb.backends.local import processes

    if (seen := processes.look(pid)) is not None:
        return float(seen.start)  # clock ticks since the boot: no change of the clock moves them
    if Path("/proc/self/stat").exists():
        return 0.0
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


class PidFile:
    """The lock that this process holds while it lives, and what it says of itself in that file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._said: dict[str, Any] = {
            "pid": os.getpid(),
            "born": born_at(os.getpid()),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(),
            "ready": False,
        }

    def take(self) -> bool:
        """Whether this process has it from now on. Those who merely ask hold it for a moment: they are waited for."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + 0.5
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(fd)
                    return False
            time.sleep(GLANCE / 4)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self.say()
        return True

    def say(self, **more: Any) -> None:
        self._said |= more
        data = json.dumps(self._said).encode() + b"\n"
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def kept(self) -> bool:
        """Whether it is still this process that is found here; takes a file again that somebody removed."""
        mine = os.fstat(self._fd)
        with contextlib.suppress(FileNotFoundError):
            there = self._path.stat()
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return True
        try:
            return self.take()
        except OSError:
            return False

    def leave(self) -> None:
        """Empty the file and let it go. It stays: one that is removed could be locked twice."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
