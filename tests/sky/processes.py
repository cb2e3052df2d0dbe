"""The processes of one stack: found by where they run, waited for, killed.

Decides which processes belong to a state folder, also after the run that
started them was killed. Refuses to know what they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

BEAT = 0.1
GONE = (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError)
T = TypeVar("T")


class StackError(Exception):
    """The stack did not come up, with what its logs say."""


def until(holds: Callable[[], T], what: str, patience: float, *, logs: Iterable[Path] = ()) -> T:
    """The first true answer; after ``patience`` seconds, an error with the ends of the logs."""
    end = time.monotonic() + patience
    while not (answer := holds()):
        if time.monotonic() > end:
            raise StackError(f"after {patience:g} s never came: {what}\n{tails(logs)}")
        time.sleep(BEAT)
    return answer


def tails(logs: Iterable[Path], lines: int = 30) -> str:
    def tail(log: Path) -> str:
        text = log.read_text(errors="replace") if log.exists() else "(no such file)"
        return "\n".join([f"--- {log}", *text.splitlines()[-lines:]])

    return "\n".join(map(tail, logs))


def matching(holds: Callable[[psutil.Process], bool]) -> Iterator[psutil.Process]:
    """The living ones of this machine for which it holds."""
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and holds(process):
                yield process
        except GONE:
            continue


def inside(folder: Path) -> Callable[[psutil.Process], bool]:
    """Whose working folder is in this one. Children inherit it; their names and environments they overwrite."""
    return lambda process: Path(process.cwd()).is_relative_to(folder)


def named(folder: Path, *programs: str) -> Callable[[psutil.Process], bool]:
    """Daemons of these names that were told of a file in this folder."""
    return lambda process: process.name() in programs and any(f"{folder}/" in word for word in process.cmdline())


def titled(words: str) -> Callable[[psutil.Process], bool]:
    return lambda process: words in " ".join(process.cmdline())


def of_user(uid: int) -> Callable[[psutil.Process], bool]:
    return lambda process: process.uids().real == uid


def kill(processes: Iterable[psutil.Process], patience: float = 10.0) -> None:
    """All of them at once, without a chance to say goodbye; returns when they are gone."""
    victims = list(processes)
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    # One whose parent does not reap it stays as a zombie, which holds no port and no file.
    until(lambda: all(map(is_dead, victims)), f"the end of {victims}", patience)


def is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
