"""One look at SkyPilot's queue, from a query to its jobs.

Decides which requests answer a query with as few as will do: each costs the server
a process of its own, some seconds of a core, whatever it asks. Refuses to know what
a look is for.

A steady look is one request by id. One with unanswered launches asks the newest of
this deck's jobs by name, and by id for what these leave out. A discovery asks the
newest of ours and the live jobs of whoever looks; the first one, and one an hour,
all live ones of ours besides. What it reads grows with what is alive, never with
what has been.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from skydeck_nb.backends.skypilot import queue
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendUnavailable
from skydeck_nb.listing import Query, SeenJob

RECENT: Final = 100
"""The newest jobs of ours that an ordinary discovery reads, ended ones too; the first one reads a whole page."""

WHOLE: Final = 3600.0
"""Seconds after which a discovery reads all live jobs of ours again, whoever launched them."""

CLAIM: Final = re.compile(r"-sd(?P<deck>[a-z0-9]{6})-[a-z0-9]{10}$", re.IGNORECASE)
"""What a name of any deck ends with."""

Row = Mapping[str, Any]


@dataclass(slots=True)
class Found:
    """The records of one look by job, and the ids that belong to other jobs."""

    rows: dict[int, list[Row]] = field(default_factory=dict)
    members: set[int] = field(default_factory=set)

    def take(self, rows: Sequence[Row]) -> None:
        """These records replace what was found of their jobs before."""
        self.members |= queue.members(rows)
        fresh: dict[int, list[Row]] = {}
        for row in rows:
            fresh.setdefault(row["job_id"], []).append(row)
        self.rows |= fresh

    @property
    def spot(self) -> frozenset[int]:
        return frozenset(
            n for n, rows in self.rows.items() if any("[spot]" in str(r.get("resources")).lower() for r in rows)
        )


class Looker:
    """Makes the looks of one deck; one at a time."""

    def __init__(self, transport: Transport, waiting: Callable[[frozenset[int]], bool]) -> None:
        self._transport = transport
        self._waiting = waiting
        self._whole_at: dict[str, float] = {}

    def look(self, query: Query, api_version: int, *, until: float) -> Found:
        """Everything that the query asks for."""
        found = Found()
        if query.discovery:
            self._discover(query, api_version, found, until)
        else:
            for part in sorted({_part_of(claim) for claim in query.claims}):
                newest = queue.by_name(part, page=1, limit=RECENT, api_version=api_version)
                found.take(self._page(newest, until)[0])
        missing = query.job_ids - found.rows.keys()
        details = self._waiting(query.job_ids)
        if details:  # the server's word for why one waits is not in what was asked by name
            missing |= {number for number in query.job_ids if _waits(found.rows.get(number, ()))}
        for start in range(0, len(missing), queue.AT_ONCE):
            ids = sorted(missing)[start : start + queue.AT_ONCE]
            rows, _ = self._page(queue.by_ids(ids, details=details), until)
            known = {number: found.rows[number][0] for number in ids if number in found.rows}
            found.take([{**known.get(row["job_id"], {}), **row} for row in rows])
        return found

    def forget(self) -> None:
        """Read all of ours at the next discovery: the server, or who asks it, may be another."""
        self._whole_at.clear()

    def _discover(self, query: Query, api_version: int, found: Found, until: float) -> None:
        """The newest of ours, and the live jobs of whoever looks; where it was long ago, all live ones of ours too.

        The last is for jobs that another user launched for this deck: who looks may have changed.
        """
        part = _part(query.deck_id)
        read_at = self._whole_at.get(query.deck_id)
        whole = read_at is None or time.monotonic() - read_at > WHOLE
        newest = queue.by_name(part, page=1, limit=queue.PAGE if whole else RECENT, api_version=api_version)
        rows, total = self._page(newest, until)
        found.take(rows)
        if whole:
            if total > queue.PAGE:
                alive = partial(queue.by_name, part, alive=True, api_version=api_version)
                self._pages(lambda page: alive(page=page), found, until)
            self._whole_at[query.deck_id] = time.monotonic()
        self._pages(lambda page: queue.live_of(False, page=page, api_version=api_version), found, until)
        if query.everyone:
            found.take(self._page(queue.live_of(True, page=1, api_version=api_version), until)[0])

    def _pages(self, body: Callable[[int], dict[str, Any]], found: Found, until: float) -> None:
        for page in range(1, queue.MOST_PAGES + 1):
            rows, total = self._page(body(page), until)
            found.take(rows)
            if not rows or page * queue.PAGE >= total:
                return
        raise BackendUnavailable(
            f"More than {queue.MOST_PAGES * queue.PAGE:,} jobs are alive, and that many are not read; "
            "cancel some, or give this deck a user of its own."
        )

    def _page(self, body: dict[str, Any], until: float) -> tuple[list[Row], int]:
        _, answer = self._transport.exchange(queue.PATH, body, until=until, empty=queue.NO_CONTROLLER)
        return queue.records(answer)


def wanted(job: SeenJob, query: Query, members: set[int], viewer: Viewer) -> bool:
    """Whether a listed job is what the query asked for: ours, asked by id, or an orphan of one's own."""
    if job.id in query.job_ids or job.name in query.claims:
        return True
    if not query.discovery:
        return False
    claim = CLAIM.search(job.name)
    if claim is not None:
        return claim["deck"] == query.deck_id
    return job.id not in members and (job.mine or query.everyone)


def _part(deck_id: str) -> str:
    return f"-sd{deck_id}-"


def _part_of(claim: str) -> str:
    """What the names of the deck share that this claim belongs to: one question then answers for all of them."""
    found = CLAIM.search(claim)
    return claim if found is None else _part(found["deck"])


def _waits(rows: Sequence[Row]) -> bool:
    return any(row.get("status") in ("PENDING", "SUBMITTED", "STARTING", "RECOVERING") for row in rows)
