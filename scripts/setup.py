"""Makes .venv from requirements.lock: `python scripts/setup.py lab|dev|all`. Needs Python and its pip, nothing else.

Every distribution is checked against a hash in the lock, uv and the build tools included. A profile holds those
before it, and leaves a stamp for each, so that `make` asks for nothing twice.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
PROFILES = {
    "lab": ["--extra", "lab", "--group", "build"],
    "dev": ["--extra", "lab", "--group", "dev"],
    "all": ["--all-extras", "--group", "dev"],
}


def main(profile: str) -> None:
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        version = sys.version.split()[0]
        sys.exit(f"This is Python {version}; skydeck_nb needs 3.11, 3.12 or 3.13: make {profile} PYTHON=python3.12")
    # Downloads would bring a Python that nobody asked for; a progress bar fills a log that nobody watches.
    os.environ |= {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "VIRTUAL_ENV": str(VENV)}
    pins = read_lock(LOCK.read_text())
    uv = bootstrap_uv(pins)
    if not (VENV / "bin" / "python").exists():
        step(f"making .venv with Python {sys.version.split()[0]}")
        run(uv, "venv", "--quiet", "--python", sys.executable, str(VENV))
    install(uv, profile, pins)
    step("building the grid's bundle and installing skydeck_nb itself")
    run(uv, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    for name in PROFILES:
        (VENV / f".{name}").touch()
        if name == profile:
            break
    step("ready")


def bootstrap_uv(pins: dict[str, str]) -> str:
    uv = TOOLS / "bin" / "uv"
    wanted = TOOLS / "uv.txt"
    if not uv.exists() or wanted.read_text() != pins["uv"]:
        step("fetching uv, the installer")
        run(sys.executable, "-m", "venv", "--clear", str(TOOLS))
        wanted.write_text(pins["uv"])
        run(str(TOOLS / "bin" / "pip"), "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(wanted))
    return str(uv)


def install(uv: str, profile: str, pins: dict[str, str]) -> None:
    step(f"choosing what '{profile}' needs of the {len(pins)} distributions in requirements.lock")
    chosen = run(
        *[uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--constraints", str(LOCK)],
        *[*PROFILES[profile], str(ROOT / "pyproject.toml")],
    )
    names = [line.partition("==")[0] for line in chosen.splitlines()]
    if missing := [name for name in names if name not in pins]:
        sys.exit(f"requirements.lock lacks {', '.join(missing)}: run `make lock`")
    subset = TOOLS / f"{profile}.txt"
    subset.write_text("".join(pins[name] for name in names))
    step(f"installing {len(names)} distributions, each checked against its hash")
    run(uv, "pip", "install", "--quiet", "--require-hashes", "-r", str(subset))


def read_lock(text: str) -> dict[str, str]:
    """The lines of each distribution: its pin, or one for each Python where they differ, with their hashes."""
    pins: dict[str, str] = {}
    for block in re.findall(r"^\S+==.*\n(?: .*\n)*", text, re.MULTILINE):
        name = block.partition("==")[0]
        pins[name] = pins.get(name, "") + block
    return pins


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def step(words: str) -> None:
    print(f"==> {words}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
