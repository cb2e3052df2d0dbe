"""Locks on files that live exactly as long as a process that has them.

Decides how a lock is taken, handed on, released and looked at. Refuses to know
what it protects. Standard library only.

On Linux these are open file description locks: a child that inherits the
descriptor shares the lock, the last one to die frees it, an explicit release
frees it for all, and whether one is held can be read without taking it.
Elsewhere they are ``flock`` locks, which differ in the last point only: looking
takes the lock, shared, for a moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time

_OFD = sys.platform == "linux"

_FLOCK = struct.Struct("@hhqqi0q")
"""``struct flock`` of 64-bit Linux: type, whence, start, length (0: all of it), pid (0 for these locks)."""

_NAP = 0.001
"""Between two tries for a lock that is held for milliseconds only: short against the holder, long against a CPU."""

_LOOKS = 8
"""Tries where somebody's look may be in the way for some microseconds (``flock`` only)."""

_opened: set[int] = set()


def _forget() -> None:
    """In a forked child (a user's ``multiprocessing``): give up the copies, or the child would keep our locks."""
    for fd in _opened:
        os.close(fd)
    _opened.clear()


os.register_at_fork(after_in_child=_forget)


def opened(path: str) -> int:
    """A descriptor of the lock file, which is made if need be."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _opened.add(fd)
    return fd


def close(fd: int) -> None:
    """Close a descriptor; whoever inherited it keeps the lock."""
    _opened.discard(fd)
    os.close(fd)


def take(fd: int) -> bool:
    """Take the lock if it is free now."""
    for last in (False,) * (0 if _OFD else _LOOKS - 1) + (True,):
        try:
            if _OFD:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            else:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if not last:
            time.sleep(_NAP)
    return False


def take_within(fd: int, seconds: float) -> bool:
    """Take the lock, waiting at most so long."""
    until = time.monotonic() + seconds
    while not take(fd):
        if time.monotonic() >= until:
            return False
        time.sleep(_NAP)
    return True


def release(fd: int) -> None:
    """Free the lock for everybody who shares the descriptor, and close ours."""
    if _OFD:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    else:
        fcntl.flock(fd, fcntl.LOCK_UN)
    close(fd)


def held(path: str) -> bool:
    """Whether somebody has the lock; a file that is missing is held by nobody."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if _OFD:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    finally:
        os.close(fd)
