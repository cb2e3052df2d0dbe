"""A sweep of twelve on a real server, from a notebook in a real browser, and what everybody says of it at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import OpenNotebook
from tests.sky.stack import Stack
from tests.sky.yard import PATIENCE, Yard, until

SCRIPT = """
eval "$1"
if [ "$i" -le 1 ]; then sleep 3600; fi
if [ "$i" -ge 10 ]; then echo bad; exit 3; fi
echo done "$i"
"""

DECLARE = """\
import os
os.environ.update({environ!r})
import skydeck_nb as sd
deck = sd.open({path!r}, backend="skypilot", poll_interval=3.0, reconcile_interval=20.0)
deck.sweep("s", script={script!r}, flags={{"i": list(range(12))}}, infra="slurm", resources={{"cpus": 1}})
deck
"""

END = """\
import json
deck.sweeps["s"].wait(timeout=1500)
print(json.dumps(deck.experiments()["state"].to_dict()))
print(json.dumps(deck.jobs().set_index("experiment")[["status", "state"]].T.to_dict()))
"""

QUEUE = """\
import json, sky
request = sky.jobs.queue_v2(refresh=False, all_users=True, fields=["job_id", "job_name", "status"])
print("QUEUE" + json.dumps({job.job_name: job.status.value for job in sky.get(request)[0]}))
"""


def row(grid: Locator, name: str) -> Locator:
    return grid.locator(".skydeck-row").filter(has=grid.page.get_by_text(name, exact=True))


def queue(stack: Stack) -> dict[str, str]:
    """What SkyPilot's own client says of its jobs, by name."""
    said = subprocess.run(
        [sys.executable, "-c", QUEUE], env=stack.env(), capture_output=True, text=True, check=True, timeout=300
    ).stdout
    found: dict[str, str] = json.loads(said.partition("QUEUE")[2])
    return found


@pytest.fixture
def yard(sky_stack: Stack, tmp_path: Path) -> Iterator[Yard]:
    with closing(Yard(tmp_path / "yard", sky_stack)) as made:
        yield made


@pytest.mark.browser
@pytest.mark.timeout(2400)
def test_twelve_runs_end_as_the_queue_says(open_notebook: OpenNotebook, sky_stack: Stack, yard: Yard) -> None:
    declare = DECLARE.format(environ=yard.environ(), path=str(yard.path), script=SCRIPT)
    notebook = open_notebook([declare, "deck.start('s-*')", "import time; time.sleep(150)", END])
    notebook.run(0)
    grid = notebook.output(0).locator(".skydeck")
    expect(grid.locator(".skydeck-row")).to_have_count(12)
    notebook.run(1)
    notebook.output(0)
    for name in ("s-i0", "s-i1"):
        expect(row(grid, name).locator('[data-state="RUNNING"]')).to_be_visible(timeout=1_200_000)
    notebook.screenshot("skypilot-running")

    cancelled = next(job["job_id"] for job in yard.truth() if job["metadata"]["experiment"] == "s-i0")
    subprocess.run(
        [str(Path(sys.executable).parent / "sky"), "jobs", "cancel", "-y", str(cancelled)],
        env=sky_stack.env(), check=True, capture_output=True, timeout=300,
    )  # fmt: skip

    notebook.start(2)
    notebook.wait_busy()
    row(grid, "s-i1").get_by_role("button", name="Stop").click()
    expect(row(grid, "s-i1").locator('[data-state="STOPPING"]')).to_be_visible(timeout=15_000)
    until(lambda: yard.status("s-i1") in ("CANCELLING", "CANCELLED"), yard.truth, PATIENCE)
    notebook.wait_for("panel.content.widgets[2].inputArea.promptNode.textContent === '[*]:'", seconds=1)
    notebook.screenshot("skypilot-stopped-while-busy")
    notebook.wait_idle(seconds=300)

    notebook.start(3)
    notebook.wait_for("panel.content.widgets[3].model.executionCount", seconds=1500)
    lines = [json.loads(line) for line in notebook.text(3).splitlines() if line.startswith("{")]
    states, jobs = lines
    wanted = {f"s-i{i}": "SUCCEEDED" for i in range(2, 10)} | {"s-i10": "FAILED", "s-i11": "FAILED"}
    assert states == wanted | {"s-i0": "CANCELLED", "s-i1": "STOPPED"}
    said = queue(sky_stack)
    ours = {job["metadata"]["experiment"]: said[job["job_name"]] for job in yard.truth()}
    assert {name: job["status"] for name, job in jobs.items()} == ours
    assert len(yard.truth()) == 12, "one job each"
    notebook.output(0)
    notebook.screenshot("skypilot-ended")
    assert [line for line in notebook.console_errors if "skydeck" in line.lower()] == []
