"""Finds the browser that the tests drive, and on Debian, as root, installs it: `python scripts/browser.py`."""

from __future__ import annotations

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = "install Chromium (Debian: `apt-get install chromium`) or point CHROMIUM to a Chromium or Chrome"


def find() -> str | None:
    """The program's path; CHROMIUM wins over what is on PATH."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install() -> None:
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    packages = ["chromium", "fonts-dejavu-core"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *command], env=environ, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    if not find() and "CHROMIUM" not in os.environ and os.geteuid() == 0 and shutil.which("apt-get"):
        print("==> installing Chromium for the browser tests", flush=True)
        install()
    print(f"==> browser: {find() or f'none, so its tests are skipped; to run them, {REMEDY}'}", flush=True)


if __name__ == "__main__":
    main()
