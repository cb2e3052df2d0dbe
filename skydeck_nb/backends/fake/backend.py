"""What a deck is told about the fake server, with every fault that is in.

Decides the order of things within one call: sign-in, waiting, the gate, the
write, the answer; what a listing shows; when absence is shown. Refuses to
know how jobs walk (``server.py``) and when a fault strikes (``faults.py``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from skydeck_nb.backends.base import (
    Cadence,
    Capacity,
    Gate,
    Identity,
    Launched,
    Listing,
    Order,
    Query,
    Resolution,
    SeenJob,
)
from skydeck_nb.backends.fake import faults as kinds
from skydeck_nb.backends.fake.controls import Controls
from skydeck_nb.backends.fake.server import Job, Request
from skydeck_nb.errors import BackendUnavailable, InvalidCommand, LaunchRejected, NeedsSignIn
from skydeck_nb.models import Spec
from skydeck_nb.states import is_alive

ANSWER = 60.0
"""Seconds that a launch which was sent waits for its answer, whatever its deadline leaves for preparing."""

CLAIM = re.compile(r"-sd(?P<deck>[a-z0-9]{6})-[a-z0-9]{4,}$")


class FakeBackend(Controls):
    """A backend in memory, with seeded jobs and faults one can name.

    Args:
        seed: decides every duration and every chance; equal seeds and equal
            calls give equal worlds.
        faults: those that are in from the start, as text
            (``"LostAnswer(chance=0.2)"``) or as the dataclasses of
            :mod:`skydeck_nb.backends.fake`; :meth:`inject` and :meth:`heal` later.
        slots: how many jobs run at once; ``None`` for any number.
        clock: a :class:`FakeClock` for tests. ``None`` takes the real time, and
            jobs walk by themselves; there is no thread.
        speed: how many times faster jobs walk; deadlines and the seconds of
            ``Slow``, ``LateListing`` and the like stay seconds of the clock.
        outcomes: fates by a glob of the experiment's name, the first match
            counts: ``{"ppo-*": Outcome("FAILED", after=3, exit_code=1), "*": "SUCCEEDED"}``;
            a list gives an experiment's jobs one outcome after the other.
        pending, starting, running, cancelling: ranges of seconds (at speed 1)
            from which durations are drawn.
        path: a folder for run folders with ``metrics.jsonl``; ``None`` writes nothing.
        user: who looks and launches.
        cadence: how often a deck looks.
        prices: US dollars that one node costs an hour, by the accelerators that a
            job asks for: ``{"H100:4": 12.0, "*": 0.5}``, where ``"*"`` is every other
            node. What is not in it has no price; without it the fake knows none.

    One object is one server: decks that share it see the same jobs, and closing
    a deck closes no server. Safe from any thread.
    """

    # What every backend has.

    @property
    def identity(self) -> Identity:
        return Identity(kind="fake", place=f"seed-{self.seed}", scope=self.user)

    @property
    def cadence(self) -> Cadence:
        return self._cadence

    def check(self, spec: Spec) -> None:
        if spec.command is None and spec.script is None and spec.task is None:
            raise InvalidCommand("There is nothing to run: give a command, a script or a task.")

    def missing(self, spec: Spec) -> tuple[str, str] | None:
        for name in spec.secrets:
            if name in self._withheld:
                return "SecretMissing", f"The secret {name} is not set where the loop runs; call provide({name!r})."
        return None

    def observe(self, query: Query, *, deadline: float) -> Listing:
        call = self._enter("observe", "discovery" if query.discovery else "hot", deadline)
        self._wait(call, "request")
        with self._lock:
            self._catch_up()
            if self._faults.strikes(kinds.FailedListing, "observe"):
                raise BackendUnavailable("The fake server did not answer the listing, as it was told to.")
            rows, complete = self._rows("observe", self._asked(query))
            self._write_metrics()
        self._wait(call, "answer")
        return Listing(query=query, begun_at=call.begun_at, jobs=tuple(rows), complete=complete)

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        names = (order.experiment, order.claim)
        call = self._enter("launch", order.claim, deadline, names, log=False)
        self._wait(call, "request")
        with self._lock:
            retried = self._faults.strikes(kinds.Retried, "launch", *names)
        if retried is not None:
            gate()
            self._send(order, arrives=retried.first_arrives)
            call.left = min(call.left, ANSWER)
            self._pass(min(retried.seconds, call.left))
            if retried.seconds > call.left:
                raise BackendUnavailable(f"No answer to the launch of {order.claim} within {call.left:g} s.")
        gate()
        call.left = min(call.left, ANSWER)
        try:
            launched = self._send(order)
        except LaunchRejected as error:
            if retried is not None and retried.first_arrives:  # a no to the second write says nothing of the first
                raise BackendUnavailable(f"{order.claim} was sent twice; the second answer: {error}") from error
            raise
        self._wait(call, "answer")
        return launched

    def _send(self, order: Order, *, arrives: bool = True) -> Launched:
        """One write of the launch request, and what came back."""
        names = (order.experiment, order.claim)
        strikes = self._faults.strikes
        with self._lock:
            self._catch_up()
            if order.claim in self._refused:
                raise LaunchRejected(f"The launch of {order.claim} was given up before it was sent.", reason="Refused")
            self._log("launch", order.claim)
            if not arrives:
                return Launched()
            if rejected := strikes(kinds.Rejected, "launch", *names):
                raise LaunchRejected(rejected.message, retryable=rejected.retryable, reason=rejected.reason)
            lost = BackendUnavailable(
                f"The connection broke while {order.claim} was launched: nobody knows whether it runs."
            )
            if strikes(kinds.LostRequest, "launch", *names):
                raise lost
            if late := strikes(kinds.LateRequest, "launch", *names):
                self._server.arrive_later(order, self.user, late.seconds)
                raise lost
            fails = strikes(kinds.RejectedLater, "launch", *names)
            queued = fails or strikes(kinds.QueuedRequest, "launch", *names)
            again = strikes(kinds.LateDuplicate, "launch", *names)
            request = self._server.arrive(
                order,
                self.user,
                queued=queued.seconds if queued else 0,
                copies=2 if strikes(kinds.Duplicate, "launch", *names) else 1,
                again=again.seconds if again else None,
                fails=fails,
            )
            if strikes(kinds.LostAnswer, "launch", *names):
                raise lost
            return Launched(job_id=request.job_ids[0] if request.job_ids else None, request_id=request.id)

    def resolve(
        self,
        order_claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
        user: str | None = None,
    ) -> Resolution:
        call = self._enter("resolve", order_claim, deadline)
        self._wait(call, "request")
        with self._lock:
            self._catch_up()
            if self._faults.strikes(kinds.FailedListing, "resolve"):
                raise BackendUnavailable("The fake server did not answer, as it was told to.")
            resolution = self._resolve(order_claim, request_id, call.begun_at)
        self._wait(call, "answer")
        return resolution

    def _resolve(self, claim: str, request_id: str | None, begun_at: datetime) -> Resolution:
        """By request id, by our launch requests, and last by the queue: requests before jobs, never the reverse."""
        readable = not self._faults.strikes(kinds.UnreadableRequests, "resolve")
        requests = self._requests(claim) if readable else []
        for request in sorted(requests, key=lambda one: one.id != request_id):
            if request.job_ids:
                return Resolution(
                    job_id=request.job_ids[0], begun_at=begun_at, message=f"Found by request {request.id}."
                )
        rows, complete = self._rows("resolve", self._server.named.get(claim, ()))
        if rows:
            return Resolution(job_id=rows[0].id, begun_at=begun_at, message="Found in the queue.")
        queued = [request.id for request in requests if request.state == "QUEUED"]
        boot, self._missed[claim] = self._missed.get(claim), -1
        if queued:
            return Resolution(begun_at=begun_at, message=f"Request {queued[0]} waits on the server.")
        failed = next((request.fails for request in requests if request.state == "FAILED"), None)
        if failed is not None and complete:
            return Resolution(rejected=failed.message, retryable=failed.retryable, begun_at=begun_at)
        if requests and failed is None:
            return Resolution(never=True, begun_at=begun_at, message=f"Request {requests[0].id} was cancelled in time.")
        if not readable:
            return Resolution(begun_at=begun_at, message="The server's list of launch requests cannot be read.")
        if not complete:
            return Resolution(begun_at=begun_at, message="The queue was listed in part only.")
        self._missed[claim] = self._server.boots
        if boot not in (None, -1, self._server.boots):
            return Resolution(begun_at=begun_at, message="The server was started since: the count begins again.")
        return Resolution(clean_miss=True, begun_at=begun_at, message="Neither a request nor a job has this claim.")

    def refuse(
        self,
        claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
    ) -> None:
        with self._lock:
            self._refused.add(claim)  # in our own transport first, whatever the server says
        call = self._enter("refuse", claim, deadline)
        self._wait(call, "request")
        with self._lock:
            self._catch_up()
            for request in self._server.requests.get(claim, ()):
                if request.state == "QUEUED":
                    request.state = "CANCELLED"
        self._wait(call, "answer")

    def cancel(self, job_ids: Sequence[int], *, deadline: float) -> None:
        call = self._enter("cancel", ",".join(map(str, job_ids)), deadline, log=False)
        self._wait(call, "request")
        with self._lock:
            self._catch_up()
            for job_id in job_ids:
                self._log("cancel", str(job_id))
            if self._faults.strikes(kinds.LostRequest, "cancel"):
                raise BackendUnavailable("The connection broke before the cancel arrived.")
            for job_id in job_ids:
                job = self._server.jobs.get(job_id)
                if job is None:
                    continue
                job.cancels += 1
                ignored = self._faults.strikes(kinds.CancelIgnored, "cancel", *job.names)
                if ignored is None or (ignored.count is not None and job.cancels > ignored.count):
                    self._server.cancel(job)
            if self._faults.strikes(kinds.LostAnswer, "cancel"):
                raise BackendUnavailable("The connection broke before the answer to the cancel came.")
        self._wait(call, "answer")

    def logs(self, job_id: int, *, tail: int | None, deadline: float) -> str:
        call = self._enter("logs", str(job_id), deadline)
        self._wait(call, "request")
        with self._lock:
            self._catch_up()
            job = self._server.jobs.get(job_id)
            lines = self._server.log(job) if job is not None else []
        self._wait(call, "answer")
        chosen = lines if tail is None else lines[-tail:] if tail > 0 else []
        return "".join(f"{line}\n" for line in chosen)

    def run_dir(self, job_id: int) -> Path | None:
        if self._path is None:
            return None
        with self._lock:
            self._catch_up()
            self._write_metrics()
            return self._path / str(job_id) if job_id in self._server.jobs else None

    def checkpoint_dir(self, job_id: int) -> Path | None:
        return None

    def capacity(self) -> Capacity | None:
        with self._lock:
            self._catch_up()
            free = self._server.slots_free
            return None if free is None else Capacity(slots=self._server.slots, slots_free=free)

    def describe(self) -> Mapping[str, Any]:
        with self._lock:
            self._catch_up()
            jobs = self._server.jobs.values()
            return {
                "kind": self.kind,
                "seed": self.seed,
                "jobs": len(jobs),
                "alive": sum(is_alive(job.seen.status) for job in jobs),
                "faults": [str(fault) for fault in self._faults.active],
                "signed_in": self._signed_in,
            }

    def close(self) -> None:
        """Nothing: the server outlives its decks."""

    def __repr__(self) -> str:
        facts = self.describe()
        faults = ", ".join(facts["faults"]) or "none"
        return f"FakeBackend(seed={self.seed}): {facts['jobs']} jobs, {facts['alive']} alive; faults: {faults}"

    # Inside.

    def _enter(
        self, method: str, key: str, deadline: float, names: tuple[str, ...] = (), *, log: bool = True
    ) -> _Entered:
        """What comes before every call: the road to the server, its being up, the sign-in."""
        with self._lock:
            self._catch_up()
            if log:
                self._log(method, key)
            call = _Entered(method, key, names, deadline, self._server.now)
            if self._faults.strikes(kinds.Unreachable, method, *names):
                raise BackendUnavailable("The fake server cannot be reached, as it was told to.")
            if restart := self._faults.strikes(kinds.ServerRestart, method, *names):
                self._server.restart(restart.seconds)
                raise BackendUnavailable("The fake server is being restarted.")
            if self._server.now < self._server.up_at:
                raise BackendUnavailable("The fake server is being restarted.")
            if self._faults.strikes(kinds.SignInExpired, method, *names):
                self._signed_in = False
            if not self._signed_in:
                raise NeedsSignIn("The sign-in to the fake server has expired; call backend.sign_in().")
            for slow in self._faults.striking(kinds.Slow, method, *names):
                call.waits[slow.where] = call.waits.get(slow.where, 0.0) + slow.seconds
            return call

    def _wait(self, call: _Entered, where: str) -> None:
        """Be slow here, if so told; past the deadline there is no answer."""
        seconds = call.waits.get(where, 0.0)
        if not seconds:
            return
        left, call.left = call.left, max(0.0, call.left - seconds)
        self._pass(min(seconds, left))
        if seconds > left:
            raise BackendUnavailable(f"The fake server did not answer {call.method} within {left:g} s.")

    def _pass(self, seconds: float) -> None:
        if self._clock is None:
            time.sleep(seconds)
        elif (advance := getattr(self._clock, "advance", None)) is not None:
            advance(seconds)

    def _asked(self, query: Query) -> list[Job]:
        """The jobs that a query means, by id."""
        jobs = self._server.jobs
        meant = {job_id for job_id in query.job_ids if job_id in jobs}
        meant |= {job.seen.id for claim in query.claims for job in self._server.named.get(claim, ())}
        if query.discovery:
            meant |= {job.seen.id for job in jobs.values() if self._discovered(job, query.deck_id)}
        if query.discovery and query.everyone:
            others = (job.seen for job in jobs.values() if job.seen.user != self.user)
            meant |= {seen.id for seen in others if is_alive(seen.status)}
        return [jobs[job_id] for job_id in sorted(meant)]

    def _discovered(self, job: Job, deck_id: str) -> bool:
        """Whether it carries this deck's claim, or nobody's and is of the user who looks."""
        if job.decks is None:
            claim = CLAIM.search(job.seen.name)
            decks = {job.seen.metadata.get("deck_id", ""), claim["deck"] if claim else ""}
            job.decks = frozenset(decks - {""})
        return deck_id in job.decks or (not job.decks and job.seen.user == self.user)

    def _rows(self, method: str, candidates: Iterable[Job]) -> tuple[list[SeenJob], bool]:
        """The rows of these jobs that a look at the queue shows, and whether it says that these are all."""
        now = self._server.now
        stale = self._faults.strikes(kinds.StaleListing, method)
        when = now - timedelta(seconds=stale.seconds) if stale else now
        rows: list[tuple[Job, SeenJob]] = []
        for job in candidates:
            seen = job.seen if stale is None else job.as_of(when)
            if seen is not None and (job.listed_at is None or job.listed_at <= when):
                rows.append((job, seen))
        names = tuple(name for job, _ in rows for name in job.names)
        if names:
            hidden = self._faults.striking(kinds.VanishedJob, method, *names)
            rows = [(job, seen) for job, seen in rows if not any(fault.matches(*job.names) for fault in hidden)]
        shown = [seen for _, seen in rows]
        for fault in self._faults.striking(kinds.UnknownStatus, method, *names) if names else ():
            odd = {seen.id for job, seen in rows if fault.matches(*job.names) and is_alive(seen.status)}
            shown = [replace(seen, status=fault.status) if seen.id in odd else seen for seen in shown]
        complete = True
        if partial := self._faults.strikes(kinds.PartialListing, method):
            complete = False
            shown = [row for row in shown if self._faults.draw("PartialListing", row.id) >= partial.fraction]
        return [row if row.user == self.user else replace(row, mine=False) for row in shown], complete

    def _requests(self, claim: str) -> list[Request]:
        now = self._server.now
        return [
            request
            for request in self._server.requests.get(claim, ())
            if request.listed_at is None or request.listed_at <= now
        ]


class _Entered:
    """One call under way: since when, and how much of its deadline is left."""

    def __init__(self, method: str, key: str, names: tuple[str, ...], deadline: float, begun_at: datetime) -> None:
        self.method = method
        self.key = key
        self.names = names
        self.deadline = self.left = deadline
        self.begun_at = begun_at
        self.waits: dict[str, float] = {}
