"""What the store hands out besides the models: lines of the log, the lease's row, metric points.

Decides their shape. Refuses to know SQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from skydeck_nb.events import Change, Event, decode, decode_changes, micros


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log as it is stored. ``event`` is ``None`` where this build cannot read it."""

    sequence: int
    recorded_at: datetime
    type: str
    at: datetime
    experiment_id: int | None
    job_id: int | None
    is_request: bool
    term: int | None
    payload: str

    @property
    def event(self) -> Event | None:
        return decode(self.type, micros(self.at), self.experiment_id, self.job_id, self.payload)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of rows, also of a kind that this build does not know."""
        return decode_changes(self.payload)


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as listeners get it, after its commit. ``sequence`` is 0 for one that is published only."""

    sequence: int
    event: Event

    @property
    def type(self) -> str:
        return self.event.type

    @property
    def at(self) -> datetime:
        return self.event.at

    @property
    def experiment_id(self) -> int | None:
        return self.event.experiment_id

    @property
    def job_id(self) -> int | None:
        return self.event.job_id

    @property
    def changes(self) -> tuple[Change, ...]:
        return self.event.changes


Line = LogLine | Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """Who leads. ``holder is None``: released. The times are for display only."""

    holder: str | None
    host: str | None
    pid: int | None
    term: int
    counter: int
    taken_at: datetime | None
    renewed_at: datetime | None
    listed_at: datetime | None
    next_look_at: datetime | None


class Metric(NamedTuple):
    """One reading of a run. ``value`` NaN is kept as NaN."""

    experiment_id: int
    job_id: int | None
    name: str
    step: int | None
    value: float
    at: datetime


class Latest(NamedTuple):
    """The newest reading of one curve."""

    step: int | None
    value: float
    at: datetime
    job_id: int | None
