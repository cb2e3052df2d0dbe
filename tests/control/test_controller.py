"""What the loop writes and calls, step by step, in small worlds made for one question each."""

from __future__ import annotations

import pytest

from benchmarks.world import kinds, traced
from skydeck_nb import codec
from skydeck_nb.backends.fake import Outcome
from skydeck_nb.control import orders
from skydeck_nb.control.calls import Lost
from skydeck_nb.control.surroundings import LoopSettings
from skydeck_nb.events import SweepChanged
from skydeck_nb.states import shown
from tests.control.test_worlds import world


def test_an_outcome_of_an_older_term_is_dropped() -> None:
    with world(1, experiments=1) as made:
        made.ask("start", 1)
        made.round()
        made.backend.inject("LostAnswer")
        leader = made.leader
        assert leader is not None
        outcomes = [leader.perform(look) for look in [leader.controller.look(made.clock.advance(70))] if look]
        assert outcomes
        leader.controller.lead(leader.term + 1, made.clock())
        before = made.sequence()
        for outcome in outcomes:
            leader.controller.finish(outcome, made.clock())
        assert made.sequence() == before
        assert leader.controller.evidence.complete_at is None


def test_a_leader_that_is_none_any_more_commits_nothing() -> None:
    with world(1, experiments=1) as made:
        old = made.leader
        assert old is not None
        made.take_over()
        made.ask("start", 1)
        old.controller.advance()
        before = made.sequence()
        with pytest.raises(Lost):
            old.controller.plan_pass(made.clock())
        assert made.sequence() == before


def test_a_new_term_has_seen_nothing() -> None:
    with world(1, experiments=1) as made:
        made.round()
        leader = made.leader
        assert leader is not None
        before = leader.controller.evidence
        leader.controller.lead(leader.term, made.clock())
        after = leader.controller.evidence
        assert before.complete_at is not None
        assert after.complete_at is None
        made.ask("start", 1)
        leader.controller.advance()
        assert leader.controller.plan_pass(made.clock()) == []


def test_a_partial_or_a_hot_listing_is_no_complete_one() -> None:
    with world(1, experiments=1) as made:
        made.backend.inject("PartialListing(0.0)")
        made.ask("start", 1)
        made.pass_time(130)
        assert "sent" not in made.counts
        made.backend.heal()
        made.pass_time(70)
        assert made.counts["sent"] == 1


def test_a_launch_that_the_server_took_keeps_its_request_and_is_named_later() -> None:
    with world(1, experiments=1, outcomes={"*": Outcome("RUNNING")}) as made:
        made.backend.inject("QueuedRequest(8)")
        made.round()
        made.ask("start", 1)
        made.round()
        with made.store.read() as tx:
            (row,), (attempt,) = tx.experiments(), tx.attempts()
        assert (attempt.state, row.reason, row.current_state) == ("UNKNOWN", "LaunchAccepted", "LAUNCHING")
        assert attempt.request_id
        assert attempt.request_id in row.message
        for _ in range(5):
            made.clock.advance(2)
            made.round()
        with made.store.read() as tx:
            (row,), (attempt,) = tx.experiments(), tx.attempts()
        assert (attempt.state, attempt.job_id) == ("SUBMITTED", row.current_job_id)
        assert made.counts["sent"] == 1


@pytest.mark.parametrize(
    ("retryable", "reason", "state"), [(False, "LaunchRejected", "FAILED"), (True, "LaunchRetry", "QUEUED")]
)
def test_a_launch_that_fails_on_the_server_is_refused_as_one_that_was_at_once(
    retryable: bool, reason: str, state: str
) -> None:
    with world(1, experiments=1, outcomes={"*": Outcome("RUNNING")}) as made:
        made.backend.inject(f"RejectedLater(8, retryable={retryable})", times=1)
        made.round()
        made.ask("start", 1)
        made.round()
        for _ in range(5):
            made.clock.advance(2)
            made.round()
        with made.store.read() as tx:
            (row,), (attempt,) = tx.experiments(), tx.attempts()
        assert (attempt.state, row.reason, row.current_state) == ("REJECTED", reason, state)
        assert "took this launch and then failed it" in row.message
        made.converge()
        made.examine_end()
        assert made.counts["sent"] == 1 + retryable
        assert len(made.alive()[1]) == retryable


def test_no_more_launches_are_under_way_than_the_server_takes_and_a_closed_one_wakes_the_next() -> None:
    with world(1, experiments=20, launches=3, outcomes={"*": Outcome("RUNNING")}) as made:
        made.backend.inject("QueuedRequest(30)")
        made.round()
        made.start_all()
        made.round()
        with made.store.read() as tx:
            rows, attempts = tx.experiments(), tx.attempts()
        assert len(attempts) == 3
        assert sum(row.message.endswith("waits: the server takes 3 launches at once.") for row in rows) == 17
        most = 0
        for _ in range(130):
            made.clock.advance(2)
            made.round()
            with made.store.read() as tx:
                most = max(most, len(tx.attempts(open=True)))
        assert most == 3
        assert made.counts["sent"] == 20
        made.converge()
        made.examine_end()


def test_one_lost_answer_does_not_stop_a_server_that_takes_one_launch_at_once() -> None:
    with world(1, experiments=2, launches=1, outcomes={"*": Outcome("RUNNING")}) as made:
        made.backend.inject("LostRequest", times=1)
        made.backend.inject("UnreadableRequests")
        made.round()
        made.ask("start", 1)
        made.round()
        made.ask("start", 2)
        made.pass_time(290)
        assert made.counts["sent"] == 1
        made.pass_time(90)
        assert made.counts["sent"] == 2
        with made.store.read() as tx:
            assert [row.reason for row in tx.experiments()] == ["LaunchUnknown", "Running"]


def test_while_looks_fail_the_loop_is_not_woken_for_what_must_wait_for_one() -> None:
    with world(1, experiments=1, outcomes={"*": Outcome("RUNNING")}) as made:
        made.round()
        made.backend.inject("QueuedRequest(1200)")
        made.ask("start", 1)
        made.round()
        leader = made.leader
        assert leader is not None
        assert leader.controller.next_due(made.clock()) is not None
        made.backend.inject("FailedListing")
        made.pass_time(600)
        assert leader.controller.evidence.failed
        assert leader.controller.next_due(made.clock()) is None
        made.backend.heal()
        made.converge()
        made.examine_end()


def test_who_waits_is_launched_when_another_has_ended() -> None:
    loop = LoopSettings(hot=10.0, discovery=60.0, max_live=1)
    outcomes = {"*": Outcome("SUCCEEDED", after=5)}
    with world(1, experiments=4, settings=loop, outcomes=outcomes) as made:
        made.start_all()
        made.pass_time(100)
        assert made.counts["sent"] == 4
        made.converge()
        made.examine_end()


def test_the_brake_holds_a_sweep_until_it_is_released() -> None:
    loop = LoopSettings(hot=10.0, discovery=60.0, max_live=3)
    outcomes = {"*": Outcome("FAILED", after=1)}
    with world(1, experiments=13, settings=loop, sweep=True, outcomes=outcomes) as made:
        for number in (3, 6, 9, 12):
            made.ask("start", number)  # these may not restart
        made.converge()
        with made.store.read() as tx:
            assert tx.sweeps()[0].brake == "HELD"
        assert made.counts["sent"] <= 4
        sent = made.counts["sent"]
        made.start_all()
        made.converge()
        assert made.counts["sent"] <= sent + 2, "only what is in no sweep"
        made.release()
        made.converge()
        assert made.counts["sent"] >= 12
        made.examine_end()


def test_the_pass_that_decides_the_brake_launches_nothing_more_of_its_sweep() -> None:
    loop = LoopSettings(hot=10.0, discovery=60.0, max_live=1)
    with world(1, experiments=13, settings=loop, sweep=True, outcomes={"*": Outcome("FAILED", after=1)}) as made:
        for number in (3, 6, 9, 12):
            made.clock.advance(1)
            made.ask("start", number)  # these may not restart, and the last of them waits behind the others
        made.converge()
        with made.store.read() as tx:
            assert tx.sweeps()[0].brake == "HELD"
        assert made.counts["sent"] == 3


A_DOLLAR_A_SECOND = {"*": 3600.0}


def test_all_who_share_a_budget_end_when_it_is_used_up_though_they_began_one_after_the_other() -> None:
    outcomes = {"*": Outcome("RUNNING")}
    with world(1, experiments=4, sweep=True, sweep_cost=100.0, outcomes=outcomes, prices=A_DOLLAR_A_SECOND) as made:
        for number in (1, 2, 3, 4):
            made.ask("start", number)
            made.pass_time(10)
        for _ in range(60):
            made.clock.advance(1)
            made.round()
        ended = [j for j in made.backend.truth() if j.status == "CANCELLED"]
        costs = [(j.ended_at - j.started_at).total_seconds() for j in ended if j.ended_at and j.started_at]
        assert len(costs) == 3
        assert 100 <= sum(costs) < 110, "each is cancelled within a round, and takes a second or two to end"
        assert list(made.alive()) == [4], "it is in no sweep"
        sent = made.counts["sent"]
        made.converge()
        made.examine_end()
        assert made.counts["sent"] == sent


def test_a_raised_budget_lets_go_on_what_it_cancelled_and_what_never_ran() -> None:
    outcomes = {"*": Outcome("RUNNING")}
    with world(
        1, experiments=4, sweep=True, sweep_live=2, sweep_cost=50.0, outcomes=outcomes, prices=A_DOLLAR_A_SECOND
    ) as made:
        made.start_all()
        made.pass_time(100)
        assert list(made.alive()) == [4]
        raised = codec.patch_change("sweeps", 1, max_cost=5000.0)
        made.store.apply([SweepChanged(at=made.clock(), sweep_id=1, what="changed", changes=(raised,))])
        made.round()
        assert len(made.alive()) == 3, "two at once of the sweep, and the other"


def test_what_is_forgotten_frees_the_budget_that_it_used() -> None:
    outcomes = {"e1": Outcome("RUNNING"), "*": Outcome("SUCCEEDED", after=5)}
    with world(1, experiments=3, sweep=True, sweep_cost=200.0, outcomes=outcomes, prices=A_DOLLAR_A_SECOND) as made:
        made.ask("start", 1)
        made.pass_time(30)
        made.backend.inject("VanishedJob")
        made.pass_time(300)
        made.ask("start", 2)
        made.pass_time(10)
        assert made.counts["sent"] == 1, "a lost job may still run, and costs what it cost"
        made.forget(1)
        made.pass_time(10)
        assert made.counts["sent"] == 3, "itself, and the other"


def test_a_pass_in_which_nothing_changed_asks_no_more_for_a_budget() -> None:
    def asked(sweep_cost: float | None) -> dict[str, int]:
        outcomes = {"*": Outcome("RUNNING")}
        with world(1, experiments=4, sweep=True, sweep_cost=sweep_cost, outcomes=outcomes, prices={"*": 1.0}) as made:
            made.start_all()
            made.pass_time(130)
            with traced(made.store) as statements:
                made.look()
            return kinds(statements)

    assert asked(9e9) == asked(None)


def test_who_was_held_by_an_unclaimed_job_is_launched_when_that_has_ended() -> None:
    with world(1, experiments=1) as made:
        made.mine(1)
        made.look()
        made.ask("start", 1)
        made.pass_time(70)
        assert "sent" not in made.counts
        made.backend.finish(min(made.unclaimed))
        made.pass_time(200)
        assert made.counts["sent"] == 1


def test_a_start_that_cannot_be_planned_yet_is_shown_as_queued_and_not_as_stopped() -> None:
    with world(1, experiments=1) as made:
        made.backend.inject("FailedListing")
        made.pass_time(60)
        made.ask("start", 1)
        made.round()
        with made.store.read() as tx:
            (row,) = tx.experiments()
    assert (row.reason, row.observed_run, row.run) == ("ListingFailed", 0, 1)
    assert shown(row.desired_state, row.run, row.observed_run, row.current_state) == "QUEUED"


@pytest.mark.parametrize("name", ["e1", "E 1", "9-lives", "---", "a" * 100, "a" * 29 + "-b", "ÄÖ.x_y"])
def test_a_claim_is_a_name_that_everyone_takes_and_nobody_else_has(name: str) -> None:
    import re

    first, second = (orders.claim(name, "abcdef", i * 10) for i in "xy")
    assert first != second
    assert first.endswith("-sdabcdef-xxxxxxxxxx")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", first)
    assert len(first) <= 30 + len("-sdabcdef-xxxxxxxxxx")
