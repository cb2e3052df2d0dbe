"""One database with its kernels, and what a test asks of it from outside."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from skydeck_nb.backends.local import locks, processes
from skydeck_nb.backends.local.spool import Spool
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow
from skydeck_nb.store.records import LeaseRow
from skydeck_nb.store.store import Store
from skydeck_nb.store.transaction import Transaction
from tests.kill.kernels import Forge, Kernel

PATIENCE = 60.0
"""Seconds until something that should happen counts as never, on two busy CPUs."""

JOB = str(Path(__file__).parent / "job.py")
BEAT = 0.01


def until(
    holds: Callable[[], Any], what: Callable[[], object] | str = "it", patience: float = PATIENCE, *, beat: float = BEAT
) -> Any:
    """The first true answer; fails when patience ends."""
    end = time.monotonic() + patience
    while not (answer := holds()):
        assert time.monotonic() < end, f"after {patience:g} s never came: {what() if callable(what) else what}"
        time.sleep(beat)
    return answer


def show(sentence: str) -> None:
    """Say what was seen: ``pytest -s`` shows it."""
    print(f"\n{sentence}")  # noqa: T201


class Execution(NamedTuple):
    """A command that ran, as it says itself; ``end`` is ``None`` where it did not come to its end."""

    attempt: str
    pid: int
    start: int
    end: int | None


class Place:
    """A folder with a database and the jobs' folder, in which kernels open decks."""

    def __init__(self, folder: Path, forge: Forge, **settings: Any) -> None:
        self.folder = folder
        self.settings = {"slots": 4, "grace": 1.0, **settings}
        self.kernels: list[Kernel] = []
        self._forge = forge
        (folder / "ran").mkdir(parents=True)
        self.spool = Spool(str((folder / "local").resolve()))

    # -- kernels --------------------------------------------------------------------------

    def kernel(self, *, waits: bool = True) -> Kernel:
        """A new kernel; with its deck open unless it does not wait for that."""
        kernel = self._forge.kernel(self.folder)
        self.kernels.append(kernel)
        sent = kernel.send(
            "from tests.kill import inside\n"
            f"deck = inside.open_deck({str(self.folder)!r}, **{self.settings!r})\n"
            "fuse = inside.Fuse(deck)\n"
        )
        if waits:
            kernel.reply(sent)
        return kernel

    def close(self) -> None:
        """End everything, whatever state the test left it in."""
        for kernel in self.kernels:
            kernel.close()
        for pid in self.running():
            if (process := processes.look(pid)) is not None:
                processes.send(process, 9)
        if "store" in vars(self):
            self.store.close()

    # -- rows -----------------------------------------------------------------------------

    @cached_property
    def store(self) -> Store:
        return Store.open(self.folder / "deck.db", read_only=True)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.store.read() as tx:
            yield tx

    def lease(self) -> LeaseRow:
        with self.read() as tx:
            row = tx.lease()
        assert row is not None
        return row

    def led_by(self, kernel: Kernel) -> bool:
        lease = self.lease()
        return lease.pid == kernel.pid and lease.holder is not None

    def await_leader(self, *kernels: Kernel, patience: float = PATIENCE) -> Kernel:
        """Which of these kernels leads, as soon as one does."""
        found: Kernel = until(
            lambda: next((k for k in kernels if self.led_by(k)), None), lambda: f"a leader; {self.lease()}", patience
        )
        return found

    def row(self, name: str) -> ExperimentRow:
        with self.read() as tx:
            return tx.experiments(names=[name])[0]

    def jobs(self, row: ExperimentRow) -> list[JobRow]:
        with self.read() as tx:
            return tx.jobs(experiment_ids=[row.id])

    def attempts(self) -> dict[str, AttemptRow]:
        with self.read() as tx:
            return {attempt.id: attempt for attempt in tx.attempts()}

    # -- what ran -------------------------------------------------------------------------

    def command(self, seconds: str | float, code: int | str = 0) -> list[str]:
        return [sys.executable, "-I", "-S", JOB, str(self.folder), str(seconds), str(code)]

    def executions(self, name: str) -> list[Execution]:
        """The commands of an experiment that ran, oldest first."""
        path = self.folder / "ran" / name
        found: dict[tuple[str, int], Execution] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            what, attempt, pid, at = line.split()
            key = (attempt, int(pid))
            if what == "start":
                assert key not in found
                found[key] = Execution(attempt, int(pid), int(at), None)
            else:
                found[key] = found[key]._replace(end=int(at))
        return list(found.values())

    def running(self) -> list[int]:
        """Processes of this place's jobs, supervisors included, wherever they hide."""
        mark = os.fsencode(self.spool.root)
        return [pid for pid in processes.everyone() if pid != os.getpid() and mark in _told(pid)]

    # -- what must hold -------------------------------------------------------------------

    def check_rows(self) -> None:
        """The log folds to the rows, no attempt made two jobs, and no experiment has two that are alive."""
        with self.read() as tx:
            assert tx.folded() == tx.tables()
            jobs = tx.jobs()
        assert not (self.folder / "twins").exists(), (self.folder / "twins").read_text()
        for of in ("attempt_id", "name"):
            twice = {key: n for key, n in Counter(getattr(job, of) for job in jobs).items() if n > 1}
            assert not twice, f"jobs with the same {of}: {twice}"
        alive = Counter(job.experiment_id for job in jobs if job.alive)
        assert all(n == 1 for n in alive.values()), alive

    def check_executions(self) -> None:
        """Each command that ever ran belongs to the one job of its attempt, and ran once."""
        with self.read() as tx:
            jobs = {job.attempt_id: job for job in tx.jobs()}
            names = {row.id: row.name for row in tx.experiments(deleted=None)}
        for path in (self.folder / "ran").glob("[!.]*"):
            ran = self.executions(path.name)
            counts = Counter(one.attempt for one in ran)
            assert all(n == 1 for n in counts.values()), f"an attempt of {path.name} ran twice: {ran}"
            for one in ran:
                assert names[jobs[one.attempt].experiment_id or 0] == path.name
            for before, after in pairwise(ran):
                assert before.end is None or before.end <= after.start, f"two of {path.name} at once: {ran}"

    def check_nothing_left(self) -> None:
        """No process, no lock, no entry that waits. What a killed launch left behind is swept by a discovery."""
        until(lambda: not self.running(), lambda: f"the end of all processes: {[_said(p) for p in self.running()]}")
        until(lambda: not self.spool.live(), lambda: f"the sweep of {self.spool.live()}", 30)
        assert self.spool.pending() == []
        held = [str(p) for part in ("slots", "experiments") for p in Path(self.spool.path(part)).iterdir()]
        assert not [path for path in held if locks.held(path)]
        assert not list(Path(self.spool.root).glob("jobs/*/environ.json")), "an environment stayed on the disk"

    # -- what kernels wrote ---------------------------------------------------------------

    def lines(self, file: str) -> list[dict[str, Any]]:
        path = self.folder / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _told(pid: int) -> bytes:
    """A process's arguments and environment."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _said(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()!r:.200}"
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid}, gone"
