"""Desired states, job statuses and the states shown to people.

Decides which words there are, which of them are terminal, and what is shown
when the spec has just moved ahead of the status. Refuses to know rows,
backends and reasons.

Job statuses keep SkyPilot's spelling (``sky/jobs/state.py``, 0.14). A status
this build has never heard of is *alive*.
"""

from __future__ import annotations

from typing import Final, Literal

Desired = Literal["RUNNING", "STOPPED", "TERMINATED"]
DESIRED: Final[tuple[Desired, ...]] = ("RUNNING", "STOPPED", "TERMINATED")

FAILED: Final = frozenset({"FAILED", "FAILED_SETUP", "FAILED_PRECHECKS", "FAILED_NO_RESOURCE", "FAILED_CONTROLLER"})
TERMINAL: Final = FAILED | {"SUCCEEDED", "CANCELLED"}
"""Everything else is alive, an unknown status included."""

PERMANENT: Final = frozenset({"FAILED_SETUP", "FAILED_PRECHECKS"})
"""Failures that the same launch would meet again: never retried."""

PROGRESS: Final = ("RUNNING", "WINDING_DOWN", "RECOVERING", "STARTING", "SUBMITTED", "PENDING")
"""Live statuses from the furthest along to the least, for choosing which of two twins stays."""

State = Literal[
    "STOPPED",
    "QUEUED",
    "LAUNCHING",
    "PENDING",
    "STARTING",
    "RUNNING",
    "RECOVERING",
    "STOPPING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "LOST",
    "UNKNOWN",
]
STATES: Final[tuple[State, ...]] = (
    "STOPPED",
    "QUEUED",
    "LAUNCHING",
    "PENDING",
    "STARTING",
    "RUNNING",
    "RECOVERING",
    "STOPPING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "LOST",
    "UNKNOWN",
)
"""The ordered category of the frames and the words of the grid."""

ALIVE_STATES: Final = frozenset(
    {"LAUNCHING", "PENDING", "STARTING", "RUNNING", "RECOVERING", "STOPPING", "LOST", "UNKNOWN"}
)
"""Shown states in which something runs, or may run, on the backend."""


def is_alive(status: str) -> bool:
    """Whether a job of this status may still use a machine."""
    return status not in TERMINAL


def of_job(status: str) -> State:
    """The shown state of an experiment whose job has this status and is the one wanted."""
    if status in FAILED:
        return "FAILED"
    match status:
        case "SUCCEEDED" | "CANCELLED" | "PENDING" | "STARTING" | "RUNNING" | "RECOVERING" | "LOST":
            return status
        case "SUBMITTED":
            return "PENDING"
        case "WINDING_DOWN":
            return "RUNNING"
        case "CANCELLING":
            return "STOPPING"
        case _:
            return "UNKNOWN"


def shown(desired: Desired, run: int, observed_run: int, current: State) -> State:
    """The state to show while the status lags behind the spec.

    A start that the loop has not planned yet is ``QUEUED``; a stop that it has
    not planned yet is ``STOPPING`` where something may be alive, else ``STOPPED``.
    """
    if desired == "RUNNING":
        return "QUEUED" if observed_run < run and current not in ALIVE_STATES else current
    if current == "QUEUED":
        return "STOPPED"
    if current in ALIVE_STATES and current != "LOST":
        return "STOPPING"
    return current
