"""The quick start, as a newcomer meets it: a real JupyterLab, a real Chromium, real processes."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import OpenNotebook
from tests.browser.lab import Notebook

QUICKSTART = Path(__file__).resolve().parents[2] / "notebooks" / "01_quickstart.ipynb"
RUNS = 12
BUSY = "import time"
DECLARE = """\
import skydeck_nb as sd
deck = sd.open('again.db', backend=sd.FakeBackend(speed=50))
deck.sweep('s', 'train', flags={'lr': [1, 2, 3]})
deck
"""
PATIENCE = 120_000
"""Milliseconds for twelve trainings, two at a time, on two busy cores."""


def cell_with(text: str) -> int:
    """The place of the one cell that begins with this text."""
    cells = json.loads(QUICKSTART.read_text())["cells"]
    (place,) = [i for i, cell in enumerate(cells) if "".join(cell["source"]).startswith(text)]
    return place


def rows(grid: Locator, state: str) -> Locator:
    badge = grid.page.locator(f'[data-key="state"] [data-state="{state}"]')
    return grid.locator(".skydeck-row").filter(has=badge)


def training(attempt: str) -> list[psutil.Process]:
    """The processes that carry this attempt in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SKYDECK_ATTEMPT") == attempt and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def attempt_of(notebook: Notebook, name: str) -> str:
    """Which attempt runs an experiment: asked of the system, since the kernel is busy."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("SKYDECK_EXPERIMENT") == name and str(notebook.lab.home) in str(
            environment.get("SKYDECK_RUN_DIR")
        ):
            return environment["SKYDECK_ATTEMPT"]
    raise LookupError(name)


@pytest.mark.timeout(400)
def test_a_newcomer_declares_starts_watches_stops_while_a_cell_is_busy_and_analyses(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(QUICKSTART)
    notebook.run(0)
    grid = notebook.output(0).locator(".skydeck")
    expect(grid.locator(".skydeck-row")).to_have_count(RUNS)
    expect(rows(grid, "STOPPED")).to_have_count(RUNS)
    expect(notebook.output(0)).to_contain_text("lr")
    notebook.screenshot("quickstart-declared")

    notebook.start_all()
    expect(rows(grid, "RUNNING").first).to_be_visible(timeout=PATIENCE)
    busy = cell_with(BUSY)
    notebook.wait_for("panel.content.widgets[arg].inputArea.promptNode.textContent === '[*]:'", busy)
    notebook.wait_for(
        "panel.content.widgets[arg - 1] && panel.content.widgets.slice(0, arg)"
        ".every(cell => !cell.inputArea.promptNode || cell.inputArea.promptNode.textContent !== '[*]:')",
        busy,
    )
    notebook.output(0)
    running = rows(grid, "RUNNING").first
    name = str(running.locator('[data-key="name"]').inner_text()).split()[-1]
    attempt = attempt_of(notebook, name)
    assert training(attempt)
    row = grid.locator(".skydeck-row").filter(has=notebook.page.get_by_text(name, exact=True))
    row.get_by_role("button", name="Stop").click()
    expect(row.locator('[data-state="STOPPED"]')).to_be_visible(timeout=15_000)
    notebook.wait_for("panel.content.widgets[arg].inputArea.promptNode.textContent === '[*]:'", busy, seconds=1)
    assert training(attempt) == []
    notebook.screenshot("quickstart-stopped-while-busy")

    notebook.wait_for(  # the kernel's own state is idle, too, whenever a click was served by a subshell
        "panel.content.widgets.every(cell => cell.model.type !== 'code'"
        " || (cell.model.executionState === 'idle' && cell.model.executionCount))",
        seconds=PATIENCE / 1000,
    )
    notebook.output(0)
    expect(rows(grid, "SUCCEEDED")).to_have_count(RUNS - 1)
    notebook.screenshot("quickstart-analysed")
    row.get_by_role("button", name="Start").click()
    expect(rows(grid, "SUCCEEDED")).to_have_count(RUNS, timeout=PATIENCE)
    notebook.screenshot("quickstart-done")
    expect(notebook.output(cell_with("deck.explain"))).to_contain_text("spiral-lr0.3-width128")
    expect(notebook.output(cell_with("loss = ")).locator("img")).to_be_visible()
    notebook.screenshot("quickstart-plot")
    assert [line for line in notebook.console_errors if "skydeck" in line.lower()] == []


def test_the_grid_is_there_again_after_a_reload_and_says_when_its_kernel_is_gone(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(
        [
            DECLARE,
            "deck",
            "deck.start('s-*'); deck.sweeps['s'].wait()",
        ]
    )
    notebook.run(0)
    notebook.run(1)
    for cell in (0, 1):
        expect(notebook.output(cell).locator(".skydeck-row")).to_have_count(3)
    notebook.run(2)
    for cell in (0, 1):
        expect(rows(notebook.output(cell).locator(".skydeck"), "SUCCEEDED")).to_have_count(3)
    notebook.save()
    notebook.reload()
    expect(rows(notebook.output(0).locator(".skydeck"), "SUCCEEDED")).to_have_count(3)
    notebook.restart_kernel()
    expect(notebook.output(0).locator(".skydeck-still")).to_contain_text("run the cell again", ignore_case=True)
