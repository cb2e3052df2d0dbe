"""Who of those that wait may start, and the start of its supervisor.

Decides the order (priority, then age; nobody passes the first), what is free,
and hands a job its locks. Refuses to know what a job runs. Standard library
only: besides the loop, every supervisor dispatches as it exits, so that the
queue proceeds with nobody else alive.

A slot and a GPU are locks, taken here and inherited by the supervisor and its
command: free is free, whoever was killed, and no count can drift. The lock on
dispatching only keeps the order; where its holder is frozen, the others go on
without it.
"""

# A supervisor does without pathlib, to start sooner.
# ruff: noqa: PTH116, PTH118, PTH120

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, NamedTuple

from skydeck_nb.backends.local import locks
from skydeck_nb.backends.local.processes import SUPERVISES
from skydeck_nb.backends.local.spool import Spool, append, last_line, read_json

SPAWNS = 5
"""Supervisors tried for one job before it is given up: one may be killed as it starts, five mean that none can."""

_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")

_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""What a supervisor's interpreter may need; a command's environment comes from its order alone."""


class Capacity(NamedTuple):
    """What jobs of this host share."""

    slots: int
    gpus: dict[str, str]
    """Id, as in ``CUDA_VISIBLE_DEVICES``, to product name; empty where that was not looked up."""


def capacity(spool: Spool) -> Capacity:
    told = read_json(spool.path("capacity.json"))
    return Capacity(told["slots"], told["gpus"])


def slot_path(spool: Spool, slot: int) -> str:
    return spool.path("slots", str(slot))


def gpu_path(spool: Spool, gpu: str) -> str:
    return spool.path("gpus", gpu.replace("/", "_"))


def free_slots(spool: Spool, has: Capacity) -> int:
    return sum(not locks.held(slot_path(spool, slot)) for slot in range(has.slots))


def free_gpus(spool: Spool, has: Capacity) -> int:
    return sum(not locks.held(gpu_path(spool, gpu)) for gpu in has.gpus)


def _take(paths: list[str], wanted: int) -> list[tuple[int, int]] | None:
    """So many of these locks, as (index, descriptor), or none of them."""
    taken: list[tuple[int, int]] = []
    for index, path in enumerate(paths):
        if len(taken) == wanted:
            break
        fd = locks.opened(path)
        if locks.take(fd):
            taken.append((index, fd))
        else:
            locks.close(fd)
    if len(taken) == wanted:
        return taken
    for _, fd in taken:
        locks.release(fd)
    return None


def spawn(spool: Spool, job_id: int, mode: str, handed: list[int], assigned: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a supervisor; what is returned is its launcher, which ends at once and wants to be waited for."""
    append(spool.job(job_id, "spawned"))
    fd = os.open(spool.job(job_id, "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-X", "utf8", _MAIN, mode, spool.root, str(job_id)),
                *(str(assigned.get("slot", "")), ",".join(assigned.get("gpus", ())), *map(str, handed)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            cwd="/",
            env={**environment, SUPERVISES: str(job_id)},
            start_new_session=True,
            pass_fds=handed,
        )
    finally:
        os.close(fd)


def _spawned(spool: Spool, job_id: int) -> int:
    try:
        return os.stat(spool.job(job_id, "spawned")).st_size
    except FileNotFoundError:
        return 0


def may_spawn(spool: Spool, job_id: int) -> bool:
    return _spawned(spool, job_id) < SPAWNS


def _give_up(spool: Spool, job_id: int, order: dict[str, Any]) -> None:
    """End a job for which no supervisor can be started."""
    if spool.decide(job_id, "refused"):
        why = last_line(spool.job(job_id, "supervisor.log")) or "it left no message"
        record = {
            "status": "FAILED_PRECHECKS",
            "reason": "SupervisorFailed",
            "message": f"Its supervisor did not start {SPAWNS} times running: {why}",
            "exit_code": None,
            "at": os.stat(spool.job(job_id, "verdict")).st_mtime,
        }
        spool.end(job_id, record)
        spool.begun(job_id, order["priority"])
        spool.ended(job_id, order["deck_id"])


def _startable(spool: Spool, job_id: int) -> dict[str, Any] | None:
    """The order of a pending job that may start; settles what keeps the others from it."""
    if not spool.counts(job_id):
        return None
    order: dict[str, Any] = read_json(spool.job(job_id, "order.json"))
    if locks.held(spool.job(job_id, "lock")):  # its supervisor is on its way
        return None
    if spool.verdict(job_id) is not None:  # begun by somebody who died before tidying up
        spool.begun(job_id, order["priority"])
        return None
    if spool.cancel_asked(job_id):  # likewise
        spool.cancel_pending(job_id, order)
        return None
    return order


def dispatch(spool: Spool, launchers: list[subprocess.Popen[bytes]], *, patience: float) -> bool:
    """Start what may start, and add who is to be waited for.

    ``patience``: seconds to wait for another dispatcher before going on beside
    it; false when they did not do.
    """
    turn_path = spool.path("dispatch.lock")
    has = capacity(spool)
    if not locks.held(turn_path) and not free_slots(spool, has):
        return True  # whoever has a slot dispatches when it ends, and sees what we committed before this line
    turn = locks.opened(turn_path)
    mine = locks.take_within(turn, patience)
    try:
        _start(spool, has, launchers)
    finally:
        (locks.release if mine else locks.close)(turn)
    return mine


def _start(spool: Spool, has: Capacity, launchers: list[subprocess.Popen[bytes]]) -> None:
    for job_id in spool.pending():
        if not free_slots(spool, has):
            break
        try:
            order = _startable(spool, job_id)
        except (ValueError, KeyError, TypeError):
            continue  # damaged: a listing says so, and the others go on
        if order is None:
            continue
        if order["gpus"] > len(has.gpus):  # the host had more when it was launched: nobody waits for it
            continue
        if order["gpus"] > free_gpus(spool, has):
            break
        job_lock = locks.opened(spool.job(job_id, "lock"))
        if not locks.take(job_lock):  # likewise, since a moment ago
            locks.close(job_lock)
            continue
        taken = [job_lock]
        try:
            if spool.verdict(job_id) is not None:
                continue
            if not may_spawn(spool, job_id):
                _give_up(spool, job_id, order)
                continue
            slot = _take([slot_path(spool, number) for number in range(has.slots)], 1)
            if slot is None:
                break
            taken += [fd for _, fd in slot]
            gpus = _take([gpu_path(spool, gpu) for gpu in has.gpus], order["gpus"])
            if gpus is None:
                break
            taken += [fd for _, fd in gpus]
            assigned = {"slot": slot[0][0], "gpus": [list(has.gpus)[index] for index, _ in gpus]}
            launchers.append(spawn(spool, job_id, "supervise", taken, assigned))
            for fd in taken:
                locks.close(fd)
            taken = []
        finally:
            for fd in taken:
                locks.release(fd)
