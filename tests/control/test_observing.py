"""What one listing says that was not known: facts, and what is no evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb import events as ev
from skydeck_nb.control.observing import (
    ABSENCES,
    CLEAN_MISSES,
    FIRST_MISS,
    NEXT_MISS,
    Facts,
    Known,
    facts,
    resolved,
)
from skydeck_nb.listing import Listing, Query, Resolution, SeenJob
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow
from skydeck_nb.states import TERMINAL
from tests.control.rows import T, ago, attempt, experiment, job

NAME = "exp-sdabcdef-attempt1"


def known(*jobs: JobRow, attempts: tuple[AttemptRow, ...] = (), absences: dict[int, int] | None = None) -> Known:
    rows: dict[int, ExperimentRow] = {1: experiment()}
    return Known(
        deck_id="abcdef",
        experiments=rows,
        jobs={j.id: j for j in jobs},
        attempts={a.claim: a for a in attempts},
        absences=absences or {},
    )


def seen(id: int = 1, status: str = "RUNNING", **said: Any) -> SeenJob:
    defaults: dict[str, Any] = {"id": id, "name": f"exp-sdabcdef-attempt{id}", "status": status}
    return SeenJob(**defaults | said)


def listing(*jobs: SeenJob, begun_at: datetime = T, ids: tuple[int, ...] = (1,), **how: Any) -> Listing:
    query = Query(
        deck_id="abcdef",
        job_ids=frozenset(ids),
        discovery=how.pop("discovery", True),
        everyone=how.pop("everyone", False),
    )
    return Listing(query=query, begun_at=begun_at, jobs=jobs, **how)


def changed(found: Facts) -> Mapping[str, Any]:
    """The columns that the first event changes."""
    return found.events[0].changes[0].columns or {}


def kinds(found: Facts) -> list[str]:
    return [type(e).__name__ for e in found.events]


def columns(found: Facts, table: str = "jobs") -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for event in found.events:
        for change in event.changes:
            if change.table == table and change.columns is not None:
                merged |= change.columns
    return merged


def test_an_unchanged_job_is_no_news() -> None:
    assert facts(known(job()), listing(seen()), T).events == ()


def test_what_the_backend_left_unsaid_erases_nothing() -> None:
    row = job(infra="aws/us-east-1", started_at=ago(5))
    assert facts(known(row), listing(seen()), T).events == ()


def test_a_status_that_moved() -> None:
    found = facts(known(job(1, "PENDING")), listing(seen(1, "STARTING")), T)
    assert kinds(found) == ["JobStateChanged"]
    assert columns(found) == {"status": "STARTING"}


def test_a_job_that_started_says_when() -> None:
    found = facts(known(job(1, "PENDING")), listing(seen(started_at=ago(3))), T)
    assert kinds(found) == ["JobStarted", "JobStateChanged"]
    assert columns(found) == {"status": "RUNNING", "started_at": ev.micros(ago(3))}


def test_a_job_that_was_placed() -> None:
    found = facts(known(job(1, "STARTING")), listing(seen(1, "STARTING", infra="aws/us-east-1a")), T)
    assert kinds(found) == ["JobPlaced"]


def test_a_job_that_finished_says_how_and_how_long() -> None:
    said = seen(1, "FAILED", exit_code=3, ended_at=ago(1), message="ValueError: no")
    found = facts(known(job(started_at=ago(11))), listing(said), T)
    (event,) = found.events
    assert isinstance(event, ev.JobFinished)
    assert (event.success, event.duration, event.exit_code, event.error) == (False, 10.0, 3, "ValueError: no")
    assert columns(found)["error_message"] == "ValueError: no"


def test_a_price_is_taken_up_follows_the_machines_and_is_not_erased() -> None:
    found = facts(known(job(status="STARTING")), listing(seen(hourly_cost=12.5)), T)
    assert columns(found)["hourly_cost"] == 12.5
    assert columns(facts(known(job(hourly_cost=12.5)), listing(seen(hourly_cost=9.0)), T)) == {"hourly_cost": 9.0}
    assert facts(known(job(hourly_cost=12.5)), listing(seen()), T).events == ()


def test_a_job_that_is_found_has_the_machines_that_were_asked_for_unless_it_says_others() -> None:
    found = columns(facts(known(attempts=(attempt(),)), listing(seen()), T))
    assert (found["nodes"], found["gpus"]) == (2, 2)
    found = columns(facts(known(attempts=(attempt(),)), listing(seen(gpus=8)), T))
    assert (found["nodes"], found["gpus"]) == (2, 8)


def test_why_a_job_waits_is_kept_until_it_waits_no_more() -> None:
    waits = facts(known(job(status="PENDING")), listing(seen(status="PENDING", message="Waiting for others")), T)
    assert changed(waits)["error_message"] == "Waiting for others"
    row = job(status="PENDING", error_message="Waiting for others")
    assert changed(facts(known(row), listing(seen(status="RUNNING")), T))["error_message"] is None


@pytest.mark.parametrize(("dirty", "commit"), [("0", "abc123"), ("1", "abc123-dirty"), (None, "abc123")])
def test_the_commit_that_a_job_says_it_was_launched_at_is_recorded(dirty: str | None, commit: str) -> None:
    said = {"git_commit": "abc123"} | ({} if dirty is None else {"git_dirty": dirty})
    found = facts(known(job()), listing(seen(metadata=said)), T)
    assert changed(found)["git_commit"] == commit
    assert not facts(known(job(git_commit=commit)), listing(seen(metadata=said)), T).events


def test_a_preemption_and_its_recovery() -> None:
    lost = facts(known(job()), listing(seen(1, "RECOVERING", reason="Preempted")), T)
    assert kinds(lost) == ["JobPreempted", "JobStateChanged"]
    back = facts(known(job(1, "RECOVERING")), listing(seen(recoveries=2)), T)
    assert kinds(back) == ["JobRecovered", "JobStateChanged"]
    assert columns(back) == {"status": "RUNNING", "recoveries": 2}


def test_a_job_that_finished_without_saying_when_did_so_by_now() -> None:
    assert columns(facts(known(job()), listing(seen(1, "FAILED")), T))["ended_at"] == ev.micros(T)


def test_a_job_of_another_name_is_ours_by_its_metadata() -> None:
    said = seen(1, "CANCELLING", name="cut-off", metadata={"attempt_id": "attempt1"})
    assert kinds(facts(known(job()), listing(said), T)) == ["JobStateChanged"]


def test_a_finished_job_stays_finished() -> None:
    assert facts(known(job(1, "SUCCEEDED")), listing(seen(1, "RUNNING")), T).events == ()


def test_a_listing_begun_before_the_last_change_is_no_evidence() -> None:
    row = replace(job(), changed_at=T)
    assert facts(known(row), listing(seen(1, "SUCCEEDED"), begun_at=ago(1)), T).events == ()
    assert facts(known(row), listing(begun_at=ago(1)), T) == Facts(events=(), absences={})


def test_a_partial_listing_makes_nobody_absent() -> None:
    assert facts(known(job()), listing(complete=False), T) == Facts(events=(), absences={})


def test_a_listing_that_did_not_ask_for_a_job_makes_it_not_absent() -> None:
    assert facts(known(job(7)), listing(discovery=False, ids=(1,)), T) == Facts(events=(), absences={})


def test_gone_once_is_counted_and_gone_twice_is_lost() -> None:
    once = facts(known(job()), listing(), T)
    assert once == Facts(events=(), absences={1: 1})
    twice = facts(known(job(), absences={1: 1}), listing(), T)
    assert kinds(twice) == ["JobLost"]
    assert columns(twice) == {"lost": 1}


def test_seen_again_in_between_begins_the_count_anew() -> None:
    assert facts(known(job(), absences={1: 1}), listing(seen()), T).absences == {}


def test_a_lost_job_that_returns_is_found() -> None:
    found = facts(known(job(lost=True)), listing(seen()), T)
    assert kinds(found) == ["JobFound"]
    assert columns(found) == {"lost": 0, "forgotten": 0}


def test_a_forgotten_job_that_is_alive_after_all_is_found() -> None:
    assert kinds(facts(known(job(lost=True, forgotten=True)), listing(seen()), T)) == ["JobFound"]


def test_a_forgotten_job_need_not_be_lost_to_be_found() -> None:
    assert kinds(facts(known(job(forgotten=True)), listing(seen()), T)) == ["JobFound"]


def test_an_adopted_job_is_the_same_only_with_name_and_user() -> None:
    row = job(adopted=True, attempt_id=None, name="by-hand", user="me")
    assert facts(known(row), listing(seen(name="by-hand", user="me")), T) == Facts(events=(), absences={})
    for other in ({"name": "by-hand", "user": "you"}, {"name": "another", "user": "me"}):
        assert kinds(facts(known(row), listing(seen(1, **other)), T)) == ["JobLost"]


def test_an_adopted_job_of_another_submission_is_another_job() -> None:
    row = job(adopted=True, attempt_id=None, name="by-hand", user="me", submitted_at=ago(500))
    again = seen(name="by-hand", user="me", submitted_at=ago(50))
    assert kinds(facts(known(row), listing(again), T)) == ["JobLost"]


def test_a_job_found_of_an_older_run_is_not_the_current_one() -> None:
    rows = replace(known(attempts=(attempt(),)), experiments={1: experiment(run=2)})
    found = facts(rows, listing(seen(1, "PENDING")), T)
    assert columns(found, "attempts")["state"] == "SUBMITTED"
    assert columns(found, "experiments") == {}


def test_only_a_backend_that_can_prove_death_ends_a_job_that_is_gone() -> None:
    found = facts(known(job()), listing(proves_death=True), T)
    assert kinds(found) == ["JobFinished"]
    assert columns(found)["status"] == "FAILED"


def test_an_id_that_another_job_has_is_lost_at_once_so_that_nobody_elses_is_cancelled() -> None:
    other = seen(1, "RUNNING", name="somebody-elses")
    assert kinds(facts(known(job()), listing(other), T)) == ["JobLost"]


def test_a_copy_of_our_task_under_another_name_is_not_ours() -> None:
    said = {"deck_id": "abcdef", "experiment_id": "1", "attempt_id": "attempt1", "run": "1"}
    assert kinds(facts(known(), listing(seen(9, name="copied", metadata=said)), T)) == ["JobSeen"]
    assert kinds(facts(known(), listing(seen(9, name="copied", metadata=said, mine=False)), T)) == []


def test_a_job_of_an_unanswered_launch_is_found_by_its_name() -> None:
    found = facts(known(attempts=(attempt(),)), listing(seen(1, "PENDING")), T)
    assert kinds(found) == ["JobSubmitted"]
    assert columns(found, "attempts")["state"] == "SUBMITTED"
    assert columns(found, "experiments") == {"current_job_id": 1}
    assert columns(found)["experiment_id"] == 1


def test_a_job_is_ours_by_its_metadata_even_if_the_attempts_row_is_lost() -> None:
    said = {"deck_id": "abcdef", "experiment_id": "1", "attempt_id": "zzz", "run": "4", "generation": "2"}
    found = facts(known(), listing(seen(9, metadata=said)), T)
    assert columns(found)["experiment_id"] == 1
    assert (columns(found)["run"], columns(found)["generation"]) == (4, 2)


def test_a_late_twin_of_a_launch_given_up_is_ours_and_reopens_nothing() -> None:
    given_up = attempt(state="NOT_LAUNCHED", ended_at=ago(5))
    found = facts(known(attempts=(given_up,)), listing(seen(1, "PENDING")), T)
    assert columns(found)["attempt_id"] == "attempt1"
    assert columns(found, "attempts") == {}


def test_a_job_that_is_found_when_it_has_ended_already_says_both() -> None:
    found = facts(known(attempts=(attempt(),)), listing(seen(1, "SUCCEEDED")), T)
    assert kinds(found) == ["JobSubmitted", "JobFinished"]


def test_a_job_of_another_deck_is_an_orphan_of_ours() -> None:
    said = {"deck_id": "zzzzzz", "experiment_id": "1", "attempt_id": "a"}
    found = facts(known(), listing(seen(5, name="exp-sdzzzzzz-a", metadata=said)), T)
    assert kinds(found) == ["JobSeen"]
    assert columns(found)["experiment_id"] is None


def test_an_orphan_of_another_user_or_one_that_has_ended_is_no_news() -> None:
    assert facts(known(), listing(seen(5, name="x", mine=False)), T).events == ()
    assert facts(known(), listing(seen(5, name="x", status="FAILED")), T).events == ()


OTHERS: dict[str, Any] = {"name": "theirs", "mine": False, "user": "somebody"}
THEIRS = job(5, experiment_id=None, attempt_id=None, **OTHERS)


def test_a_live_job_of_another_user_is_shown_to_who_asked_for_everyone() -> None:
    found = facts(known(), listing(seen(5, **OTHERS), everyone=True), T)
    assert kinds(found) == ["JobSeen"]
    assert (columns(found)["experiment_id"], columns(found)["mine"], columns(found)["user"]) == (None, 0, "somebody")
    assert facts(known(), listing(seen(5, "FAILED", **OTHERS), everyone=True), T).events == ()


@pytest.mark.parametrize("everyone", [True, False])
def test_a_job_of_another_user_is_hidden_when_it_is_gone_or_nobody_asks(everyone: bool) -> None:
    found = facts(known(THEIRS), listing(everyone=everyone), T)
    assert kinds(found) == ["JobStateChanged"]
    assert columns(found) == {"forgotten": 1}


def test_a_look_that_does_not_cover_a_job_of_another_user_hides_nothing() -> None:
    assert facts(known(THEIRS), listing(discovery=False), T).events == ()
    assert facts(known(THEIRS), listing(everyone=True, complete=False), T).events == ()


def test_a_job_of_another_user_that_was_hidden_is_shown_again_and_is_no_find() -> None:
    found = facts(known(replace(THEIRS, forgotten=True)), listing(seen(5, **OTHERS), everyone=True), T)
    assert kinds(found) == ["JobStateChanged"]
    assert columns(found) == {"lost": 0, "forgotten": 0}


def test_an_orphan_that_is_gone_is_hidden_and_not_judged() -> None:
    found = facts(known(job(5, experiment_id=None)), listing(), T)
    assert columns(found) == {"forgotten": 1}


STATUSES = ["PENDING", "STARTING", "RUNNING", "RECOVERING", "CANCELLING", "HIBERNATING", *sorted(TERMINAL)]


@given(st.sampled_from(STATUSES), st.sampled_from(STATUSES), st.booleans(), st.booleans(), st.booleans())
def test_saying_it_twice_says_nothing_new(before: str, after: str, lost: bool, complete: bool, listed: bool) -> None:
    row = job(1, before, lost=lost)
    look = listing(*([seen(1, after)] if listed else []), complete=complete)
    first = facts(known(row), look, T)
    tables: ev.Tables = {"jobs": {1: {}}}
    for event in first.events:
        ev.fold(tables, event.changes)
    cells = tables["jobs"][1]
    moved = replace(
        row,
        status=str(cells.get("status", row.status)),
        lost=bool(cells.get("lost", row.lost)),
        error_message=None,
        ended_at=T if "ended_at" in cells else row.ended_at,
        exit_code=None,
    )
    again = facts(known(moved, absences=dict(first.absences)), look, T)
    assert [e for e in again.events if not isinstance(e, ev.JobLost)] == []


# -- launches without an answer ---------------------------------------------------------


def look(after: timedelta, **found: Any) -> Resolution:
    return Resolution(begun_at=SENT + after, **found)


SENT = T - timedelta(hours=1)
OPEN = attempt(send_before=SENT)


def ends(tried: AttemptRow, found: Resolution) -> tuple[ev.Event, ...]:
    return resolved(tried, found, T, lambda job_id: (ev.Change("jobs", job_id, {"status": "PENDING"}),))


def test_a_job_that_is_found_answers_the_launch() -> None:
    (event,) = ends(OPEN, look(timedelta(0), job_id=4))
    assert isinstance(event, ev.JobSubmitted)
    assert event.job_id == 4


def test_a_launch_that_can_never_happen_is_over_at_once() -> None:
    (event,) = ends(OPEN, look(timedelta(0), never=True))
    assert isinstance(event, ev.AttemptNotLaunched)


@pytest.mark.parametrize(("retryable", "error"), [(False, "No such image."), (True, "Retry: No such image.")])
def test_a_request_that_failed_closes_the_attempt_as_refused(retryable: bool, error: str) -> None:
    (event,) = ends(OPEN, look(timedelta(0), rejected="No such image.", retryable=retryable))
    assert isinstance(event, ev.AttemptRejected)
    assert (event.message, event.retryable) == ("No such image.", retryable)
    (change,) = event.changes
    assert change.columns == {"state": "REJECTED", "error": error, "ended_at": ev.micros(T)}


def test_a_job_that_is_found_counts_more_than_a_request_that_failed() -> None:
    (event,) = ends(OPEN, look(timedelta(0), job_id=4, rejected="It says it failed."))
    assert isinstance(event, ev.JobSubmitted)


@pytest.mark.parametrize(
    ("misses", "missed", "after", "counted"),
    [
        (0, None, FIRST_MISS - timedelta(seconds=1), None),
        (0, None, FIRST_MISS, 1),
        (1, FIRST_MISS, FIRST_MISS + NEXT_MISS - timedelta(seconds=1), None),
        (1, FIRST_MISS, FIRST_MISS + NEXT_MISS, CLEAN_MISSES),
    ],
)
def test_two_clean_misses_a_minute_apart_the_first_two_minutes_after_the_last_send(
    misses: int, missed: timedelta | None, after: timedelta, counted: int | None
) -> None:
    tried = replace(OPEN, misses=misses, missed_at=None if missed is None else SENT + missed)
    found = ends(tried, look(after, clean_miss=True))
    if counted is None:
        assert found == ()
    elif counted < CLEAN_MISSES:
        assert isinstance(found[0], ev.AttemptMissed)
    else:
        assert isinstance(found[0], ev.AttemptNotLaunched)


def test_any_other_answer_begins_the_count_anew() -> None:
    tried = replace(OPEN, misses=1, missed_at=SENT + FIRST_MISS)
    (event,) = ends(tried, look(FIRST_MISS + NEXT_MISS))
    assert isinstance(event, ev.AttemptMissed)
    assert event.misses == 0


def test_the_numbers_of_the_design() -> None:
    assert (ABSENCES, CLEAN_MISSES) == (2, 2)
    assert (FIRST_MISS.total_seconds(), NEXT_MISS.total_seconds()) == (120, 60)


def test_a_miss_counts_from_when_looking_began() -> None:
    (event,) = ends(OPEN, look(FIRST_MISS, clean_miss=True))
    (change,) = event.changes
    assert change.columns == {"misses": 1, "missed_at": ev.micros(SENT + FIRST_MISS)}
