"""Looking for a launch whose outcome is not known.

Decides in which order the server is asked, and what may be called certain: by
request id, by our launch requests whose body names the claim, and last, always,
by the queue with an exact match. A miss is clean only if the launch requests
were listed completely, as the user that sent, none naming the claim, and the
server was not started since the look before: it forgets its requests then, and
nothing else tells. Refuses to know what follows.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from skydeck_nb.backends.skypilot import queue
from skydeck_nb.backends.skypilot.answers import Cancelled, NoSuchRequest, RequestFailed
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendError, BackendUnavailable
from skydeck_nb.listing import Resolution

LAUNCH: Final = "sky.jobs.launch"

OVER: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})

BODIES: Final = 20
"""Launch requests whose bodies are fetched at once: one holds a task's YAML."""

LISTED: Final = (500, 2_000, 8_000)
"""How many requests are listed, newest first, until the list reaches back to before the launch."""

AGAIN: Final = 60.0
"""Seconds after which a claim whose requests are all over is looked for a second time."""

CLOCKS: Final = timedelta(minutes=10)
"""How far the server's clock and ours may lie apart."""

FEW: Final = 20
"""Jobs of one claim that are looked at: there should be one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One launch request of ours on the server, without its body."""

    id: str
    status: str

    @property
    def over(self) -> bool:
        return self.status in OVER


@dataclass(slots=True)
class _Known:
    """What this process remembers of a claim between two looks."""

    canary: str | None = None
    """A request of ours that the server still knows if it was not started since."""
    over_since: float | None = None
    """By the monotonic clock: since when every request of it is over and the queue has no job of it."""


class Search:
    """Looks for launches on one server. Safe from any thread."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known: dict[str, _Known] = {}
        self._names: dict[str, str | None] = {}
        """By launch request the job's name that its body says; ``None`` for somebody else's, which is not shown."""
        self._lock = threading.Lock()

    def resolve(
        self,
        claim: str,
        request_id: str | None,
        *,
        since: datetime | None,
        sender: str | None,
        viewer: Viewer,
        until: float,
    ) -> Resolution:
        """What one look proves; see :class:`Resolution`.

        ``since``: nothing of it was sent before; ``sender``: the user that sent it, as the
        server has it; ``None`` where that is not known.
        """
        begun_at = datetime.now(UTC)
        found = self._by_request(request_id, begun_at, until) if request_id is not None else None
        if found is not None:
            return found
        requests = self._requests(claim, since, viewer, until)
        job_id = self._job_of(requests, until)
        if job_id is not None:
            return Resolution(job_id=job_id, begun_at=begun_at, message="Found by its launch request.")
        matches, canary = self._by_queue(claim, viewer, until)
        if matches:
            return Resolution(job_id=matches[0], begun_at=begun_at, message="Found in the queue.")
        if pending := [one.id for one in requests if not one.over]:
            return Resolution(begun_at=begun_at, message=f"Request {pending[0]} is under way on the server.")
        if done := [one.id for one in requests if one.status == "SUCCEEDED"]:
            return Resolution(begun_at=begun_at, message=f"Request {done[0]} succeeded, and its job is not to be seen.")
        if requests:
            return self._ended(claim, requests, begun_at, until)
        return self._missed(claim, request_id, sender, viewer, canary, begun_at, until)

    def running(
        self, claim: str, request_id: str | None, *, since: datetime | None, viewer: Viewer, until: float
    ) -> list[str]:
        """The launch requests of a claim that are not over."""
        ids = [one.id for one in self._requests(claim, since, viewer, until) if not one.over]
        return ids if request_id is None or request_id in ids else [request_id, *ids]

    def forget(self, claim: str) -> None:
        """The claim is answered."""
        with self._lock:
            self._known.pop(claim, None)

    # -- the three places ---------------------------------------------------------------

    def _by_request(self, request_id: str, begun_at: datetime, until: float) -> Resolution | None:
        rows = self._status(until, request_ids=[request_id])
        status = next((str(row.get("status")) for row in rows if row.get("request_id") == request_id), None)
        if status is None:
            return None
        if status not in OVER:
            return Resolution(begun_at=begun_at, message=f"Request {request_id} is {status} on the server.")
        if status == "SUCCEEDED":
            job_id = self._job(request_id, until)
            if job_id is not None:
                return Resolution(job_id=job_id, begun_at=begun_at, message=f"Found by request {request_id}.")
        return None

    def _requests(self, claim: str, since: datetime | None, viewer: Viewer, until: float) -> list[Request]:
        """Our launch requests that name the claim, active and finished, listed completely."""
        launches = self._launches(since, until)
        with self._lock:
            unread = [one for one in launches if one not in self._names]
        for chunk in _chunks(unread, BODIES):
            for row in self._status(until, request_ids=chunk):
                number, named = str(row["request_id"]), _name(row.get("request_body"))
                if named is None and row.get("user_id") == viewer.user_id:
                    raise BackendUnavailable(
                        f"The server does not show what our launch request {number} asks, so nobody can tell whether "
                        f"it is {claim}."
                    )
                with self._lock:
                    self._names[number] = named
        with self._lock:
            return [Request(one, status) for one, status in launches.items() if self._names.get(one) == claim]

    def _launches(self, since: datetime | None, until: float) -> dict[str, str]:
        """The status of each launch request that the server lists, back to before ``since``."""
        for limit in LISTED:
            fields = ["request_id", "name", "status", "created_at"]
            rows = self._status(until, all_status="true", limit=str(limit), fields=fields)
            oldest = min((row["created_at"] for row in rows if _number(row.get("created_at"))), default=None)
            far = since is not None and oldest is not None and oldest < (since - CLOCKS).timestamp()
            if len(rows) < limit or far:
                return {str(row["request_id"]): str(row.get("status")) for row in rows if row.get("name") == LAUNCH}
        raise BackendUnavailable(f"The server lists more than {LISTED[-1]:,} requests since the launch was sent.")

    def _by_queue(self, claim: str, viewer: Viewer, until: float) -> tuple[list[int], str]:
        """The jobs of exactly this name, lowest id first, and the request that looked."""
        body = queue.by_name(claim, page=1, limit=FEW)
        request_id, answer = self._transport.exchange(queue.PATH, body, until=until, empty=queue.NO_CONTROLLER)
        rows, _ = queue.records(answer)
        return [job.id for job in queue.jobs(rows, viewer) if job.name == claim], request_id

    # -- what they mean -----------------------------------------------------------------

    def _job_of(self, requests: Sequence[Request], until: float) -> int | None:
        for request in requests:
            if request.status == "SUCCEEDED" and (job_id := self._job(request.id, until)) is not None:
                return job_id
        return None

    def _job(self, request_id: str, until: float) -> int | None:
        try:
            return launched_id(self._transport.result(request_id, until=until))
        except (RequestFailed, Cancelled, NoSuchRequest):
            return None

    def _ended(self, claim: str, requests: Sequence[Request], begun_at: datetime, until: float) -> Resolution:
        """Every request of the claim has failed or was cancelled, and the queue, asked after that, has none of it.

        Certain only when it is still so a minute later: a controller elsewhere may write a job's
        row after its request has ended.
        """
        with self._lock:
            known = self._known.setdefault(claim, _Known())
            known.over_since = since = known.over_since or time.monotonic()
        if time.monotonic() - since < AGAIN:
            return Resolution(
                begun_at=begun_at, message=f"Request {requests[0].id} has ended; it is looked for once more."
            )
        said, retryable = "", False
        for request in requests:
            if request.status != "FAILED":
                continue
            try:
                self._transport.result(request.id, until=until)
            except RequestFailed as error:
                said, retryable = f"{error.kind}: {error.said}", error.kind in INTERRUPTED
            except BackendError as error:  # that it failed is certain, why is not
                said, retryable = str(error), True
        if said:
            return Resolution(rejected=said, retryable=retryable, begun_at=begun_at)
        return Resolution(never=True, begun_at=begun_at, message=f"Request {requests[0].id} ended without a job.")

    def _missed(
        self,
        claim: str,
        request_id: str | None,
        sender: str | None,
        viewer: Viewer,
        canary: str,
        begun_at: datetime,
        until: float,
    ) -> Resolution:
        with self._lock:
            known = self._known.setdefault(claim, _Known())
            before, known.canary = known.canary, canary
        if sender is not None and sender != viewer.user_id:
            return Resolution(
                begun_at=begun_at,
                message=f"It was sent as the user {sender}, and {viewer.user_id} does not see that user's requests.",
            )
        if before is None:
            return Resolution(begun_at=begun_at, message="The count of clean misses begins.")
        rows = self._status(until, request_ids=[before])
        if not any(row.get("request_id") == before for row in rows):
            return Resolution(begun_at=begun_at, message="The server was started since: the count begins again.")
        return Resolution(clean_miss=True, begun_at=begun_at, message="Neither a request nor a job has this claim.")

    def _status(self, until: float, **query: str | Sequence[str]) -> list[Mapping[str, Any]]:
        """The rows of ``/api/status``."""
        from urllib.parse import urlencode

        rows = self._transport.get(f"/api/status?{urlencode(query, doseq=True)}", until=until)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "request_id" in row for row in rows):
            raise BackendUnavailable("The list of requests cannot be read: it is no list of requests.")
        return rows


INTERRUPTED: Final = frozenset({"RequestInterruptedError"})
"""The server was stopped in the middle and says so: nothing is wrong with the launch itself."""


def launched_id(value: Any) -> int | None:
    """The job's id in what a launch returned: a list since 0.12, a bare number before."""
    if isinstance(value, dict):
        value = value.get("job_id", value.get("job_ids"))
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(body: Any) -> str | None:
    """The job's name in a launch request's body; ``None`` where the server does not show it."""
    try:
        facts = json.loads(body) if isinstance(body, str) else None
    except (ValueError, RecursionError):
        return None
    name = facts.get("name") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
