"""Which processes belong to a job, and signals that reach nobody else.

Decides who is alive, who is whose, and that a signal goes to a process only
while it is the one that was meant: same PID, same start time, same boot.
Refuses to know jobs' files and states. Standard library only; it reads
``/proc``, and where there is none it finds nobody, so that only a supervisor's
own children can be signalled.
"""

# A supervisor does without pathlib, to start sooner.
# ruff: noqa: PTH115, PTH123, PTH208

from __future__ import annotations

import os
import signal
from typing import NamedTuple

SUPERVISES = "SKYDECK_SUPERVISES"
"""In the environment of a supervisor: the job it looks after. Never in that of a command."""

ATTEMPT = "SKYDECK_ATTEMPT"
"""In the environment of a command and of whatever it starts."""


class Process(NamedTuple):
    """One line of ``/proc``; ``start`` is in clock ticks since the boot."""

    pid: int
    parent: int
    session: int
    start: int
    state: str


def boot() -> str:
    """What tells one boot of this host from another; empty where the host does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def look(pid: int) -> Process | None:
    """The process of this PID unless it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line[line.rindex(b")") + 2 :].split()
    state = fields[0].decode()
    if state in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), state)


def mark(pid: int) -> dict[str, int | str]:
    """How a process is written down, so that it can be told from a later one of the same PID."""
    seen = look(pid)
    return {"pid": pid, "start": seen.start if seen else -1, "boot": boot()}


def marked(mark: dict[str, int | str]) -> Process | None:
    """The process that was written down, if it still runs."""
    if mark["boot"] != boot():
        return None
    seen = look(int(mark["pid"]))
    return seen if seen is not None and seen.start == mark["start"] else None


def send(process: Process, number: int) -> bool:
    """Signal this very process; false when it is gone, or belongs to another user by now (``sudo``)."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        seen = look(process.pid)
        if seen is None or seen.start != process.start:
            return False
        signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(fd)
    return True


def everyone() -> dict[int, Process]:
    """All processes by PID, without zombies."""
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return {}
    found = (look(int(name)) for name in names if name.isdecimal())
    return {process.pid: process for process in found if process is not None}


def _variables(pid: int) -> tuple[str | None, bool]:
    """The attempt that a process's environment names, and whether it is a supervisor."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            items = file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None, False
    attempt = None
    for item in items:
        name, _, value = item.partition(b"=")
        if name == SUPERVISES.encode():
            return None, True
        if name == ATTEMPT.encode():
            attempt = value.decode(errors="replace")
    return attempt, False


def _spread(
    roots: set[int], all_: dict[int, Process], attempt: str, command: int | None = None
) -> tuple[list[Process], bool]:
    """These and all below them; and whether other supervisors or attempts were met, which are left out with theirs."""
    children: dict[int, list[int]] = {}
    for process in all_.values():
        children.setdefault(process.parent, []).append(process.pid)
    ours: list[Process] = []
    known: set[int] = set()
    others = False
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in known or pid not in all_:
            continue
        known.add(pid)
        named, supervisor = _variables(pid)
        if pid != command and (supervisor or (named is not None and named != attempt)):
            others = True  # a deck inside a job has jobs of its own
            continue
        ours.append(all_[pid])
        waiting.extend(children.get(pid, ()))
    return ours, others


def below(pid: int, attempt: str, command: int | None) -> tuple[list[Process], bool]:
    """What runs below this process, a subreaper, on behalf of an attempt; and whether others run there too.

    The command itself is the attempt's, whatever its environment says.

    One look may miss who changes parents meanwhile: only having no child at all
    proves that nothing is left.
    """
    all_ = everyone()
    return _spread({process.pid for process in all_.values() if process.parent == pid}, all_, attempt, command)


def _has(pid: int, lock: str, turn: str) -> bool:
    """Whether a process shares the descriptor that holds a lock, and is no dispatcher, which has ``turn`` open."""
    found = False
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if target == turn:
                return False
            if target == lock:
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
                    found = found or "\nlock:" in file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return found


def left_of(attempt: str, command: dict[str, int | str] | None, lock: str, turn: str) -> list[Process]:
    """What still runs of an attempt whose supervisor is gone.

    Whoever carries the attempt in its environment or shares the job's lock, the
    session of the recorded command while that very command leads it, and all
    below them.
    """
    all_ = everyone()
    leader = marked(command) if command is not None else None
    roots = {
        process.pid
        for process in all_.values()
        if (leader is not None and process.session == leader.pid)
        or _variables(process.pid)[0] == attempt
        or _has(process.pid, lock, turn)
    }
    return _spread(roots, all_, attempt)[0]
