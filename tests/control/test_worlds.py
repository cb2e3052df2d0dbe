"""Random worlds: whatever the server, the network and the leaders do, one live job per wanted experiment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skydeck_nb.backends.fake import Outcome
from skydeck_nb.control.surroundings import LoopSettings
from tests.control.worlds import TWINS, World

FAULTS = [
    "LostAnswer(chance=0.5)",
    "LostRequest(chance=0.5)",
    "LateRequest(20, chance=0.5)",
    "QueuedRequest(30, chance=0.5)",
    "Retried(1, first_arrives=False)",
    "Duplicate(chance=0.5)",
    "LateDuplicate(90, chance=0.5)",
    "Rejected(retryable=True, chance=0.5)",
    "Rejected(chance=0.3)",
    "RejectedLater(20, retryable=True, chance=0.5)",
    "RejectedLater(20, chance=0.3)",
    "FailedListing(chance=0.5)",
    "PartialListing(chance=0.5)",
    "LateListing(45, requests=True, chance=0.5)",
    "StaleListing(30, chance=0.5)",
    "VanishedJob(chance=0.5)",
    "UnknownStatus(chance=0.3)",
    "UnreadableRequests(chance=0.5)",
    "Unreachable(chance=0.3)",
    "Slow(20, chance=0.3)",
    "Slow(70, chance=0.2)",
    "Slow(100, where='request', methods=('launch',), chance=0.5)",
    "Slow(700, where='request', methods=('launch',), chance=0.3)",
    "SignInExpired(chance=0.1)",
    "ServerRestart(5, chance=0.2)",
    "Preemption(chance=0.5)",
    "CancelIgnored(1)",
]

NUMBERS = st.integers(1, 3)
WORDS = st.sampled_from(["start", "start", "start", "stop", "retry", "restart", "terminate", "delete", "undelete"])
NTH = st.integers(0, 5)
TROUBLES = st.one_of(st.sampled_from(FAULTS), st.sampled_from(["Duplicate", "LateDuplicate(20)", "LateRequest(200)"]))
AFTER = st.integers(1, 14)
STEPS = st.one_of(
    st.tuples(st.just("ask"), WORDS, NUMBERS),
    st.tuples(st.just("trouble"), TROUBLES, NUMBERS),
    st.tuples(st.just("trouble"), TROUBLES, NUMBERS),
    st.tuples(st.just("trouble"), TROUBLES, NUMBERS),
    st.tuples(st.just("amid"), AFTER, WORDS, NUMBERS),
    st.tuples(st.sampled_from(["kill", "overtaken"]), AFTER, NUMBERS),
    st.tuples(st.sampled_from(["kill", "overtaken"]), AFTER, NUMBERS),
    st.tuples(st.just("time"), st.sampled_from([1.0, 30.0, 130.0])),
    st.tuples(st.sampled_from(["heal", "lost", "freeze", "round", "hold", "sign in", "release", "everyone"])),
    st.tuples(st.sampled_from(["somebody", "mine", "change", "adopt"]), NUMBERS),
    st.tuples(st.sampled_from(["outside", "cancel", "forget"]), NTH),
)
"""What may happen next. A life begins with everything started, else most of it would be spent on nothing."""

LIMITS = st.fixed_dictionaries(
    {
        "max_live": st.sampled_from([None, None, 1, 2]),
        "max_gpus": st.sampled_from([None, None, 1, 2]),
        "sweep": st.booleans(),
        "sweep_live": st.sampled_from([None, 1]),
        "sweep_cost": st.sampled_from([None, None, 0.02, 0.2]),
        "max_gpu_hours": st.sampled_from([None, None, 0.01, 0.05]),
        "group_live": st.sampled_from([None, None, 1]),
        "max_hours": st.sampled_from([None, None, 0.005]),
        "enforces": st.booleans(),
        "launches": st.sampled_from([None, None, 1, 2]),
        "failing": st.sampled_from([False, False, False, True]),
    }
)


@contextmanager
def world(seed: int, **how: Any) -> Iterator[World]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        made = World(Path(folder) / "deck.db", seed, **how)
        try:
            yield made
        finally:
            made.close()


def play(made: World, history: list[tuple[Any, ...]]) -> None:
    for said in history:
        numbered = said[0] not in ("time", "outside", "cancel", "forget") and isinstance(said[-1], int)
        step = (*said[:-1], min(said[-1], made.experiments)) if numbered else said
        match step:
            case ("ask", word, number):
                made.ask(word, number)
            case ("trouble", fault, number):
                made.twins_allowed |= fault.split("(")[0] in TWINS
                made.backend.inject(fault)
                made.again(number)
                made.round()
            case ("heal",):
                made.backend.heal()
            case ("lost",):
                made.backend.inject("VanishedJob")
                made.pass_time(21)
            case ("time", seconds):
                made.pass_time(seconds)
            case ("kill", after, number):
                made.again(number)
                made.kill_after(after)
                made.round()
            case ("overtaken", after, number):
                made.again(number)
                made.amid(after, made.take_over)
                made.round()
            case ("amid", after, word, number):
                made.again(number)
                made.amid(after, partial(made.ask, word, number))
                made.round()
            case ("freeze",):
                made.again(1)
                made.round(keep=True)
                frozen = made.leader
                assert frozen is not None
                made.take_over()
                made.thaw(frozen)
                made.round()
            case ("hold",):
                made.round(keep=True)
            case ("round",):
                made.round()
            case ("sign in",):
                made.backend.sign_in()
            case ("release",):
                made.release()
            case ("everyone",):
                made.everyone()
            case ("somebody", number):
                made.somebody_else(number)
            case ("mine", number):
                made.mine(number)
                made.ask("stop", number)
                made.look()
                made.ask("restart", number)
            case ("change", number):
                made.change(number)
            case ("cancel", nth):
                made.cancel(nth)
            case ("forget", nth):
                made.forget(nth)
            case ("adopt", number):
                made.mine(number)
                made.look()
                made.adopt(0, number)
            case ("outside", nth):
                jobs = [j for j in made.backend.truth() if j.metadata.get("deck_id") == made.store.deck_id]
                if jobs:
                    made.backend.cancel_from_outside(jobs[nth % len(jobs)].id)


OUTCOMES = {
    "e1": [Outcome("FAILED", after=3, exit_code=1), Outcome("SUCCEEDED", after=40)],
    "e2": Outcome("SUCCEEDED", after=90),
}
FAILING = {"*": Outcome("FAILED", after=2, exit_code=1, message="boom")}


A_DOLLAR_AN_HOUR = {"*": 1.0}

SHORT, LONG = 1900, 100
"""2,000 worlds in all: many short lives of one experiment, and some long ones of several under limits."""


@pytest.mark.timeout(400)  # a shared machine may be slow; a world that hangs fails by itself
@settings(max_examples=SHORT, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.lists(STEPS, min_size=1, max_size=3))
def test_one_live_job_per_wanted_experiment_whatever_happens(seed: int, history: list[tuple[Any, ...]]) -> None:
    with world(seed, experiments=1, outcomes=OUTCOMES) as made:
        play(made, [("ask", "start", 1), *history])
        made.converge()
        made.examine_end()


@settings(max_examples=LONG, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), LIMITS, st.lists(STEPS, min_size=4, max_size=14))
def test_no_limit_is_passed_either(seed: int, limits: dict[str, Any], history: list[tuple[Any, ...]]) -> None:
    how = dict(limits)
    of_deck = {name: how.pop(name) for name in ("max_live", "max_gpus", "max_gpu_hours")}
    loop = LoopSettings(hot=10.0, discovery=60.0, **of_deck)
    failing = how.pop("failing") and how["sweep"]
    count, outcomes = (5, FAILING) if failing else (3, OUTCOMES)
    with world(seed, experiments=count, outcomes=outcomes, settings=loop, prices=A_DOLLAR_AN_HOUR, **how) as made:
        play(made, [("ask", "start", number) for number in range(1, count + 1)] + history)
        made.converge()
        made.examine_end()


@pytest.mark.parametrize(("started", "seed"), [(40, 1), (700, 2), (1100, 3)])
def test_stop_beats_start_for_500_experiments_at_any_moment(started: int, seed: int) -> None:
    """All are started; amid that all are stopped, and the leader dies twice."""
    with world(seed, experiments=500) as made:
        made.start_all()
        made.amid(started, made.stop_all)
        made.kill_after(started // 2)
        made.round()
        made.kill_after(50)
        made.round()
        made.stop_all()
        for _ in range(4):
            made.clock.advance(60)
            made.look()
        made.converge()
        assert made.alive() == {}
        assert not [j for j in made.backend.truth() if j.status not in ("CANCELLED", "SUCCEEDED")]
        assert made.counts["sent"] < 500


@pytest.mark.parametrize("nth", range(1, 40))
def test_a_leader_killed_at_every_step_of_a_launch_and_its_stop(nth: int) -> None:
    with world(7, experiments=1) as made:
        made.ask("start", 1)
        made.kill_after(nth)
        made.pass_time(30)
        made.ask("restart", 1)
        made.kill_after(nth)
        made.pass_time(300)
        made.converge()
        made.examine_end()
        assert sum(c.method == "launch" for c in made.backend.calls) <= 4


@pytest.mark.parametrize(
    ("where", "state", "sent"),
    [
        ("before a launch", "PREPARED", 0),
        ("before a write of a launch", "PREPARED", 0),
        ("between permission and write", "SENDING", 0),
        ("after a launch", "SENDING", 1),
    ],
)
def test_a_leader_killed_while_it_prepares_or_sends_leaves_the_next_to_find_out(
    where: str, state: str, sent: int
) -> None:
    with world(3, experiments=1, outcomes={"*": Outcome("RUNNING")}) as made:
        made.backend.inject("Slow(100, where='request', methods=('launch',))")
        made.round()
        made.ask("start", 1)
        made.kill_at(where)
        made.round()
        assert made.counts[f"killed {where}"] == 1
        with made.store.read() as tx:
            (attempt,) = tx.attempts()
        assert attempt.state == state
        assert made.counts["sent"] == sent
        made.converge()
        made.examine_end()
        assert made.counts["sent"] == 1
        assert len(made.alive()[1]) == 1


def test_a_stop_while_it_is_prepared_sends_nothing() -> None:
    with world(3, experiments=1) as made:
        made.round()
        made.ask("start", 1)
        assert made.leader is not None
        made.amid(4, partial(made.ask, "stop", 1))
        made.round()
        assert made.counts["amid before a write of a launch"] == 1
        made.converge()
        made.examine_end()
        assert {c.method for c in made.backend.calls} == {"observe"}


def test_a_preparing_that_fails_is_tried_again_after_a_back_off() -> None:
    with world(3, experiments=1) as made:
        made.backend.inject("Slow(700, where='request', methods=('launch',))")
        made.round()
        made.ask("start", 1)
        made.round()
        with made.store.read() as tx:
            (row,), (attempt,) = tx.experiments(), tx.attempts()
        assert (row.reason, row.current_state, attempt.state) == ("LaunchRetry", "QUEUED", "REJECTED")
        assert "did not answer" in row.message
        assert made.counts["sent"] == 0
        made.converge()
        made.examine_end()
        assert made.counts["sent"] == 1
