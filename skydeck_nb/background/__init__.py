"""The background loop: a deck's loop without a notebook, for each database at most one."""

from skydeck_nb.background.client import Started, detach, leads, start, stop
from skydeck_nb.background.pidfile import GLANCE, PidFile, Place, Running, find
from skydeck_nb.background.process import LoopLog, loop_settings, without_pandas

__all__ = [
    "GLANCE",
    "LoopLog",
    "PidFile",
    "Place",
    "Running",
    "Started",
    "detach",
    "find",
    "leads",
    "loop_settings",
    "start",
    "stop",
    "without_pandas",
]
