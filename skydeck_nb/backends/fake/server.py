"""What really happens on the fake: requests, jobs, machines, and time.

Decides how a launch request becomes a job and how a job walks: PENDING,
STARTING, RUNNING, then its fate. It is a simulation of discrete events; it
moves only when asked to catch up with a time, so looking seldom or often
changes nothing. Refuses to know decks, gates, deadlines, and what anybody is
told: that is ``backend.py``. Not thread-safe by itself.

Every duration of a job comes from the seed and the job's name alone.
"""

from __future__ import annotations

import heapq
import random
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from skydeck_nb.backends.base import Order, SeenJob
from skydeck_nb.backends.fake.faults import Faults, LateListing, Preemption, RejectedLater
from skydeck_nb.errors import InvalidSetting
from skydeck_nb.states import TERMINAL, is_alive

Reading = Callable[[int], Mapping[str, float]]
"""The metrics of one step; a job makes one step a second (at speed 1)."""

ENDS_BEFORE_RUNNING = frozenset({"FAILED_PRECHECKS", "FAILED_NO_RESOURCE"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of a job. Seconds are at speed 1; ``None`` draws them from the seed.

    ``status="RUNNING"`` runs until it is cancelled. ``metrics`` gives the
    readings of a step, ``exit_code`` defaults to 0 or 1 by the status.
    """

    status: str = "SUCCEEDED"
    after: float | None = None
    exit_code: int | None = None
    message: str = ""
    reason: str = ""
    pending: float | None = None
    starting: float | None = None
    metrics: Reading | None = None

    def __post_init__(self) -> None:
        if self.status not in TERMINAL and self.status != "RUNNING":
            raise InvalidSetting(
                f"An outcome is one of {', '.join(sorted(TERMINAL))}, or RUNNING for ever; got {self.status!r}."
            )
        for name in ("after", "pending", "starting"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidSetting(f"Outcome: {name} must be 0 or more seconds; got {value!r}.")


Fate = Outcome | str | Sequence[Outcome | str]
"""One outcome for every job of an experiment, or one after the other; the last one repeats. A text is a status."""


def fates(given: Mapping[str, Fate]) -> dict[str, tuple[Outcome, ...]]:
    """By glob, the outcomes one after the other."""
    found: dict[str, tuple[Outcome, ...]] = {}
    for glob, fate in given.items():
        several = (fate,) if isinstance(fate, Outcome | str) else tuple(fate)
        found[glob] = tuple(one if isinstance(one, Outcome) else Outcome(one) for one in several)
        if not several:
            raise InvalidSetting(f"The outcomes of {glob!r} are empty; give at least one, such as Outcome('FAILED').")
    return found


@dataclass(slots=True)
class Request:
    """A launch request as the server's own list keeps it."""

    id: str
    order: Order
    arrived_at: datetime
    state: str = "QUEUED"  # then DONE, FAILED or CANCELLED
    job_ids: tuple[int, ...] = ()
    fails: RejectedLater | None = None
    listed_at: datetime | None = None


@dataclass(slots=True)
class Job:
    """A job: how it is now, how it was, and what lies before it."""

    seen: SeenJob
    experiment: str
    outcome: Outcome
    dice: random.Random
    priority: int = 0
    max_seconds: float | None = None
    command: str = ""
    listed_at: datetime | None = None
    moves: int = 0
    """Counts what was scheduled; an older move that comes up is void."""
    left: float = 0.0
    ran: float = 0.0
    running_since: datetime | None = None
    cancels: int = 0
    decks: frozenset[str] | None = None
    """The decks whose claim it carries, once somebody asked."""
    history: list[tuple[datetime, SeenJob]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, str]:
        return (self.experiment, self.seen.name)

    def as_of(self, when: datetime) -> SeenJob | None:
        """How it was at that time; ``None`` before it was made."""
        return next((seen for at, seen in reversed(self.history) if at <= when), None)

    def steps(self, now: datetime, speed: float) -> int:
        """How many steps of training it has made."""
        since = (now - self.running_since).total_seconds() if self.running_since else 0.0
        return int((self.ran + since) * speed + 1e-9)

    def reading(self, step: int) -> Mapping[str, float]:
        """The metrics of that step: the outcome's own, or a falling loss."""
        if self.outcome.metrics is not None:
            return self.outcome.metrics(step)
        noise = random.Random(f"{self.seen.name}:{step}").uniform(0.97, 1.03)
        return {"loss": round(noise / (1 + 0.15 * step), 5)}


class Server:
    """The fake server. Call :meth:`advance` before anything else."""

    def __init__(
        self,
        *,
        seed: int,
        faults: Faults,
        now: datetime,
        speed: float,
        slots: int | None,
        outcomes: Mapping[str, Fate],
        durations: Mapping[str, tuple[float, float]],
        prices: Mapping[str, float],
    ) -> None:
        self.jobs: dict[int, Job] = {}
        self.named: dict[str, list[Job]] = {}
        self.requests: dict[str, list[Request]] = {}
        """Launch requests by claim: as long as the server is up, whatever became of them."""
        self.boots = 0
        self.up_at = now
        self.now = now
        self.speed = speed
        self.slots = slots
        self._seed = seed
        self._faults = faults
        self._outcomes = fates(outcomes)
        self._durations = durations
        self._prices = prices
        self._heap: list[tuple[datetime, int, Callable[[], None]]] = []
        self._waiting: dict[int, Job] = {}
        self._busy: set[int] = set()
        self._count = 0
        self._request_number = 0
        self._made: dict[str, int] = {}
        self._fated: dict[str, int] = {}

    # Time.

    def advance(self, now: datetime) -> None:
        """Let everything happen that was due until then."""
        while self._heap and self._heap[0][0] <= now:
            at, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            action()
        self.now = max(self.now, now)

    def later(self, seconds: float, action: Callable[[], None]) -> datetime:
        self._count += 1
        at = self.now + timedelta(seconds=seconds)
        heapq.heappush(self._heap, (at, self._count, action))
        return at

    def _move(self, job: Job, seconds: float, action: Callable[[], None]) -> datetime:
        """Schedule the job's next move; whatever was scheduled for it before is void."""
        job.moves += 1
        move = job.moves

        def act() -> None:
            if job.moves == move:
                action()

        return self.later(seconds, act)

    # Requests.

    def arrive(
        self,
        order: Order,
        user: str,
        *,
        queued: float = 0,
        copies: int = 1,
        again: float | None = None,
        fails: RejectedLater | None = None,
    ) -> Request:
        """A launch request has arrived: now a job is made, or ``queued`` seconds later, or the request fails then."""
        self._request_number += 1
        tag = random.Random(f"{self._seed}:request:{self._request_number}").getrandbits(48)
        request = Request(f"fake-{self._request_number:04d}-{tag:012x}", order, self.now, fails=fails)
        self.requests.setdefault(order.claim, []).append(request)
        boot = self.boots

        def execute() -> None:
            if request.state != "QUEUED" or self.boots != boot:
                return
            if fails is not None:
                request.state = "FAILED"
                return
            late = self._faults.strikes(LateListing, "launch", order.experiment, order.claim)
            request.state = "DONE"
            request.job_ids = tuple(self._make(order, user, late).seen.id for _ in range(copies))
            if late is not None and late.requests:
                request.listed_at = self.now + timedelta(seconds=late.seconds)

        if queued > 0:
            self.later(queued, execute)
        else:
            execute()
        if again is not None:
            self.later(again, lambda: self._again(order, user))
        return request

    def all_requests(self) -> Iterator[Request]:
        return chain.from_iterable(self.requests.values())

    def _again(self, order: Order, user: str) -> None:
        self.arrive(order, user)

    def arrive_later(self, order: Order, user: str, seconds: float) -> None:
        """A request that is still under way somewhere, and that nobody can call back."""
        self.later(seconds, lambda: self._again(order, user))

    def restart(self, seconds: float) -> None:
        """Die, and be back so much later: the request list and what was queued are gone."""
        self.boots += 1
        self.requests.clear()
        self.up_at = self.now + timedelta(seconds=seconds)

    # Jobs.

    def _make(self, order: Order, user: str, late: LateListing | None) -> Job:
        nth = self._made[order.claim] = self._made.get(order.claim, 0) + 1
        job_id = len(self.jobs) + 1
        spec = order.spec
        job = Job(
            seen=SeenJob(
                id=job_id,
                name=order.claim,
                status="PENDING",
                metadata=dict(order.metadata),
                nodes=spec.nodes,
                gpus=spec.gpus,
                accelerators=spec.accelerators,
                command=shlex.join(order.argv),
                user=user,
                workspace="default",
            ),
            experiment=order.experiment,
            outcome=self._fate(order),
            dice=random.Random(f"{self._seed}:{order.claim}:{nth}"),
            priority=order.priority,
            max_seconds=order.max_seconds,
            listed_at=self.now + timedelta(seconds=late.seconds) if late is not None else None,
        )
        self._keep(job)
        self._move(job, self._duration(job, "pending", job.outcome.pending), lambda: self._ready(job))
        return job

    def foreign(self, name: str, user: str, status: str, metadata: Mapping[str, str]) -> Job:
        """A job that nobody here asked for; it stays as it is until somebody changes it."""
        job_id = len(self.jobs) + 1
        started = self.now if status not in ("PENDING", "STARTING") else None
        ended = self.now if status in TERMINAL else None
        seen = SeenJob(
            id=job_id, name=name, status=status, metadata=dict(metadata), submitted_at=self.now,
            started_at=started, ended_at=ended, user=user, workspace="default", command="",
        )  # fmt: skip
        job = Job(seen=seen, experiment=name, outcome=Outcome("RUNNING"), dice=random.Random(f"{self._seed}:{name}"))
        job.running_since = self.now if status == "RUNNING" else None
        self._keep(job)
        return job

    def _keep(self, job: Job) -> None:
        self.jobs[job.seen.id] = job
        self.named.setdefault(job.seen.name, []).append(job)
        self._show(job)

    def _fate(self, order: Order) -> Outcome:
        for glob, several in self._outcomes.items():
            if fnmatchcase(order.experiment, glob) or fnmatchcase(order.claim, glob):
                nth = self._fated[order.experiment] = self._fated.get(order.experiment, 0) + 1
                return several[min(nth, len(several)) - 1]
        return Outcome()

    def _duration(self, job: Job, what: str, given: float | None) -> float:
        drawn = job.dice.uniform(*self._durations[what])
        return (drawn if given is None else given) / self.speed

    def _show(self, job: Job, **changes: Any) -> None:
        job.seen = replace(job.seen, **changes)
        job.history.append((self.now, job.seen))

    def _ready(self, job: Job) -> None:
        self._waiting[job.seen.id] = job
        self._fill()
        if job.seen.status == "PENDING":
            in_use = f"all {self.slots} slots of the fake server are in use"
            self._show(job, reason="NoFreeSlot", message=f"It waits because {in_use}.")

    @property
    def slots_free(self) -> int | None:
        return None if self.slots is None else max(0, self.slots - len(self._busy))

    def _fill(self) -> None:
        """Give free slots to those that wait: the highest priority first, then the oldest."""
        if self._waiting and self.slots_free != 0:
            waiting = sorted(self._waiting.values(), key=lambda one: (-one.priority, one.seen.id))
            for job in waiting[: self.slots_free]:
                self._start(job)

    def _start(self, job: Job) -> None:
        del self._waiting[job.seen.id]
        self._busy.add(job.seen.id)
        cluster = f"fake-{job.seen.id}"
        self._show(job, status="STARTING", reason="", message="", submitted_at=self.now, infra="fake/zone-a",
                   cluster_name=cluster, hourly_cost=self._price(job))  # fmt: skip
        seconds = self._duration(job, "starting", job.outcome.starting)
        if job.outcome.status in ENDS_BEFORE_RUNNING:
            self._move(job, self._duration(job, "running", job.outcome.after), lambda: self._fated_end(job))
        else:
            self._move(job, seconds, lambda: self._run(job))

    def _price(self, job: Job) -> float | None:
        node = self._prices.get(job.seen.accelerators or "*", self._prices.get("*"))
        return None if node is None else node * (job.seen.nodes or 1)

    def _run(self, job: Job) -> None:
        job.left = self._duration(job, "running", job.outcome.after)
        if job.outcome.status == "RUNNING":
            job.left = float("inf")
        self._resume(job, started_at=self.now)
        if fault := self._faults.strikes(Preemption, "observe", *job.names):
            after = fault.after / self.speed
            if after < min(job.left, job.max_seconds or job.left):
                self._move(job, after, lambda: self.preempt(job, fault.seconds))

    def _resume(self, job: Job, **changes: Any) -> None:
        job.running_since = self.now
        self._show(job, status="RUNNING", reason="", message="", **changes)
        limit = job.max_seconds - job.ran if job.max_seconds is not None else float("inf")
        if limit < job.left:
            self._move(job, limit, lambda: self._timed_out(job))
        elif job.left < float("inf"):
            self._move(job, job.left, lambda: self._fated_end(job))
        else:
            job.moves += 1

    def preempt(self, job: Job, seconds: float) -> None:
        """The machine is taken away; the job has another one so many seconds later."""
        if job.seen.status != "RUNNING" or job.running_since is None:
            return
        ran = (self.now - job.running_since).total_seconds()
        job.left, job.ran, job.running_since = job.left - ran, job.ran + ran, None
        self._show(
            job, status="RECOVERING", reason="Preempted", message="Its machine was taken away; another is found."
        )
        zone = "fake/zone-b" if job.seen.infra == "fake/zone-a" else "fake/zone-a"
        more = job.seen.recoveries + 1
        self._move(job, seconds / self.speed, lambda: self._resume(job, recoveries=more, infra=zone))

    def _timed_out(self, job: Job) -> None:
        self.end(job, "FAILED", exit_code=124, reason="TimedOut", message="It ran longer than it may.")

    def _fated_end(self, job: Job) -> None:
        fate = job.outcome
        code = fate.exit_code
        if code is None and fate.status in ("SUCCEEDED", "FAILED", "FAILED_SETUP"):
            code = 0 if fate.status == "SUCCEEDED" else 1
        self.end(job, fate.status, exit_code=code, reason=fate.reason, message=fate.message)

    def end(self, job: Job, status: str, *, exit_code: int | None = None, reason: str = "", message: str = "") -> None:
        """The job is over, now."""
        if not is_alive(job.seen.status):
            return
        if job.running_since is not None:
            job.ran += (self.now - job.running_since).total_seconds()
            job.running_since = None
        job.moves += 1
        self._show(job, status=status, ended_at=self.now, exit_code=exit_code, reason=reason, message=message)
        self._waiting.pop(job.seen.id, None)
        self._busy.discard(job.seen.id)
        self._fill()

    def cancel(self, job: Job) -> None:
        """As SkyPilot does: at once while it is pending, else through CANCELLING."""
        if job.seen.status == "PENDING":
            self.end(job, "CANCELLED")
        elif is_alive(job.seen.status) and job.seen.status != "CANCELLING":
            if job.running_since is not None:
                job.ran += (self.now - job.running_since).total_seconds()
                job.running_since = None
            self._show(job, status="CANCELLING", reason="", message="")
            self._move(job, self._duration(job, "cancelling", None), lambda: self.end(job, "CANCELLED"))

    def log(self, job: Job) -> list[str]:
        """What the job has printed until now."""
        if job.seen.started_at is None:
            return [job.seen.message] if job.seen.message else []
        lines = [f"$ {job.seen.command}"] if job.seen.command else []
        for step in range(1, job.steps(self.now, self.speed) + 1):
            values = " ".join(f"{key}={value:g}" for key, value in job.reading(step).items())
            lines.append(f"step {step} {values}".rstrip())
        if not is_alive(job.seen.status):
            lines.append(f"[fake] {job.seen.status}" + (f": {job.seen.message}" if job.seen.message else ""))
        return lines
