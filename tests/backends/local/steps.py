"""Counts the calls by which a process changes the world, and does something before the k-th: die, for example."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

CALLS: tuple[tuple[Any, str], ...] = (
    *(
        (os, name)
        for name in ("open", "mkdir", "link", "rename", "unlink", "write", "fsync", "close", "listdir", "stat")
    ),
    (fcntl, "fcntl"),
    (subprocess, "Popen"),
)


class Steps:
    """Wraps the calls while it is entered. ``before(k)`` runs before the k-th call, with the wrapping off."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self.before = before
        self.count = 0
        self._real: list[tuple[Any, str, Any]] = []
        self._off = False

    def _wrapped(self, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if not self._off:
                self.count += 1
                self._off = True
                try:
                    self.before(self.count)
                finally:
                    self._off = False
            return real(*arguments, **named)

        return call

    def __enter__(self) -> Steps:
        for module, name in CALLS:
            real = getattr(module, name)
            self._real.append((module, name, real))
            setattr(module, name, self._wrapped(real))
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, real in self._real:
            setattr(module, name, real)


def die_at(step: int) -> Callable[[int], None]:
    def before(count: int) -> None:
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return before
