"""A selection to the experiments it names.

Decides what may stand for experiments in a call: a name, a handle, a list of
these, a glob, a function, a frame; and what is said when it names none. Refuses
to know the database and what the call will do: rows in, rows out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from skydeck_nb.errors import InvalidSetting, UnknownExperiment
from skydeck_nb.models import ExperimentRow

Selection = Any
"""A name, an Experiment or Sweep, a list of these, a glob, a function of an Experiment, or a frame."""

HOW = "write a name, a glob such as 'ppo-*', a list of names, a function of an experiment, or a frame"


@runtime_checkable
class Selects(Protocol):
    """A handle: it knows the ids it stands for."""

    def __skydeck_ids__(self) -> Collection[int]: ...


@dataclass(frozen=True, slots=True)
class Picked:
    """The rows a selection names, each once, and what is to be said about it."""

    rows: tuple[ExperimentRow, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Roster:
    """What a selection is looked up in: rows by the deck's order, and what else has a name."""

    rows: Sequence[ExperimentRow]
    handle: Callable[[ExperimentRow], Any]
    """What a function is given."""
    sweeps: Collection[str] = ()
    groups: Collection[str] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Names that exist and are not offered here, with what to do about each."""

    def pick(self, selection: Selection) -> Picked:
        """The rows that this selection names. Raises for a literal name that is none of them."""
        by_id = {row.id: row for row in self.rows}
        chosen: dict[int, ExperimentRow] = {}
        notices: list[str] = []
        for row in self._of(selection, by_id, notices):
            chosen.setdefault(row.id, row)
        return Picked(tuple(chosen.values()), tuple(notices))

    def _of(
        self, selection: Selection, by_id: Mapping[int, ExperimentRow], notices: list[str]
    ) -> Iterator[ExperimentRow]:
        if isinstance(selection, str):
            yield from self._named(selection, notices)
        elif isinstance(selection, Selects) and not isinstance(selection, type):
            yield from (by_id[i] for i in selection.__skydeck_ids__() if i in by_id)
        elif isinstance(selection, (pd.DataFrame, pd.Series, pd.Index)):
            yield from self._framed(selection, notices)
        elif callable(selection):
            found = [row for row in self.rows if selection(self.handle(row))]
            if not found:
                notices.append(f"The function chose none of {len(self.rows)} experiments.")
            yield from found
        elif isinstance(selection, Mapping) or not isinstance(selection, Iterable):
            raise InvalidSetting(_no_selection(selection))
        else:
            for item in selection:
                if not isinstance(item, (str, Selects)):
                    raise InvalidSetting(_no_selection(item, "in a list"))
                yield from self._of(item, by_id, notices)

    def _named(self, text: str, notices: list[str]) -> Iterator[ExperimentRow]:
        if "*" in text or "?" in text:
            pattern = re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in text))
            found = [row for row in self.rows if pattern.fullmatch(row.name)]
            if not found:
                notices.append(f"{text!r} matches none of {len(self.rows)} experiments.")
            yield from found
            return
        found = [row for row in self.rows if row.name == text]
        if not found:
            raise UnknownExperiment(self._unknown(text))
        yield found[-1]

    def _unknown(self, name: str) -> str:
        if name in self.elsewhere:
            return f"{name!r} {self.elsewhere[name]}"
        if name in self.sweeps:
            return f"{name!r} is a sweep: write deck.sweeps[{name!r}]."
        if name in self.groups:
            return f"{name!r} is a group: select by its column, as in lambda e: {name!r} in e.groups."
        near = difflib.get_close_matches(name, [row.name for row in self.rows], n=3, cutoff=0.5)
        remedy = f"Did you mean {' or '.join(map(repr, near))}?" if near else "deck.experiments() lists them."
        return f"There is no experiment {name!r}. {remedy}"

    def _framed(self, frame: pd.DataFrame | pd.Series | pd.Index, notices: list[str]) -> Iterator[ExperimentRow]:
        names = [str(name) for name in dict.fromkeys(_names(frame)) if not pd.isna(name)]
        by_name = {row.name: row for row in self.rows}
        gone = [name for name in names if name not in by_name]
        if gone:
            notices.append(f"Not here any more, and left out: {shortened(gone)}.")
        if not names:
            notices.append("The frame has no rows, so it selects nothing.")
        yield from (by_name[name] for name in names if name in by_name)


def _names(frame: pd.DataFrame | pd.Series | pd.Index) -> Iterable[Any]:
    if isinstance(frame, pd.DataFrame) and "experiment" in frame.columns:
        return list(frame["experiment"])
    if isinstance(frame, pd.Series) and frame.name == "experiment":
        return list(frame)
    index = frame if isinstance(frame, pd.Index) else frame.index
    if "experiment" in index.names:
        return list(index.get_level_values("experiment"))
    what = "Its index has no name" if index.names == [None] else f"Its index is {', '.join(map(str, index.names))}"
    raise InvalidSetting(
        f"This {type(frame).__name__} does not say which experiments it means: it needs a column or an index level "
        f"called 'experiment'. {what}; a list of names selects too, as in list(df['name'])."
    )


def _no_selection(item: object, where: str = "") -> str:
    if isinstance(item, int) and not isinstance(item, bool):
        return f"{item} is an id, not a name: deck.by_id({item}) selects by id."
    if item is None:
        return f"Nothing is selected: {HOW}; '*' is all."
    return f"{item!r:.60} {where + ' ' if where else ''}selects no experiment: {HOW}."


def shortened(names: Sequence[str], at_most: int = 5) -> str:
    """``a, b and 12 more``."""
    if len(names) <= at_most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:at_most])} and {len(names) - at_most:,} more"
