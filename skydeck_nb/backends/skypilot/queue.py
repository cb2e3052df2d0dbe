"""SkyPilot's queue: what a look asks of it, and what its records say of a job.

Decides which fields are asked for (none that makes the server open the handle of
a cluster, except for single jobs when they move), how the tasks of a pipeline
or group become one job, and how a record becomes a :class:`SeenJob`. Refuses to
know HTTP and when a look is made. A record that cannot be read is an error of
that record alone; a status this build has never heard of passes through, and is
alive. Shapes: ``sky/server/requests/payloads.py`` (``JobsQueueV2Body``) and
``sky/schemas/api/responses.py`` (``ManagedJobRecord``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from skydeck_nb.errors import BackendUnavailable
from skydeck_nb.listing import SeenJob
from skydeck_nb.states import FAILED, PROGRESS, TERMINAL, is_alive

PATH: Final = "/jobs/queue/v2"

NO_CONTROLLER: Final = "ClusterNotUpError"
"""What a server without a jobs controller says of its queue: there are no jobs."""

HOT: Final = (
    "job_id", "task_id", "job_name", "status", "submitted_at", "start_at", "end_at", "recovery_count",
    "failure_reason", "resources", "workspace", "user_name", "user_hash",
)  # fmt: skip
"""What a steady look asks of our live jobs."""

WHOLE: Final = (*HOT, "metadata", "current_cluster_name")
"""What the first sight of a job needs besides."""

DETAILS: Final = "details"
"""Why a job waits, in a sentence; three more queries on the server, so only while one of ours does."""

PLACED: Final = ("job_id", "task_id", "infra", "cloud", "cluster_resources")
"""Where a job landed: these open its cluster's handle, and are asked once each time it starts."""

TREE: Final = ("root_job_id", "parent_job_id")
TREE_API: Final = 60
"""The API version since which a job may be another one's member."""

AT_ONCE: Final = 1000
"""Ids in one request: its answer stays far below what is taken."""

PAGE: Final = 500
"""Jobs on one page of a discovery."""

MOST_PAGES: Final = 60
"""Pages after which a discovery is called incomplete rather than endless."""

_RESOURCES: Final = re.compile(r"(?:(\d{1,9})x)?\[(.+?)\](?:\[[^\]]*\])?")
_ACCELERATOR: Final = re.compile(r"([A-Za-z][\w.-]*):(\d{1,9}(?:\.\d{1,9})?)\+?")
_LANDED: Final = re.compile(r"[(\[](?:gpus=)?([A-Za-z][\w.-]*):(\d{1,9}(?:\.\d{1,9})?)")
_NO_KINDS: Final = frozenset({"cpu", "cpus", "mem"})
_EXIT_CODES: Final = re.compile(r"exit(?:ed with)?(?: exit)? codes? \[?(\d+(?:, \d+)*)")
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HINT: Final = re.compile(r"\s*To see the (?:details|job error output), run:.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks, for telling one's own jobs: the server's id of the user, else the client's."""

    user_id: str
    place: str


def by_ids(ids: Sequence[int], *, details: bool, whole: bool = False) -> dict[str, Any]:
    """These jobs, whoever launched them, in whatever workspace one may read."""
    fields = (*(WHOLE if whole else HOT), *((DETAILS,) if details else ()))
    return {"job_ids": sorted(ids), "all_users": True, "fields": list(fields)}


def by_name(part: str, *, page: int, limit: int = PAGE, alive: bool = False, api_version: int = 0) -> dict[str, Any]:
    """A page of the jobs whose name holds ``part`` (case and wildcards are for the caller to check), newest first."""
    return {
        "name_match": part,
        "all_users": True,
        "skip_finished": alive,
        "page": page,
        "limit": limit,
        "fields": _whole(api_version),
    }


def live_of(everyone: bool, *, page: int, limit: int = PAGE, api_version: int = 0) -> dict[str, Any]:
    """A page of the live jobs of the user who asks, or of everybody."""
    return {
        "all_users": everyone,
        "skip_finished": True,
        "page": page,
        "limit": limit,
        "fields": _whole(api_version),
    }


def placed(ids: Sequence[int]) -> dict[str, Any]:
    """Where these jobs are."""
    return {"job_ids": sorted(ids), "all_users": True, "fields": list(PLACED)}


def _whole(api_version: int) -> list[str]:
    return [*WHOLE, *(TREE if api_version >= TREE_API else ())]


def records(answer: Any) -> tuple[list[Mapping[str, Any]], int]:
    """The records of an answer (``None``: there is no jobs controller), and how many jobs match in all."""
    if answer is None:
        return [], 0
    if not isinstance(answer, dict) or not isinstance(answer.get("jobs"), list):
        raise BackendUnavailable("The queue's answer holds no list of jobs.")
    rows = answer["jobs"]
    if not all(isinstance(row, dict) and _id(row) is not None for row in rows):
        raise BackendUnavailable("The queue's answer holds a record without a job id.")
    total = answer.get("total")
    return rows, total if isinstance(total, int) and not isinstance(total, bool) else len(rows)


def _id(row: Mapping[str, Any]) -> int | None:
    value = row.get("job_id")
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 else None


def jobs(rows: Iterable[Mapping[str, Any]], viewer: Viewer) -> list[SeenJob]:
    """The jobs of these records, by id: one each, whatever tasks it has."""
    tasks: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        number = _id(row)
        if number is not None:
            tasks.setdefault(number, []).append(row)
    return [_job(number, group, viewer) for number, group in sorted(tasks.items())]


def members(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """The ids of jobs that belong to another one: they are shown, cancelled and counted with it."""
    found = {_id(row) for row in rows if row.get("root_job_id") not in (None, row.get("job_id"))}
    return {number for number in found if number is not None}


def _job(number: int, tasks: Sequence[Mapping[str, Any]], viewer: Viewer) -> SeenJob:
    ordered = sorted(tasks, key=lambda row: _whole_number(row.get("task_id")) or 0)
    statuses = [_text(row.get("status")) or "UNKNOWN" for row in ordered]
    status = together(statuses)
    first = ordered[0]
    alive = is_alive(status)
    telling = next((row for row, one in zip(ordered, statuses, strict=True) if one == status), first)
    failure = next((text for row in ordered if (text := _text(row.get("failure_reason")))), "")
    waits = "" if status == "RUNNING" else _text(telling.get(DETAILS)) or ""  # 0.13 gives a runner its sibling's reason
    message = plain(failure if status in TERMINAL else waits)
    ends = [_time(row.get("end_at")) for row in ordered]
    starts = [when for row in ordered if (when := _time(row.get("start_at"))) is not None]
    nodes, accelerators, gpus = resources(_text(telling.get("resources")) or "")
    owner = _text(first.get("user_hash"))
    job = SeenJob(
        id=number,
        name=_text(first.get("job_name")) or "",
        status=status,
        metadata=metadata(first.get("metadata")),
        reason="" if status in ("RUNNING", "SUCCEEDED") else reason(message, failed=status in FAILED),
        message=message,
        submitted_at=_time(first.get("submitted_at")),
        started_at=min(starts, default=None),
        ended_at=None if alive else max((when for when in ends if when is not None), default=None),
        exit_code=0 if status == "SUCCEEDED" else exit_code(failure) if status in FAILED else None,
        recoveries=sum(_whole_number(row.get("recovery_count")) or 0 for row in ordered),
        cluster_name=_text(telling.get("current_cluster_name")),
        nodes=nodes,
        gpus=gpus,
        accelerators=accelerators,
        user=_text(first.get("user_name")),
        mine=owner is None or owner == viewer.user_id,
        workspace=_text(first.get("workspace")),
        url=f"{viewer.place}/dashboard/jobs/{number}",
    )
    if job.started_at is not None and job.ended_at is not None and job.ended_at < job.started_at:
        return replace(job, ended_at=job.started_at)  # two clocks of the server's side
    return job


def together(statuses: Sequence[str]) -> str:
    """The status of a job from those of its tasks: while one is alive, the job is."""
    alive = [status for status in statuses if is_alive(status)]
    if alive:
        known = [status for status in (*PROGRESS, "CANCELLING") if status in alive]
        ending = [status for status in known if status == "CANCELLING"]
        return (ending or known or alive)[0]
    for wanted in (*sorted(FAILED), "CANCELLED"):
        if wanted in statuses:
            return wanted
    return statuses[0]


def placement(row: Mapping[str, Any]) -> str | None:
    """Where a job is, as SkyPilot's ``infra`` writes it: ``Slurm (loop)``, ``AWS (us-east-1)``."""
    found = _text(row.get("infra")) or _text(row.get("cloud"))
    return None if found in (None, "-") else found


def landed(row: Mapping[str, Any]) -> str | None:
    """The accelerators of the cluster it is on: ``1x(gpus=H100:2, …)`` or ``1x[H100:2]``."""
    found = _LANDED.search(_text(row.get("cluster_resources")) or "")
    return None if found is None or found[1].lower() in _NO_KINDS else f"{found[1]}:{math.ceil(float(found[2]))}"


def resources(text: str) -> tuple[int | None, str | None, int | None]:
    """Nodes, accelerators and GPUs a node of a display such as ``2x[H100:8][Spot]`` or ``1x[CPU:1+]``.

    Of several kinds to choose from, in whatever order the server names them, none is known yet.
    """
    found = _RESOURCES.fullmatch(text)
    if found is None:
        return None, None, None
    nodes = int(found[1] or 1)
    parts = [_ACCELERATOR.fullmatch(part.strip()) for part in found[2].split(",")]
    kinds = [(part[1], math.ceil(float(part[2]))) for part in parts if part is not None]
    if len(kinds) < len(parts):
        return nodes, None, None
    gpus = [(kind, count) for kind, count in kinds if kind.lower() not in _NO_KINDS]
    if len(gpus) == 1:
        return nodes, f"{gpus[0][0]}:{gpus[0][1]}", gpus[0][1]
    counts = {count for _, count in gpus} or {0}
    return nodes, None, counts.pop() if len(counts) == 1 else None


def reason(message: str, *, failed: bool) -> str:
    """One CamelCase word for a sentence of the server's, empty where it says nothing."""
    for words, word in _FAILURES if failed else _REASONS:
        if words in message.lower():
            return word
    return ""


_FAILURES: Final = (
    ("resourcesunavailable", "NoMatchingResources"),
    ("user program failure", "UserProgramFailed"),
)

_REASONS: Final = (
    ("higher priority jobs", "WaitingForHigherPriority"),
    ("waiting for other jobs", "WaitingForOtherJobs"),
    ("in backoff", "WaitingForResources"),
    ("launching (pending", "WaitingInQueue"),
    ("launching", "ProvisioningMachines"),
    ("resourcesunavailable", "NoMatchingResources"),
    ("preempt", "Preempted"),
    ("waiting", "WaitingForResources"),
)
"""Parts of the server's sentences (``jobs/utils.py``, ``jobs/state.py``) and the word for each."""


def exit_code(failure: str) -> int | None:
    """Of several nodes' the first that is none of success."""
    found = _EXIT_CODES.search(failure)
    codes = [int(code) for code in found[1].split(", ") if len(code) < 4] if found else []
    return next((code for code in codes if code), None)


def plain(text: str) -> str:
    """One line without colours, control characters and SkyPilot's hint where logs are."""
    text = _HINT.sub("", _ANSI.sub("", text))
    text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())[:1000]


def metadata(value: Any) -> dict[str, str]:
    """The flat texts of a job's metadata; what is nested is not ours."""
    if not isinstance(value, dict):
        return {}
    return {_whole_text(key): _whole_text(item) for key, item in value.items() if isinstance(item, (str, int, float))}


def _text(value: Any) -> str | None:
    return _whole_text(value) if isinstance(value, str) and value else None


def _whole_text(value: Any) -> str:
    """As text that can be stored: JSON can hold half of a character pair."""
    return str(value).encode(errors="replace").decode()


def _whole_number(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return value if whole else None


def _time(value: Any) -> datetime | None:
    """Seconds since 1970 as a time; ``None`` for what is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < 32_503_680_000:  # the year 3000
        return None
    return datetime.fromtimestamp(value, UTC)
