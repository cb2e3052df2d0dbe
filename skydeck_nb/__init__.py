"""Declare, run and watch fleets of training runs from a Jupyter notebook.

::

    import skydeck_nb as sd

    deck = sd.open()
    deck.sweep("ppo", "python train.py", flags={"lr": [1e-3, 3e-4]})
    deck

Decides which names are public. Each is imported when it is first used, so that
this import costs little; none brings ``sky``, ``boto3``, ``anywidget`` or ``httpx``.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skydeck_nb.backends.fake import FakeBackend
    from skydeck_nb.deck import Deck
    from skydeck_nb.errors import (
        BackendError,
        BackendUnavailable,
        DatabaseDamaged,
        DatabaseError,
        DatabaseTooNew,
        DeckOpen,
        InvalidCommand,
        InvalidFlag,
        InvalidName,
        InvalidSetting,
        LaunchRejected,
        NameTaken,
        NeedsSignIn,
        NotYours,
        SkydeckError,
        StalePlan,
        UnknownExperiment,
        WrongBackend,
    )
    from skydeck_nb.events import (
        AttemptMissed,
        AttemptNotLaunched,
        AttemptRejected,
        AttemptUnknown,
        CancelRequested,
        CancelSent,
        CheckpointFound,
        ConditionChanged,
        DeleteRequested,
        DuplicateFound,
        ExperimentHidden,
        GroupChanged,
        JobAdopted,
        JobFinished,
        JobForgotten,
        JobFound,
        JobLost,
        JobPlaced,
        JobPreempted,
        JobRecovered,
        JobSeen,
        JobStarted,
        JobStateChanged,
        JobSubmitted,
        LaunchRequested,
        LeaseLost,
        LeaseTaken,
        MetricSampled,
        PurgeRequested,
        ReconcileFailed,
        SendAllowed,
        SpecChanged,
        StartRequested,
        StopRequested,
        SweepChanged,
        SyncFailed,
        TerminateRequested,
        UndeleteRequested,
    )
    from skydeck_nb.experiment import Experiment
    from skydeck_nb.flags.grid import fixed, zipped
    from skydeck_nb.opening import demo
    from skydeck_nb.opening import open_deck as open
    from skydeck_nb.plan import Plan
    from skydeck_nb.sweep import Sweep

__version__ = "0.1.0"

# Without a handler, logging prints warnings of the loop's threads to standard error: into whichever cell runs.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "AttemptMissed",
    "AttemptNotLaunched",
    "AttemptRejected",
    "AttemptUnknown",
    "BackendError",
    "BackendUnavailable",
    "CancelRequested",
    "CancelSent",
    "CheckpointFound",
    "ConditionChanged",
    "DatabaseDamaged",
    "DatabaseError",
    "DatabaseTooNew",
    "Deck",
    "DeckOpen",
    "DeleteRequested",
    "DuplicateFound",
    "Experiment",
    "ExperimentHidden",
    "FakeBackend",
    "GroupChanged",
    "InvalidCommand",
    "InvalidFlag",
    "InvalidName",
    "InvalidSetting",
    "JobAdopted",
    "JobFinished",
    "JobForgotten",
    "JobFound",
    "JobLost",
    "JobPlaced",
    "JobPreempted",
    "JobRecovered",
    "JobSeen",
    "JobStarted",
    "JobStateChanged",
    "JobSubmitted",
    "LaunchRejected",
    "LaunchRequested",
    "LeaseLost",
    "LeaseTaken",
    "MetricSampled",
    "NameTaken",
    "NeedsSignIn",
    "NotYours",
    "Plan",
    "PurgeRequested",
    "ReconcileFailed",
    "SendAllowed",
    "SkydeckError",
    "SpecChanged",
    "StalePlan",
    "StartRequested",
    "StopRequested",
    "Sweep",
    "SweepChanged",
    "SyncFailed",
    "TerminateRequested",
    "UndeleteRequested",
    "UnknownExperiment",
    "WrongBackend",
    "demo",
    "fixed",
    "open",
    "zipped",
]

_ELSEWHERE = {
    "Deck": "skydeck_nb.deck",
    "Experiment": "skydeck_nb.experiment",
    "FakeBackend": "skydeck_nb.backends.fake",
    "Plan": "skydeck_nb.plan",
    "Sweep": "skydeck_nb.sweep",
    "demo": "skydeck_nb.opening",
    "fixed": "skydeck_nb.flags.grid",
    "open": "skydeck_nb.opening",
    "zipped": "skydeck_nb.flags.grid",
}
"""Where a public name lives that is neither an error nor an event."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'skydeck_nb' has no attribute {name!r}")
    for module in [_ELSEWHERE[name]] if name in _ELSEWHERE else ["skydeck_nb.errors", "skydeck_nb.events"]:
        found = getattr(import_module(module), "open_deck" if name == "open" else name, None)
        if found is not None:
            globals()[name] = found
            return found
    raise AttributeError(f"module 'skydeck_nb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext skydeck_nb``: the magic ``%deck``, the grid of the deck that is open."""
    import_module("skydeck_nb.magic").register(ipython)
