"""How a deck's answers read in a notebook: the line above the rows, an explanation, health.

Decides words and HTML. Refuses to know how answers are found, and never prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from skydeck_nb import states

if TYPE_CHECKING:
    from skydeck_nb.control.explaining import Explanation
    from skydeck_nb.control.runner import LoopStatus


@dataclass(frozen=True)
class Why:
    """Why an experiment is as it is: the rule that decided, its inputs, and when it is looked at next."""

    experiment: str
    state: str
    reason: str
    message: str
    rule: str
    attention: bool
    next: tuple[str, ...]
    inputs: dict[str, object]
    seen_at: datetime | None
    next_look_at: datetime | None
    leader: str

    @classmethod
    def of(cls, found: Explanation, leader: str) -> Why:
        return cls(
            experiment=found.name,
            state=found.state,
            reason=found.reason,
            message=found.message,
            rule=found.rule,
            attention=found.attention,
            next=tuple(found.actions),
            inputs=dict(found.inputs),
            seen_at=found.seen_at,
            next_look_at=found.next_look_at,
            leader=leader,
        )

    def lines(self) -> list[str]:
        """The same in sentences, the first of them the answer."""
        inputs = ", ".join(f"{key} {_plain(value)}" for key, value in self.inputs.items() if value not in (None, {}))
        return [
            f"{self.experiment}: {self.state} ({self.reason}). {self.message}",
            f"Rule: {self.rule}",
            f"From: {inputs}.",
            f"Next: {', '.join(self.next).lower() or 'nothing'}.",
            f"Seen: {_clock(self.seen_at)}; looked at again: {_clock(self.next_look_at)}.",
            *([self.leader] if self.leader else []),
        ]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        head, *rest = self.lines()
        return f"<div><b>{escape(head)}</b></div>" + "".join(f"<div>{escape(line)}</div>" for line in rest)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def _clock(when: datetime | None) -> str:
    return f"{when:%H:%M:%S} UTC" if when is not None else "not yet"


def role(status: LoopStatus, *, read_only: bool) -> str:
    """Who acts for this deck, in words."""
    if status.leading:
        return "leading"
    if status.holder is not None:
        return f"following {status.holder}" + (", read-only" if read_only else "")
    return "read-only" if read_only else "taking the lead"


def headline(name: str, place: str, standing: str, shown: Iterable[str], seen_at: datetime | None) -> str:
    """One line for the whole deck: ``Deck local.db (local on host as me), leading: 12 experiments, 3 RUNNING.``"""
    counts = Counter(shown)
    total = sum(counts.values())
    some = ", ".join(f"{counts[state]:,} {state}" for state in states.STATES if counts[state])
    seen = f" Seen at {_clock(seen_at)}." if seen_at is not None else ""
    return f"Deck {name} ({place}), {standing}: {total:,} experiments{f' ({some})' if some else ''}.{seen}"


def health_frame(parts: Sequence[tuple[str, bool, str]]) -> pd.DataFrame:
    """One row a part of the deck: whether it is well, and a sentence with the remedy."""
    return pd.DataFrame(
        {
            "ok": pd.array([ok for _, ok, _ in parts], dtype="boolean"),
            "message": pd.array([message for *_, message in parts], dtype="string"),
        },
        index=pd.Index([part for part, *_ in parts], name="part", dtype="string"),
    )
