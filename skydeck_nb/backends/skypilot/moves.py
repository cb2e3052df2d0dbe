"""What is asked about a job once, when it moves: where it landed, and why it was moved.

Decides which jobs moved since the last look and what is worth asking then: the
placement opens a cluster's handle on the server, the events are one request a
job, so a steady state asks neither. Refuses to fail a look: what could not be
asked is asked at the next one.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from skydeck_nb.backends.skypilot import queue
from skydeck_nb.backends.skypilot.catalogue import Catalogue
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendError
from skydeck_nb.listing import SeenJob
from skydeck_nb.states import is_alive

log = logging.getLogger("skydeck_nb")

EVENTS: Final = "/jobs/events"

PLACES: Final = 500
"""Jobs whose placement is asked for at once: the server opens the handles of all its clusters for any of them."""

PLACE_AGAIN: Final = 60.0
"""Seconds between two questions for placements, for the same reason."""

REASONS: Final = 10
"""Jobs whose events are asked for in one look."""

REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of a job between two looks."""

    status: str
    recoveries: int
    infra: str | None = None
    hourly: float | None = None
    accelerators: str | None = None
    """What its cluster has, where the job was declared with a choice."""
    placed: bool = False
    """Whether its placement is known since it last began to run."""
    why: str = ""
    """What its events say of its last recovery."""


class Moves:
    """The moves of the jobs that one deck watches; used by one look at a time."""

    def __init__(self, transport: Transport, catalogue: Catalogue) -> None:
        self._transport = transport
        self._catalogue = catalogue
        self._known: OrderedDict[int, Seen] = OrderedDict()
        self._troubled = False
        self._place_at = 0.0

    def waiting(self, ids: Iterable[int]) -> bool:
        """Whether one of these was not yet running when it was last seen: then the server's reasons are asked for."""
        known = (self._known.get(number) for number in ids)
        return any(one is None or one.status != "RUNNING" for one in known)

    def completed(self, jobs: Mapping[int, SeenJob], spot: frozenset[int], *, until: float) -> dict[int, SeenJob]:
        """The jobs with placement, price and reasons as far as these are known."""
        unplaced: list[int] = []
        last_chance: list[int] = []
        unexplained: list[int] = []
        for job in jobs.values():
            before = self._known.get(job.id)
            now = Seen(job.status, job.recoveries) if before is None else replace(
                before, status=job.status, recoveries=job.recoveries
            )  # fmt: skip
            moved = before is None or (before.status, before.recoveries) != (job.status, job.recoveries)
            if moved and job.status == "RUNNING":
                now = replace(now, placed=False)
            recovered = before is not None and job.recoveries > before.recoveries
            if moved and (job.status == "RECOVERING" or recovered):
                now = replace(now, why="")
            self._known[job.id] = now
            self._known.move_to_end(job.id)
            if job.status == "RUNNING" and not now.placed:
                unplaced.append(job.id)
            if moved and before is not None and job.ended_at is not None and not now.placed:
                last_chance.append(job.id)  # what has ended is not looked at again
            if not now.why and (job.status == "RECOVERING" or recovered):
                unexplained.append(job.id)
        while len(self._known) > max(REMEMBERED, len(jobs)):
            self._known.popitem(last=False)
        try:
            if last_chance or time.monotonic() >= self._place_at:
                self._place([*last_chance, *unplaced][:PLACES], until)
            self._price(jobs, spot, until)
            for number in unexplained[:REASONS]:
                self._explain(number, until)
            self._troubled = False
        except BackendError as error:
            if not self._troubled:
                log.info("Where jobs are, or why they moved, is asked for again at the next look: %s", error)
            self._troubled = True
        return {number: self._shown(job) for number, job in jobs.items()}

    def _place(self, ids: list[int], until: float) -> None:
        if not ids:
            return
        self._place_at = time.monotonic() + PLACE_AGAIN
        rows, _ = queue.records(self._transport.call(queue.PATH, queue.placed(ids), until=until))
        for row in rows:
            number, infra = row["job_id"], queue.placement(row)
            if infra is not None and number in self._known:
                landed = queue.landed(row)
                self._known[number] = replace(self._known[number], infra=infra, accelerators=landed, placed=True)

    def _price(self, jobs: Mapping[int, SeenJob], spot: frozenset[int], until: float) -> None:
        """The catalogue remembers: most of these ask nothing."""
        for job in jobs.values():
            seen = self._known[job.id]
            if seen.placed and seen.hourly is None and is_alive(job.status):
                accelerators = seen.accelerators or job.accelerators
                hourly = self._catalogue.hourly(accelerators, job.nodes, seen.infra, spot=job.id in spot, until=until)
                if hourly is not None:
                    self._known[job.id] = replace(seen, hourly=hourly)

    def _explain(self, number: int, until: float) -> None:
        body = {"job_id": number, "limit": 5}
        events = self._transport.call(EVENTS, body, until=until)
        self._known[number] = replace(self._known[number], why=said(events) or "Its machines were lost.")

    def _shown(self, job: SeenJob) -> SeenJob:
        known = self._known.get(job.id)
        if known is None:
            return job
        shown = replace(job, infra=known.infra, hourly_cost=known.hourly)
        if job.status == "RECOVERING" and known.why:
            return replace(shown, reason=queue.reason(known.why, failed=False) or "Preempted", message=known.why)
        return shown


def said(events: Any) -> str:
    """The newest reason for a recovery in a job's events."""
    rows = [row for row in events if isinstance(row, dict)] if isinstance(events, list) else []
    for row in rows:
        if row.get("new_status") == "RECOVERING" and isinstance(row.get("reason"), str):
            return queue.plain(row["reason"])
    return ""
