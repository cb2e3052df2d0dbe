"""A server that does right: as much of SkyPilot's API as is asked for, in memory.

Decides what the real one does with requests, the queue, pages and names. Refuses
to run anything. What a test tells it (``tell``) goes before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.backends.skypilot.wrongdoer import (
    HEALTHY,
    VERSIONS,
    Answer,
    Asked,
    Wrongdoer,
    failed,
    never,
    returned,
    says,
    shows,
    took,
)


@dataclass(slots=True)
class Made:
    """One request on a server that does right."""

    id: str
    name: str
    body: dict[str, Any]
    status: str = "SUCCEEDED"
    value: Any = None
    error: tuple[str, str] | None = None
    created_at: float = 0.0
    user_id: str = "u1"
    shown: bool = True
    """Whether the list of requests shows its body."""

    def row(self) -> dict[str, Any]:
        return {
            "request_id": self.id,
            "name": self.name,
            "status": self.status,
            "created_at": self.created_at,
            "user_id": self.user_id,
            "request_body": json.dumps(self.body) if self.shown else "null",
        }


NAMES: Final = {
    "/jobs/queue/v2": "sky.jobs.queue_v2",
    "/jobs/launch": "sky.jobs.launch",
    "/jobs/cancel": "sky.jobs.cancel",
    "/jobs/events": "sky.jobs.events",
    "/list_accelerators": "sky.list_accelerators",
}


class Server(Wrongdoer):
    """A server that does right, as SkyPilot's does: health, requests, the queue; what is told goes first."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.requests: list[Made] = []
        self.events: dict[int, list[dict[str, Any]]] = {}
        self.offers: dict[str, list[list[Any]]] = {}
        self.launches = True
        """Whether a launch that arrives becomes a job."""
        self.health: dict[str, Any] = dict(HEALTHY)
        self._numbers = 0
        super().__init__()

    def restart(self) -> None:
        """It forgets its requests, and keeps its jobs."""
        self.requests.clear()

    def queue(self) -> list[dict[str, Any]]:
        """The bodies by which the queue was looked at."""
        return [one.json for one in self.of("/jobs/queue/v2")]

    def job(self, number: int, name: str = "", status: str = "RUNNING", **record: Any) -> dict[str, Any]:
        """One more job in its queue."""
        row = {"job_id": number, "task_id": 0, "job_name": name or f"job-{number}", "status": status, **record}
        self.jobs.append({"workspace": "default", "user_hash": "u1", "resources": "1x[CPU:1+]", **row})
        return self.jobs[-1]

    def reply(self, asked: Asked) -> Answer:
        match asked.path:
            case "/api/health":
                return shows(self.health, headers=VERSIONS)
            case "/api/get":
                return self._got(asked.query["request_id"][0])
            case "/api/status":
                return shows(self._status(asked.query))
            case "/api/cancel":
                return took(self._make("sky.api_cancel", asked.json, None).id)
            case "/validate":
                return says("null")
            case path if path in NAMES:
                return took(self._make(NAMES[path], asked.json, self._value(path, asked.json)).id)
            case _:
                return super().reply(asked)

    def _make(self, name: str, body: dict[str, Any], value: Any) -> Made:
        self._numbers += 1
        made = Made(f"q-{self._numbers:04}", name, body, value=value, created_at=1_900_000_000.0 + self._numbers)
        self.requests.append(made)
        return made

    def _value(self, path: str, body: dict[str, Any]) -> Any:
        match path:
            case "/jobs/queue/v2":
                return self._listed(body)
            case "/jobs/launch" if self.launches:
                self.job(len(self.jobs) + 1, body["name"], "PENDING")
                return {"job_id": [len(self.jobs)], "handle": "gASV"}
            case "/jobs/events":
                return self.events.get(body["job_id"], [])
            case "/list_accelerators":
                return self.offers
            case _:
                return None

    def _got(self, request_id: str) -> Answer:
        made = next((one for one in self.requests if one.id == request_id), None)
        if made is None:
            return shows({"detail": f"Request {request_id!r} not found"}, 404)
        if made.error is not None:
            return failed(*made.error, request_id)
        if made.status == "CANCELLED":
            return shows({"request_id": request_id, "status": "CANCELLED", "return_value": "null", "error": "null"})
        if made.status != "SUCCEEDED":
            return never
        return returned(made.value, request_id)

    def _status(self, query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        newest = sorted(self.requests, key=lambda one: one.created_at, reverse=True)
        if "request_ids" in query:
            return [one.row() for asked in query["request_ids"] for one in newest if one.id.startswith(asked)]
        if query.get("all_status") != ["true"]:
            newest = [one for one in newest if one.status not in ("SUCCEEDED", "FAILED", "CANCELLED")]
        rows = [one.row() for one in newest[: int(query["limit"][0])]]
        return [{name: row[name] for name in query.get("fields", row)} for row in rows]

    def _listed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The queue's own rules: LIKE by name, pages by job, newest first."""
        over = {"SUCCEEDED", "CANCELLED", "FAILED", "FAILED_SETUP", "FAILED_NO_RESOURCE", "FAILED_CONTROLLER"}
        found = self.jobs
        if (ids := body.get("job_ids")) is not None:
            found = [row for row in found if row["job_id"] in ids]
        if (part := body.get("name_match")) is not None:
            found = [row for row in found if _like(part, row["job_name"])]
        if body.get("skip_finished"):
            alive = {row["job_id"] for row in found if row["status"] not in over}
            found = [row for row in found if row["job_id"] in alive]
        if not body.get("all_users"):
            found = [row for row in found if row["user_hash"] == "u1"]
        numbers = sorted({row["job_id"] for row in found}, reverse=True)
        if (page := body.get("page")) is not None:
            at = (page - 1) * body["limit"]
            chosen = set(numbers[at : at + body["limit"]])
            found = [row for row in found if row["job_id"] in chosen]
        fields = {"job_id", "task_id", "status", *body["fields"]}
        rows = [{name: row.get(name) for name in fields} for row in sorted(found, key=lambda row: -row["job_id"])]
        return {"jobs": rows, "total": len(numbers), "total_no_filter": len(self.jobs), "status_counts": {}}


def _like(part: str, name: str) -> bool:
    """SQLite's ``LIKE %part%``: any case, ``_`` for one character, ``%`` for any."""
    pattern = "".join(".*" if char == "%" else "." if char == "_" else re.escape(char) for char in part)
    return re.search(pattern, name, re.IGNORECASE) is not None
