"""How figures are shown: one table, one JSON file, and the machine they were taken on.

Decides words and columns. Refuses to know what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import psutil

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One figure of the table. ``holds``: whether it keeps its bar; ``None`` where it has none."""

    what: str
    figure: str
    bar: str = ""
    holds: bool | None = None


class Figures(Protocol):
    """What a benchmark returns: a frozen dataclass that can say itself."""

    def lines(self) -> list[Line]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One benchmark's outcome."""

    letter: str
    title: str
    figures: Figures


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms" if seconds < 0.1 else f"{seconds * 1e3:,.0f} ms"


def table(measured: Sequence[Measured]) -> str:
    """All figures, with their bars, as text."""
    head = ("", "figure", "measured", "bar", "")
    rows: list[tuple[str, ...]] = []
    for one in measured:
        rows.append((one.letter, one.title, "", "", ""))
        for line in one.figures.lines():
            verdict = {True: "ok", False: "MISSED", None: ""}[line.holds]
            rows.append(("", f"  {line.what}", line.figure, line.bar, verdict))
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([_row(head, widths), rule, *(_row(row, widths) for row in rows)])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def missed(measured: Sequence[Measured]) -> list[str]:
    """The bars that were missed, in words."""
    return [
        f"({one.letter}) {line.what}: {line.figure}, {line.bar}"
        for one in measured
        for line in one.figures.lines()
        if line.holds is False
    ]


def machine() -> dict[str, Any]:
    """What these figures were taken on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("skydeck-nb", "pandas", "numpy", "sqlite-utils")},
    }


def headline(facts: Mapping[str, Any], *, quick: bool) -> str:
    """The machine in one line."""
    where = f"{facts['processor']}, {facts['cores']} cores, load {facts['load'][0]}"
    what = f"Python {facts['python']}, pandas {facts['pandas']}, SQLite {facts['sqlite']}"
    return f"{where}; {what}{'; QUICK: small sizes, so that times say little' if quick else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def save(measured: Sequence[Measured], facts: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Everything that was measured, each repeat among it, as JSON."""
    document = {
        "machine": dict(facts),
        "benchmarks": {
            one.letter: {
                "title": one.title,
                "figures": plain(one.figures),
                "lines": [dataclasses.asdict(line) for line in one.figures.lines()],
            }
            for one in measured
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """A dataclass, its fields and its properties as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = [f.name for f in dataclasses.fields(value)]
        derived = [k for k, v in vars(type(value)).items() if isinstance(v, property)]
        return {name: plain(getattr(value, name)) for name in (*named, *derived)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value
