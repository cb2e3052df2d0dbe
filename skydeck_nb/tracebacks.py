"""Tracebacks that keep the user's frames and drop ours.

Decides what is left of a traceback when an error of ours reaches a cell: the
user's own frames, a function given as a selection or callback among them.
Refuses to touch errors that are not ours on purpose: those are faults, and
every frame of them is wanted.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from skydeck_nb.errors import SkydeckError

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

OURS: Final = str(Path(__file__).parent)
_INSIDE: Final = "__skydeck_short__"


def short(function: F) -> F:
    """The same function, whose own errors show none of this package's frames.

    This wrapper's own frame stays in plain Python. IPython, which would show the
    last frame even when it is hidden, asks the error itself.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except SkydeckError as error:
            error._render_traceback_ = functools.partial(_rendered, error)  # type: ignore[attr-defined]
            raise error.with_traceback(theirs(error.__traceback__)) from None

    setattr(call, _INSIDE, True)
    return call  # type: ignore[return-value]


def _rendered(error: BaseException) -> list[str]:
    """What IPython shows of an error: its usual traceback, without our frames."""
    shell = sys.modules["IPython"].get_ipython()
    lines: list[str] = shell.InteractiveTB.structured_traceback(
        type(error), error, theirs(error.__traceback__), tb_offset=shell.InteractiveTB.tb_offset
    )
    return lines


def shorten(cls: C) -> C:
    """A class whose public methods are all :func:`short`."""
    for name, member in vars(cls).copy().items():
        public = not name.startswith("_") or name in ("__getitem__", "__contains__", "__iter__", "__len__")
        if public and inspect.isfunction(member) and not hasattr(member, _INSIDE):
            setattr(cls, name, short(member))
    return cls


def theirs(traceback: TracebackType | None) -> TracebackType | None:
    """The frames of a traceback that lie outside this package."""
    frames: list[TracebackType] = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(OURS):
            frames.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept
