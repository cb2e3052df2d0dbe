"""A job's folder as a record of the contract.

Decides the status, the reason and the times that a job's files and locks amount
to. Refuses to change anything: what needs tidying is named (:class:`Standing`)
and left to the backend.

Locks are looked at before the records are read again: who frees a lock has
written first, so a lock that is free and a record that is missing are proof.
"""

from __future__ import annotations

import os
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from skydeck_nb.backends.base import SeenJob
from skydeck_nb.backends.local import locks
from skydeck_nb.backends.local.queue import Capacity, free_gpus, free_slots
from skydeck_nb.backends.local.spool import Spool, read_json

Care = Literal["none", "over", "adrift", "dead"]
"""What a job needs: nothing; its index entry removed; a new supervisor for a command that runs; to be declared dead."""

_TICK = 50_000_000
"""Nanoseconds: a file system's clock moves every 4 to 10 ms, so a folder this old is not changed within its time."""

_COMMAND = 1000
"""Characters of a command line that a listing carries; the whole of it is in the order."""


class Standing(NamedTuple):
    """What a job's files amount to."""

    status: str
    care: Care = "none"
    reason: str = ""
    message: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None


class Waiting:
    """Why those that wait do, counted once for a listing."""

    def __init__(self, spool: Spool, has: Capacity, trouble: str) -> None:
        self.has = has
        self.trouble = trouble
        pending = spool.pending()
        begins = {job_id for job_id in pending[: has.slots] if locks.held(spool.job(job_id, "lock"))}
        waits = (job_id for job_id in pending if job_id not in begins)
        self.place = {job_id: place for place, job_id in enumerate(waits)}
        self.slots = free_slots(spool, has) if self.place else 0
        self.gpus = free_gpus(spool, has) if self.place and has.gpus else 0

    def reason(self, job_id: int, gpus: int) -> tuple[str, str]:
        ahead = self.place.get(job_id, 0)
        queue = f"{ahead} job{'s are' if ahead > 1 else ' is'} ahead of it" if ahead else "it is the next"
        if self.trouble:
            return "CannotStart", f"No supervisor can be started here now: {self.trouble}"
        if gpus > len(self.has.gpus):
            has = f"this host has {len(self.has.gpus)} now"
            return "WaitingForGpu", f"Needs {gpus} GPUs, and {has}; cancel it, or add GPUs."
        if gpus and self.slots:
            free = f"of which {self.gpus} {'is' if self.gpus == 1 else 'are'} free"
            return "WaitingForGpu", f"Waits for {gpus} of {len(self.has.gpus)} GPUs, {free}; {queue}."
        slots = "the one slot" if self.has.slots == 1 else f"one of {self.has.slots} slots"
        return "WaitingForSlot", f"Waits for {slots}; {queue}."


def standing(spool: Spool, job_id: int) -> Standing:
    """What the files and locks of a job amount to now."""
    verdict = spool.verdict(job_id)
    if verdict is None:
        if locks.held(spool.job(job_id, "supervisor.lock")):
            return Standing("STARTING")
        return Standing("CANCELLING" if spool.cancel_asked(job_id) else "PENDING")
    if verdict["word"] == "cancelled":
        return Standing("CANCELLED", "over", ended_at=verdict["at"])
    looked_after = locks.held(spool.job(job_id, "supervisor.lock"))
    runs = locks.held(spool.job(job_id, "lock"))
    end = read_json(spool.job(job_id, "end.json"))
    start: dict[str, Any] = read_json(spool.job(job_id, "start.json")) or {"phase": "starting", "started_at": None}
    began = start["started_at"]
    if end is not None and not (looked_after and runs):
        return Standing(end["status"], "over", end["reason"], end["message"], began, end["at"], end["exit_code"])
    if spool.cancel_asked(job_id):
        alive = Standing("CANCELLING", started_at=began)
    elif start["phase"] == "running":
        alive = Standing("RUNNING", started_at=began)
    else:
        alive = Standing("STARTING", reason="SettingUp" if start["phase"] == "setup" else "")
    if looked_after:
        return alive
    if runs:
        message = "Its supervisor was killed; it runs on, but its exit code will not be known."
        return alive._replace(care="adrift", reason="SupervisorLost", message=message)
    return alive._replace(care="dead")


class Glances:
    """Standings that are read again only where a job's folder or its supervisor's lock has moved.

    Every record is a new name in the folder, so the folder's time tells, once
    that time is old enough for two changes not to share it.
    """

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.known: dict[int, tuple[int, Standing]] = {}
        self.shown: dict[int, tuple[Standing, SeenJob]] = {}

    def standing(self, job_id: int) -> Standing:
        moved = os.stat(self.spool.job(job_id)).st_mtime_ns  # noqa: PTH116 - for each live job at each look
        known = self.known.get(job_id)
        if known is not None and known[0] == moved and self._stands(job_id, known[1]):
            return known[1]
        looked = time.time_ns()
        now = standing(self.spool, job_id)
        if now.care == "none" and looked - moved > _TICK:
            self.known[job_id] = (moved, now)
        else:
            self.known.pop(job_id, None)
        return now

    def _stands(self, job_id: int, known: Standing) -> bool:
        return known.status == "PENDING" or locks.held(self.spool.job(job_id, "supervisor.lock"))

    def seen(self, order: dict[str, Any], job_id: int, now: Standing, user: str) -> SeenJob:
        shown = self.shown.get(job_id)
        if shown is None or shown[0] != now:
            shown = self.shown[job_id] = (now, seen(order, job_id, now, user))
        return shown[1]

    def forget(self, job_id: int) -> None:
        self.known.pop(job_id, None)
        self.shown.pop(job_id, None)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def seen(order: dict[str, Any], job_id: int, now: Standing, user: str) -> SeenJob:
    """The record of the contract."""
    return SeenJob(
        id=job_id,
        name=order["claim"],
        status=now.status,
        metadata=order["metadata"],
        reason=now.reason,
        message=now.message,
        submitted_at=_moment(order["submitted_at"]),
        started_at=_moment(now.started_at),
        ended_at=_moment(now.ended_at),
        exit_code=now.exit_code,
        infra="local",
        nodes=1,
        gpus=order["gpus"],
        accelerators=order["accelerators"],
        command=shlex.join(order["argv"])[:_COMMAND],
        logs_path=Spool.output(order),
        run_dir=order["run_dir"],
        user=user,
    )


def damaged(job_id: int, error: Exception, path: str) -> SeenJob:
    """A job whose files cannot be read: alive for all that is known, and carrying nobody's claim."""
    message = f"Its folder {path} cannot be read ({error}); end its processes, then remove its entry in live/."
    return SeenJob(id=job_id, name=f"damaged-{job_id}", status="UNKNOWN", reason="Damaged", message=message)


def tail(path: str, lines: int | None, *, block: int = 1 << 16) -> str:
    """The last lines of a log, or all of it; ``block`` bytes are read at a time, from the end."""
    if not Path(path).exists():
        return ""
    with Path(path).open("rb") as file:
        if lines is None:
            return file.read().decode(errors="replace")
        position = file.seek(0, os.SEEK_END)
        parts: list[bytes] = []
        found = 0
        while position > 0 and found <= lines:
            step = min(block, position)
            position -= step
            file.seek(position)
            parts.append(file.read(step))
            found += parts[-1].count(b"\n")
    text = b"".join(reversed(parts)).decode(errors="replace")
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""
