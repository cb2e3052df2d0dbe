"""(c) Frames against ``pandas.read_sql`` of the same rows, in the same run.

``read_sql`` gets the very SELECT that the frame is made from. It leaves times as
integers, states as text, flags as JSON and unknown integers as floats; the
frame has all of it typed. For flags two more readings stand beside it: the same
values from 200 real columns of a table of their own, which no schema of ours
has, and the JSON parsed as one would by hand.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.report import Line, milliseconds
from benchmarks.timing import Spent, Versus, spent, versus
from benchmarks.world import Echo, Size, Worlds, flags_of, traced

if TYPE_CHECKING:
    from skydeck_nb.deck import Deck

FLAGS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Times of frames, and of what they are compared with."""

    jobs_rows: int
    experiments_rows: int
    flags: int
    statements_jobs: int
    statements_experiments: int
    jobs: Versus
    """``deck.jobs()`` over ``read_sql`` of its SELECT."""
    wide: Versus
    """``deck.experiments()`` over ``read_sql`` of the same flags from real columns."""
    parsed: Versus
    """``deck.experiments()`` over ``read_sql`` and ``json.loads`` of each row's flags."""
    text: Spent
    """``read_sql`` of the flags as text, unread."""

    def lines(self) -> list[Line]:
        jobs, wide, parsed = self.jobs, self.wide, self.parsed
        return [
            Line(f"deck.jobs(), {self.jobs_rows:,} rows", milliseconds(jobs.ours.best)),
            Line("  over read_sql of its SELECT", f"{jobs.ratio:.2f} (medians {jobs.ratio_of_medians:.2f})",
                 "at most 1", jobs.ratio <= 1),
            Line(
                f"deck.experiments(), {self.experiments_rows:,} rows, {self.flags} flags",
                milliseconds(self.parsed.ours.best),
            ),
            Line(
                "  over read_sql and json.loads of its SELECT",
                f"{parsed.ratio:.2f} (medians {parsed.ratio_of_medians:.2f})",
                "at most 1",
                parsed.ratio <= 1,
            ),
            Line("  over read_sql of as many real columns", f"{wide.ratio:.2f} (medians {wide.ratio_of_medians:.2f})"),
            Line("  over read_sql, flags left as JSON text", f"{parsed.ours.best / self.text.best:.2f}"),
            Line("SELECTs of each frame", f"{self.statements_jobs} and {self.statements_experiments}"),
        ]  # fmt: skip


def run(worlds: Worlds, *, quick: bool = False) -> Analysis:
    """Jobs of the large deck, and experiments of one with 200 flags each."""
    size = Size(400) if quick else Size(10_000)
    repeats = 3 if quick else 7
    with reading(worlds.copy(size)) as (deck, raw, selects):
        selects.clear()
        rows = len(deck.jobs())
        jobs_selects = _only_selects(selects)
        (statement,) = jobs_selects
        jobs = versus(deck.jobs, lambda: pd.read_sql(statement, raw), repeats)
    with reading(_with_flags(worlds.copy(size))) as (deck, raw, selects):
        selects.clear()
        experiments = len(deck.experiments())
        experiments_selects = _only_selects(selects)
        (statement,) = (s for s in experiments_selects if "flags" in s)
        _widen(raw)
        return Analysis(
            jobs_rows=rows,
            experiments_rows=experiments,
            flags=FLAGS,
            statements_jobs=len(jobs_selects),
            statements_experiments=len(experiments_selects),
            jobs=jobs,
            wide=versus(deck.experiments, lambda: pd.read_sql("SELECT * FROM temp.wide", raw), repeats),
            parsed=versus(deck.experiments, lambda: _by_hand(statement, raw), max(2, repeats // 2)),
            text=spent(lambda: pd.read_sql(statement, raw), repeats),
        )


@contextmanager
def reading(path: Path) -> Iterator[tuple[Deck, sqlite3.Connection, list[str]]]:
    """A deck that only reads, a plain connection to a copy of its file, and the statements the deck runs.

    The copy keeps ``read_sql`` from being a second reader of the deck's file.
    """
    import skydeck_nb as sd

    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    raw = sqlite3.connect(copy)
    deck = sd.open(path, backend=Echo(), read_only=True)
    try:
        with traced(deck._loop.store) as statements:
            yield deck, raw, statements
    finally:
        deck.close()
        raw.close()


def _only_selects(statements: list[str]) -> list[str]:
    """The SELECTs that read rows; every transaction also asks for the log's last line."""
    return [s for s in statements if s.startswith("SELECT") and "max(sequence)" not in s]


def _with_flags(path: Path) -> Path:
    """The deck with 200 flags an experiment, put into its rows by hand: nothing here reads its log."""
    raw = sqlite3.connect(path)
    ids = [i for (i,) in raw.execute("SELECT id FROM experiments").fetchall()]
    texts = [(json.dumps(flags_of(i, FLAGS), separators=(",", ":")), i) for i in ids]
    raw.executemany("UPDATE experiments SET flags = ? WHERE id = ?", texts)
    raw.commit()
    raw.close()
    return path


def _widen(raw: sqlite3.Connection) -> None:
    """The experiments' cells with each flag in a column of its own."""
    rows = raw.execute("SELECT name, id, desired_state, run, current_state, reason, created_at, flags FROM experiments")
    cells = [(*row[:-1], *json.loads(row[-1]).values()) for row in rows.fetchall()]
    columns = ["name", "id", "desired", "run", "state", "reason", "created_at", *(f"f{k}" for k in range(FLAGS))]
    raw.execute(f"CREATE TEMP TABLE wide ({', '.join(columns)})")
    raw.executemany(f"INSERT INTO temp.wide VALUES ({', '.join('?' * len(columns))})", cells)
    raw.commit()


def _by_hand(statement: str, raw: sqlite3.Connection) -> pd.DataFrame:
    read = pd.read_sql(statement, raw)
    flags = pd.DataFrame([json.loads(text) for text in read.pop("flags")])
    return pd.concat([read, flags], axis=1)
