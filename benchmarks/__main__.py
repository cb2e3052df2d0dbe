"""``python -m benchmarks [a … h] [--quick]``: measure, print one table, save it as JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import analysis, changed, declaring, importing, latency, report, shared_server, unchanged, wrongdoing
from benchmarks.report import Figures, Measured
from benchmarks.world import Worlds

BENCHMARKS: dict[str, tuple[str, Callable[..., Figures]]] = {
    "a": ("one pass, nothing changed", unchanged.run),
    "b": ("a listing of 10,000 jobs, 10 changed", changed.run),
    "c": ("frames against pandas.read_sql", analysis.run),
    "d": ("start() until the backend is told", latency.run),
    "e": ("import skydeck_nb over import pandas", importing.run),
    "f": ("a sweep of 10,000 points", declaring.run),
    "g": ("a server that does wrong: the notebook's longest stall", wrongdoing.run),
    "h": ("looks at a shared server", shared_server.run),
}
ON_DEMAND = frozenset("h")
"""Those that need a server of their own, and run only when they are asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("letters", nargs="*", metavar="a…h", help="which (all but h)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything still run, and count right")
    parser.add_argument("--folder", type=Path, help="where databases are made (a new one under the system's own)")
    asked = parser.parse_args(arguments)
    letters = asked.letters or [letter for letter in BENCHMARKS if letter not in ON_DEMAND]
    if strange := sorted(set(letters) - set(BENCHMARKS)):
        parser.error(f"{', '.join(strange)}: there are {', '.join(BENCHMARKS)}")
    facts = report.machine()
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="skydeck-bench-", dir=asked.folder) as folder:
        worlds = Worlds(Path(folder))
        for letter in letters:
            title, run = BENCHMARKS[letter]
            began = time.perf_counter()
            print(f"({letter}) {title} …", end=" ", file=sys.stderr, flush=True)
            measured.append(Measured(letter, title, run(worlds, quick=asked.quick)))
            print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(report.headline(facts, quick=asked.quick), end="\n\n")
    print(report.table(measured))
    report.save(measured, {**facts, "quick": asked.quick})
    print(f"\nSaved to {report.RESULTS}.")
    missed = report.missed(measured)
    for each in missed:
        print(f"Missed: {each}")
    return 1 if missed and not asked.quick else 0


if __name__ == "__main__":
    sys.exit(main())
