"""The handle of a sweep, and the collection of a deck's sweeps.

Decides how a sweep reads in a notebook and which of its points ``start(first=…)``
means. Holds nothing but an id. Refuses to decide what a call does: the deck does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from skydeck_nb import states
from skydeck_nb.arguments import whole
from skydeck_nb.declarations import cost
from skydeck_nb.errors import InvalidSetting, UnknownExperiment
from skydeck_nb.experiment import Experiment, News, shown
from skydeck_nb.flags.values import format_value, suggest
from skydeck_nb.models import ExperimentRow, SweepRow
from skydeck_nb.results import said
from skydeck_nb.tracebacks import shorten

if TYPE_CHECKING:
    from skydeck_nb.deck import Deck
    from skydeck_nb.plan import Plan
    from skydeck_nb.results import Result


@shorten
class Sweep:
    """A named set of experiments that one call declares. Got by ``deck.sweeps["name"]``."""

    def __init__(self, deck: Deck, id: int, *, notices: Sequence[str] = ()) -> None:
        """Internal."""
        self._deck = deck
        self._id = id
        self._news = News(notices)

    def __skydeck_ids__(self) -> tuple[int, ...]:
        """Internal: what this handle stands for in a selection."""
        return tuple(row.id for row in self._deck._points(self._id))

    def _row(self) -> SweepRow:
        return self._deck._sweep_row(self._id)

    @property
    def id(self) -> int:
        return self._id

    @property
    def name(self) -> str:
        return self._row().name

    def __len__(self) -> int:
        return len(self._deck._points(self._id))

    def __iter__(self) -> Iterator[Experiment]:
        return iter([Experiment(self._deck, row.id) for row in self._deck._points(self._id)])

    def experiments(self, flags: bool = True, metrics: bool = False, deleted: bool = False) -> pd.DataFrame:
        return self._deck.experiments(self, flags=flags, metrics=metrics, deleted=deleted)

    def jobs(self, live: bool | None = None) -> pd.DataFrame:
        return self._deck.jobs(self, live=live)

    def events(self, since: Any = None) -> pd.DataFrame:
        return self._deck.events(self, since=since)

    def metrics(self, keys: Any = None) -> pd.DataFrame:
        return self._deck.metrics(self, keys=keys)

    def checkpoints(self, **how: Any) -> pd.DataFrame:
        return self._deck.checkpoints(self, **how)

    def start(self, first: int | None = None, *, dry_run: bool = False) -> Result | Plan:
        """Start its points, and let go what its brake holds; ``first=2`` starts only the next two."""
        if first is not None:
            first = whole(first, "first", "how many to start, 1 or more")
            if first < 1:
                raise InvalidSetting(f"first={first}: write how many to start, 1 or more.")
        return self._deck._start_sweep(self._id, first, dry_run=dry_run)

    def stop(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.stop(self, dry_run=dry_run)

    def terminate(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.terminate(self, dry_run=dry_run)

    def restart(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.restart(self, dry_run=dry_run)

    def retry(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.retry(self, dry_run=dry_run)

    def update(
        self, *, flags: Mapping[Any, Any] | None = None, unset: Any = (), dry_run: bool = False, **spec: Any
    ) -> Result | Plan:
        return self._deck.update(self, flags=flags, unset=unset, dry_run=dry_run, **spec)

    def delete(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.delete(self, dry_run=dry_run)

    def star(self, on: bool = True, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.star(self, on, dry_run=dry_run)

    def to_code(self) -> str:
        return self._deck.to_code(self)

    def wait(self, timeout: float | None = None, check: bool = False) -> pd.DataFrame:
        """Wait until all its points have ended, are stopped, or need a person; the last frame."""
        return self._deck._wait(self.__skydeck_ids__(), timeout=timeout, check=check)

    def progress(self) -> pd.Series[int]:
        """How many of its points are in each state."""
        counts = dict.fromkeys(states.STATES, 0)
        for row in self._deck._points(self._id):
            counts[states.shown(row.desired_state, row.run, row.observed_run, row.current_state)] += 1
        index = pd.CategoricalIndex(list(counts), categories=list(states.STATES), ordered=True, name="state")
        return pd.Series(list(counts.values()), index=index, name=self.name, dtype="Int64")

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        head, *rest = self._lines()
        return f"<div><b>{escape(head)}</b></div>" + "".join(f"<div>{escape(line)}</div>" for line in rest)

    def _lines(self) -> list[str]:
        row, points = self._row(), self._deck._points(self._id)
        lines = list(self._news.lines())
        if not lines:
            counts: dict[str, int] = {}
            for point in points:
                counts[shown(point)] = counts.get(shown(point), 0) + 1
            states_ = ", ".join(f"{counts[state]:,} {state}" for state in states.STATES if state in counts)
            lines = [f"Sweep {row.name}: {len(points):,} experiments" + (f" ({states_})." if states_ else ".")]
            if price := cost(points, row.max_live, [row]):
                lines[0] = f"{lines[0][:-1]}; {price}."
        axes = row.definition.get("axes", {})
        if axes:
            lines.append(", ".join(_axis(key, values) for key, values in axes.items()))
        if row.brake == "HELD":
            lines.append(f"Held: {row.brake_message} sweep.start() goes on.")
        elif _startable(points):
            lines.append(said("sweep.start()", "sweep.start(first=2)" if len(points) > 2 else ""))
        return lines

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sweep) and (self._deck, self._id) == (other._deck, other._id)

    def __hash__(self) -> int:
        return hash((id(self._deck), "sweep", self._id))


def _axis(key: str, values: Sequence[Any]) -> str:
    shown_ = [format_value(value) for value in values[:6]]
    more = f" … {len(values):,} values" if len(values) > 6 else ""
    return f"{key}: {' '.join(shown_)}{more}"


def _startable(points: Sequence[ExperimentRow]) -> bool:
    return any(shown(point) == "STOPPED" for point in points)


@shorten
class Sweeps:
    """A deck's sweeps by name: ``deck.sweeps["ppo"]``, ``in``, ``len``, iteration over names."""

    def __init__(self, deck: Deck) -> None:
        """Internal."""
        self._deck = deck

    def __getitem__(self, name: str) -> Sweep:
        for row in self._deck._sweep_rows():
            if row.name == name:
                return Sweep(self._deck, row.id)
        names = list(self)
        known = suggest(str(name), names) or f" There are: {', '.join(names) or 'none'}."
        raise UnknownExperiment(f"There is no sweep {name!r}.{known}")

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self._deck._sweep_rows())

    def __iter__(self) -> Iterator[str]:
        return iter([row.name for row in self._deck._sweep_rows()])

    def __len__(self) -> int:
        return len(self._deck._sweep_rows())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def frame(self) -> pd.DataFrame:
        """One row a sweep."""
        return self._deck._tables.sweeps()

    def __repr__(self) -> str:
        return f"Sweeps: {', '.join(self) or 'none'}"

    def _repr_html_(self) -> str:
        return self.frame().to_html(max_rows=60, notebook=True)
