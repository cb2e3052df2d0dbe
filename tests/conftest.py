"""What a test may rely on: which capabilities this machine has, and an environment that is nobody's."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts import browser, slurm

# A missing capability is a skip on a developer's machine and a failure in CI, which promises that everything ran.
REQUIRE_ALL = os.environ.get("SKYDECK_REQUIRE") == "all"

MISSING: dict[str, Callable[[], str | None]] = {
    "browser": lambda: None if browser.find() else f"no browser: {browser.REMEDY}",
    "sky": lambda: (
        slurm.missing() if find_spec("sky") else "no SkyPilot: `make test SKYDECK_REQUIRE=all` installs it and Slurm"
    ),
    "s3": lambda: None if find_spec("moto") else "no S3 server: install `moto[server]`",
}
LACKED = pytest.StashKey[dict[str, int]]()


@cache
def missing(capability: str) -> str | None:
    """Why a test with this marker cannot run here, and what to do about it."""
    return MISSING[capability]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LACKED] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for capability in MISSING:
        if item.get_closest_marker(capability) and (reason := missing(capability)):
            lacked = item.config.stash[LACKED]
            lacked[reason] = lacked.get(reason, 0) + 1
            if REQUIRE_ALL:
                pytest.fail(f"SKYDECK_REQUIRE=all, and {reason}", pytrace=False)
            pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lacked := config.stash[LACKED]:
        terminalreporter.section("what this machine could not run")
        for reason, count in lacked.items():
            terminalreporter.line(f"{count} tests: {reason}")


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's settings, reads their ~/.skydeck or writes into it."""
    for name in [name for name in os.environ if name.startswith("SKYDECK_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
