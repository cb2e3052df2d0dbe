"""(f) A sweep of 10,000 points, declared and declared again by the same cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.report import Line, milliseconds
from benchmarks.timing import clock
from benchmarks.world import Echo, Worlds, kinds, sequence, traced

if TYPE_CHECKING:
    from skydeck_nb.deck import Deck

BAR = 5.0
"""Seconds of CPU for a declaration of 10,000 points: *a few seconds*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the cell."""

    cpu: float
    wall: float
    events: int
    statements: int
    by_word: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaring:
    """The cell's first, second and third run."""

    points: int
    first: Cell
    again: Cell
    more: Cell
    """One value more on one axis."""
    new: int
    """How many points that made."""

    def lines(self) -> list[Line]:
        first, again, more = self.first, self.again, self.more
        return [
            Line(f"CPU, {self.points:,} points", milliseconds(first.cpu), f"under {BAR:g} s", first.cpu < BAR),
            Line("  wall", milliseconds(first.wall)),
            Line("  events, statements", f"{first.events:,}, {first.statements:,}"),
            Line("CPU, again", milliseconds(again.cpu), f"under {BAR:g} s", again.cpu < BAR),
            Line("  events", str(again.events), "0", again.events == 0),
            Line("  statements (BEGIN, COMMIT too)", str(again.statements)),
            Line("CPU, one value more", milliseconds(more.cpu), f"under {BAR:g} s", more.cpu < BAR),
            Line("  events", f"{more.events:,}", f"{self.new:,} + 1", more.events == self.new + 1),
        ]


def run(worlds: Worlds, *, quick: bool = False) -> Declaring:
    """A hundred values on each of two axes (``quick``: fifteen)."""
    return measure(worlds, 15 if quick else 100)


def measure(worlds: Worlds, side: int) -> Declaring:
    """A square sweep with ``side`` values on each axis."""
    import skydeck_nb as sd

    path = worlds.fresh() / "deck.db"
    with sd.open(path, backend=Echo()) as deck:
        deck.reconcile()
        first = _cell(deck, side, side)
        again = _cell(deck, side, side)
        more = _cell(deck, side, side + 1)
    return Declaring(points=side * side, first=first, again=again, more=more, new=side)


def _cell(deck: Deck, rows: int, columns: int) -> Cell:
    """Run the cell once."""
    store = deck._loop.store
    before = sequence(store)
    flags = {"seed": list(range(rows)), "trainer.lr": [(i + 1) / 1e4 for i in range(columns)], "trainer.decay": True}
    with traced(store) as statements:
        cpu, wall = clock(lambda: deck.sweep("grid", ["python", "train.py", "{flags}"], gpus=1, flags=flags))
    with store.read() as tx:
        events = sum(line.is_request for line in tx.log(before))
    return Cell(cpu=cpu, wall=wall, events=events, statements=len(statements), by_word=kinds(statements))
