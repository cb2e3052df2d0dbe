"""A spool of its own for a test, and the questions that tests ask of it."""

from __future__ import annotations

import itertools
import os
import secrets
import string
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skydeck_nb.backends.base import Listing, Order, Query, SeenJob
from skydeck_nb.backends.local import LocalBackend, locks, processes
from skydeck_nb.backends.local.spool import Spool, read_json
from skydeck_nb.models import Spec
from skydeck_nb.states import TERMINAL

DECK = "dk3f7q"
DEADLINE = 10.0
PATIENCE = 60.0
"""Seconds until something that should happen counts as never, on two busy CPUs."""

_numbers = itertools.count(1)


def opened() -> None:
    """A gate that lets everything pass."""


def new_attempt() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + "234567") for _ in range(10))


def order(*argv: str, experiment_id: int | None = None, deck_id: str = DECK, **changes: Any) -> Order:
    """A launch that nobody ordered before; ``changes`` go to the order or, where it has no such field, to the spec."""
    number = next(_numbers) if experiment_id is None else experiment_id
    attempt, name = new_attempt(), f"exp-{number}"
    own = {key: changes.pop(key) for key in ("priority", "max_seconds", "attempt_id", "run_name") if key in changes}
    attempt = own.pop("attempt_id", attempt)
    changes.setdefault("workdir", "/tmp")
    return Order(
        deck_id=deck_id,
        attempt_id=attempt,
        experiment_id=number,
        experiment=name,
        claim=f"{name}-sd{deck_id}-{attempt}",
        run_name=own.pop("run_name", name),
        spec=Spec(command=argv, **changes),
        argv=argv,
        metadata={"deck_id": deck_id, "experiment_id": str(number), "attempt_id": attempt},
        **own,
    )


def until(holds: Callable[[], Any], what: str = "it", patience: float = PATIENCE) -> Any:
    """The first true answer; fails when patience ends."""
    end = time.monotonic() + patience
    while not (answer := holds()):
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.01)
    return answer


def gone(pid: int) -> bool:
    """No such process, or a zombie that somebody has yet to bury."""
    return processes.look(pid) is None


class Host:
    """A backend on a folder, and what one wants to know of its jobs."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.root = folder / "local"
        self.settings = {"slots": 8, "gpus": 0, "grace": 5.0, **settings}
        self.backend = LocalBackend(self.root, **self.settings)
        self.spool = Spool(str(self.root.resolve()))
        self.files = itertools.count(1)

    def python(self, program: str, *argv: str, **changes: Any) -> Order:
        return order(sys.executable, "-S", "-u", "-c", program, *argv, **changes)

    def pid_file(self) -> Path:
        return self.folder / f"pid-{next(self.files)}"

    def launch(self, wanted: Order) -> int:
        launched = self.backend.launch(wanted, opened, deadline=DEADLINE)
        assert launched.job_id is not None
        return launched.job_id

    def run(self, *argv: str, **changes: Any) -> int:
        return self.launch(order(*argv, **changes))

    def stay(self, **changes: Any) -> tuple[int, int]:
        """A job that stays until somebody ends it, and its PID."""
        job_id = self.run("sleep", "600", **changes)
        return job_id, self.command(job_id)

    def observe(self, *job_ids: int, **query: Any) -> Listing:
        asked = Query(deck_id=DECK, job_ids=frozenset(job_ids), **query)
        return self.backend.observe(asked, deadline=DEADLINE)

    def see(self, job_id: int) -> SeenJob:
        (job,) = self.observe(job_id).jobs
        return job

    def wait(self, job_id: int, *statuses: str) -> SeenJob:
        """The job once it has one of these statuses, or has ended."""

        def there() -> SeenJob | None:
            job = self.see(job_id)
            return job if job.status in (statuses or TERMINAL) else None

        job: SeenJob = until(there, f"job {job_id} as {statuses or 'ended'}")
        return job

    def state(self, job_id: int) -> dict[str, Any]:
        state: dict[str, Any] = until(lambda: read_json(self.spool.job(job_id, "start.json")), "a start")
        return state

    def command(self, job_id: int) -> int:
        """The PID of a job's command, once it runs."""
        return int(until(lambda: self.state(job_id)["phase"] == "running" and self.state(job_id)["command"]["pid"]))

    def supervisor(self, job_id: int) -> int:
        return int(self.state(job_id)["supervisor"]["pid"])

    def cancel(self, *job_ids: int) -> None:
        self.backend.cancel(job_ids, deadline=DEADLINE)

    def log(self, job_id: int, tail: int | None = None) -> str:
        return self.backend.logs(job_id, tail=tail, deadline=DEADLINE)

    def held(self) -> list[str]:
        """The locks that somebody has."""
        folders = [self.root / name for name in ("slots", "gpus", "experiments")] + list((self.root / "jobs").iterdir())
        return [str(path) for folder in folders for path in folder.iterdir() if locks.held(str(path))]

    def running(self) -> list[int]:
        """Processes of this host's jobs, supervisors included, wherever they hide."""
        mark = os.fsencode(self.spool.root)
        return [pid for pid in processes.everyone() if pid != os.getpid() and mark in _told(pid)]

    def empty(self) -> None:
        """End all there is, and see that nothing of it is left."""
        for deck_id in {job["deck_id"] for job_id in self.spool.live() if (job := self._order(job_id))}:
            self.cancel(
                *(job.id for job in self.backend.observe(Query(deck_id=deck_id, discovery=True), deadline=9).jobs)
            )
        until(
            lambda: not self.observe(*self.spool.live(), discovery=True).jobs or not self.spool.live(),
            "the end of all jobs",
        )
        self.backend.close()
        until(lambda: not self.running(), f"the end of all processes ({self.running()})")
        until(lambda: self.held() == [], f"the end of all locks ({self.held()})")
        assert self.spool.pending() == []
        assert not list(self.root.glob("jobs/*/environ.json")), "an environment stayed on the disk"

    def _order(self, job_id: int) -> Any:
        return read_json(self.spool.job(job_id, "order.json"))


def _told(pid: int) -> bytes:
    """A process's arguments and environment."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def count(files: Sequence[Path]) -> list[int]:
    return [len(path.read_text().splitlines()) if path.exists() else 0 for path in files]
