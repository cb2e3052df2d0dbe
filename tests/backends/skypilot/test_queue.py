"""What a look asks of SkyPilot's queue, and what its records say of a job."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skydeck_nb import states
from skydeck_nb.backends.skypilot import catalogue, queue, transport
from skydeck_nb.backends.skypilot.access import Access
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendUnavailable
from skydeck_nb.listing import SeenJob
from tests.backends.skypilot.conftest import Sdk

ADA = Viewer("u1", "https://sky.example.com")

# Copied from a real server (SkyPilot 0.14.1 on Slurm), shortened.
REAL: dict[str, Any] = {
    "job_id": 10, "task_id": 0, "job_name": "fail-sdrecord-aaaaaaaaaa", "workspace": "default", "status": "FAILED",
    "schedule_state": "DONE", "resources": "1x[H100:2]", "recovery_count": 1, "user_hash": "u1", "user_name": "ada",
    "failure_reason": "Job exited with exit code 3 (user program failure). "
    "To see the details, run: sky jobs logs --controller 10",
    "submitted_at": 1795628367.653921, "start_at": 1795628489.3707256, "end_at": 1795628534.8567948,
    "metadata": {"deck_id": "record", "experiment_id": "1", "attempt_id": "aaaaaaaaaa", "run": "1"},
    "current_cluster_name": "fail-10", "entrypoint": "skydeck_nb",
}  # fmt: skip


def job(*tasks: dict[str, Any], viewer: Viewer = ADA, **record: Any) -> SeenJob:
    """The one job of these records."""
    rows = [{"job_id": 1, "task_id": n, "status": "RUNNING", **task} for n, task in enumerate(tasks or (record,))]
    (found,) = queue.jobs(rows, viewer)
    return found


# -- one record --------------------------------------------------------------------------


def test_a_real_record_is_a_job() -> None:
    (found,) = queue.jobs([REAL], ADA)
    assert found == SeenJob(
        id=10,
        name="fail-sdrecord-aaaaaaaaaa",
        status="FAILED",
        metadata=REAL["metadata"],
        reason="UserProgramFailed",
        message="Job exited with exit code 3 (user program failure).",
        submitted_at=datetime.fromtimestamp(1795628367.653921, UTC),
        started_at=datetime.fromtimestamp(1795628489.3707256, UTC),
        ended_at=datetime.fromtimestamp(1795628534.8567948, UTC),
        exit_code=3,
        recoveries=1,
        cluster_name="fail-10",
        nodes=1,
        gpus=2,
        accelerators="H100:2",
        user="ada",
        mine=True,
        workspace="default",
        url="https://sky.example.com/dashboard/jobs/10",
    )


@pytest.mark.parametrize(
    ("status", "alive"),
    [
        *((status, True) for status in (*states.PROGRESS, "CANCELLING")),
        *((status, False) for status in states.TERMINAL),
        ("HIBERNATING", True),
        ("running", True),
        ("UNKNOWN", True),
    ],
)
def test_a_status_passes_as_it_is_and_one_never_heard_of_is_alive(status: str, alive: bool) -> None:
    found = job(status=status)
    assert found.status == status
    assert states.is_alive(found.status) == alive


@pytest.mark.parametrize("status", [None, "", 7, [], {}])
def test_a_status_that_is_none_is_alive(status: Any) -> None:
    assert states.is_alive(job(status=status).status)


@pytest.mark.parametrize(
    ("text", "nodes", "accelerators", "gpus"),
    [
        ("1x[H100:8]", 1, "H100:8", 8),
        ("2x[H100:8][Spot]", 2, "H100:8", 8),
        ("4x[A100-80GB:4][On-demand|Spot]", 4, "A100-80GB:4", 4),
        ("1x[CPU:1+]", 1, None, 0),
        ("1x[CPU:1+][Spot]", 1, None, 0),
        ("16x[tpu-v5litepod-8:1]", 16, "tpu-v5litepod-8:1", 1),
        ("[H100:1]", 1, "H100:1", 1),
        ("1x[L4:0.5]", 1, "L4:1", 1),
        ("1x[L4:1.0]", 1, "L4:1", 1),
        ("1x[H100:8, A100:8][Spot]", 1, None, 8),
        ("1x[A100:8, H100:8][Spot]", 1, None, 8),
        ("1x[A100:8, H100:4]", 1, None, None),
        ("-", None, None, None),
        ("", None, None, None),
        ("1x[]", None, None, None),
        ("many", None, None, None),
        ("9" * 5_000 + "x[H100:1]", None, None, None),
        ("1x[H100:" + "9" * 5_000 + "]", 1, None, None),
        ("1x[something new]", 1, None, None),
    ],
)
def test_resources_are_read_from_the_servers_display(
    text: str, nodes: int | None, accelerators: str | None, gpus: int | None
) -> None:
    assert queue.resources(text) == (nodes, accelerators, gpus)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ("Job exited with exit code 3 (user program failure).", 3),
        ("Job exited with exit code 137.", 137),
        ("Job exited with exit codes [0, 1] (user program failure).", 1),
        ("Job exited with exit codes [2, 0, 9]", 2),
        ("Job exited with exit codes [0, 0]", None),
        ("Job failed (FAILED_SETUP) (user program failure).", None),
        ("exit code 123456789", None),
        ("", None),
    ],
)
def test_the_exit_code_is_in_the_failures_sentence(failure: str, code: int | None) -> None:
    assert job(status="FAILED", failure_reason=failure).exit_code == code


def test_only_what_ended_has_an_exit_code() -> None:
    assert job(status="SUCCEEDED").exit_code == 0
    assert job(status="CANCELLED", failure_reason="exit code 3").exit_code is None
    assert job(status="RECOVERING", failure_reason="exit code 3").exit_code is None


@pytest.mark.parametrize(
    ("status", "said", "reason", "message"),
    [
        ("PENDING", "Waiting for other jobs to launch", "WaitingForOtherJobs", "Waiting for other jobs to launch"),
        ("PENDING", "Waiting for higher priority jobs to launch", "WaitingForHigherPriority", None),
        ("PENDING", "In backoff, waiting for resources", "WaitingForResources", None),
        ("STARTING", "Launching (nodes allocated; Slurm job 2 on loop)", "ProvisioningMachines", None),
        ("STARTING", "Launching (pending in the queue)", "WaitingInQueue", None),
        ("STARTING", "Something new", "", "Something new"),
        ("RUNNING", "Waiting", "", ""),
        ("PENDING", None, "", ""),
        ("PENDING", 5, "", ""),
    ],
)
def test_why_a_live_job_waits(status: str, said: Any, reason: str, message: str | None) -> None:
    found = job(status=status, details=said)
    assert (found.reason, found.message) == (reason, said if message is None else message)


@pytest.mark.parametrize(
    ("status", "said", "reason", "message"),
    [
        (
            "FAILED_PRECHECKS",
            "[sky.exceptions.ResourcesUnavailableError] Task 'a' requires \x1b[1maws\x1b[0m.\nHint: \n",
            "NoMatchingResources",
            "[sky.exceptions.ResourcesUnavailableError] Task 'a' requires aws. Hint:",
        ),
        ("FAILED", "To see the details, run: sky jobs logs --controller 3", "", ""),
        ("FAILED", "Killed while launching and waiting.", "", "Killed while launching and waiting."),
        ("FAILED", "a\x00b\tc\r\nd", "", "a b c d"),
        ("FAILED", "x" * 5_000, "", "x" * 1_000),
        ("SUCCEEDED", None, "", ""),
    ],
)
def test_why_a_job_failed(status: str, said: Any, reason: str, message: str) -> None:
    found = job(status=status, failure_reason=said, details="Failure: otherwise")
    assert (found.reason, found.message) == (reason, message)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, -5.0, 0, 1e300, 10**400, "1795", True, [], {}])
def test_a_time_that_is_none_is_not_known(value: Any) -> None:
    found = job(status="SUCCEEDED", submitted_at=value, start_at=value, end_at=value)
    assert (found.submitted_at, found.started_at, found.ended_at) == (None, None, None)


def test_what_is_alive_has_not_ended() -> None:
    assert job(status="RECOVERING", end_at=1795628534.8).ended_at is None


def test_two_clocks_of_the_servers_side_make_no_job_end_before_it_began() -> None:
    found = job(status="SUCCEEDED", start_at=100.0, end_at=90.0)
    assert found.ended_at == found.started_at


@pytest.mark.parametrize(
    ("record", "mine"),
    [({"user_hash": "u1"}, True), ({"user_hash": "u2"}, False), ({"user_hash": None}, True), ({}, True)],
)
def test_a_job_is_mine_by_the_servers_id_of_the_user(record: dict[str, Any], mine: bool) -> None:
    assert job(record).mine == mine


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"deck_id": "a", "run": 3, "ok": True, "x": 1.5}, {"deck_id": "a", "run": "3", "ok": "True", "x": "1.5"}),
        ({"nested": {"a": 1}, "list": [1], "none": None, "a": "b"}, {"a": "b"}),
        (None, {}),
        ("text", {}),
        ([], {}),
    ],
)
def test_metadata_is_flat_text(value: Any, kept: dict[str, str]) -> None:
    assert job(metadata=value).metadata == kept


def test_where_a_job_is() -> None:
    assert queue.placement({"infra": "Slurm (loop)", "cloud": "Slurm"}) == "Slurm (loop)"
    assert queue.placement({"infra": None, "cloud": "AWS"}) == "AWS"
    assert queue.placement({"infra": 5}) is None


# -- pipelines and groups ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["SUCCEEDED", "RUNNING", "PENDING"], "RUNNING"),
        (["SUCCEEDED", "STARTING", "PENDING"], "STARTING"),
        (["SUCCEEDED", "PENDING"], "PENDING"),
        (["SUCCEEDED", "SUCCEEDED"], "SUCCEEDED"),
        (["SUCCEEDED", "FAILED", "CANCELLED"], "FAILED"),
        (["FAILED_SETUP", "CANCELLED"], "FAILED_SETUP"),
        (["SUCCEEDED", "CANCELLED"], "CANCELLED"),
        (["FAILED", "RUNNING"], "RUNNING"),
        (["RUNNING", "CANCELLING"], "CANCELLING"),
        (["SUCCEEDED", "HIBERNATING"], "HIBERNATING"),
        (["RUNNING", "HIBERNATING"], "RUNNING"),
    ],
)
def test_the_tasks_of_a_job_have_one_status_together(statuses: list[str], status: str) -> None:
    assert job(*({"status": one} for one in statuses)).status == status


@given(st.lists(st.sampled_from([*states.PROGRESS, "CANCELLING", "NEW", *sorted(states.TERMINAL)]), min_size=1))
def test_a_job_is_alive_while_a_task_is(statuses: list[str]) -> None:
    assert states.is_alive(queue.together(statuses)) == any(map(states.is_alive, statuses))
    assert queue.together(statuses) in statuses


def test_a_pipeline_is_one_job_from_its_first_start_to_its_last_end() -> None:
    found = job(
        {"status": "SUCCEEDED", "start_at": 100.0, "end_at": 200.0, "recovery_count": 1},
        {"status": "FAILED", "start_at": 300.0, "end_at": 400.0, "recovery_count": 2, "failure_reason": "exit code 4"},
        {"status": "CANCELLED"},
    )
    assert found.started_at == datetime.fromtimestamp(100, UTC)
    assert found.ended_at == datetime.fromtimestamp(400, UTC)
    assert (found.recoveries, found.exit_code) == (3, 4)


def test_the_task_that_tells_the_status_tells_why_and_where() -> None:
    found = job(
        {"status": "SUCCEEDED", "resources": "1x[CPU:1+]", "current_cluster_name": "a"},
        {"status": "STARTING", "resources": "2x[H100:8]", "current_cluster_name": "b", "details": "Launching (x)"},
    )
    assert (found.nodes, found.gpus, found.cluster_name, found.message) == (2, 8, "b", "Launching (x)")


def test_the_order_of_records_says_nothing() -> None:
    tasks = [{"job_id": 1, "task_id": n, "status": s} for n, s in enumerate(("SUCCEEDED", "RUNNING"))]
    assert queue.jobs(tasks, ADA) == queue.jobs(tasks[::-1], ADA)


def test_jobs_come_by_id_one_each() -> None:
    rows = [{"job_id": n, "task_id": t, "status": "RUNNING"} for n in (3, 1, 2) for t in (1, 0)]
    assert [found.id for found in queue.jobs(rows, ADA)] == [1, 2, 3]


def test_members_of_a_job_are_told_from_it() -> None:
    rows: list[dict[str, Any]] = [
        {"job_id": 1, "root_job_id": None},
        {"job_id": 2, "root_job_id": 2},
        {"job_id": 3, "root_job_id": 1},
    ]
    assert queue.members(rows) == {3}
    assert queue.members([{"job_id": 1}]) == set()


# -- answers -----------------------------------------------------------------------------


NO_LISTS: tuple[Any, ...] = ([], "text", 5, {}, {"jobs": None}, {"jobs": {}}, {"jobs": [None]}, {"jobs": [{}]})
NO_IDS: tuple[Any, ...] = ("1", True, -1, 2**60, 1.0, None)


@pytest.mark.parametrize("answer", [*NO_LISTS, *({"jobs": [{"job_id": one}]} for one in NO_IDS)])
def test_an_answer_that_is_no_list_of_jobs_is_unavailable(answer: Any) -> None:
    with pytest.raises(BackendUnavailable):
        queue.records(answer)


def test_without_a_jobs_controller_there_are_no_jobs() -> None:
    assert queue.records(None) == ([], 0)


@pytest.mark.parametrize(("total", "counted"), [(7, 7), (None, 1), ("7", 1), (True, 1), (math.nan, 1)])
def test_an_answer_without_a_total_has_what_it_lists(total: Any, counted: int) -> None:
    assert queue.records({"jobs": [{"job_id": 1}], "total": total}) == ([{"job_id": 1}], counted)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANY = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"job_id": st.integers(1, 3) | ANY}, optional=dict.fromkeys((*queue.WHOLE[1:], "details", *queue.TREE), ANY)
    )
    | ANY,
    max_size=4,
)


@settings(max_examples=60)
@given(rows=RECORDS)
@example(rows=[{"job_id": 1, "job_name": "\ud800", "metadata": {"\ud800": "\udfff"}, "status": "\udcff"}])
def test_any_json_for_records_is_jobs_or_unavailable(rows: list[Any]) -> None:
    try:
        found, _ = queue.records(json.loads(json.dumps({"jobs": rows})))
    except BackendUnavailable:
        return
    jobs = queue.jobs(found, ADA)
    assert {one.id for one in jobs} == {row["job_id"] for row in found}
    for one in jobs:
        json.dumps([one.name, one.status, one.message, one.user, dict(one.metadata)], ensure_ascii=False).encode()
        assert all(isinstance(value, str) for value in one.metadata.values())
    queue.members(found)


@given(st.text())
def test_any_text_of_the_server_becomes_one_plain_line(text: str) -> None:
    found = queue.plain(text)
    assert found == " ".join(found.split())
    assert found == "" or found.isprintable()


# -- the questions -------------------------------------------------------------------------


def test_no_steady_question_opens_a_clusters_handle() -> None:
    """These make the server load every cluster (``jobs/utils.py``)."""
    handles = {
        "cluster_resources", "cluster_resources_full", "cloud", "region", "zone", "infra", "accelerators",
        "cluster_name_on_cloud", "labels", "internal_external_ips", "internal_services",
    }  # fmt: skip
    for body in (*every_queue_body()[:-1],):
        assert not handles & set(body["fields"])
    assert handles & set(queue.placed([1])["fields"])


def every_queue_body() -> list[dict[str, Any]]:
    return [
        queue.by_ids([2, 1], details=True, whole=True),
        queue.by_ids([2, 1], details=False),
        queue.by_name("-sdabcdef-", page=1, alive=True, api_version=62),
        queue.live_of(True, page=2, api_version=62),
        queue.placed([1, 2]),
    ]


def test_jobs_are_asked_for_whoever_launched_them() -> None:
    assert queue.by_ids([2, 1], details=False) == {"job_ids": [1, 2], "all_users": True, "fields": list(queue.HOT)}


def test_reasons_are_asked_for_only_when_told() -> None:
    assert "details" in queue.by_ids([1], details=True)["fields"]
    assert "details" not in queue.by_ids([1], details=False)["fields"]


def test_the_tree_of_jobs_is_asked_for_where_the_server_has_one() -> None:
    assert set(queue.TREE) <= set(queue.by_name("a", page=1, api_version=60)["fields"])
    assert not set(queue.TREE) & set(queue.by_name("a", page=1, api_version=59)["fields"])


# -- as SkyPilot has it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts(sdk: Sdk) -> Any:
    return sdk.ask("facts")


def test_our_bodies_are_skypilots_payloads(facts: Any) -> None:
    common = Transport(Access(url="http://sky.invalid")).common()
    bodies: dict[str, list[dict[str, Any]]] = {
        "JobsQueueV2Body": every_queue_body(),
        "JobsCancelBody": [{"job_ids": [1]}],
        "JobsLogsBody": [{"job_id": 1, "follow": False, "tail": 5}],
        "RequestCancelBody": [{"request_ids": ["r"]}],
        "GetJobEventsBody": [{"job_id": 1, "limit": 5}],
        "ListAcceleratorsBody": [catalogue.body("H100", 8)],
        "RequestStatusBody": [{"request_ids": [], "all_status": True, "limit": 1, "fields": []}],
    }
    for name, ours in bodies.items():
        theirs = set(facts["bodies"][name])
        for body in ours:
            assert body.keys() <= theirs, name
        if name != "RequestStatusBody":
            assert common.keys() <= theirs, name


def test_our_fields_are_skypilots_records(facts: Any) -> None:
    asked = {name for body in every_queue_body() for name in body["fields"]}
    assert asked <= set(facts["record"])


def test_what_is_read_of_requests_is_skypilots(facts: Any) -> None:
    read = {"request_id", "name", "status", "created_at", "user_id", "request_body", "return_value", "error"}
    assert read <= set(facts["bodies"]["RequestPayload"])


def test_our_statuses_are_skypilots(facts: Any) -> None:
    alive = {status for status, terminal in facts["statuses"].items() if not terminal}
    assert alive == {*states.PROGRESS, "CANCELLING"}
    assert facts["statuses"].keys() - alive == states.TERMINAL
    assert set(facts["failures"]) == states.FAILED


def test_our_api_versions_are_within_skypilots(facts: Any) -> None:
    assert facts["oldest"] <= transport.OLDEST_API_VERSION <= transport.API_VERSION <= facts["api_version"]
