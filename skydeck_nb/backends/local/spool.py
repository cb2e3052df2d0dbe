"""The folder in which jobs of this host wait, run and end.

Decides the layout, what is written how, and the two questions that exactly one
party may answer: does this attempt make a job, and does this job start. Refuses
to know processes, experiments and how a job is shown. Standard library only.

::

    <root>/                          0700, on this host's own disk
      host.json                      whose folder this is (written once)
      capacity.json                  slots, GPUs
      dispatch.lock                  keeps dispatchers in order; no safety hangs on it
      changes                        grows by a byte at each change: its size is a stamp
      attempts/<attempt id>          "job 17" or "never": the one arbiter of a launch
      live/<job id>                  an index of what has not ended
      pending/<priority>-<job id>    an index of what has not begun, in its order
      ended/<deck>/<period>/<job id> an index of what ended lately
      slots/<n>  gpus/<id>           locks; held by the supervisor and by its command
      experiments/<deck>-<id>        locks, likewise: one live job an experiment
      jobs/<job id>/
        order.json                   what to run; no environment in it
        environ.json                 the command's whole environment, secrets too; gone once it is read
        attempt                      the same file as in attempts/, once the launch counts
        lock                         held: the job occupies its slot
        supervisor.lock              held: somebody looks after it
        cancel                       exists: somebody wants it to end
        verdict                      the one arbiter of its start: started, refused or cancelled
        start.json  end.json         what its supervisor knows of it
        spawned                      a byte for each supervisor that was tried
        supervisor.log
      runs/<deck>/<experiment id>-<name>/
        checkpoints/                 SKYDECK_CHECKPOINT_DIR
        <attempt id>/output.log      in SKYDECK_RUN_DIR

A job counts from the moment its file is linked into ``attempts/``; what a
launch left behind before that is swept by whoever meets it. A folder under
``jobs/`` is never removed, so an id is never given twice.
"""

# A supervisor does without pathlib, to start sooner.
# ruff: noqa: PTH102, PTH103, PTH104, PTH106, PTH108, PTH110, PTH112, PTH116, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from itertools import count
from typing import Any

from skydeck_nb.backends.local import locks

PARTS = ("attempts", "live", "pending", "ended", "slots", "gpus", "experiments", "jobs", "runs")

_PERIOD = 600.0
"""Seconds: a job that ended is still discovered for one to two of these, long after the next look at it by its id."""

NEVER = "never"

_MIDDLE = 5 * 10**9
"""Priority 0 in the index of pending jobs: names sort as text, so a high priority becomes a low number."""

_temporary = count()


def read_json(path: str) -> Any:
    """What a file says, ``None`` while there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def _file(path: str, content: str) -> int:
    """A new file with this content; its descriptor, which is to be closed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    rest = memoryview(content.encode())
    while rest:
        rest = rest[os.write(fd, rest) :]
    return fd


def _temporary_name(path: str) -> str:
    return f"{path}.{os.getpid()}.{next(_temporary)}~"


def write(path: str, content: str, *, sync: bool = True) -> None:
    """Write a file as a whole, over what was there."""
    name = _temporary_name(path)
    fd = _file(name, content)
    try:
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(name, path)


def write_once(path: str, content: str) -> bool:
    """Write a file as a whole unless it exists, durably; false when somebody else was first."""
    name = _temporary_name(path)
    fd = _file(name, content)
    try:
        os.link(name, path)
        os.fsync(fd)  # after the link, so that the name is durable as well
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(name)
    return True


def append(path: str) -> None:
    """Add a byte to a file whose size is a count."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b".")
    finally:
        os.close(fd)


def mention(path: str) -> None:
    """Make an empty file: an entry of an index."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def sync(path: str) -> None:
    """Make a file durable, and the names that it got."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Spool:
    """One root folder."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def job(self, job_id: int, *parts: str) -> str:
        return "/".join((self.root, "jobs", str(job_id), *parts))

    def make(self) -> None:
        for part in PARTS:
            os.makedirs(self.path(part), mode=0o700, exist_ok=True)

    # -- What changed -------------------------------------------------------------

    def touch(self) -> None:
        """Tell whoever watches that something changed."""
        append(self.path("changes"))

    def stamp(self) -> int:
        """A number that grows at each change that a process of ours made."""
        try:
            return os.stat(self.path("changes")).st_size
        except FileNotFoundError:
            return 0

    # -- Does this attempt make a job ---------------------------------------------

    def attempt(self, attempt_id: str) -> int | str | None:
        """The job of an attempt, ``NEVER``, or ``None`` while that is open."""
        try:
            with open(self.path("attempts", attempt_id), encoding="ascii") as file:
                word, _, number = file.read().strip().partition(" ")
        except FileNotFoundError:
            return None
        return int(number) if word == "job" else NEVER

    def refuse(self, attempt_id: str) -> int | str:
        """Decide that an attempt never makes a job, unless it has one."""
        write_once(self.path("attempts", attempt_id), NEVER + "\n")
        answer = self.attempt(attempt_id)
        assert answer is not None, "an arbiter's file is never removed"
        return answer

    def new_job(self, first: int) -> tuple[int, int]:
        """A new id with its folder, and the job's lock, taken, which says that a launch is under way."""
        job_id = first
        while True:
            try:
                os.mkdir(self.job(job_id), 0o700)
            except FileExistsError:
                job_id += 1
                continue
            lock = locks.opened(self.job(job_id, "lock"))
            assert locks.take(lock), "nobody knows of this file yet"
            return job_id, lock

    def next_id(self) -> int:
        """Above every id that was ever given."""
        return max((int(name) for name in os.listdir(self.path("jobs")) if name.isdecimal()), default=0) + 1

    def fill(self, job_id: int, order: dict[str, Any], environment: dict[str, str]) -> None:
        """Write all of a job but that it counts. The index comes first: what it names can be swept."""
        lock = self.job(job_id, "lock")  # an index needs names only: a link is ten times cheaper than a file
        os.link(lock, self.path("live", str(job_id)))
        os.close(_file(self.job(job_id, "environ.json"), json.dumps(environment)))
        write(self.job(job_id, "order.json"), json.dumps(order))
        os.link(lock, self.path("pending", self.pending_name(job_id, order["priority"])))
        os.close(_file(self.job(job_id, "attempt"), f"job {job_id}\n"))

    def commit(self, job_id: int, attempt_id: str) -> int | str:
        """Make the job count, unless the attempt has an answer; the answer that stands."""
        try:
            os.link(self.job(job_id, "attempt"), self.path("attempts", attempt_id))
        except FileExistsError:
            answer = self.attempt(attempt_id)
            assert answer is not None, "an arbiter's file is never removed"
            return answer
        return job_id

    def committed(self, attempt_id: str) -> None:
        """Make what was committed durable."""
        sync(self.path("attempts", attempt_id))

    def abandon(self, job_id: int) -> None:
        """Take away all of a job that does not count, but for its id. What finds the rest goes last."""
        order = read_json(self.job(job_id, "order.json"))
        if order is not None:
            remove(self.path("pending", self.pending_name(job_id, order["priority"])))
        for name in os.listdir(self.job(job_id)):
            if name != "order.json":
                remove(self.job(job_id, name))
        remove(self.job(job_id, "order.json"))
        remove(self.path("live", str(job_id)))

    def counts(self, job_id: int) -> bool | None:
        """Whether a job of the index counts; ``None`` while its launch is under way. Sweeps what does not."""
        if not os.path.isdir(self.job(job_id)):
            return False
        busy = locks.held(self.job(job_id, "lock"))
        order = read_json(self.job(job_id, "order.json"))
        if order is not None and self.attempt(order["attempt_id"]) == job_id:
            return True
        if busy:
            return None
        self.abandon(job_id)
        return False

    # -- Does this job start ------------------------------------------------------

    def decide(self, job_id: int, word: str) -> bool:
        """Give the verdict on a job's start; false when it was given before."""
        return write_once(self.job(job_id, "verdict"), json.dumps({"word": word, "at": time.time()}))

    def verdict(self, job_id: int) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = read_json(self.job(job_id, "verdict"))
        return answer

    def begun(self, job_id: int, priority: int) -> None:
        """Take a job that has its verdict out of those that wait, and its environment from the disk."""
        remove(self.path("pending", self.pending_name(job_id, priority)))
        remove(self.job(job_id, "environ.json"))

    def ask_cancel(self, job_id: int) -> None:
        """Leave word that the job is to end; its supervisor looks for it."""
        mention(self.job(job_id, "cancel"))

    def cancel_asked(self, job_id: int) -> bool:
        return os.path.exists(self.job(job_id, "cancel"))

    def cancel_pending(self, job_id: int, order: dict[str, Any]) -> bool:
        """End a job that has not begun; false when it has."""
        if not self.decide(job_id, "cancelled"):
            return False
        self.begun(job_id, order["priority"])
        self.ended(job_id, order["deck_id"])
        return True

    def end(self, job_id: int, record: dict[str, Any]) -> bool:
        """Record how a job ended; false when that was recorded before."""
        return write_once(self.job(job_id, "end.json"), json.dumps(record))

    def ended(self, job_id: int, deck_id: str) -> None:
        """Move a job that has ended, and whose locks are free, to the index of those that did lately."""
        folder = self.path("ended", deck_id, str(self._period()))
        self.folder(folder)
        with suppress(FileNotFoundError):  # somebody else has tidied up
            os.rename(self.path("live", str(job_id)), f"{folder}/{job_id}")
        self.touch()

    @staticmethod
    def _period() -> int:
        return int(time.time() // _PERIOD)

    def lately(self, deck_id: str) -> list[int]:
        """A deck's jobs that ended in this period or the one before; forgets, in this index, those of earlier ones."""
        found: list[int] = []
        try:
            periods = os.listdir(self.path("ended", deck_id))
        except FileNotFoundError:
            return found
        oldest = self._period() - 1
        for period in periods:
            folder = self.path("ended", deck_id, period)
            names = os.listdir(folder)
            if int(period) >= oldest:
                found += map(int, names)
                continue
            for name in names:
                remove(os.path.join(folder, name))
            with suppress(OSError):  # another deck on this folder does the same
                os.rmdir(folder)
        return found

    # -- The indexes --------------------------------------------------------------

    def live(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self.path("live")) if name.isdecimal())

    @staticmethod
    def pending_name(job_id: int, priority: int) -> str:
        return f"{min(max(_MIDDLE - priority, 0), 2 * _MIDDLE):011d}-{job_id}"

    def pending(self) -> list[int]:
        """Jobs that have not begun, in the order in which they may: by priority, then age."""
        names = (name.split("-") for name in os.listdir(self.path("pending")) if "-" in name)
        return [int(job_id) for _, job_id in sorted(names, key=lambda name: (name[0], int(name[1])))]

    def folder(self, path: str) -> None:
        """Make a folder below the root, every new level for the user alone."""
        if not os.path.isdir(path):
            self.folder(os.path.dirname(path))
            with suppress(FileExistsError):  # somebody else made it between the two lines
                os.mkdir(path, 0o700)

    @staticmethod
    def output(order: dict[str, Any]) -> str:
        """The file that gets what the command writes."""
        return os.path.join(order["run_dir"], "output.log")


def last_line(path: str, *, window: int = 8192, width: int = 500) -> str:
    """The last line of a log that is not empty: what an error says of itself. Both numbers keep a row readable."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - window, 0))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return next((line[-width:] for line in reversed(lines) if line), "")
