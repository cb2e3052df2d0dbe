"""The fixtures `sky_stack` and `sky_endpoint`: one real SkyPilot server for the whole run.

SKYDECK_STACK names another folder for it, and SKYDECK_STACK_KEEP=1 leaves it
running for the next run, as starting it takes a while.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.browser.conftest import browser, lab, open_notebook
from tests.sky.layout import PROJECT
from tests.sky.stack import Stack

__all__ = ["browser", "lab", "open_notebook"]  # fixtures of the tests in a browser, for those that need both

# Read before any test hides the developer's settings.
KEEP = bool(os.environ.get("SKYDECK_STACK_KEEP"))
PATIENCE = 600
"""Seconds for one test, the first of which starts the stack."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "sky_stack" in getattr(item, "fixturenames", ()):
            item.add_marker("sky")
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture(scope="session")
def sky_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Where a run that was killed has left one, it goes first; one that was kept is taken over."""
    stack = Stack()
    with stack.claimed():
        if not KEEP:
            stack.down()
        try:
            stack.up()
            yield stack
        finally:
            if request.session.testsfailed:
                shutil.copytree(stack.logs, PROJECT / "artifacts" / "sky", dirs_exist_ok=True)
            if not KEEP:
                stack.down()


@pytest.fixture(scope="session")
def sky_endpoint(sky_stack: Stack) -> str:
    return sky_stack.endpoint
