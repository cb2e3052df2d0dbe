"""The loop's thread: wake, take up, look, plan, act.

Decides when the controller is driven and by which lease; nothing else. Refuses
to know the notebook: it prints nothing, touches no trait and never raises into
a cell. Whatever fails is logged once, becomes the loop's ``error``, and the next
round tries again.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from skydeck_nb.backends.base import Backend
from skydeck_nb.control.calls import Call, Lost, Observe, Outcome, perform
from skydeck_nb.control.controller import Controller
from skydeck_nb.control.explaining import Explanation, Planned
from skydeck_nb.control.lease import Lease, describe_process
from skydeck_nb.control.surroundings import LoopSettings
from skydeck_nb.control.syncing import Syncer
from skydeck_nb.control.workers import Workers
from skydeck_nb.errors import (
    BackendUnavailable,
    DatabaseDamaged,
    DatabaseError,
    DatabaseTooNew,
    NeedsSignIn,
)
from skydeck_nb.models import ExperimentRow
from skydeck_nb.store.mirror import Mirror, Touched
from skydeck_nb.store.store import Store

log = logging.getLogger("skydeck_nb")

T = TypeVar("T")

GLANCE: Final = 0.1
"""Seconds between two glances at whether somebody else wrote to the database (3 µs each)."""

SYNC: Final = 1.0
"""Seconds between two looks into the folders of runs."""

STRIKES: Final = 3
"""Rounds that may break in a row before the lease is given up for another process to try."""


def utcnow() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStatus:
    """What the loop says of itself. ``holder`` names the process that leads, in words; ``None``: nobody does."""

    leading: bool
    term: int | None
    holder: str | None
    listed_at: datetime | None
    next_look_at: datetime | None
    error: str | None = None
    needs_sign_in: bool = False
    alive: bool = True


class Runner:
    """One deck's loop in this process: leads where the lease allows it, follows where not."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        settings: LoopSettings,
        *,
        now: Callable[[], datetime] = utcnow,
        lease: Lease | None = None,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        """``tell`` takes the sentence with which a sign-in begins to be missing, once each time."""
        self._store = store
        self._backend = backend
        self._now = now
        self._tell = tell
        self._lease = lease or Lease(store, holder=describe_process(), on_change=self._poke)
        self._lock = threading.RLock()
        self._controller = Controller(store, backend, settings)
        self._workers = Workers(self._perform, self._report)
        self._awake = threading.Condition()
        self._poked = False
        self._closing = False
        self._inbox: deque[tuple[Outcome, float]] = deque()
        self._listeners: tuple[Callable[[Touched], None], ...] = ()
        self._version = -1
        self._rounds = 0
        self._looked = 0
        self._error: str | None = None
        self._needs_sign_in = False
        self._strikes = 0
        self._thread = threading.Thread(target=self._run, name="skydeck-loop", daemon=True)
        self._syncer = Syncer(store, backend, self._lease, now)
        self._ended: set[int] = set()
        self._sync_thread = threading.Thread(target=self._sync, name="skydeck-sync", daemon=True)

    # -- what everybody may ask, from any thread ------------------------------------------

    def start(self) -> None:
        """Begin. Returns at once; the loop ends with :meth:`close` or with the process."""
        self._lease.start()
        self._thread.start()
        self._sync_thread.start()
        ref = weakref.ref(self)

        def at_exit() -> None:
            if (runner := ref()) is not None:
                runner.close()

        self._at_exit = at_exit
        atexit.register(at_exit)

    def close(self, timeout: float = 2.0) -> None:
        """Stop acting, commit what calls have answered, hand the lease back. Idempotent; jobs stay alive."""
        until = time.monotonic() + timeout
        with self._awake:
            if self._closing:
                return
            self._closing = True
            self._awake.notify_all()
        atexit.unregister(self._at_exit)
        self._workers.drop()
        self._workers.settle(timeout / 2)
        if self._thread is not threading.current_thread():
            self._thread.join(max(until - time.monotonic(), 0.1))
            self._sync_thread.join(max(until - time.monotonic(), 0.1))
        self._workers.close()
        self._lease.close(max(until - time.monotonic(), 0.1))

    def wake(self, ids: Iterable[int] | None = None) -> None:
        """A request was committed: take it up now."""
        self._poke()

    def hand_over(self) -> None:
        """Give the lease to another process that already tries (the background loop), and follow it."""
        self._workers.drop()
        self._workers.settle(1.0)
        self._lease.hand_over()
        self._poke()

    def status(self) -> LoopStatus:
        standing = self._lease.standing()
        return LoopStatus(
            leading=standing.leading,
            term=standing.term,
            holder=standing.holder,
            listed_at=standing.listed_at,
            next_look_at=standing.next_look_at,
            error=self._error or standing.reason if not standing.leading else self._error,
            needs_sign_in=self._needs_sign_in,
            alive=self._thread.is_alive(),
        )

    def view(self, function: Callable[[Mirror], T]) -> T:
        """Run a quick function on the live rows, under their lock."""
        with self._lock:
            return function(self._controller.mirror)

    def caught_up(self) -> None:
        """Take up what is committed before this call returns: own requests are seen by the next :meth:`view`."""
        with self._lock:
            self._controller.advance()
        self._poke()

    def subscribe(self, listener: Callable[[Touched], None]) -> Callable[[], None]:
        """Call ``listener`` after every change seen, on the loop's thread; returns what ends that."""
        self._listeners = (*self._listeners, listener)

        def stop() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return stop

    def explain(self, experiment_id: int) -> Explanation:
        with self._lock:
            self._controller.advance()
            return self._controller.explain(experiment_id, self._now())

    def preview(self, rows: Sequence[ExperimentRow]) -> list[Planned]:
        """What the next pass would do about these rows, which need not be stored."""
        with self._lock:
            self._controller.advance()
            return self._controller.preview(rows, self._now())

    def ask_for_everyone(self) -> None:
        """Have the next discoveries bring everybody's jobs, the first of them now. Waits for nothing."""
        with self._lock:
            self._controller.looks.ask_for_everyone(self._now())
        self._poke()

    def refresh(self, timeout: float | None = None) -> None:
        """Look at the backend now and wait for it, by default for as long as two looks may take.

        Raises:
            BackendUnavailable: the look failed, or did not end in time.
        """
        self._require_lead("look")
        timeout = 2 * self._backend.cadence.patience if timeout is None else timeout
        with self._lock:
            self._controller.looks.ask()
            before = self._controller.looks.begun
        self._poke()
        with self._awake:
            done = self._awake.wait_for(lambda: self._looked > before, timeout)
        if not done:
            raise BackendUnavailable(f"The backend did not answer within {timeout:g} s; the loop goes on looking.")
        if self._error:
            raise (NeedsSignIn if self._needs_sign_in else BackendUnavailable)(self._error)

    def reconcile(self, timeout: float | None = None) -> None:
        """Look, then plan every experiment once, and wait until that is done."""
        self.refresh(timeout)
        with self._lock:
            self._controller.plan_everything()
            before = self._rounds
        self._poke()
        with self._awake:
            self._awake.wait_for(lambda: self._rounds > before, timeout)

    def _require_lead(self, verb: str) -> None:
        if not self._lease.wait(leading=True, timeout=1.0):
            holder = self._lease.standing().holder
            who = f"{holder} leads this deck" if holder else "nobody leads this deck"
            raise BackendUnavailable(f"This process cannot {verb}: {who}.")

    # -- the thread -----------------------------------------------------------------------

    def _poke(self) -> None:
        with self._awake:
            self._poked = True
            self._awake.notify_all()

    def _perform(self, call: Call) -> Outcome:
        return perform(call, self._store, self._backend, self._lease, self._now)

    def _report(self, outcome: Outcome, took: float) -> None:
        self._inbox.append((outcome, took))
        self._poke()

    def _run(self) -> None:
        while True:
            with self._awake:
                self._awake.wait_for(lambda: self._poked or self._closing, self._pause())
                self._poked = False
                closing = self._closing
            try:
                with self._lock:
                    self._round(closing)
                self._strikes = 0
            except Lost:
                self._controller.follow()
            except DatabaseError as error:
                if isinstance(error, DatabaseTooNew | DatabaseDamaged) or self._store.gone():
                    self._stop_acting(str(error))
                    closing = True
                else:
                    self._strike(error)  # busy or full: time decides
            except Exception as error:  # noqa: BLE001  the loop outlives its own faults: said in health, logged with the trace
                self._strike(error)
            self._publish()
            with self._awake:
                self._rounds += 1
                self._awake.notify_all()
            if closing:
                return

    def _pause(self) -> float:
        """Seconds until something is due, at most one glance."""
        if self._inbox or self._strikes:
            return GLANCE if self._strikes else 0.0
        now = self._now()
        if not self._controller.leading:
            return GLANCE
        looking = self._controller.looks.under_way  # then the next look waits for this one's answer
        due = (self._controller.next_due(now), None if looking else self._controller.next_look())
        return min(GLANCE, *(max((when - now).total_seconds(), 0.0) for when in due if when is not None), GLANCE)

    def _round(self, closing: bool) -> None:
        controller = self._controller
        term = self._lease.held()
        if term is None and controller.leading:
            controller.follow()
            self._workers.drop()
        elif term is not None and term != controller.evidence.term:
            controller.advance()
            controller.lead(term, self._now())
            self._ended = set(controller.mirror.jobs)
        version = self._store.data_version()
        if version != self._version:
            self._version = version
            if not controller.leading:
                self._lease.wake()  # who leads may be what was written
            controller.advance()  # also when the log did not move: metrics, which stand outside it, may have
        while self._inbox:
            outcome, took = self._inbox.popleft()
            controller.finish(outcome, self._now(), timedelta(seconds=took))
            self._note(outcome)
        if closing or not controller.leading:
            return
        for call in self._workers.give_up():
            stuck = Outcome(call=call, error="The backend did not answer in time.", code="BackendUnavailable")
            controller.finish(stuck, self._now())
        look = controller.look(self._now())
        if look is not None:
            self._workers.submit(look)
        for call in controller.plan_pass(self._now()):
            self._workers.submit(call)
        self._lease.tell(listed_at=controller.evidence.listed_at, next_look_at=controller.next_look())

    def _note(self, outcome: Outcome) -> None:
        if isinstance(outcome.call, Observe):
            self._looked = outcome.call.number
            self._error = outcome.error or None
            if outcome.needs_sign_in and not self._needs_sign_in:
                self._tell(outcome.error)
            self._needs_sign_in = outcome.needs_sign_in

    def _strike(self, error: Exception) -> None:
        self._strikes += 1
        self._controller.plan_everything()
        self._error = f"The loop failed: {type(error).__name__}: {error}"
        if self._strikes == 1:
            log.error("A round of the loop failed; it is tried again.", exc_info=error)
        if self._strikes == STRIKES:
            log.error("The loop failed %d times running and gives its lease up: %s", STRIKES, error)
            self._lease.give_up("its loop fails")

    def _stop_acting(self, why: str) -> None:
        """The database is gone, replaced, newer or damaged: nothing can be done here any more."""
        self._error = why
        log.error("The loop of %s ends: %s", self._store.path, why)
        self._controller.follow()
        self._workers.close()
        self._lease.close()

    def _sync(self) -> None:
        """Read the folders of what runs, each second while this process leads."""
        pause = SYNC
        while True:
            with self._awake:
                if self._awake.wait_for(lambda: self._closing, pause):
                    return
            try:
                with self._lock:
                    if not self._controller.leading:
                        continue
                    ended, self._ended = self._ended, set()
                    jobs = self._controller.mirror.jobs
                    self._syncer.offer([j for j in jobs.values() if j.alive or j.id in ended])
                pause = GLANCE if self._syncer.sync() else SYNC
            except Lost:
                continue
            except DatabaseError as error:  # what was read is offered again; where the file is gone, the loop says so
                log.info("The folders of runs are read again later: %s", error)
                if self._store.gone():
                    return

    def _publish(self) -> None:
        with self._lock:
            news, self._controller.news = self._controller.news, []
            self._ended |= {i for touched in news for i in touched.jobs}
        for touched in news:
            for listener in self._listeners:
                try:
                    listener(touched)
                except Exception:  # a listener's fault is its own: logged, and the loop goes on
                    log.exception("A listener of the loop failed.")
