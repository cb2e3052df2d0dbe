"""Which experiments a call of this deck means: a selection looked up in the rows as they are.

Decides how little is read for it, and that a user's function never runs inside
a transaction. Refuses to decide what may stand for experiments
(:mod:`skydeck_nb.selection` does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from skydeck_nb.desk import Desk, ordered
from skydeck_nb.models import ExperimentRow
from skydeck_nb.selection import Picked, Roster, Selection, Selects

if TYPE_CHECKING:
    from skydeck_nb.store.transaction import Transaction

Handle = Callable[[ExperimentRow], Any]


class Lookup:
    """Selections to rows of one deck."""

    def __init__(self, desk: Desk, handle: Handle) -> None:
        self._desk = desk
        self._handle = handle

    def pick(self, selection: Selection, *, deleted: bool | None = False) -> Picked:
        """The rows that a selection names; ``deleted`` says among which. A handle is looked up among all."""
        ids = (
            selection.__skydeck_ids__() if isinstance(selection, Selects) and not isinstance(selection, type) else None
        )
        quick = self._desk.read(lambda tx: _quick(tx, selection, ids, deleted))
        if quick is not None:
            return Picked(tuple(quick))
        return self._desk.read(lambda tx: self._roster(tx, deleted)).pick(selection)

    def ids(self, selection: Selection) -> tuple[int, ...] | None:
        """The ids that a frame is asked for; ``None`` is all."""
        return None if selection is None else tuple(row.id for row in self.pick(selection).rows)

    def _roster(self, tx: Transaction, deleted: bool | None) -> Roster:
        elsewhere: dict[str, str] = {}
        if deleted is not None:
            for name, gone in tx.rows("experiments", ["name", "deleted"]):
                if bool(gone) != deleted:
                    elsewhere[name] = f"is deleted: deck.undelete({name!r})." if gone else "is not deleted."
        return Roster(
            ordered(tx.experiments(deleted=deleted)),
            self._handle,
            sweeps={row.name for row in tx.sweeps()},
            groups={row.name for row in tx.groups()},
            elsewhere=elsewhere,
        )


def _quick(
    tx: Transaction, selection: Selection, ids: Collection[int] | None, deleted: bool | None
) -> list[ExperimentRow] | None:
    """One name or one handle is looked up by itself; ``None`` where that does not do."""
    if isinstance(selection, str) and not {"*", "?"} & set(selection):
        found = tx.experiments(names=[selection], deleted=deleted)
        return found[-1:] or None
    if ids is not None:
        rows = {row.id: row for row in tx.experiments(ids, deleted=None)}
        return [rows[i] for i in ids if i in rows]
    return None
