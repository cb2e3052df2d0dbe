"""What is particular to the fake backend: its clock, its fates and its faults."""

from __future__ import annotations

import contextlib
import json
import random
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.base import Launched, Listing, Order, Query, Resolution
from skydeck_nb.backends.fake import (
    CancelIgnored,
    FakeBackend,
    FakeClock,
    Fault,
    LateListing,
    LostAnswer,
    Outcome,
    Preemption,
    Rejected,
    RejectedLater,
    Slow,
    VanishedJob,
)
from skydeck_nb.backends.fake.faults import KINDS, parse
from skydeck_nb.errors import (
    BackendError,
    BackendUnavailable,
    InvalidCommand,
    InvalidSetting,
    LaunchRejected,
    NeedsSignIn,
)
from skydeck_nb.models import Spec
from skydeck_nb.states import is_alive

DECK = "abc234"
FOREVER = {"*": Outcome("RUNNING")}


def order(name: str = "ppo", attempt: str = "aaaaaaaaaa", **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "deck_id": DECK,
        "attempt_id": attempt,
        "experiment_id": 1,
        "experiment": name,
        "claim": f"{name}-sd{DECK}-{attempt}",
        "run_name": name,
        "spec": Spec(command=("train",)),
        "argv": ("train",),
        "metadata": {"deck_id": DECK, "experiment": name, "attempt_id": attempt},
    }
    return Order(**(fields | changes))


class World:
    """One fake on a clock that stands still."""

    def __init__(self, *faults: str | Fault, **settings: Any) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend(clock=self.clock, faults=faults, **{"outcomes": FOREVER} | settings)
        self.gates = 0

    def gate(self) -> None:
        self.gates += 1

    def launch(self, one: Order | None = None, deadline: float = 10) -> Launched:
        return self.backend.launch(one or order(), self.gate, deadline=deadline)

    def look(self, *ids: int) -> Listing:
        return self.backend.observe(Query(deck_id=DECK, job_ids=frozenset(ids), discovery=not ids), deadline=10)

    def seen(self) -> list[tuple[int, str]]:
        return [(job.id, job.status) for job in self.look().jobs]

    def resolve(self, one: Order | None = None, request_id: str | None = None) -> Resolution:
        asked = one or order()
        return self.backend.resolve(asked.claim, asked.attempt_id, request_id, deadline=10)

    def alive(self) -> list[int]:
        return [job.id for job in self.backend.truth() if is_alive(job.status)]


# The clock and the fates.


def test_a_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=UTC))
    assert clock() == clock() == datetime(2026, 5, 1, tzinfo=UTC)
    assert clock.advance(90) == datetime(2026, 5, 1, 0, 1, 30, tzinfo=UTC)
    clock.sleep(10)
    assert clock.monotonic() == 100
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="aware"):
        FakeClock(datetime(2026, 5, 1))  # noqa: DTZ001


def test_a_job_walks_from_pending_to_its_end() -> None:
    fate = Outcome("FAILED", pending=1, starting=2, after=3, exit_code=7, message="out of luck", reason="BadLuck")
    world = World(outcomes={"ppo*": fate})
    world.launch()
    walk = []
    for _ in range(7):
        walk.append(world.look(1).jobs[0].status)
        world.clock.advance(1)
    assert walk == ["PENDING", "STARTING", "STARTING", "RUNNING", "RUNNING", "RUNNING", "FAILED"]
    job = world.look(1).jobs[0]
    assert (job.exit_code, job.message, job.reason) == (7, "out of luck", "BadLuck")
    assert job.started_at is not None
    assert job.ended_at is not None
    assert (job.ended_at - job.started_at).total_seconds() == 3
    assert world.backend.logs(1, tail=None, deadline=1).splitlines()[-1] == "[fake] FAILED: out of luck"


def test_looking_seldom_or_often_changes_nothing() -> None:
    def history(looks: int) -> list[object]:
        world = World("Preemption(chance=0.5)", seed=4, slots=2, outcomes={})
        for number in range(6):
            world.launch(order(f"e{number}"))
        for _ in range(looks):
            world.clock.advance(240 / looks)
            world.look()
        return list(world.backend.truth())

    assert history(1) == history(2400 // 100) == history(240)


def test_equal_seeds_make_equal_worlds_and_others_do_not() -> None:
    def ends(seed: int) -> list[object]:
        world = World("LostAnswer(chance=0.5)", "LateListing(20, chance=0.5)", seed=seed, outcomes={})
        answers: list[object] = []
        for number in range(10):
            try:
                answers.append(world.launch(order(f"e{number}")))
            except BackendUnavailable:
                answers.append("lost")
        world.clock.advance(10)
        return [answers, world.seen(), world.backend.truth()]

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)


def test_fates_come_one_after_the_other_and_the_last_repeats() -> None:
    world = World(outcomes={"ppo": [Outcome("FAILED", after=1), Outcome("SUCCEEDED", after=1)], "*": "RUNNING"})
    for number in range(3):
        world.launch(order(attempt=f"aaaaaaaaa{number}"))
    world.launch(order("other"))
    world.clock.advance(60)
    assert [status for _, status in world.seen()] == ["FAILED", "SUCCEEDED", "SUCCEEDED", "RUNNING"]


@pytest.mark.parametrize("status", ["FAILED_PRECHECKS", "FAILED_NO_RESOURCE"])
def test_some_fates_come_before_running(status: str) -> None:
    world = World(outcomes={"*": Outcome(status)})
    world.launch()
    world.clock.advance(60)
    (job,) = world.backend.truth()
    assert (job.status, job.started_at, job.exit_code) == (status, None, None)


def test_a_job_may_not_run_longer_than_its_limit() -> None:
    world = World()
    world.launch(order(max_seconds=5))
    world.clock.advance(60)
    (job,) = world.backend.truth()
    assert (job.status, job.exit_code, job.reason) == ("FAILED", 124, "TimedOut")


def test_a_job_has_its_price_once_it_has_machines_by_what_it_asked_for() -> None:
    world = World(prices={"H100:4": 12.0, "*": 0.5}, outcomes={"*": Outcome("RUNNING", pending=1, starting=1)})
    for name, spec in (("dear", Spec(accelerators="H100:4", gpus=4, nodes=2)), ("cheap", Spec(nodes=3))):
        world.launch(order(name, spec=spec))
    assert [job.hourly_cost for job in world.look().jobs] == [None, None]
    world.clock.advance(5)
    assert [job.hourly_cost for job in world.look().jobs] == [24.0, 1.5]
    assert world.backend.prices


def test_without_a_price_for_it_a_job_has_none() -> None:
    world = World(prices={"H100:4": 12.0})
    world.launch()
    world.clock.advance(60)
    assert [job.hourly_cost for job in world.look().jobs] == [None]
    assert not World().backend.prices
    with pytest.raises(InvalidSetting, match=r"prices\['\*'\] must be 0 or more dollars; got -1"):
        FakeBackend(prices={"*": -1})


def test_slots_go_to_the_highest_priority_and_then_to_the_oldest() -> None:
    world = World(slots=1, outcomes={"*": Outcome(after=10, pending=0, starting=0)})
    for name, priority in [("first", 0), ("low", 0), ("high", 5), ("low2", 0)]:
        world.launch(order(name, priority=priority))
    world.clock.advance(100)
    by_start = sorted(world.backend.truth(), key=lambda job: job.started_at or datetime.max.replace(tzinfo=UTC))
    assert [job.name.split("-")[0] for job in by_start] == ["first", "high", "low", "low2"]


def test_metrics_are_written_as_the_job_makes_steps(tmp_path: Path) -> None:
    fate = Outcome(after=4, pending=0, starting=0, metrics=lambda step: {"loss": 1 / step})
    world = World(path=tmp_path / "runs", outcomes={"*": fate})
    world.launch()
    world.clock.advance(2)
    folder = world.backend.run_dir(1)
    assert folder is not None
    file = folder / "metrics.jsonl"
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 1, "loss": 1},
        {"step": 2, "loss": 0.5},
    ]
    world.clock.advance(60)
    world.look()
    assert len(file.read_text().splitlines()) == 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert world.backend.run_dir(99) is None


# Faults, one by one.


def test_lost_answer_makes_the_job_and_says_nothing() -> None:
    world = World("LostAnswer")
    with pytest.raises(BackendUnavailable):
        world.launch()
    assert world.resolve().job_id == 1
    assert world.alive() == [1]


def test_lost_request_makes_nothing() -> None:
    world = World("LostRequest")
    with pytest.raises(BackendUnavailable):
        world.launch()
    assert world.resolve().clean_miss
    assert world.alive() == []
    assert [call.method for call in world.backend.calls] == ["launch", "resolve"]


def test_late_request_arrives_when_nobody_waits_for_it_any_more_even_if_refused() -> None:
    world = World("LateRequest(300)")
    with pytest.raises(BackendUnavailable):
        world.launch()
    world.backend.refuse(order().claim, order().attempt_id, None, deadline=10)
    assert world.resolve().clean_miss
    world.clock.advance(301)
    assert world.resolve().job_id == 1
    assert world.alive() == [1]


def test_a_queued_request_is_under_way_until_it_makes_the_job() -> None:
    world = World("QueuedRequest(30)")
    answer = world.launch()
    assert answer.job_id is None
    waiting = world.resolve(request_id=answer.request_id)
    assert (waiting.job_id, waiting.never, waiting.clean_miss) == (None, False, False)
    assert world.resolve().clean_miss is False, "found by its claim as well"
    world.clock.advance(31)
    assert world.resolve(request_id=answer.request_id).job_id == 1


def test_refusing_a_queued_request_proves_that_it_never_runs() -> None:
    world = World("QueuedRequest(30)")
    answer = world.launch()
    world.backend.refuse(order().claim, order().attempt_id, answer.request_id, deadline=10)
    assert world.resolve(request_id=answer.request_id).never
    world.clock.advance(60)
    assert world.backend.truth() == ()


def test_what_was_refused_is_not_sent_though_the_server_cannot_be_told() -> None:
    world = World()
    world.backend.inject("Unreachable", times=1)
    with pytest.raises(BackendUnavailable):
        world.backend.refuse(order().claim, order().attempt_id, None, deadline=10)
    with pytest.raises(LaunchRejected) as caught:
        world.launch()
    assert caught.value.reason == "Refused"
    assert "launch" not in [call.method for call in world.backend.calls]


def test_a_transport_that_writes_twice_asks_its_gate_each_time() -> None:
    world = World("Retried(3)")
    assert world.launch().job_id == 1
    assert world.gates == 2

    world = World("Retried(3, first_arrives=True)")

    def once() -> None:
        world.gate()
        if world.gates == 2:
            raise BackendUnavailable("too late")

    with pytest.raises(BackendUnavailable, match="too late"):
        world.backend.launch(order(), once, deadline=10)
    assert world.alive() == [1], "the first write arrived"
    assert len(world.backend.calls) == 1


def test_a_no_to_the_second_write_does_not_deny_what_the_first_made() -> None:
    world = World("Retried(3, first_arrives=True)")

    def gate() -> None:
        world.gate()
        if world.gates == 2:
            world.backend.inject("Rejected")

    with pytest.raises(BackendUnavailable, match="sent twice"):
        world.backend.launch(order(), gate, deadline=10)
    assert world.alive() == [1]


def test_duplicates_carry_the_same_claim_at_once_or_later() -> None:
    world = World("Duplicate")
    assert world.launch().job_id == 1
    assert [job.name for job in world.look().jobs] == [order().claim] * 2

    world = World("LateDuplicate(120)")
    world.launch()
    assert world.alive() == [1]
    world.clock.advance(121)
    assert world.alive() == [1, 2]


def test_a_rejected_launch_says_why_and_whether_later_may_help() -> None:
    world = World(Rejected(retryable=True, reason="NoCapacity", message="No H100 is free."))
    with pytest.raises(LaunchRejected, match="No H100 is free") as caught:
        world.launch()
    assert (caught.value.retryable, caught.value.reason) == (True, "NoCapacity")
    assert world.backend.truth() == ()


def test_a_launch_rejected_later_is_under_way_until_it_fails_for_good() -> None:
    world = World(RejectedLater(30, retryable=True, message="No H100 was free."))
    answer = world.launch()
    assert answer.job_id is None
    assert answer.request_id
    waiting = world.resolve(request_id=answer.request_id)
    assert (waiting.rejected, waiting.never, waiting.clean_miss) == ("", False, False)
    world.clock.advance(31)
    failed = world.resolve(request_id=answer.request_id)
    assert (failed.rejected, failed.retryable, failed.job_id) == ("No H100 was free.", True, None)
    assert not failed.never
    assert world.resolve().rejected, "found by its claim as well"
    assert world.backend.truth() == ()


def test_a_partial_look_does_not_prove_that_a_failed_request_made_no_job() -> None:
    world = World("RejectedLater(0)")
    world.launch()
    world.backend.inject("PartialListing", times=1)
    assert world.resolve().rejected == ""
    assert world.resolve().rejected


def test_a_request_refused_in_time_never_fails() -> None:
    world = World("RejectedLater(30)")
    world.launch()
    world.backend.refuse(order().claim, order().attempt_id, None, deadline=10)
    world.clock.advance(31)
    assert world.resolve().never


def test_everyone_are_the_live_jobs_of_other_users_besides() -> None:
    world = World()
    mine = world.backend.add_foreign_job("mine")
    theirs = world.backend.add_foreign_job("theirs", user="zoe")
    world.backend.add_foreign_job("over", user="zoe", status="FAILED")
    plain = world.backend.observe(Query(deck_id=DECK, discovery=True), deadline=10)
    assert [job.id for job in plain.jobs] == [mine]
    everyone = world.backend.observe(Query(deck_id=DECK, discovery=True, everyone=True), deadline=10)
    assert [(job.id, job.mine, job.user) for job in everyone.jobs] == [(mine, True, "you"), (theirs, False, "zoe")]


def test_a_failed_listing_raises_and_is_never_empty() -> None:
    world = World()
    world.launch()
    world.backend.inject("FailedListing", times=2)
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            world.look()
    assert len(world.look().jobs) == 1


def test_a_partial_listing_lacks_rows_and_says_so() -> None:
    world = World()
    for number in range(20):
        world.launch(order(f"e{number}"))
    world.backend.inject("PartialListing(0.5)", times=1)
    listing = world.look()
    assert not listing.complete
    assert 0 < len(listing.jobs) < 20
    assert not listing.covers(1)
    assert world.look().complete


def test_a_partial_look_proves_no_absence() -> None:
    world = World("PartialListing(1.0)")
    assert not world.resolve().clean_miss


def test_a_late_row_is_missing_from_complete_listings_that_began_after_it() -> None:
    world = World(LateListing(240))
    launched = world.launch()
    world.clock.advance(10)
    listing = world.look()
    assert listing.jobs == ()
    assert listing.complete
    assert listing.begun_at == world.clock()
    assert world.resolve(request_id=launched.request_id).job_id == 1, "the request list knows it"
    world.clock.advance(240)
    assert [job.id for job in world.look().jobs] == [1]


def test_a_late_row_whose_request_is_late_too_is_a_clean_miss_until_it_shows() -> None:
    world = World(LateListing(240, requests=True), "LostAnswer")
    with pytest.raises(BackendUnavailable):
        world.launch()
    assert world.resolve().clean_miss
    world.clock.advance(241)
    assert world.resolve().job_id == 1


def test_a_stale_listing_shows_how_things_were() -> None:
    world = World(outcomes={"*": Outcome("RUNNING", pending=5, starting=5)})
    world.launch()
    world.clock.advance(11)
    world.backend.inject("StaleListing(10)", times=1)
    assert world.seen() == [(1, "PENDING")]
    assert world.seen() == [(1, "RUNNING")]
    world.backend.inject("StaleListing(60)", times=1)
    assert world.seen() == []


def test_a_vanished_job_lives_on_unlisted() -> None:
    world = World()
    world.launch(order("ppo"))
    world.launch(order("dqn"))
    world.backend.inject(VanishedJob(name="ppo"))
    assert world.seen() == [(2, "PENDING")]
    assert world.look(1).jobs == ()
    assert world.alive() == [1, 2]
    world.backend.heal()
    assert len(world.seen()) == 2


def test_an_unknown_status_is_shown_of_the_living_only() -> None:
    world = World("UnknownStatus('HIBERNATING')")
    world.launch()
    world.launch(order("done"))
    world.backend.finish(2)
    assert world.seen() == [(1, "HIBERNATING"), (2, "SUCCEEDED")]


def test_an_unreadable_request_list_shows_what_is_there_and_proves_no_absence() -> None:
    world = World("UnreadableRequests")
    missing = world.resolve()
    assert (missing.job_id, missing.never, missing.clean_miss) == (None, False, False)
    assert "cannot be read" in missing.message
    world.launch()
    assert world.resolve().job_id == 1


def test_a_server_start_in_between_begins_the_count_of_misses_again() -> None:
    world = World()
    assert world.resolve().clean_miss
    assert world.resolve().clean_miss
    world.backend.restart_server()
    assert not world.resolve().clean_miss
    assert world.resolve().clean_miss


def test_a_server_restart_forgets_requests_and_keeps_jobs() -> None:
    world = World()
    first = world.launch()
    world.backend.inject("QueuedRequest(30)", times=1)
    queued = world.launch(order("queued"))
    world.backend.inject("ServerRestart(20)", times=1)
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            world.look()
        world.clock.advance(10)
    world.clock.advance(60)
    assert world.resolve(request_id=first.request_id).job_id == 1, "found in the queue"
    assert world.resolve(order("queued"), queued.request_id).clean_miss
    assert world.alive() == [1]


def test_slow_moves_the_clock_and_runs_into_the_deadline() -> None:
    world = World(Slow(5))
    start = world.clock()
    world.look()
    assert (world.clock() - start).total_seconds() == 5
    with pytest.raises(BackendUnavailable, match="within 3 s"):
        world.launch(deadline=3)
    assert world.alive() == [1], "slow to answer: it was done"

    world = World(Slow(5, where="request"))
    with pytest.raises(BackendUnavailable):
        world.launch(deadline=3)
    assert world.alive() == []
    assert world.gates == 0
    asked: list[float] = []
    world.backend.launch(order(), lambda: asked.append(world.clock.monotonic()), deadline=10)
    assert asked == [8], "the gate is asked when the waiting is over"


def test_a_listing_began_before_a_slow_server_answered() -> None:
    world = World(Slow(5, where="request"))
    begun_at = world.look().begun_at
    assert (world.clock() - begun_at).total_seconds() == 5


def test_an_expired_sign_in_stops_every_call_until_one_signs_in() -> None:
    world = World()
    world.launch()
    world.backend.inject("SignInExpired", times=1)
    for call in (
        world.look,
        world.launch,
        world.resolve,
        lambda: world.backend.cancel([1], deadline=1),
        lambda: world.backend.logs(1, tail=1, deadline=1),
        lambda: world.backend.refuse("x", "y", None, deadline=1),
    ):
        with pytest.raises(NeedsSignIn, match="sign_in"):
            call()
    assert world.gates == 1, "nothing was sent"
    world.backend.sign_in()
    assert world.alive() == [1]
    assert len(world.look().jobs) == 1


def test_a_preempted_job_recovers_and_loses_no_time_of_its_run() -> None:
    fate = Outcome(pending=0, starting=0, after=10)
    world = World(Preemption(after=4, seconds=6), outcomes={"*": fate})
    world.launch()
    walk = {}
    for second in range(18):
        (job,) = world.look(1).jobs
        walk[second] = (job.status, job.recoveries)
        world.clock.advance(1)
    assert walk[3] == ("RUNNING", 0)
    assert walk[4] == walk[9] == ("RECOVERING", 0)
    assert walk[10] == walk[15] == ("RUNNING", 1)
    assert walk[16] == ("SUCCEEDED", 1)


def test_a_running_job_can_be_preempted_now() -> None:
    world = World(outcomes={"*": Outcome("RUNNING", pending=0, starting=0)})
    world.launch()
    world.backend.preempt(1, seconds=5)
    assert world.seen() == [(1, "RECOVERING")]
    assert world.look().jobs[0].reason == "Preempted"
    world.clock.advance(5)
    assert world.seen() == [(1, "RUNNING")]


def test_an_ignored_cancel_has_no_effect_so_often() -> None:
    world = World(CancelIgnored(2), outcomes={"*": Outcome("RUNNING", pending=0, starting=0)})
    world.launch()
    for _ in range(2):
        world.backend.cancel([1], deadline=1)
        world.clock.advance(60)
        assert world.seen() == [(1, "RUNNING")]
    world.backend.cancel([1], deadline=1)
    assert world.seen() == [(1, "CANCELLING")]
    world.clock.advance(60)
    assert world.seen() == [(1, "CANCELLED")]


@pytest.mark.parametrize(("fault", "arrived"), [("LostRequest", False), ("LostAnswer", True)])
def test_cancels_can_be_lost_as_well(fault: str, arrived: bool) -> None:
    world = World(f"{fault}(methods=('cancel',))")
    world.launch()
    with pytest.raises(BackendUnavailable):
        world.backend.cancel([1], deadline=1)
    assert (world.alive() == []) is arrived


# Faults, as such.


@pytest.mark.parametrize("name", KINDS)
def test_every_fault_has_a_name_a_description_and_a_text_that_reads_back(name: str) -> None:
    fault = parse(name)
    assert type(fault).__name__ == name
    assert KINDS[name].__doc__
    assert parse(str(fault)) == fault
    changed = parse(f"{name}(chance=0.25, name='ppo-*')")
    assert parse(str(changed)) == changed
    assert parse(KINDS[name]) == fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("LostAnswr", "did you mean LostAnswer"),
        ("Slow(1, 2, 3, 4)", "cannot be made"),
        ("LostAnswer(chance=2)", "between 0 and 1"),
        ("Slow(-1)", "0 or more"),
        ("Slow(where='up')", "'request' or 'answer'"),
        ("LostAnswer(methods=('sing',))", "no call is named 'sing'"),
        ("__import__('os').system('true')", "no fault"),
        ("1 +", "is no fault"),
        ("LostAnswer(chance='x')", "cannot be made"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(InvalidSetting, match=words.replace("(", r"\(")):
        FakeBackend(faults=[text])


def test_a_fault_strikes_the_experiments_that_its_name_means() -> None:
    world = World(LostAnswer(name="ppo-*"))
    assert world.launch(order("dqn")).job_id == 1
    with pytest.raises(BackendUnavailable):
        world.launch(order("ppo-1"))


def test_a_fault_with_a_count_strikes_so_often_and_healing_ends_all() -> None:
    world = World()
    world.backend.inject("LostAnswer", LateListing(1000), times=2)
    for number in range(2):
        with pytest.raises(BackendUnavailable):
            world.launch(order(f"e{number}"))
    assert world.launch(order("e2")).job_id == 3
    assert world.seen() == [(3, "PENDING")]
    world.backend.heal()
    assert len(world.seen()) == 3
    assert world.backend.faults == ()
    with pytest.raises(InvalidSetting):
        world.backend.inject("LostAnswer", times=0)


def test_one_kind_of_fault_can_be_healed_alone() -> None:
    world = World("LostAnswer", "Slow")
    world.backend.heal("LostAnswer")
    assert [str(fault) for fault in world.backend.faults] == ["Slow"]


def test_a_chance_depends_on_its_key_and_not_on_what_else_happens() -> None:
    def lost(names: list[str]) -> set[str]:
        world = World("LostAnswer(chance=0.5)", seed=9)
        out = set()
        for name in names:
            try:
                world.launch(order(name))
            except BackendUnavailable:
                out.add(name)
        return out

    names = [f"e{number}" for number in range(30)]
    assert lost(names) == lost(names[::-1])
    assert 5 < len(lost(names)) < 25


# What else happens in the world.


def test_a_spec_with_nothing_to_run_is_refused_at_declaration() -> None:
    with pytest.raises(InvalidCommand, match="give a command, a script or a task"):
        World().backend.check(Spec())


def test_a_secret_can_be_withheld_and_provided() -> None:
    world = World()
    spec = Spec(command=("train",), secrets=("WANDB_API_KEY",))
    assert world.backend.missing(spec) is None
    world.backend.withhold("WANDB_API_KEY")
    found = world.backend.missing(spec)
    assert found is not None
    assert found[0] == "SecretMissing"
    world.backend.provide("WANDB_API_KEY")
    assert world.backend.missing(spec) is None


def test_a_job_of_nobody_is_discovered_only_if_it_is_one_s_own_user_s() -> None:
    world = World(user="ann")
    mine = world.backend.add_foreign_job("ppo")
    theirs = world.backend.add_foreign_job("ppo", user="bob")
    deck = world.backend.add_foreign_job("x-sdzzzzzz-aaaaaaaaaa")
    assert [(job.id, job.mine) for job in world.look().jobs] == [(mine, True)]
    assert [(job.id, job.mine, job.user) for job in world.look(theirs, deck).jobs] == [
        (theirs, False, "bob"),
        (deck, True, "ann"),
    ]


def test_somebody_else_s_cancel_and_finish_are_not_our_calls() -> None:
    world = World()
    world.launch()
    world.launch(order("dqn"))
    world.backend.cancel_from_outside(1)
    world.backend.finish(2, "FAILED", exit_code=9)
    assert world.seen() == [(1, "CANCELLED"), (2, "FAILED")]
    assert [call.method for call in world.backend.calls] == ["launch", "launch", "observe"]
    with pytest.raises(InvalidSetting, match="no job 77"):
        world.backend.cancel_from_outside(77)
    with pytest.raises(InvalidSetting, match="no end"):
        world.backend.finish(1, "RUNNING")


def test_threads_may_do_everything_at_once() -> None:
    world = World("LostAnswer(chance=0.3)", "Duplicate(chance=0.2)", slots=4, outcomes={})
    barrier = threading.Barrier(8)

    def work(worker: int) -> int:
        barrier.wait()
        sent = 0
        for number in range(40):
            with contextlib.suppress(BackendUnavailable):
                world.launch(order(f"e{worker}", attempt=f"{number:010d}"))
            sent += 1
            world.look()
            world.backend.cancel([number], deadline=3)
            world.clock.advance(0.5)
        return sent

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 320
    jobs = world.backend.truth()
    assert [job.id for job in jobs] == list(range(1, len(jobs) + 1))
    assert len({job.name for job in jobs}) == 320
    assert sum(call.method == "launch" for call in world.backend.calls) == 320
    world.clock.advance(100_000)
    assert world.alive() == []


def test_calls_say_what_was_sent_and_when() -> None:
    world = World()
    world.launch()
    world.clock.advance(5)
    world.backend.cancel([1, 4], deadline=1)
    assert [(call.method, call.key, (call.at - FakeClock()()).total_seconds()) for call in world.backend.calls] == [
        ("launch", order().claim, 0),
        ("cancel", "1", 5),
        ("cancel", "4", 5),
    ]


@pytest.mark.parametrize(
    "settings",
    [{"speed": 0}, {"slots": 0}, {"running": (5, 1)}, {"outcomes": {"*": "BROKEN"}}, {"outcomes": {"*": []}}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        FakeBackend(**settings)


@pytest.mark.parametrize("seed", range(100))
def test_in_any_world_nothing_breaks_and_time_heals(seed: int) -> None:
    """All faults at once: only our own errors come out, and once healed every job is listed and can be ended."""
    dice = random.Random(seed)
    world = World(
        *(f"{name}(chance={dice.choice((0.0, 0.1, 0.4))})" for name in KINDS), seed=seed, outcomes={}, slots=3
    )
    for number in range(60):
        one = order(f"e{dice.randrange(8)}", attempt=f"{number:010d}")
        try:
            match dice.randrange(5):
                case 0:
                    world.launch(one)
                case 1:
                    world.look()
                case 2:
                    world.resolve(one)
                case 3:
                    world.backend.cancel([dice.randrange(1, 9)], deadline=3)
                case _:
                    world.backend.refuse(one.claim, one.attempt_id, None, deadline=3)
        except BackendError:
            world.backend.sign_in()
        world.clock.advance(dice.choice((0, 1, 30)))
    world.backend.heal()
    world.clock.advance(3600)
    listing = world.look()
    assert listing.complete
    assert listing.jobs == world.backend.truth()
    assert not any(is_alive(job.status) for job in listing.jobs)
    assert all(job.ended_at is not None for job in listing.jobs)
