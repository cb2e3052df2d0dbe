"""The fake server in one's hands: its settings, its faults, its truth.

Decides what a test or a curious person can do to the fake world and see of
it. Refuses to know what a deck asks and is told: that is ``backend.py``.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from skydeck_nb.backends.base import Cadence, SeenJob
from skydeck_nb.backends.fake import faults as kinds
from skydeck_nb.backends.fake.faults import Fault, Faults, parse
from skydeck_nb.backends.fake.server import Fate, Job, Server
from skydeck_nb.errors import InvalidSetting
from skydeck_nb.states import TERMINAL

Named = str | Fault | type[Fault]


class Call(NamedTuple):
    """One thing that was sent to the server: a launch by its claim, a cancel by its job id, a look by its kind."""

    method: str
    key: str
    at: datetime


class Controls:
    """One fake server and what can be done to it; safe from any thread."""

    kind = "fake"

    def __init__(
        self,
        seed: int = 0,
        faults: Iterable[Named] = (),
        *,
        slots: int | None = None,
        clock: Callable[[], datetime] | None = None,
        speed: float = 1.0,
        outcomes: Mapping[str, Fate] | None = None,
        pending: tuple[float, float] = (0.2, 1.5),
        starting: tuple[float, float] = (0.5, 2.0),
        running: tuple[float, float] = (8.0, 25.0),
        cancelling: tuple[float, float] = (0.3, 1.5),
        path: str | os.PathLike[str] | None = None,
        user: str = "you",
        cadence: Cadence | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        if not speed > 0:
            raise InvalidSetting(f"FakeBackend: speed must be more than 0; got {speed!r}.")
        if slots is not None and slots < 1:
            raise InvalidSetting(f"FakeBackend: slots must be 1 or more, or None for any number; got {slots!r}.")
        durations = {"pending": pending, "starting": starting, "running": running, "cancelling": cancelling}
        for name, (low, high) in durations.items():
            if not 0 <= low <= high:
                raise InvalidSetting(f"FakeBackend: {name} must be a range such as (1, 5); got {(low, high)!r}.")
        for kind, price in (prices or {}).items():
            if not 0 <= price < math.inf:
                raise InvalidSetting(f"FakeBackend: prices[{kind!r}] must be 0 or more dollars; got {price!r}.")
        if isinstance(faults, str | Fault):
            faults = [faults]
        self.seed = seed
        self.user = user
        self.prices = bool(prices)
        self._clock = clock
        slow, quick = Cadence(hot=0.25, discovery=1.0), Cadence(hot=0.02, discovery=0.1)
        self._cadence = cadence or (slow if clock is None else quick)
        self._path = Path(path).absolute() if path is not None else None
        self._lock = threading.RLock()
        self._faults = Faults(seed)
        self._server = Server(
            seed=seed, faults=self._faults, now=self._now(), speed=speed, slots=slots,
            outcomes=outcomes or {}, durations=durations, prices=prices or {},
        )  # fmt: skip
        self._calls: list[Call] = []
        self._signed_in = True
        self._refused: set[str] = set()
        self._withheld: set[str] = set()
        self._missed: dict[str, int] = {}
        self._written: dict[int, int] = {}
        for one in faults:
            self._faults.inject(parse(one), None)

    def inject(self, *faults: Named, times: int | None = None) -> None:
        """Put faults in; with ``times=2`` each strikes twice and is gone."""
        parsed = [parse(fault) for fault in faults]
        with self._lock:
            self._catch_up()
            for fault in parsed:
                self._faults.inject(fault, times)

    def heal(self, *faults: Named) -> None:
        """Take these faults out, or all: late rows are listed, one is signed in, the server is up.

        What is already under way, such as a ``LateDuplicate``, still arrives.
        """
        chosen = [type(parse(fault)) for fault in faults]
        with self._lock:
            self._catch_up()
            self._faults.heal(chosen)
            if not chosen or kinds.LateListing in chosen:
                for job in self._server.jobs.values():
                    job.listed_at = None
                for request in self._server.all_requests():
                    request.listed_at = None
            if not chosen or kinds.SignInExpired in chosen:
                self._signed_in = True
            if not chosen or kinds.ServerRestart in chosen:
                self._server.up_at = min(self._server.up_at, self._server.now)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Those that are in."""
        with self._lock:
            return self._faults.active

    @property
    def calls(self) -> tuple[Call, ...]:
        """What was sent, in order. A launch stands here from its first write: after its gate, or not at all."""
        with self._lock:
            return tuple(self._calls)

    def truth(self) -> tuple[SeenJob, ...]:
        """Every job as it really is, whatever listings show."""
        with self._lock:
            self._catch_up()
            return tuple(job.seen for job in self._server.jobs.values())

    def sign_in(self) -> None:
        """End ``SignInExpired``; one that is still in strikes again."""
        with self._lock:
            self._signed_in = True

    def restart_server(self, seconds: float = 0.0) -> None:
        """What ``ServerRestart`` does, now."""
        with self._lock:
            self._catch_up()
            self._server.restart(seconds)

    def add_foreign_job(
        self,
        name: str,
        user: str | None = None,
        status: str = "RUNNING",
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """A job that no deck asked for, of one's own user or of another; its id."""
        with self._lock:
            self._catch_up()
            return self._server.foreign(name, user or self.user, status, metadata or {}).seen.id

    def cancel_from_outside(self, job_id: int) -> None:
        """Somebody else cancels it; not in :attr:`calls`."""
        with self._lock:
            self._server.cancel(self._job(job_id))

    def preempt(self, job_id: int, seconds: float = 3.0) -> None:
        """Take the machine of a running job away, now; it recovers for so long (at speed 1)."""
        with self._lock:
            self._server.preempt(self._job(job_id), seconds)

    def finish(
        self, job_id: int, status: str = "SUCCEEDED", *, exit_code: int | None = None, message: str = ""
    ) -> None:
        """End a job now."""
        if status not in TERMINAL:
            raise InvalidSetting(f"{status!r} is no end of a job; use one of {', '.join(sorted(TERMINAL))}.")
        with self._lock:
            job = self._job(job_id)
            if exit_code is None and status in ("SUCCEEDED", "FAILED"):
                exit_code = 0 if status == "SUCCEEDED" else 1
            self._server.end(job, status, exit_code=exit_code, message=message)

    def withhold(self, *secrets: str) -> None:
        """From now on these secrets are missing where the loop runs."""
        self._withheld.update(secrets)

    def provide(self, *secrets: str) -> None:
        """They are there again."""
        self._withheld.difference_update(secrets)

    # Inside.

    def _now(self) -> datetime:
        return datetime.now(UTC) if self._clock is None else self._clock()

    def _catch_up(self) -> None:
        self._server.advance(self._now())

    def _job(self, job_id: int) -> Job:
        self._catch_up()
        if job_id not in self._server.jobs:
            raise InvalidSetting(f"The fake server has no job {job_id}.")
        return self._server.jobs[job_id]

    def _log(self, method: str, key: str) -> None:
        self._calls.append(Call(method, key, self._server.now))

    def _write_metrics(self) -> None:
        """Bring the run folders up to now."""
        if self._path is None:
            return
        for job in self._server.jobs.values():
            written, steps = self._written.get(job.seen.id, 0), job.steps(self._server.now, self._server.speed)
            folder = self._path / str(job.seen.id)
            if job.seen.id not in self._written:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._written[job.seen.id] = 0
            if steps > written:
                lines = [json.dumps({"step": step, **job.reading(step)}) for step in range(written + 1, steps + 1)]
                fd = os.open(folder / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(fd, "a", encoding="utf-8") as file:
                    file.write("".join(f"{line}\n" for line in lines))
                self._written[job.seen.id] = steps
