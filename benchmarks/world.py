"""A deck as it is after months of work, and a backend that says of its jobs what is stored.

The mix: ten jobs an experiment, one a run. Of the experiments 2 % are alive
(most of them RUNNING, the others PENDING, STARTING or RECOVERING); of the rest
six in ten SUCCEEDED, two FAILED, two were stopped. They belong to sweeps of 100
and to 20 groups. Every row has its event, so that the log is as long as the
tables.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.backends.base import Cadence, Listing, Query, SeenJob
from skydeck_nb.backends.fake import FakeBackend
from skydeck_nb.control.calls import Call, Observe, Outcome
from skydeck_nb.control.controller import Controller
from skydeck_nb.control.surroundings import LoopSettings
from skydeck_nb.flags.values import spec_hash
from skydeck_nb.models import AttemptRow, ExperimentRow, FlagValue, GroupRow, JobRow, Spec, SweepRow
from skydeck_nb.store.store import Store

BEGAN: Final = datetime(2026, 6, 1, tzinfo=UTC)
JOBS_EACH: Final = 10
ALIVE_EVERY: Final = 50
"""One experiment in so many is alive: 200 of 10,000."""
SWEEP: Final = 100
FLAGS: Final = 8
GROUPS: Final = 20
LIVE: Final = (*("RUNNING",) * 7, "PENDING", "STARTING", "RECOVERING")
ENDED: Final = (*("SUCCEEDED",) * 6, *("FAILED",) * 2, *("CANCELLED",) * 2)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a deck is."""

    experiments: int

    @property
    def jobs(self) -> int:
        return self.experiments * JOBS_EACH

    @property
    def alive(self) -> int:
        return self.experiments // ALIVE_EVERY


class Worlds:
    """Decks' files by size: built once in a run, and copied for each who asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Size, Path] = {}
        self._copies = 0

    def fresh(self) -> Path:
        """A folder of its own."""
        self._copies += 1
        made = self._folder / f"world-{self._copies}"
        made.mkdir(mode=0o700)
        return made

    def copy(self, size: Size) -> Path:
        """A deck of this size that nobody else has, settled: its conditions are written."""
        if size not in self._made:
            self._made[size] = self.fresh() / "deck.db"
            build(self._made[size], size)
        path = self.fresh() / "deck.db"
        shutil.copy(self._made[size], path)
        return path


def build(path: Path, size: Size) -> None:
    """Make a deck's file of this size, and let a loop look and plan until nothing is left to write."""
    store = Store.open(path)
    try:
        store.claim_identity(asdict(Echo().identity))
        for events in _history(size, store.deck_id):
            store.apply(events, chunk=True)
        with leading(store) as (controller, _):
            for _ in range(5):
                before = sequence(store)
                one_pass(controller)
                if sequence(store) == before:
                    break
            else:
                raise AssertionError("The deck does not settle.")
    finally:
        store.close()


def _history(size: Size, deck_id: str) -> Iterator[list[ev.Event]]:
    """The events that make a deck, table by table."""
    now = BEGAN
    sweeps = [
        SweepRow(id=i, name=f"sweep-{i}", definition={"axes": {"lr": [0.1]}}, created_at=now, updated_at=now)
        for i in range(1, size.experiments // SWEEP + 2)
    ]
    yield [ev.SweepChanged(at=now, sweep_id=s.id, what="declared", changes=(codec.insert(s),)) for s in sweeps]
    yield [
        ev.SpecChanged(at=now, experiment_id=row.id, what="declared", generation=1, changes=(codec.insert(row),))
        for row in (_experiment(i) for i in range(1, size.experiments + 1))
    ]
    groups = [GroupRow(id=i, name=f"group-{i}", created_at=now, updated_at=now) for i in range(1, GROUPS + 1)]
    members = [[codec.member(g.id, e, float(e)) for e in range(g.id, size.experiments + 1, GROUPS)] for g in groups]
    yield [
        ev.GroupChanged(at=now, group_id=g.id, what="made", changes=(codec.insert(g), *inside))
        for g, inside in zip(groups, members, strict=True)
    ]
    for first in range(1, size.experiments + 1, 1000):
        events: list[ev.Event] = []
        for i in range(first, min(first + 1000, size.experiments + 1)):
            for run in range(1, JOBS_EACH + 1):
                job, attempt = _job(i, run, deck_id)
                changes = (codec.insert(job), codec.insert(attempt))
                events.append(
                    ev.JobSubmitted(
                        at=job.created_at, experiment_id=i, job_id=job.id, attempt_id=attempt.id, changes=changes
                    )
                )
        yield events


def _status(experiment: int, run: int) -> str:
    if run == JOBS_EACH and experiment % ALIVE_EVERY == 0:
        return LIVE[experiment // ALIVE_EVERY % len(LIVE)]
    return ENDED[(experiment + run) % len(ENDED)]


def flags_of(experiment: int, count: int) -> dict[str, FlagValue]:
    """A quarter each of floats, integers, booleans and words."""
    kinds = (
        lambda k: (experiment * 31 + k) % 9973 / 9973,
        lambda k: experiment * (k + 1) % 1000,
        lambda k: (experiment + k) % 3 == 0,
        lambda k: f"value-{(experiment + k) % 50}",
    )
    return {f"group{k % 10}.flag_{k}": kinds[k % 4](k) for k in range(count)}


def _experiment(i: int) -> ExperimentRow:
    spec = Spec(command=("python", "train.py", "{flags}"), flags=flags_of(i, FLAGS), gpus=i % 3 or None)
    created = BEGAN + timedelta(minutes=i)
    return ExperimentRow(
        id=i,
        name=f"experiment-{i}",
        spec=spec,
        spec_hash=spec_hash(spec),
        desired_state="STOPPED" if _status(i, JOBS_EACH) == "CANCELLED" else "RUNNING",
        run=JOBS_EACH,
        run_name=f"experiment-{i}",
        tags=("paper", "baseline") if i % 3 == 0 else (),
        sweep_id=(i - 1) // SWEEP + 1,
        coordinates={"lr": i % SWEEP},
        exp_order=float(i),
        created_at=created,
        updated_at=created,
        wanted_at=created,
        current_job_id=i * JOBS_EACH,
        observed_run=JOBS_EACH,
    )


def _job(experiment: int, run: int, deck_id: str) -> tuple[JobRow, AttemptRow]:
    number = (experiment - 1) * JOBS_EACH + run
    attempt_id = f"{number:010d}".translate(str.maketrans("0123456789", "abcdefghij"))
    claim = f"experiment-{experiment}-sd{deck_id}-{attempt_id}"
    status = _status(experiment, run)
    created = BEGAN + timedelta(days=run, seconds=experiment)
    waits = status in ("PENDING", "STARTING")
    ended = None if status in LIVE else created + timedelta(hours=1, seconds=experiment % 3600)
    gpus = experiment % 3 or None
    job = JobRow(
        id=number,
        experiment_id=experiment,
        attempt_id=attempt_id,
        run=run,
        generation=1,
        name=claim,
        status=status,
        error_message="exit code 1" if status == "FAILED" else None,
        created_at=created,
        submitted_at=created,
        started_at=None if waits else created + timedelta(seconds=40),
        ended_at=ended,
        exit_code=None if status in LIVE else int(status == "FAILED"),
        recoveries=int(status == "RECOVERING"),
        infra="aws/us-east-1/us-east-1a",
        cluster_name=f"experiment-{experiment}-{number}",
        nodes=1,
        gpus=gpus,
        accelerators="H100:4",
        command=f"python train.py group0.flag_0={experiment % 100}",
        user="me",
        workspace="default",
        git_commit="0123456789abcdef0123456789abcdef01234567",
        changed_at=created,
    )
    attempt = AttemptRow(
        id=attempt_id,
        experiment_id=experiment,
        run=run,
        generation=1,
        claim=claim,
        spec_hash="0" * 16,
        term=1,
        state="SUBMITTED",
        created_at=created,
        send_before=created + timedelta(seconds=60),
        request_id=f"request-{number}",
        job_id=number,
        ended_at=created + timedelta(seconds=2),
    )
    return job, attempt


# -- The backend that agrees --------------------------------------------------------------


class Echo(FakeBackend):
    """A fake backend that lists the jobs it was given, and nothing else.

    Its listing is kept as long as nothing changes: what a look costs is what the loop spends on
    it. It is looked at as often as a shared server.
    """

    def __init__(self, jobs: Iterable[SeenJob] = ()) -> None:
        super().__init__(seed=0, user="me", cadence=Cadence(hot=10.0, discovery=60.0))
        self.told = {job.id: job for job in jobs}
        self._all: tuple[SeenJob, ...] = ()

    def change(self, jobs: Iterable[SeenJob]) -> None:
        """List these otherwise from now on."""
        self.told.update((job.id, job) for job in jobs)
        self._all = ()

    def observe(self, query: Query, *, deadline: float) -> Listing:
        begun_at = datetime.now(UTC)
        if query.discovery:
            self._all = self._all or tuple(self.told.values())
        asked = self._all if query.discovery else tuple(self.told[i] for i in query.job_ids if i in self.told)
        return Listing(query=query, begun_at=begun_at, jobs=asked)


SAID: Final = (
    "id name status reason submitted_at started_at ended_at exit_code recoveries infra cluster_name nodes gpus "
    "accelerators command user workspace url hourly_cost"
).split()


def seen(row: JobRow, deck_id: str) -> SeenJob:
    """A job as a backend shows it that agrees with its row."""
    said: dict[str, Any] = {name: getattr(row, name) for name in SAID}
    metadata = {
        "deck_id": deck_id,
        "experiment_id": str(row.experiment_id),
        "attempt_id": row.attempt_id or "",
        "run": str(row.run),
        "generation": str(row.generation),
    }
    return SeenJob(**said, metadata=metadata)


def echo_of(store: Store) -> Echo:
    """The backend that says of every stored job what is stored."""
    with store.read() as tx:
        rows = tx.jobs()
    return Echo(seen(row, store.deck_id) for row in rows)


# -- A loop without threads ---------------------------------------------------------------


@contextmanager
def leading(store: Store) -> Iterator[tuple[Controller, Echo]]:
    """A controller that leads this deck, on a backend that agrees with what is stored."""
    backend = echo_of(store)
    with store.write() as tx:
        term = tx.take_lease("benchmark", "here", 1)
    controller = Controller(store, backend, LoopSettings(hot=10.0, discovery=60.0))
    controller.lead(term, datetime.now(UTC))
    try:
        yield controller, backend
    finally:
        with store.write() as tx:
            tx.release_lease(term, "benchmark")


def look(controller: Controller, *, discovery: bool = True) -> Outcome:
    """Ask the backend what the loop would ask, and hand the answer over.

    A discovery lists every job of the deck, a hot poll those that are alive.
    """
    now = datetime.now(UTC)
    if discovery:
        controller.looks.ask()
    call = controller.look(now if discovery else now + timedelta(seconds=30))
    assert isinstance(call, Observe)
    assert call.query.discovery == discovery
    return Outcome(call=call, listing=controller.backend.observe(call.query, deadline=30.0))


def one_pass(controller: Controller, *, discovery: bool = True) -> list[Call]:
    """One whole pass: take up what others wrote, look, commit what is new, plan every experiment."""
    controller.advance()
    controller.finish(look(controller, discovery=discovery), datetime.now(UTC))
    controller.plan_everything()
    made = controller.plan_pass(datetime.now(UTC))
    controller.news.clear()
    return made


# -- Counting -----------------------------------------------------------------------------


def sequence(store: Store) -> int:
    """The number of the log's last line."""
    with store.read() as tx:
        return tx.sequence


def written(store: Store) -> int:
    """Rows that this thread's connection has inserted, changed or deleted so far, lines of the log among them."""
    with store.read() as tx:
        return int(tx.db.conn.total_changes)


@contextmanager
def traced(store: Store) -> Iterator[list[str]]:
    """The statements that this thread runs meanwhile.

    Not those of all threads, as ``store.trace()`` has them: a loop that runs
    beside a deck's call is none of the call's, and to set a callback on a
    connection on which another thread is busy may lock both up.
    """
    with store.read() as tx:
        raw = tx.db.conn
    statements: list[str] = []
    raw.set_trace_callback(statements.append)
    try:
        yield statements
    finally:
        raw.set_trace_callback(None)


def kinds(statements: Sequence[str]) -> dict[str, int]:
    """How many statements began with each word."""
    found: dict[str, int] = {}
    for statement in statements:
        word = statement.split(maxsplit=1)[0].upper()
        found[word] = found.get(word, 0) + 1
    return found
