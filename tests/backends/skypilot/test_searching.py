"""What one look for an unanswered launch proves, by what the server has."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skydeck_nb.backends.skypilot import searching
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.searching import BODIES, LISTED, Search, launched_id
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendError, BackendUnavailable
from skydeck_nb.listing import Resolution
from tests.backends.skypilot.server import Made, Server
from tests.backends.skypilot.wrongdoer import failed, returned, says, shows

CLAIM = "ppo-sdabcdef-aaaaaaaaaa"
SENT_AT = datetime.fromtimestamp(1_900_000_000, UTC)


@pytest.fixture
def search(transport: Transport) -> Search:
    return Search(transport)


@pytest.fixture
def a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is certain at the first look."""
    monkeypatch.setattr(searching, "AGAIN", -1.0)


def launch(
    server: Server,
    status: str = "SUCCEEDED",
    job_id: int | None = None,
    *,
    claim: str = CLAIM,
    number: str = "L",
    **made: Any,
) -> Made:
    """A launch request that the server has."""
    value = {"job_id": None if job_id is None else [job_id], "handle": "gASV"}
    request = Made(number, "sky.jobs.launch", {"name": claim, "task": "…"}, status=status, value=value, **made)
    request.created_at = request.created_at or SENT_AT.timestamp()
    server.requests.append(request)
    return request


def look(search: Search, request_id: str | None = None, **changes: Any) -> Resolution:
    """One look."""
    asked: dict[str, Any] = {
        "since": SENT_AT, "sender": "u1", "viewer": Viewer("u1", "http://sky"), "until": time.monotonic() + 20,
    }  # fmt: skip
    return search.resolve(CLAIM, request_id, **{**asked, **changes})


def verdict(found: Resolution) -> str:
    """The one thing that a look proves."""
    said = {
        "job": found.job_id is not None,
        "never": found.never,
        "clean miss": found.clean_miss,
        "rejected": bool(found.rejected),
    }
    proved = [word for word, holds in said.items() if holds]
    assert len(proved) <= 1
    assert proved == ["rejected"] or found.message
    return proved[0] if proved else "nothing"


# -- by the request --------------------------------------------------------------------------


@pytest.mark.usefixtures("a_minute_later")
@pytest.mark.parametrize("known", [True, False], ids=["its id is known", "its id is not known"])
@pytest.mark.parametrize(
    ("status", "job_id", "queued", "proves"),
    [
        ("PENDING", None, False, "nothing"),
        ("WAITING", None, False, "nothing"),
        ("RUNNING", None, False, "nothing"),
        ("SOMETHING_NEW", None, False, "nothing"),
        ("SUCCEEDED", 7, True, "job"),
        ("SUCCEEDED", 7, False, "job"),
        ("SUCCEEDED", None, True, "job"),
        ("SUCCEEDED", None, False, "nothing"),
        ("CANCELLED", None, False, "never"),
        ("CANCELLED", None, True, "job"),
        ("FAILED", None, True, "job"),
    ],
)
def test_what_became_of_the_launch_request(
    server: Server, search: Search, known: bool, status: str, job_id: int | None, queued: bool, proves: str
) -> None:
    request = launch(server, status, job_id)
    if queued:
        server.job(7, CLAIM)
    found = look(search, request.id if known else None)
    assert verdict(found) == proves
    assert found.job_id == (7 if proves == "job" else None)


@pytest.mark.parametrize("error", [None, ("ValueError", "No such pool.")], ids=["cancelled", "failed"])
def test_what_has_ended_without_a_job_is_certain_when_it_is_so_a_minute_later(
    server: Server, search: Search, monkeypatch: pytest.MonkeyPatch, error: tuple[str, str] | None
) -> None:
    """A controller elsewhere may write a job's row after its request has ended."""
    launch(server, "CANCELLED" if error is None else "FAILED", error=error)
    assert [verdict(look(search)) for _ in range(2)] == ["nothing", "nothing"]
    monkeypatch.setattr(searching, "AGAIN", 0.0)
    assert verdict(look(search)) == ("never" if error is None else "rejected")


def test_a_job_that_turns_up_after_its_request_has_ended_is_found(server: Server, search: Search) -> None:
    launch(server, "FAILED", error=("RuntimeError", "lost"))
    look(search)
    server.job(7, CLAIM)
    assert look(search).job_id == 7


@pytest.mark.usefixtures("a_minute_later")
@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (("ValueError", "No such pool."), False),
        (("ResourcesUnavailableError", "Nothing has 1000 CPUs."), False),
        (("RequestInterruptedError", "Interrupted by a restart."), True),
    ],
)
def test_a_launch_that_failed_and_left_no_job_is_rejected_with_the_servers_word(
    server: Server, search: Search, error: tuple[str, str], retryable: bool
) -> None:
    launch(server, "FAILED", error=error)
    found = look(search)
    assert verdict(found) == "rejected"
    assert error[1] in found.rejected
    assert found.retryable == retryable


@pytest.mark.usefixtures("a_minute_later")
def test_a_failed_launch_whose_reason_cannot_be_read_is_rejected_and_may_be_tried_again(
    server: Server, search: Search
) -> None:
    launch(server, "FAILED")
    server.tell("/api/get", returned({"jobs": []}), says("", 502))
    found = look(search)
    assert (verdict(found), found.retryable) == ("rejected", True)


def test_two_launches_of_one_claim_are_the_one_that_made_a_job(server: Server, search: Search) -> None:
    launch(server, "FAILED", number="A", error=("ValueError", "no"))
    launch(server, "SUCCEEDED", 8, number="B")
    assert look(search).job_id == 8


def test_two_launches_of_one_claim_of_which_one_is_under_way_prove_nothing(server: Server, search: Search) -> None:
    launch(server, "FAILED", number="A", error=("ValueError", "no"))
    launch(server, "RUNNING", number="B")
    assert verdict(look(search)) == "nothing"


def test_a_request_that_the_server_forgot_is_looked_for_everywhere(server: Server, search: Search) -> None:
    server.job(9, CLAIM)
    assert look(search, "forgotten").job_id == 9


def test_a_request_whose_id_begins_with_ours_is_another_one(server: Server, search: Search) -> None:
    """The server finds requests by the beginning of their ids."""
    launch(server, "SUCCEEDED", 8, number="Lx", claim="other-sdabcdef-bbbbbbbbbb")
    assert verdict(look(search, "L")) == "nothing"


def test_launches_of_other_claims_are_no_launches_of_this_one(server: Server, search: Search) -> None:
    launch(server, "SUCCEEDED", 8, claim=CLAIM + "x", number="A")
    launch(server, "RUNNING", claim="other", number="B")
    assert look(search).job_id is None
    assert verdict(look(search)) == "clean miss"


# -- by the queue ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [CLAIM.upper(), CLAIM + "2", "x" + CLAIM, CLAIM.replace("-", "_"), CLAIM.replace("p", "%")]
)
def test_a_similar_name_in_the_queue_is_another_job(server: Server, search: Search, name: str) -> None:
    """The server takes a name as part of a pattern, in any case."""
    server.job(5, name)
    assert look(search).job_id is None


def test_of_two_jobs_of_one_claim_the_first_is_told(server: Server, search: Search) -> None:
    server.job(6, CLAIM, "SUCCEEDED")
    server.job(5, CLAIM, "CANCELLED")
    assert look(search).job_id == 5


def test_a_job_of_another_user_is_found_by_its_claim(server: Server, search: Search) -> None:
    server.job(5, CLAIM, user_hash="u2")
    assert look(search).job_id == 5


def test_a_server_without_a_jobs_controller_has_no_jobs(server: Server, search: Search) -> None:
    server.tell("/api/get", failed("ClusterNotUpError", "No in-progress managed jobs."))
    look(search)
    assert verdict(look(search)) == "clean miss"


@pytest.mark.parametrize("answer", [failed("RuntimeError", "database is locked"), says("", 503), shows([1])])
def test_a_queue_that_cannot_be_read_proves_nothing(server: Server, search: Search, answer: Any) -> None:
    look(search)
    server.tell("/api/get", answer)
    with pytest.raises(BackendUnavailable):
        look(search)


# -- clean misses --------------------------------------------------------------------------------


def test_the_first_miss_begins_the_count_and_the_second_is_clean(server: Server, search: Search) -> None:
    assert verdict(look(search)) == "nothing"
    assert verdict(look(search)) == "clean miss"
    assert verdict(look(search)) == "clean miss"


def test_a_look_says_when_it_was_begun(server: Server, search: Search) -> None:
    before = datetime.now(UTC)
    look(search)
    found = look(search)
    assert before <= found.begun_at <= datetime.now(UTC)
    assert found.begun_at + timedelta(minutes=1) > before


def test_a_server_that_was_started_in_between_begins_the_count_again(server: Server, search: Search) -> None:
    """It forgets its requests then, and with them a launch that had not yet become a job."""
    look(search)
    server.restart()
    assert "started" in look(search).message
    assert verdict(look(search)) == "clean miss"


def test_a_miss_as_another_user_is_not_clean(server: Server, search: Search) -> None:
    for _ in range(3):
        found = look(search, sender="u2")
        assert verdict(found) == "nothing"
        assert "u2" in found.message


def test_a_miss_is_clean_where_the_sender_was_never_asked_for(server: Server, search: Search) -> None:
    look(search, sender=None)
    assert verdict(look(search, sender=None)) == "clean miss"


def test_an_answered_claim_is_counted_anew(server: Server, search: Search) -> None:
    look(search)
    search.forget(CLAIM)
    assert verdict(look(search)) == "nothing"


def test_each_claim_counts_for_itself(server: Server, search: Search) -> None:
    look(search)
    found = search.resolve(
        "other-sdabcdef-bbbbbbbbbb", None, since=SENT_AT, sender="u1", viewer=Viewer("u1", "http://sky"),
        until=time.monotonic() + 20,
    )  # fmt: skip
    assert verdict(found) == "nothing"


def test_a_launch_that_turns_up_after_a_miss_is_found(server: Server, search: Search) -> None:
    look(search)
    look(search)
    server.job(11, CLAIM)
    assert look(search).job_id == 11


# -- the list of requests ------------------------------------------------------------------------


def test_a_launch_of_ours_whose_body_is_hidden_leaves_it_to_a_person(server: Server, search: Search) -> None:
    launch(server, "SUCCEEDED", 8, shown=False)
    with pytest.raises(BackendUnavailable, match="does not show"):
        look(search)


def test_a_launch_of_another_user_whose_body_is_hidden_is_not_ours(server: Server, search: Search) -> None:
    launch(server, "SUCCEEDED", 8, shown=False, user_id="u2")
    look(search)
    assert verdict(look(search)) == "clean miss"


@pytest.mark.parametrize(
    "answer", [shows({}), shows([1]), shows([{"name": "x"}]), says("", 500), says("<p>", kind="text/html")]
)
def test_a_list_of_requests_that_cannot_be_read_proves_nothing(server: Server, search: Search, answer: Any) -> None:
    server.tell("/api/status", answer)
    with pytest.raises(BackendError):
        look(search)
    assert server.of("/jobs/queue/v2") == []


def others(server: Server, count: int, at: float) -> None:
    server.requests.extend(Made(f"o-{n:05}", "sky.status", {}, created_at=at + n / 10_000) for n in range(count))


def test_the_list_is_read_back_to_before_the_launch_and_no_further(server: Server, search: Search) -> None:
    others(server, LISTED[0] + 10, (SENT_AT - timedelta(hours=1)).timestamp())
    launch(server, "RUNNING")
    assert verdict(look(search)) == "nothing"
    limits = [asked.query["limit"] for asked in server.of("/api/status") if "limit" in asked.query]
    assert limits == [[str(LISTED[0])]]


def test_a_list_that_does_not_reach_back_is_asked_for_longer(server: Server, search: Search) -> None:
    launch(server, "SUCCEEDED", 8)
    others(server, LISTED[0] + 10, (SENT_AT + timedelta(hours=1)).timestamp())
    assert look(search).job_id == 8


def test_a_list_that_never_reaches_back_proves_nothing(server: Server, search: Search) -> None:
    others(server, LISTED[-1] + 10, (SENT_AT + timedelta(hours=1)).timestamp())
    with pytest.raises(BackendUnavailable, match=f"more than {LISTED[-1]:,} requests"):
        look(search)


def test_a_launch_of_an_unknown_time_reads_the_whole_list(server: Server, search: Search) -> None:
    others(server, LISTED[0] + 10, 1_000_000.0)
    launch(server, "SUCCEEDED", 8, created_at=1.0)
    assert look(search, since=None).job_id == 8


def test_bodies_are_read_once_and_a_few_at_a_time(server: Server, search: Search) -> None:
    """Each holds a task's YAML."""
    for number in range(BODIES + 1):
        launch(server, "RUNNING", claim=f"other-{number}", number=f"x{number}")
    for _ in range(3):
        look(search)
    asked = [ids for one in server.of("/api/status") if (ids := one.query.get("request_ids", ["q"]))[0][0] == "x"]
    assert [len(ids) for ids in asked] == [BODIES, 1]


# -- what is under way ------------------------------------------------------------------------------


def running(search: Search, request_id: str | None = None) -> list[str]:
    viewer = Viewer("u1", "http://sky")
    return search.running(CLAIM, request_id, since=SENT_AT, viewer=viewer, until=time.monotonic() + 20)


def test_the_requests_of_a_claim_that_are_not_over(server: Server, search: Search) -> None:
    launch(server, "RUNNING", number="A")
    launch(server, "PENDING", number="B")
    launch(server, "FAILED", number="C")
    launch(server, "RUNNING", claim="other", number="D")
    assert running(search) == ["A", "B"]


def test_a_request_that_is_known_is_under_way_until_seen_otherwise(server: Server, search: Search) -> None:
    assert running(search, "Z") == ["Z"]


@pytest.mark.parametrize(
    ("value", "job_id"),
    [
        ({"job_id": [7], "handle": "gASV"}, 7),
        ({"job_id": None, "handle": None}, None),
        ([7, None], 7),
        ([7], 7),
        (7, 7),
        ({"job_id": 7}, 7),
        ({"job_ids": [7, 8]}, 7),
        ([], None),
        (None, None),
        ([None, None], None),
        (True, None),
        ("7", None),
    ],
)
def test_the_job_of_a_launchs_result(value: Any, job_id: int | None) -> None:
    assert launched_id(value) == job_id
