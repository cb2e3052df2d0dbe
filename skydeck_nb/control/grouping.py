"""Which experiments stand in which groups, and the requests that put them there.

Decides the changes of groups and members from the names that a declaration
wants. Refuses to know the database and what a group shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from skydeck_nb import codec
from skydeck_nb.events import Change, Event, GroupChanged
from skydeck_nb.models import GroupRow


class Membership:
    """Which experiments stand in which groups, and the events of what is put into them."""

    def __init__(
        self, groups: Sequence[GroupRow], members: Mapping[tuple[int, int], float], next_id: int, now: datetime
    ) -> None:
        self._names = {group.name: group.id for group in groups}
        self._order = max((group.group_order for group in groups), default=0.0)
        self._next = next_id
        self._now = now
        self._of: dict[int, list[str]] = {}
        names = {group.id: group.name for group in groups}
        for group_id, experiment_id in members:
            self._of.setdefault(experiment_id, []).append(names[group_id])
        self._made: list[Event] = []
        self._moved: dict[int, list[Change]] = {}

    def of(self, experiment_id: int) -> list[str]:
        return self._of.get(experiment_id, [])

    def put(self, experiment_id: int, wanted: Sequence[str]) -> None:
        """Have this experiment in these groups alone; groups that are not there yet are made."""
        have = self.of(experiment_id)
        for name in wanted:
            if name not in have:
                group_id = self._names.get(name) or self._make(name)
                self._moved.setdefault(group_id, []).append(codec.member(group_id, experiment_id, float(experiment_id)))
        for name in have:
            if name not in wanted:
                group_id = self._names[name]
                self._moved.setdefault(group_id, []).append(codec.member(group_id, experiment_id, None))

    def _make(self, name: str) -> int:
        row = GroupRow(
            id=self._next, name=name, group_order=self._order + 1, created_at=self._now, updated_at=self._now
        )
        self._next += 1
        self._order += 1
        self._names[name] = row.id
        self._made.append(GroupChanged(at=self._now, group_id=row.id, what="created", changes=(codec.insert(row),)))
        return row.id

    def events(self) -> list[Event]:
        moved: list[Event] = [
            GroupChanged(at=self._now, group_id=group_id, what="members", changes=tuple(changes))
            for group_id, changes in self._moved.items()
        ]
        return [*self._made, *moved]
