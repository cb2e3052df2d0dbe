"""A home folder of a test's own, found empty of processes again after it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from skydeck_nb import background, config
from skydeck_nb.background import Place, Running

PATIENCE = 60.0
"""Seconds until something that should happen counts as never, on two busy CPUs."""


def until(holds: Callable[[], Any], what: str = "it", patience: float = PATIENCE) -> Any:
    """The first true answer."""
    end = time.monotonic() + patience
    while not (answer := holds()):
        assert time.monotonic() < end, f"{what} did not happen within {patience:g} s"
        time.sleep(0.02)
    return answer


@dataclass
class Home:
    """``~/.skydeck`` of a test, and the command in it."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "local.db"

    @property
    def place(self) -> Place:
        return Place.of(config.load({"db_path": self.database}))

    def loop(self) -> Running | None:
        return background.find(self.place)

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "skydeck_nb", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
        )  # fmt: skip

    def skydeck(self, *words: str, code: int = 0) -> str:
        """What a command says on standard output (on the other one where it fails)."""
        with self.popen(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{process.returncode}: {out}{err}"
        assert "Traceback" not in err
        return err if code else out

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.skydeck("status", "--json"))
        return found

    def empty(self) -> None:
        for process in psutil.process_iter(["environ"]):
            environ = process.info["environ"] or {}
            if environ.get("HOME") == os.environ["HOME"] and process.pid != os.getpid():
                with contextlib.suppress(psutil.Error):
                    process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    folder = config.private_folder(tmp_path / "home" / ".skydeck")
    home = Home(folder)
    assert home.database == config.load().db_path
    yield home
    home.empty()
