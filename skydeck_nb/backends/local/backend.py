"""The embedded backend: what the loop asks of this host, answered from its spool.

Decides what is written when a job is launched, cancelled or refused, and which
jobs a query shows. Refuses to know processes beyond starting the supervisors of
:mod:`.queue`; it waits for none of them, and they outlive it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

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
from skydeck_nb.backends.local import environment, locks, processes, queue, records, resources
from skydeck_nb.backends.local.spool import NEVER, Spool, read_json
from skydeck_nb.backends.local.supervisor import left, lost
from skydeck_nb.errors import BackendError, BackendUnavailable, InvalidSetting, LaunchRejected
from skydeck_nb.models import Spec
from skydeck_nb.states import TERMINAL

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""What may stand in a path of the spool."""

_PATIENCE: Final = 1.0
"""Seconds to wait for another dispatcher, which takes milliseconds unless it is frozen."""

_REMEMBERED: Final = 20_000
"""Ended jobs kept in memory: they never change, and a kilobyte each is little for two sweeps of 10,000."""


class LocalBackend:
    """Jobs of this host.

    ``root`` is a folder on the host's own disk. ``slots`` (its CPUs by default)
    and ``gpus`` (what ``nvidia-smi -L`` shows by default) are the host's: the
    last backend that opens a folder sets them for all. ``grace`` is the time in
    seconds between TERM and KILL, for jobs launched from here.
    """

    kind = "local"
    prices = False

    def __init__(self, root: Path, *, slots: int | None = None, gpus: int | None = None, grace: float = 10.0) -> None:
        if grace < 0:
            raise InvalidSetting(f"grace={grace}: seconds between TERM and KILL, 0 or more.")
        self.root = Path(root).expanduser().resolve()
        if (network := resources.network_file_system(self.root)) is not None:
            raise InvalidSetting(
                f"The folder {self.root} is on a network file system ({network}), where locks of a host that died "
                "do not end with it: name a folder on this host's own disk."
            )
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spool = Spool(str(self.root))
        self._spool.make()
        resources.set_capacity(self._spool, slots, gpus)
        self._user = resources.user()
        self._identity = Identity(kind=self.kind, place=resources.place(self._spool), scope=self._user)
        self._grace = grace
        self._lock = threading.Lock()
        self._launchers: list[subprocess.Popen[bytes]] = []
        self._next_id = 0
        self._orders: dict[int, dict[str, Any]] = {}
        self._ended: OrderedDict[int, SeenJob] = OrderedDict()
        self._glances = records.Glances(self._spool)
        self._alone = True
        self._trouble = ""

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def cadence(self) -> Cadence:
        return Cadence(hot=0.25, discovery=5.0)

    def stamp(self) -> int:
        """A number that grows when a job was launched, cancelled, started or ended by a process of ours.

        One ``stat``. While it stands still, only a kill from outside can have
        changed anything, so a poll may be left out, though not for ever.
        """
        return self._spool.stamp()

    @property
    def user(self) -> None:
        return None  # whoever may write the folder sees all of it

    def check(self, spec: Spec) -> None:
        resources.check(spec, queue.capacity(self._spool).gpus)

    def missing(self, spec: Spec) -> tuple[str, str] | None:
        return resources.missing(spec)

    # -- Launching ----------------------------------------------------------------

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        until = time.monotonic() + deadline
        gate()
        for text in (order.attempt_id, order.deck_id):
            if not _NAME.fullmatch(text):
                raise LaunchRejected(f"{text!r} is no id that a folder can carry.", reason="InvalidId")
        if (answer := self._spool.attempt(order.attempt_id)) is not None:
            return self._answered(order, answer)
        has = queue.capacity(self._spool)
        if (lacking := resources.missing(order.spec)) is not None:
            raise LaunchRejected(lacking[1], retryable=True, reason=lacking[0])
        folders = environment.Folders(order, self._spool.root)
        variables = environment.composed(order, folders, os.environ, gpus_here=bool(has.gpus))
        sentence = resources.refusal(order.spec, has.gpus) or resources.unusable(list(order.argv), variables)
        if sentence is None and not order.argv:
            sentence = "There is no command: the local backend runs a command or a script."
        if sentence is not None:
            raise LaunchRejected(sentence, reason="CommandRefused")
        answer = self._write(order, folders, variables, gate)
        if answer == NEVER:
            return self._answered(order, answer)
        self._dispatch(until)
        return self._answered(order, answer)

    def _answered(self, order: Order, answer: int | str) -> Launched:
        if not isinstance(answer, int):
            sentence = f"The launch {order.claim} was given up before it was made; nothing runs."
            raise LaunchRejected(sentence, reason="AttemptRefused")
        claim = self._order(answer)["claim"]
        if claim != order.claim:
            sentence = f"The attempt {order.attempt_id} made the job {answer}, which is {claim}, not {order.claim}."
            raise LaunchRejected(sentence, reason="AttemptTaken")
        return Launched(job_id=answer)

    def _write(self, order: Order, folders: environment.Folders, variables: dict[str, str], gate: Gate) -> int | str:
        """Make the job, all of it or nothing; the id that the attempt has in the end, or ``NEVER``."""
        record = self._record(order, folders)
        with self._lock:
            self._next_id = self._next_id or self._spool.next_id()
            first = self._next_id
        with self._writing():
            job_id, under_way = self._spool.new_job(first)
        with self._lock:
            self._next_id = max(self._next_id, job_id + 1)
        try:
            with self._writing():
                self._spool.fill(job_id, record, variables)
            gate()
            with self._writing():
                answer = self._spool.commit(job_id, order.attempt_id)
        finally:
            if self._spool.attempt(order.attempt_id) != job_id:
                self._spool.abandon(job_id)
            locks.release(under_way)
        self._spool.committed(order.attempt_id)
        self._spool.touch()
        return answer

    def _record(self, order: Order, folders: environment.Folders) -> dict[str, Any]:
        """What the supervisor and later readers need of an order."""
        names = ("attempt_id", "deck_id", "experiment_id", "experiment", "claim", "run_name", "priority", "max_seconds")
        return {
            **{name: getattr(order, name) for name in names},
            **vars(folders),
            "metadata": dict(order.metadata),
            "argv": list(order.argv),
            "setup": order.spec.setup,
            "gpus": resources.asked_gpus(order.spec),
            "accelerators": order.spec.accelerators,
            "grace": self._grace,
            "submitted_at": time.time(),
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What fails before the job counts has made none."""
        try:
            yield
        except OSError as error:
            sentence = f"The job cannot be written to {self.root} ({error.strerror}); nothing runs."
            raise LaunchRejected(sentence, retryable=True, reason="SpoolUnwritable") from error

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
        begun_at = datetime.now(UTC)
        answer = self._refused(attempt_id)
        if isinstance(answer, int):
            return Resolution(job_id=answer, begun_at=begun_at, message=f"It made the job {answer}.")
        return Resolution(never=True, begun_at=begun_at, message="It made no job, and never will.")

    def refuse(
        self,
        claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
    ) -> None:
        self._refused(attempt_id)

    def _refused(self, attempt_id: str) -> int | str:
        answer = self._spool.attempt(attempt_id)
        return self._spool.refuse(attempt_id) if answer is None else answer

    # -- Looking ------------------------------------------------------------------

    def observe(self, query: Query, *, deadline: float) -> Listing:
        until = time.monotonic() + deadline
        begun_at = datetime.now(UTC)
        try:
            self._dispatch(until)
            has = queue.capacity(self._spool)
            live = set(self._spool.live())
            waiting = records.Waiting(self._spool, has, self._trouble)
            wanted = set(query.job_ids) | {job_id for claim in query.claims for job_id in self._of_claim(claim)}
            decks: dict[int, str | None] = dict.fromkeys(live, query.deck_id) if query.discovery else {}
            if query.discovery:
                decks |= dict.fromkeys(self._spool.lately(query.deck_id), query.deck_id)
            decks |= dict.fromkeys(wanted)
            self._forget(live.union(decks))
            jobs = [self._see(job_id, deck_id, live, waiting) for job_id, deck_id in sorted(decks.items())]
        except OSError as error:
            raise BackendUnavailable(f"The folder {self.root} cannot be read: {error}.") from error
        return Listing(query=query, begun_at=begun_at, jobs=tuple(job for job in jobs if job), proves_death=True)

    def _forget(self, needed: set[int]) -> None:
        with self._lock:
            if len(self._orders) > 2 * len(needed) + 1000:
                self._orders = {job_id: order for job_id, order in self._orders.items() if job_id in needed}

    def _of_claim(self, claim: str) -> tuple[int, ...]:
        """The job of a claim, which ends with its attempt's id."""
        attempt_id = claim.rpartition("-")[2]
        answer = self._spool.attempt(attempt_id) if _NAME.fullmatch(attempt_id) else None
        if isinstance(answer, int) and self._order(answer)["claim"] == claim:
            return (answer,)
        return ()

    def _order(self, job_id: int) -> dict[str, Any]:
        with self._lock:
            known = self._orders.get(job_id)
        if known is None:
            if not self._spool.counts(job_id):
                raise BackendError(f"There is no job {job_id} in {self.root}.")
            known = read_json(self._spool.job(job_id, "order.json"))
            with self._lock:
                self._orders[job_id] = known
        return known

    def _see(self, job_id: int, deck_id: str | None, live: set[int], waiting: records.Waiting) -> SeenJob | None:
        """The job, unless it does not count or is not of the deck that is asked for."""
        with self._lock:
            if (ended := self._ended.get(job_id)) is not None:
                self._ended.move_to_end(job_id)
                return ended
        try:
            order = self._order(job_id)
            if deck_id not in (None, order["deck_id"]):
                return None
            now = self._glances.standing(job_id)
            if now.care in ("adrift", "dead"):
                now = self._care(job_id, order, now)
        except BackendError:
            return None  # an id that was never given, or whose launch is under way
        except (ValueError, KeyError, TypeError) as error:
            return records.damaged(job_id, error, self._spool.job(job_id))
        if now.status == "PENDING":
            reason, message = waiting.reason(job_id, order["gpus"])
            now = now._replace(reason=reason, message=message)
        job = self._glances.seen(order, job_id, now, self._user)
        if now.care == "over":
            if job_id in live:
                self._spool.begun(job_id, order["priority"])
                self._spool.ended(job_id, order["deck_id"])
            self._remember(job)
        return job

    def _remember(self, job: SeenJob) -> None:
        assert job.status in TERMINAL
        with self._lock:
            self._orders.pop(job.id, None)
            self._glances.forget(job.id)
            self._ended[job.id] = job
            while len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)

    def _care(self, job_id: int, order: dict[str, Any], now: records.Standing) -> records.Standing:
        """See to a job that lost its supervisor: another one while something runs, else its end."""
        state = read_json(self._spool.job(job_id, "start.json")) or {}
        if now.care == "adrift" or left(self._spool, job_id, order, state.get("command")):
            if queue.may_spawn(self._spool, job_id):
                self._watch(job_id)
            return now._replace(care="none")
        same_boot = state.get("supervisor", {}).get("boot", processes.boot()) == processes.boot()
        reason, message = lost(same_boot)
        asked = self._spool.cancel_asked(job_id)
        record = {"status": "FAILED", "reason": reason, "message": message, "exit_code": None, "at": time.time()}
        self._spool.end(job_id, {**record, **({"status": "CANCELLED", "reason": "", "message": ""} if asked else {})})
        return records.standing(self._spool, job_id)

    def _watch(self, job_id: int) -> None:
        launcher = queue.spawn(self._spool, job_id, "watch", [], {})
        with self._lock:
            self._launchers.append(launcher)

    # -- Cancelling ---------------------------------------------------------------

    def cancel(self, job_ids: Sequence[int], *, deadline: float) -> None:
        begun: list[int] = []
        for job_id in sorted(job_ids, key=lambda one: self._spool.verdict(one) is not None):
            try:
                order = self._order(job_id)
            except BackendError:
                continue  # gone already
            if records.standing(self._spool, job_id).care == "over":
                continue
            self._spool.ask_cancel(job_id)
            if not self._spool.cancel_pending(job_id, order):
                begun.append(job_id)
            self._spool.touch()
        for job_id in begun:  # last: a slot that one of these frees goes to nobody who is to be cancelled, too
            self._wake(job_id)
        self._dispatch(time.monotonic() + deadline)

    def _wake(self, job_id: int) -> None:
        """Tell the supervisor to look; where it is gone, give the job another one."""
        now = records.standing(self._spool, job_id)
        state = read_json(self._spool.job(job_id, "start.json"))
        if now.care in ("adrift", "dead"):
            self._watch(job_id)
        elif state is not None and (supervisor := processes.marked(state["supervisor"])) is not None:
            processes.send(supervisor, signal.SIGUSR1)

    # -- Dispatching --------------------------------------------------------------

    def _dispatch(self, until: float) -> None:
        """Start what may start. A failure is not the caller's: it shows as the reason of those that wait."""
        with self._lock:
            self._launchers = [launcher for launcher in self._launchers if launcher.poll() is None]
        patience = min(_PATIENCE, max(until - time.monotonic(), 0)) if self._alone else 0.0
        launchers: list[subprocess.Popen[bytes]] = []
        try:
            self._alone = queue.dispatch(self._spool, launchers, patience=patience)
            self._trouble = ""
        except OSError as error:
            self._trouble = str(error)
        with self._lock:
            self._launchers += launchers

    # -- The rest -----------------------------------------------------------------

    def logs(self, job_id: int, *, tail: int | None, deadline: float) -> str:
        return records.tail(Spool.output(self._order(job_id)), tail)

    def run_dir(self, job_id: int) -> Path | None:
        folder = Path(self._order(job_id)["run_dir"])
        return folder if folder.is_dir() else None

    def checkpoint_dir(self, job_id: int) -> Path | None:
        folder = Path(self._order(job_id)["checkpoint_dir"])
        return folder if folder.is_dir() else None

    def capacity(self) -> Capacity:
        has = queue.capacity(self._spool)
        free = queue.free_slots(self._spool, has), queue.free_gpus(self._spool, has)
        return Capacity(slots=has.slots, slots_free=free[0], gpus=len(has.gpus), gpus_free=free[1])

    def describe(self) -> Mapping[str, Any]:
        has = queue.capacity(self._spool)
        mode = self.root.stat().st_mode & 0o777
        return {
            "backend": str(self._identity),
            "folder": str(self.root),
            "slots": has.slots,
            "gpus": dict(has.gpus),
            "grace": self._grace,
            "live": len(self._spool.live()),
            "pending": len(self._spool.pending()),
            "trouble": self._trouble,
            "warnings": [f"Others may enter {self.root} (mode {mode:o}); chmod 700 it."] if mode & 0o077 else [],
        }

    def close(self) -> None:
        """Forget the launchers; jobs and their supervisors live on."""
        with self._lock:
            launchers, self._launchers = self._launchers, []
        for launcher in launchers:
            launcher.wait()
