"""One look: which requests answer a query, and which of what they list it asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from skydeck_nb.backends.skypilot import looking, queue
from skydeck_nb.backends.skypilot.looking import Found, Looker, wanted
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendUnavailable
from skydeck_nb.listing import Query, SeenJob
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import failed, returned

DECK = "abcdef"
HANDLES = {"infra", "cloud", "region", "zone", "cluster_resources", "accelerators", "labels"}

Look = Callable[..., Found]


@pytest.fixture
def look(transport: Transport) -> Look:
    looker = Looker(transport, lambda ids: False)

    def look(*ids: int, **query: Any) -> Found:
        return looker.look(Query(deck_id=DECK, job_ids=frozenset(ids), **query), 62, until=time.monotonic() + 20)

    return look


def claim(number: int, deck: str = DECK) -> str:
    return f"ppo-sd{deck}-" + "".join("abcdefghij"[int(digit)] for digit in f"{number:010}")


def ours(server: Server, *numbers: int, **record: Any) -> None:
    for number in numbers:
        server.job(number, claim(number), **record)


# -- how many requests ---------------------------------------------------------------------------


def test_a_steady_look_at_500_jobs_is_one_request_that_opens_no_handle(server: Server, look: Look) -> None:
    ours(server, *range(1, 501))
    found = look(*range(1, 501))
    assert len(found.rows) == 500
    (body,) = server.queue()
    assert not HANDLES & set(body["fields"])
    assert "details" not in body["fields"]
    assert server.paths() == ["/jobs/queue/v2", "/api/get"]


def test_a_look_at_nothing_asks_nothing(server: Server, look: Look) -> None:
    assert look().rows == {}
    assert server.asked == []


def test_a_thousand_ids_go_at_once_and_more_in_parts(server: Server, look: Look) -> None:
    ours(server, *range(1, queue.AT_ONCE + 2))
    assert len(look(*range(1, queue.AT_ONCE + 2)).rows) == queue.AT_ONCE + 1
    assert [len(body["job_ids"]) for body in server.queue()] == [queue.AT_ONCE, 1]


def test_reasons_are_asked_for_while_one_waits(server: Server, transport: Transport) -> None:
    ours(server, 1, status="PENDING", details="Waiting for other jobs to launch")
    looker = Looker(transport, lambda ids: ids == {1})
    looker.look(Query(deck_id=DECK, job_ids=frozenset({1})), 62, until=time.monotonic() + 20)
    (body,) = server.queue()
    assert "details" in body["fields"]


def test_unanswered_launches_are_looked_for_among_the_newest_of_ours(server: Server, look: Look) -> None:
    ours(server, 1, 2)
    found = look(1, claims=frozenset({claim(2)}))
    assert found.rows.keys() == {1, 2}
    (body,) = server.queue()
    assert (body["name_match"], body["limit"]) == (f"-sd{DECK}-", looking.RECENT)


def test_what_the_newest_leave_out_is_asked_for_by_id(
    server: Server, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "RECENT", 1)
    ours(server, 1, 2)
    assert look(1, claims=frozenset({claim(2)})).rows.keys() == {1, 2}
    assert [body.get("job_ids") for body in server.queue()] == [None, [1]]


def test_of_what_is_found_by_name_only_what_waits_is_asked_why(server: Server, transport: Transport) -> None:
    ours(server, 1)
    ours(server, 2, status="PENDING", details="Waiting")
    looker = Looker(transport, lambda ids: True)
    query = Query(deck_id=DECK, job_ids=frozenset({1, 2}), claims=frozenset({claim(3)}))
    found = looker.look(query, 62, until=time.monotonic() + 20)
    assert [body.get("job_ids") for body in server.queue()] == [None, [2]]
    (row,) = found.rows[2]
    assert (row["details"], row["job_name"]) == ("Waiting", claim(2))
    assert "metadata" in row


# -- discoveries -------------------------------------------------------------------------------------


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of three, and of two for the newest."""
    monkeypatch.setattr(looking, "RECENT", 2)
    monkeypatch.setattr(queue, "PAGE", 3)


@pytest.mark.usefixtures("short_pages")
def test_the_first_discovery_reads_a_page_of_the_newest_and_every_live_one_of_ours(server: Server, look: Look) -> None:
    ours(server, *range(1, 9), status="SUCCEEDED")
    server.job(20, claim(20), user_hash="u2")
    ours(server, *range(21, 25), status="SUCCEEDED")
    assert look(discovery=True).rows.keys() == {20, 22, 23, 24}


@pytest.mark.usefixtures("short_pages")
def test_a_later_one_reads_the_newest_of_ours_and_what_is_alive(server: Server, look: Look) -> None:
    ours(server, *range(1, 8), status="SUCCEEDED")
    server.job(8, "an-orphan")
    look(discovery=True)
    server.forget()
    assert look(discovery=True).rows.keys() == {6, 7, 8}
    assert len(server.queue()) == 2


def test_after_an_hour_or_another_user_all_live_ones_of_ours_are_read_again(
    server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "RECENT", 1)
    server.job(1, claim(1), user_hash="u2")
    ours(server, 2, status="SUCCEEDED")
    looker = Looker(transport, lambda ids: False)

    def seen(deck: str = DECK) -> set[int]:
        return set(looker.look(Query(deck_id=deck, discovery=True), 62, until=time.monotonic() + 20).rows)

    assert [seen(), seen()] == [{1, 2}, {2}]
    assert [seen("zzzzzz"), seen()] == [set(), {2}]
    looker.forget()
    assert [seen(), seen()] == [{1, 2}, {2}]
    monkeypatch.setattr(looking, "WHOLE", -1.0)
    assert seen() == {1, 2}


def test_what_is_alive_is_read_to_the_end(server: Server, look: Look) -> None:
    for number in range(1, queue.PAGE + 2):
        server.job(number)
    assert len(look(discovery=True).rows) == queue.PAGE + 1


def test_a_discovery_that_failed_halfway_is_whole_the_next_time(
    server: Server, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "RECENT", 1)
    ours(server, 1, 2, status="SUCCEEDED")
    server.tell("/api/get", failed("RuntimeError", "busy"))
    with pytest.raises(BackendUnavailable):
        look(discovery=True)
    server.forget()
    assert look(discovery=True).rows.keys() == {1, 2}


def test_everybodys_live_jobs_are_listed_when_asked_for(server: Server, look: Look) -> None:
    server.job(1, "mine")
    server.job(2, "theirs", user_hash="u2")
    server.job(3, "theirs-ended", "SUCCEEDED", user_hash="u2")
    assert look(discovery=True).rows.keys() == {1}
    assert look(discovery=True, everyone=True).rows.keys() == {1, 2}


def test_a_queue_without_an_end_is_unavailable(server: Server, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST_PAGES", 3)
    server.tell("/api/get", returned({"jobs": [{"job_id": 1, "status": "RUNNING"}], "total": 10**9}))
    with pytest.raises(BackendUnavailable, match="More than"):
        look(discovery=True)


def test_a_job_that_moved_between_two_pages_is_one_job(
    server: Server, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "PAGE", 1)
    row = {"job_id": 1, "task_id": 0, "job_name": claim(1)}
    pages = [returned({"jobs": [{**row, "status": status}], "total": 2}) for status in ("PENDING", "RUNNING")]
    server.tell("/api/get", *pages, returned({"jobs": [], "total": 0}))
    assert [row["status"] for row in look(discovery=True).rows[1]] == ["RUNNING"]


def test_a_server_without_a_jobs_controller_has_no_jobs(server: Server, look: Look) -> None:
    server.tell("/api/get", failed("ClusterNotUpError", "No in-progress managed jobs."))
    assert look(1, discovery=True).rows == {}


def test_a_failed_look_is_never_an_empty_one(server: Server, look: Look) -> None:
    server.tell("/api/get", failed("RuntimeError", "database is locked"))
    with pytest.raises(BackendUnavailable):
        look(1)
    values: tuple[Any, ...] = ([], None, {"jobs": None})
    for value in values:
        server.tell("/api/get", returned(value))
        with pytest.raises(BackendUnavailable):
            look(1)


# -- what a query asked for -----------------------------------------------------------------------------

ADA = Viewer("u1", "http://sky")


def job(name: str, number: int = 9, **changes: Any) -> SeenJob:
    return SeenJob(id=number, name=name, status="RUNNING", **changes)


@pytest.mark.parametrize(
    ("one", "query", "asked"),
    [
        (job("any", 1), {}, True),
        (job("any"), {}, False),
        (job(claim(5)), {"claims": frozenset({claim(5)})}, True),
        (job(claim(5) + "x"), {"claims": frozenset({claim(5)})}, False),
        (job(claim(5)), {"discovery": True}, True),
        (job(claim(5).upper()), {"discovery": True}, False),
        (job(claim(5, deck="zzzzzz")), {"discovery": True}, False),
        (job("renamed", metadata={"deck_id": DECK}), {"discovery": True}, True),
        (job("an-orphan"), {"discovery": True}, True),
        (job("theirs", mine=False), {"discovery": True}, False),
        (job("theirs", mine=False), {"discovery": True, "everyone": True}, True),
        (job("a-member", 3), {"discovery": True}, False),
        (job(claim(3), 3), {"discovery": True}, True),
    ],
)
def test_what_a_query_asked_for(one: SeenJob, query: dict[str, Any], asked: bool) -> None:
    assert wanted(one, Query(deck_id=DECK, job_ids=frozenset({1}), **query), {3}, ADA) == asked


@pytest.mark.parametrize(
    ("resources", "spot"),
    [
        ("1x[H100:8][Spot]", True),
        ("1x[H100:8]", False),
        ("1x[H100:8][On-demand|Spot]", False),
        (None, False),
        (5, False),
    ],
)
def test_which_jobs_run_on_spot_machines(resources: Any, spot: bool) -> None:
    found = Found()
    found.take([{"job_id": 1, "resources": resources}])
    assert found.spot == (frozenset({1}) if spot else frozenset())
