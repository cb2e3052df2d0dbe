"""The fixtures `lab` and `open_notebook`; every test in this folder needs a browser."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from scripts import browser as chromium
from tests.browser.lab import CHROMIUM_ARGS, Lab, Notebook

OpenNotebook = Callable[..., Notebook]
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


# Not for the session: while Playwright runs, its event loop is the main thread's, and tests elsewhere need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium.find(), args=CHROMIUM_ARGS)
        yield launched
        launched.close()


@pytest.fixture
def open_notebook(lab: Lab, browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenNotebook]:
    """Opens a notebook file, or one with these cells. Windows close with the test; a failed one leaves a picture."""
    opened: list[Notebook] = []

    def open_(notebook: Path | Sequence[str], name: str | None = None, **viewport: int) -> Notebook:
        file = lab.add(notebook, name or f"{request.node.name}-{len(opened)}.ipynb")
        opened.append(Notebook(lab, browser, file, **viewport))
        return opened[-1]

    yield open_
    for number, notebook in enumerate(opened):
        if request.node.stash.get(FAILED, False):
            notebook.screenshot(f"failed-{request.node.name}-{number}")
        notebook.close()
