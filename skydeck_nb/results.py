"""What a call that changes something answers: a frame of what it did, with what it skipped and why.

Decides how such a frame reads in a notebook. Refuses to know what was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

import pandas as pd

from skydeck_nb import frames
from skydeck_nb.control.requesting import Outcome

WHOLE: Final = ("display.max_colwidth", None, "display.max_columns", None)
"""Pandas' options for frames of sentences: a reason that is cut off says nothing."""


class Result(pd.DataFrame):
    """One row an experiment: ``action``, ``reason`` and, of an edit, ``applies``. A snapshot like every frame."""

    @classmethod
    def of(
        cls, outcomes: Iterable[Outcome], notices: Sequence[str] = (), *, applies: Sequence[str] | None = None
    ) -> Result:
        made = list(outcomes)
        columns = ("action", "reason") if applies is None else ("action", "reason", "applies")
        rows: list[tuple[str | None, ...]] = [(o.name, o.action, o.reason) for o in made]
        if applies is not None:
            rows = [(*row, when or None) for row, when in zip(rows, applies, strict=True)]
        result = cls(frames.outcomes(rows, columns))
        result.attrs["notices"] = [notice for notice in notices if notice]
        return result

    @property
    def notices(self) -> list[str]:
        """What is to be said about the call as a whole."""
        return list(self.attrs.get("notices", ()))

    @property
    def summary(self) -> str:
        """``3 started, 2 skipped``."""
        if "action" not in self.columns:
            return ""
        counts = Counter(self["action"].tolist())
        ordered = sorted(counts.items(), key=lambda item: item[0] == "skipped")
        return ", ".join(f"{count:,} {action}" for action, count in ordered) or "nothing to do"

    def __repr__(self) -> str:
        with pd.option_context(*WHOLE):
            return "\n".join([*self._head(), super().__repr__()] if len(self) else self._head())

    def _repr_html_(self) -> str:
        head = "".join(f"<div>{escape(line)}</div>" for line in self._head())
        with pd.option_context(*WHOLE):
            return head + (pd.DataFrame(self).to_html(max_rows=60, notebook=True) if len(self) else "")

    def _head(self) -> list[str]:
        return [sentence(self.summary), *self.notices]


def sentence(text: str) -> str:
    """The text as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def said(*texts: Any) -> str:
    """Those of the texts that say something, in one line."""
    return " ".join(str(text) for text in texts if text)
