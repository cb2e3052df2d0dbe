"""What a call would do, as a frame that can be applied.

Decides how a plan reads and that it is applied once and whole. Refuses to know
how it was made and how it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final

import pandas as pd

from skydeck_nb.errors import StalePlan
from skydeck_nb.results import WHOLE

COLUMNS: Final = ("experiment", "action", "reason", "gpus")


class Plan(pd.DataFrame):
    """``experiment action reason gpus``: what would be done, one row a step. :meth:`apply` does it."""

    _metadata = ["_apply"]  # noqa: RUF012  (pandas' own protocol)
    _apply: Callable[[], Any] | None

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[str, str, str, int]],
        apply: Callable[[], Any] | None = None,
        notices: Iterable[str] = (),
    ) -> Plan:
        plan = cls(pd.DataFrame(list(rows), columns=list(COLUMNS)))
        plan = cls(plan.astype({"experiment": "string", "action": "string", "reason": "string", "gpus": "Int64"}))
        object.__setattr__(plan, "_apply", apply)
        plan.attrs["notices"] = list(notices)
        return plan

    def apply(self) -> Any:  # type: ignore[override]
        """Do it, in one transaction. Raises :class:`StalePlan` when what it read has moved."""
        if self._apply is None:
            raise StalePlan("This plan is a look at what the loop does by itself; there is nothing to apply.")
        return self._apply()

    def __repr__(self) -> str:
        with pd.option_context(*WHOLE):
            return "\n".join([*self._head(), super().__repr__()] if len(self) else self._head())

    def _repr_html_(self) -> str:
        head = "".join(f"<div>{escape(line)}</div>" for line in self._head())
        with pd.option_context(*WHOLE):
            return head + (pd.DataFrame(self).to_html(max_rows=60, notebook=True) if len(self) else "")

    def _head(self) -> list[str]:
        counts = Counter(self["action"].tolist()) if "action" in self.columns else Counter()
        steps = ", ".join(f"{count:,} {action}" for action, count in counts.items()) or "nothing to do"
        done = "" if self._apply is None else " Nothing is written yet: .apply() does it."
        return [f"Plan: {steps}.{done}", *self.attrs.get("notices", ())]
