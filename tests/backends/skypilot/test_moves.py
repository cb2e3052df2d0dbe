"""What is asked about a job once, when it moves, and shown until it moves again."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from skydeck_nb.backends.skypilot import moves
from skydeck_nb.backends.skypilot.catalogue import Catalogue
from skydeck_nb.backends.skypilot.moves import REASONS, Moves, said
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.listing import SeenJob
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import failed

NONE: frozenset[int] = frozenset()


class Watch:
    """Looks one after the other."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self.server = server
        self.moves = Moves(transport, Catalogue(transport))

    def see(self, *jobs: SeenJob, spot: frozenset[int] = NONE) -> dict[int, SeenJob]:
        self.server.asked.clear()
        return self.moves.completed({one.id: one for one in jobs}, spot, until=time.monotonic() + 20)

    @property
    def asked(self) -> list[str]:
        """What the last look asked, besides results."""
        return [path for path in self.server.paths() if path != "/api/get"]


@pytest.fixture
def watch(server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(moves, "PLACE_AGAIN", 0.0)
    for number in range(1, 101):
        server.job(number, infra="AWS (us-east-1)")
    server.offers = {"H100": [["AWS", "p5", "H100", 8, 1, 1, 1, 98.0, 40.0, "us-east-1"]]}
    return Watch(server, transport)


def job(number: int = 1, status: str = "RUNNING", **changes: Any) -> SeenJob:
    changes = {"accelerators": "H100:8", "nodes": 1, **changes}
    return SeenJob(id=number, name=f"job-{number}", status=status, **changes)


def test_where_a_job_runs_and_what_it_costs_is_asked_once(watch: Watch) -> None:
    first = watch.see(job())[1]
    assert (first.infra, first.hourly_cost) == ("AWS (us-east-1)", 98.0)
    assert watch.asked == ["/jobs/queue/v2", "/list_accelerators"]
    for _ in range(3):
        assert watch.see(job())[1] == first
        assert watch.asked == []


def test_a_steady_look_at_many_jobs_asks_nothing(watch: Watch) -> None:
    jobs = [job(number) for number in range(1, 101)]
    watch.see(*jobs)
    assert watch.asked == ["/jobs/queue/v2", "/list_accelerators"]
    watch.see(*jobs)
    assert watch.asked == []


def test_places_are_asked_for_a_few_times_a_minute_at_most(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the server opens the handles of clusters."""
    monkeypatch.setattr(moves, "PLACE_AGAIN", 60.0)
    watch.see(job(1))
    assert watch.see(job(1), job(2))[2].infra is None
    assert watch.asked == []


def test_many_that_begin_at_once_are_asked_for_in_parts(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "PLACES", 3)
    jobs = [job(number) for number in range(1, 6)]
    placed = [sum(one.infra is not None for one in watch.see(*jobs).values()) for _ in range(2)]
    assert placed == [3, 5]


@pytest.mark.parametrize("status", ["PENDING", "STARTING", "SUCCEEDED", "CANCELLING", "NEW"])
def test_what_does_not_run_is_nowhere_yet(watch: Watch, status: str) -> None:
    assert watch.see(job(status=status))[1].infra is None
    assert watch.asked == []


def test_a_spot_job_costs_the_spot_price(watch: Watch) -> None:
    assert watch.see(job(), spot=frozenset({1}))[1].hourly_cost == 40.0


def test_a_job_that_recovered_is_placed_anew(watch: Watch) -> None:
    watch.see(job())
    watch.see(job(status="RECOVERING"))
    watch.server.jobs[0]["infra"] = "GCP (us-central1)"
    assert watch.see(job(recoveries=1))[1].infra == "GCP (us-central1)"


def test_a_recovery_between_two_looks_is_seen_by_its_count(watch: Watch) -> None:
    watch.see(job())
    watch.server.jobs[0]["infra"] = "GCP (us-central1)"
    assert watch.see(job(recoveries=1))[1].infra == "GCP (us-central1)"


def test_a_job_that_ended_keeps_where_it_was(watch: Watch) -> None:
    watch.see(job())
    ended = watch.see(job(status="SUCCEEDED"))[1]
    assert (ended.infra, ended.hourly_cost) == ("AWS (us-east-1)", 98.0)
    assert watch.asked == []


# -- why -----------------------------------------------------------------------------------------------

PREEMPTED = [
    {"new_status": "RECOVERING", "reason": "Cluster preempted or failed.\x1b[0m\n", "timestamp": 2},
    {"new_status": "RUNNING", "reason": "Started", "timestamp": 1},
]


def test_why_a_job_is_moved_is_asked_once(watch: Watch) -> None:
    watch.server.events = {1: PREEMPTED}
    moved = watch.see(job(status="RECOVERING"))[1]
    assert (moved.reason, moved.message) == ("Preempted", "Cluster preempted or failed.")
    assert watch.asked == ["/jobs/events"]
    assert watch.see(job(status="RECOVERING"))[1] == moved
    assert watch.asked == []


def test_a_job_that_is_moved_again_is_asked_again(watch: Watch) -> None:
    watch.server.events = {1: PREEMPTED}
    watch.see(job(status="RECOVERING"))
    watch.see(job(recoveries=1))
    watch.see(job(status="RECOVERING", recoveries=1))
    assert watch.asked == ["/jobs/events"]


def test_a_recovery_without_a_word_is_said_all_the_same(watch: Watch) -> None:
    moved = watch.see(job(status="RECOVERING"))[1]
    assert (moved.reason, moved.message) == ("Preempted", "Its machines were lost.")


def test_a_job_that_runs_again_has_no_reason(watch: Watch) -> None:
    watch.server.events = {1: PREEMPTED}
    watch.see(job(status="RECOVERING"))
    assert watch.see(job(recoveries=1))[1].message == ""


def test_many_that_are_moved_at_once_are_asked_in_parts(watch: Watch) -> None:
    jobs = [job(number, "RECOVERING") for number in range(1, REASONS + 3)]
    counts = []
    for _ in range(3):
        watch.see(*jobs)
        counts.append(len(watch.asked))
    assert counts == [REASONS, 2, 0]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (PREEMPTED, "Cluster preempted or failed."),
        ([{"new_status": "RECOVERING"}, *PREEMPTED], "Cluster preempted or failed."),
        ([], ""),
        (None, ""),
        ({}, ""),
        ([None, 5, "x"], ""),
        ([{"new_status": "RECOVERING", "reason": 5}], ""),
    ],
)
def test_the_newest_reason_of_a_recovery(events: Any, why: str) -> None:
    assert said(events) == why


# -- whose reasons are asked for -------------------------------------------------------------------------


def test_the_servers_reasons_are_asked_for_while_one_does_not_run(watch: Watch) -> None:
    assert watch.moves.waiting([1])
    watch.see(job(1, "PENDING"), job(2))
    assert watch.moves.waiting([1, 2])
    assert not watch.moves.waiting([2])
    assert not watch.moves.waiting([])


# -- trouble ---------------------------------------------------------------------------------------------


def test_what_could_not_be_asked_is_asked_at_the_next_look_and_fails_none(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch.server.tell("/api/get", failed("RuntimeError", "busy"))
    for _ in range(3):
        assert watch.see(job())[1].infra is None
        assert watch.asked == ["/jobs/queue/v2"]
    assert caplog.text.count("asked for again") == 1
    watch.server.forget()
    assert watch.see(job())[1].infra == "AWS (us-east-1)"


def test_what_one_job_cannot_be_asked_keeps_no_other_from_being_placed(watch: Watch) -> None:
    watch.server.tell("/jobs/events", failed("RuntimeError", "busy"))
    found = watch.see(job(1), job(2, "RECOVERING"))
    assert found[1].infra == "AWS (us-east-1)"


def test_only_the_latest_jobs_are_remembered(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "REMEMBERED", 3)
    watch.see(*(job(number, "SUCCEEDED") for number in range(1, 6)))
    watch.see(job(6, "SUCCEEDED"))
    assert list(watch.moves._known) == [4, 5, 6]


def test_a_look_at_more_jobs_than_are_remembered_fails_none(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "REMEMBERED", 2)
    found = watch.see(*(job(number) for number in range(1, 6)), job(6, "RECOVERING"))
    assert len(found) == 6
