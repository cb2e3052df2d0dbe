"""The record lock on one file, and the stamp of the process that had it last.

Decides how a lock is kept for the life of a process: the system drops it with
the process, however that ends. Refuses to know what the lock is for.

POSIX record locks belong to the process and are dropped when *any* descriptor
of the file is closed in it. So each file is opened once a process, found again
by device and inode, and never closed; several owners in one process are told
apart here. A forked child holds none of its parent's locks.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path


class _Handle:
    """The one descriptor that this process ever opens of one file."""

    __slots__ = ("fd", "owner")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.owner: RecordLock | None = None


class _Process:
    """What this process has open, by device and inode."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.handles: dict[tuple[int, int], _Handle] = {}

    def forked(self) -> None:
        """A child holds none of its parent's record locks; its copies of the descriptors harm nobody."""
        self.lock = threading.Lock()
        for handle in self.handles.values():
            handle.owner = None

    def sweep(self) -> None:
        """Close what nobody can lock any more: files that were deleted, and that nobody here holds."""
        for key, handle in list(self.handles.items()):
            if handle.owner is None and not os.fstat(handle.fd).st_nlink:
                os.close(self.handles.pop(key).fd)


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)


class RecordLock:
    """One owner's side of the lock on ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: _Handle | None = None

    @property
    def held(self) -> bool:
        return self._held is not None and self._held.owner is self

    def acquire(self) -> bool:
        """Try once, without waiting. True also where it is held already, on the file that stands there now."""
        with _process.lock:
            handle = self._handle()
            if self._held is not None and handle is not self._held and self._held.owner is self:
                self._unlock(self._held)  # the file was deleted or replaced: what we hold guards nothing
            if handle.owner is not None:
                return handle.owner is self
            try:
                fcntl.lockf(handle.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            handle.owner, self._held = self, handle
            return True

    def release(self) -> None:
        with _process.lock:
            if self._held is not None and self._held.owner is self:
                self._unlock(self._held)
            self._held = None

    def stamp(self, text: str) -> None:
        """Write who holds it; only while held."""
        if self._held is not None and self.held:
            data = text.encode()
            os.pwrite(self._held.fd, data, 0)
            os.ftruncate(self._held.fd, len(data))

    def stamped(self) -> str:
        """Who held it last; only while held."""
        return os.pread(self._held.fd, 4096, 0).decode(errors="replace") if self._held is not None else ""

    @staticmethod
    def _unlock(handle: _Handle) -> None:
        fcntl.lockf(handle.fd, fcntl.LOCK_UN)
        handle.owner = None

    def _handle(self) -> _Handle:
        with suppress(FileNotFoundError):  # looked up by inode before it is opened: closing a second one drops the lock
            found = self.path.stat()
            if known := _process.handles.get((found.st_dev, found.st_ino)):
                return known
        _process.sweep()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        made = os.fstat(fd)
        return _process.handles.setdefault((made.st_dev, made.st_ino), _Handle(fd))
