"""What a real SkyPilot server once answered, read as this package reads it.

``python -m tests.sky.record FOLDER`` records such answers anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.skypilot import logs, moves, queue
from skydeck_nb.backends.skypilot.answers import Answer, RequestFailed, failure
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.searching import launched_id
from skydeck_nb.listing import SeenJob

FOLDERS = sorted((Path(__file__).parents[2] / "fixtures" / "sky").iterdir())


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def recorded(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def body(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["body"]


def result(folder: Path, name: str) -> Any:
    return json.loads(body(folder, name)["return_value"])


def jobs(folder: Path, name: str) -> dict[str, SeenJob]:
    rows, _ = queue.records(result(folder, name))
    found = queue.jobs(rows, Viewer(user_id="fcd1e5cf", place="https://sky.example.com"))
    return {job.name.partition("-sd")[0]: job for job in found}


def test_each_end_of_a_job_is_told_from_the_others(recorded: Path) -> None:
    found = jobs(recorded, "queue_whole")
    assert {name: (job.status, job.exit_code) for name, job in found.items()} == {
        "quick": ("SUCCEEDED", 0),
        "fail": ("FAILED", 3),
        "setup": ("FAILED_SETUP", None),
        "stay": ("CANCELLED", None),
    }
    assert all(job.mine and job.metadata["deck_id"] == "record" and job.started_at for job in found.values())
    assert all(job.ended_at is not None and job.ended_at >= job.started_at for job in found.values() if job.started_at)
    assert (found["stay"].nodes, found["stay"].accelerators, found["stay"].gpus) == (1, "H100:2", 2)
    assert "exit code 3" in found["fail"].message
    assert "see the details" not in found["fail"].message


def test_a_steady_look_says_who_runs(recorded: Path) -> None:
    found = jobs(recorded, "queue_hot")
    assert found["stay"].status == "RUNNING"
    assert found["stay"].ended_at is None
    assert {row["job_id"]: queue.placement(row) for row in queue.records(result(recorded, "queue_placed"))[0]} == {
        found["stay"].id: "Slurm (loop)"
    }


def test_nobody_is_an_empty_list(recorded: Path) -> None:
    assert queue.records(result(recorded, "queue_empty")) == ([], 0)


def test_a_launch_names_its_job(recorded: Path) -> None:
    assert launched_id(result(recorded, "launched")) == jobs(recorded, "queue_hot")["quick"].id


def test_a_launch_request_shows_its_claim_to_whoever_sent_it(recorded: Path) -> None:
    (row,) = body(recorded, "launch_request")
    assert row["name"] == "sky.jobs.launch"
    assert json.loads(row["request_body"])["name"].startswith("quick-sdrecord-")


def test_a_refused_question_is_one_sentence(recorded: Path) -> None:
    text = json.dumps(body(recorded, "queue_unknown_field")).encode()
    error = failure(Answer(500, {"content-type": "application/json"}, text), "the queue")
    assert isinstance(error, RequestFailed)
    assert str(error).endswith("Unknown field: nope.")


def test_a_job_that_was_never_preempted_has_no_reason_for_it(recorded: Path) -> None:
    assert moves.said(result(recorded, "events")) == ""


@pytest.mark.parametrize(("name", "first"), [("quick", "hello from quick"), ("fail", "bad")])
def test_a_log_is_what_the_job_printed(recorded: Path, name: str, first: str) -> None:
    own = logs.lines(body(recorded, f"logs_{name}"))
    assert own[0] == first
    assert not [line for line in own if "sky-payload" in line or "Job finished" in line or "├──" in line]
