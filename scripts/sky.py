"""Runs tests/sky on another SkyPilot than the lock's: `python -m scripts.sky 0.12.0`, and what pytest is to be told.

The version has an environment of its own in .tools, with what one got beside it when it was new: what came later, it
was never tried with. The server's folder is its own too, so that another one may run meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

from scripts.setup import LOCK, ROOT, TOOLS, bootstrap_uv, read_lock, run, step

WEEK = timedelta(days=7)


def main(version: str, *arguments: str) -> None:
    python = make(version)
    stack = Path(tempfile.gettempdir()) / f"skydeck-stack-{version}"
    environ = os.environ | {"SKYDECK_STACK": str(stack), "SKYDECK_REQUIRE": "all"}
    step(f"testing on SkyPilot {version}")
    command = [str(python), "-m", "pytest", "tests/sky", *arguments]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode)


def make(version: str) -> Path:
    """The interpreter of the version's environment."""
    venv = TOOLS / f"sky-{version}"
    python = venv / "bin" / "python"
    stamp = venv / ".made"
    if stamp.exists():
        return python
    uv = bootstrap_uv(read_lock(LOCK.read_text()))
    as_of = (built(version) + WEEK).isoformat()
    step(f"making an environment with SkyPilot {version} as of {as_of}")
    run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv))
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    ours = ["-r", "pyproject.toml", "--extra", "sky", "--group", "build", "--group", "test"]
    run(*install, "--exclude-newer", as_of, *ours, f"skypilot=={version}")
    run(*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.touch()
    return python


def built(version: str) -> datetime:
    """When: its wheel says so in the times of its files."""
    with tempfile.TemporaryDirectory() as folder:
        run(str(TOOLS / "bin" / "pip"), "download", "--quiet", "--no-deps", "--dest", folder, f"skypilot=={version}")
        (wheel,) = Path(folder).glob("*.whl")
        with ZipFile(wheel) as archive:
            return max(datetime(*one.date_time, tzinfo=UTC) for one in archive.infolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
