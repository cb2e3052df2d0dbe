"""The tutorials run to their end as they stand, and are kept without outputs.

The quick start is run by ``tests/browser/test_quickstart.py``, with its buttons.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.reads(path.read_text(), 4)  # type: ignore[no-untyped-call]
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.timeout(180)
def test_the_control_loop_notebook_shows_what_it_says(tmp_path: Path) -> None:
    notebook = read(next(p for p in NOTEBOOKS if p.stem == "02_control_loop"))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = {
        cell.source: "".join(
            str(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }

    def of(start: str) -> str:
        (text,) = [text for source, text in shown.items() if start in source]
        return text

    assert of('start("plain")').count("SUBMITTED") == 1
    assert "attempt.unknown" in of('start("lost")')
    assert sorted(word for word in of('start("twin")').split() if word.isupper()) == ["CANCELLED", "SUCCEEDED"]
    assert "ListingFailed" in of('start("moved")')
    assert "SUCCEEDED" in of("Preemption")
    assert "JobLost" in of('explain("gone")')
    assert "SUCCEEDED" in of('deck["gone"].state')
    assert "RUNNING" not in of('stop("brief")')
    assert "nothing to do" in of("deck.plan()")
