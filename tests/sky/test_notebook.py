"""The tutorial for who has an endpoint runs to its end on a real server, and shows what it says."""

from __future__ import annotations

import secrets
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.sky.stack import Stack

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "04_skypilot.ipynb"


@pytest.mark.timeout(1800)
def test_the_skypilot_notebook_shows_what_it_says(sky_stack: Stack, tmp_path: Path) -> None:
    notebook = nbformat.reads(NOTEBOOK.read_text(), 4)  # type: ignore[no-untyped-call]
    environ = {**sky_stack.env(f"reader-{secrets.token_hex(3)}"), "SKYDECK_HOME": str(tmp_path / "skydeck")}
    client = NotebookClient(
        notebook, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environ)
    shown = {
        cell.source: "".join(
            str(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }

    def of(part: str) -> str:
        (text,) = [text for source, text in shown.items() if part in source]
        return text

    assert "skypilot on http://" in of("deck.health()")
    assert "3 experiments declared, 0 started" in of("deck.sweep(")
    assert "run: |" in of("task_yaml")
    assert of("sweep.wait").count("SUCCEEDED") == 2
    assert "FAILED" in of("sweep.wait")
    assert "epoch 4: loss" in of(".logs(")
    assert "exit code 1" in of('explain("travel-lr2.0")')
    assert "Slurm (" in of("deck.jobs()")
    assert "STOPPED" in of('"brief"')
