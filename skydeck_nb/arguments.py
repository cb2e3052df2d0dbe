"""Numbers at the door of the API.

Decides what counts as a whole number and as seconds: also numpy's, as frames
have them, and never ``True``. Refuses to know which numbers make sense where.
"""

from __future__ import annotations

import operator
import threading
from typing import Any

from skydeck_nb.errors import InvalidSetting


def whole(value: Any, argument: str, remedy: str) -> int:
    """This as an int of Python.

    Raises:
        InvalidSetting: it is no whole number; ``remedy`` says what to write.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InvalidSetting(f"{argument}={value!r:.60}: write {remedy}.")


def seconds(value: Any, argument: str = "timeout") -> float:
    """This as a float of Python, as far as threads can wait; raises like :func:`whole`."""
    try:
        if not isinstance(value, bool | str | bytes) and (number := float(value)) >= 0:
            return min(number, threading.TIMEOUT_MAX)
    except (TypeError, ValueError):
        pass
    raise InvalidSetting(f"{argument}={value!r:.60}: write how many seconds to wait, 0 or more.")
