"""(e) What ``import skydeck_nb`` takes, over ``import pandas``: whole interpreters, in turn.

``import skydeck_nb`` brings its names when they are first used, so the import
alone says little: beside it stands an interpreter that also touches what the
first cell touches, ``sd.open``, ``sd.Deck`` and a row's frame.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.report import Line, milliseconds
from benchmarks.timing import Spent, Versus
from benchmarks.world import Worlds

BAR = 2.0
PANDAS = "import pandas"
OURS = "import skydeck_nb"
FIRST_CELL = "import skydeck_nb as sd; sd.open; sd.Deck; sd.Sweep; import skydeck_nb.backends.local"
LATE = ("sky", "boto3", "anywidget", "httpx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Importing:
    """Times of whole interpreters, and what they hold."""

    alone: Versus
    first_cell: Versus
    too_early: tuple[str, ...]
    """Of the packages that are imported late, those that the first cell brings already."""

    def lines(self) -> list[Line]:
        alone, first = self.alone, self.first_cell
        return [
            Line("import pandas, interpreter and all", milliseconds(alone.theirs.median)),
            Line("import skydeck_nb over it", f"{alone.ratio_of_medians:.2f} (least {alone.ratio:.2f})",
                 f"at most {BAR:g}", alone.ratio_of_medians <= BAR),
            Line("  and with sd.open, sd.Deck, the local backend",
                 f"{first.ratio_of_medians:.2f} (least {first.ratio:.2f})", f"at most {BAR:g}",
                 first.ratio_of_medians <= BAR),
            Line(f"of {', '.join(LATE)}", ", ".join(self.too_early) or "none", "none", not self.too_early),
        ]  # fmt: skip


def run(worlds: Worlds, *, quick: bool = False) -> Importing:
    """Some interpreters of each kind, in turn."""
    repeats = 3 if quick else 11
    pandas, ours, first = _spent([PANDAS, OURS, FIRST_CELL], repeats)
    return Importing(
        alone=Versus(ours, pandas),
        first_cell=Versus(first, pandas),
        too_early=too_early(),
    )


def too_early() -> tuple[str, ...]:
    """Of the packages that are imported late, those that an interpreter holds after the first cell's names."""
    held = subprocess.run(
        [sys.executable, "-c", f"{FIRST_CELL}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(held.stdout.split())
    return tuple(name for name in LATE if name in modules)


def _spent(statements: list[str], repeats: int) -> list[Spent]:
    found: list[list[tuple[float, float]]] = [[] for _ in statements]
    for _ in range(repeats + 1):
        for i, statement in enumerate(statements):
            found[i].append(_child(statement))
    return [Spent.of(each[1:]) for each in found]


def _child(statement: str) -> tuple[float, float]:
    """CPU (user and system) and wall of one interpreter."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, wall
