"""What is public: the names of the API page, and nothing besides."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import skydeck_nb as sd
from skydeck_nb import errors, events

PAGE = set("open demo FakeBackend zipped fixed Deck Experiment Sweep Plan".split())
"""The names of `api.md` that are neither errors nor events."""

ERRORS = set(
    """
    BackendError BackendUnavailable DatabaseDamaged DatabaseError DatabaseTooNew DeckOpen InvalidCommand
    InvalidFlag InvalidName InvalidSetting LaunchRejected NameTaken NeedsSignIn NotYours SkydeckError StalePlan
    UnknownExperiment WrongBackend
    """.split()
)
EVENTS = set(
    """
    AttemptMissed AttemptNotLaunched AttemptRejected AttemptUnknown CancelRequested CancelSent CheckpointFound
    ConditionChanged DeleteRequested DuplicateFound ExperimentHidden GroupChanged JobAdopted JobFinished
    JobForgotten JobFound JobLost JobPlaced JobPreempted JobRecovered JobSeen JobStarted JobStateChanged
    JobSubmitted LaunchRequested LeaseLost LeaseTaken MetricSampled PurgeRequested ReconcileFailed SendAllowed
    SpecChanged StartRequested StopRequested SweepChanged SyncFailed TerminateRequested UndeleteRequested
    """.split()
)
"""The kinds of event, as `control-loop.md` has them. A kind that is added or goes is a change of the API."""

DECK = set(
    """
    create sweep start stop terminate restart retry update rename duplicate delete undelete purge star cancel adopt
    forget plan explain reconcile refresh health sign_in settings on logs to_code sweeps by_id experiments jobs metrics
    checkpoints events diff groups clusters orphans attempts grid selected select close detach
    """.split()
)
EXPERIMENT = set(
    """
    id name state reason desired attention groups flags argv command_line task_yaml jobs events metrics checkpoints
    start stop terminate restart retry update rename duplicate delete undelete purge star adopt explain to_code wait
    logs
    """.split()
)
SWEEP = set(
    """
    id name experiments jobs events metrics checkpoints start stop terminate restart retry update delete
    star to_code wait progress
    """.split()
)


def test_every_public_name_is_on_the_page_and_the_other_way_round() -> None:
    raised = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    kinds = {kind.__name__ for kind in events.KINDS.values()}
    assert set(sd.__all__) == PAGE | ERRORS | EVENTS
    assert (raised, kinds) == (ERRORS, EVENTS)
    assert sorted(sd.__all__) == sd.__all__
    assert set(dir(sd)) == {*sd.__all__, "__version__"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in sd.__all__:
        found = getattr(sd, name)
        assert inspect.getdoc(found), name


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Store'"):
        _ = sd.Store


@pytest.mark.parametrize(("cls", "names"), [(sd.Deck, DECK), (sd.Experiment, EXPERIMENT), (sd.Sweep, SWEEP)])
def test_what_decks_and_handles_offer(cls: type, names: set[str]) -> None:
    offered = {name for name in dir(cls) if not name.startswith("_")} | ({"sweeps"} if cls is sd.Deck else set())
    assert offered == names
    for name in offered - {"sweeps"}:
        assert callable(getattr(cls, name)) or isinstance(inspect.getattr_static(cls, name), property)


def test_importing_it_brings_nothing_heavy() -> None:
    code = "import sys, json, skydeck_nb; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sky", "boto3", "anywidget", "httpx", "pandas", "pydantic"} & set(json.loads(done.stdout))


def test_the_magic_is_the_grid_of_the_open_deck_and_opens_nothing() -> None:
    registered = {}

    class Shell:
        def register_magic_function(self, function: object, magic_kind: str, magic_name: str) -> None:
            registered[magic_kind, magic_name] = function

    sd.load_ipython_extension(Shell())
    magic = registered["line", "deck"]
    assert callable(magic)
    assert magic("") == "No deck is open: deck = sd.open()."
    with sd.open(backend=sd.FakeBackend()) as deck:
        assert magic("") is deck.grid()
