"""One writer per database: who may act, by which term, and until when.

Decides when the lease is taken, renewed, lapsed and lost (:func:`decide`, pure),
keeps it by a thread of its own (:class:`Lease`), and answers at any moment and
without a lock whether this process may act (:meth:`Lease.held`). Refuses to know
what is done under the lease.

Three things together, so that at no time two processes act:

* **The row** holds term and counter. The term grows at every take; the counter
  at every renewal. A follower that sees the same pair for :data:`LIFE` seconds of
  its own clock may take it. Written times are for display only.
* **The holder's own clock**, which runs while the machine sleeps and while the
  process is stopped, counts from *before* its last successful renewal. It stops
  acting at :data:`ACT` seconds, three before anybody else may begin.
* **The record lock** on ``<db>.lead``, on local disks only, which the system
  drops with the process. Who gets it finds in that file the stamp of the process
  that held it last; if the row still names that one, it is dead and the lease is
  taken at once. A stamp that does not match proves nothing, and time decides: a
  holder that took over from a frozen process leads without the lock until the
  frozen one dies or thaws, and must not be robbed by a third that is quicker.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from skydeck_nb.control.recordlock import RecordLock
from skydeck_nb.errors import DatabaseDamaged, DatabaseError, DatabaseTooNew
from skydeck_nb.events import LeaseLost, LeaseTaken, micros

if TYPE_CHECKING:
    from skydeck_nb.store import LeaseRow, Store, Transaction

log = logging.getLogger(__name__)

LIFE: Final = 15.0
"""Seconds after which an unchanged row is nobody's: three renewals missed."""
ACT: Final = 12.0
"""Seconds after its last renewal began that a holder still acts: leaves 3 s for a call on its way."""
RENEW: Final = 5.0
"""Seconds between renewals."""
TRY: Final = 2.0
"""Seconds between two looks of a follower at the row."""
PROBE: Final = 0.5
"""Seconds between two tries of the record lock: one system call, so a killed holder is replaced well within 3 s."""
BUSY: Final = 2.0
"""Seconds to wait for the database's write lock; two such waits still fit between two renewals."""
AGAIN: Final = 0.5
"""Seconds until a renewal that failed is tried again."""
APART: Final = 30.0
"""Seconds that a process which handed the lease over leaves it to others."""

Clock = Callable[[], float]


def sleepless_clock() -> float:
    """Seconds by a clock that also runs while the machine sleeps.

    ``CLOCK_BOOTTIME`` on Linux. Elsewhere ``CLOCK_MONOTONIC``, which on macOS runs
    during sleep (``time.monotonic`` there does not).
    """
    return time.clock_gettime(_CLOCK)


_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class LeaseGone(Exception):
    """This process may not act (any more) by the term it names. Internal: never reaches a user."""


# -- the decision -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to act: its term, and the clock just before the take or renewal that gave it began."""

    term: int
    since: float

    def acts(self, now: float) -> bool:
        return now - self.since < ACT

    def expired(self, now: float) -> bool:
        return now - self.since >= LIFE


@dataclass(frozen=True, slots=True)
class Sight:
    """The pair a process saw in the row, and since when by its own clock."""

    term: int
    counter: int
    since: float


Verdict = Literal["take", "renew", "lost", "follow"]


def decide(
    row: LeaseRow | None, grant: Grant | None, sight: Sight | None, now: float, *, vacant: bool = False
) -> tuple[Verdict, Sight | None]:
    """What a process does that reads ``row`` at ``now``, and what it remembers of it.

    ``now`` is read after the row was. ``vacant``: the record lock proves that the
    row's holder is dead. ``lost`` says to drop the grant and to decide again.
    """
    if row is None:
        return ("lost", None) if grant else ("take", None)
    if grant is not None:
        if row.term != grant.term or not row.holder:
            return "lost", None
        if grant.expired(now):  # nobody took it meanwhile: known unchanged since our own last renewal
            return "lost", Sight(row.term, row.counter, grant.since)
        return "renew", None
    if sight is None or (sight.term, sight.counter) != (row.term, row.counter):
        sight = Sight(row.term, row.counter, now)
    if not row.holder or vacant or now - sight.since >= LIFE:
        return "take", sight
    return "follow", sight


# -- the thread ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand, for people: who leads, and what they last told."""

    leading: bool
    term: int | None
    holder: str | None
    """Whoever the row names, in human words; ``None`` when nobody leads."""
    listed_at: datetime | None = None
    next_look_at: datetime | None = None
    reason: str = ""
    """Why this process does not lead, where it is not simply that another one does."""


def describe_process() -> str:
    """``user@host pid 123``: how a holder is called on screen."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} pid {os.getpid()}"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stamp(row: LeaseRow) -> str:
    """What tells one take from every other, on this file."""
    return f"{row.term} {micros(row.taken_at) if row.taken_at else 0} {row.pid} {row.host}\n"


def _utcnow() -> datetime:
    return datetime.now(UTC)


class Lease:
    """This process's side of the lease on one database.

    ``on_change`` is called on the lease's own thread, under no lock, whenever
    :meth:`held` or the holder may have changed; it must only wake somebody.
    """

    def __init__(
        self,
        store: Store,
        *,
        holder: str | None = None,
        clock: Clock = sleepless_clock,
        now: Callable[[], datetime] = _utcnow,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._now = now
        self._listeners: tuple[Callable[[], None], ...] = (on_change,) if on_change else ()
        self.holder = holder or describe_process()
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._path = Path(store.path)
        self._file = _identity(self._path)
        local = store.journal == "wal" and not store.read_only
        self._record = RecordLock(Path(f"{store.path}.lead")) if local else None

        self._grant: Grant | None = None
        self._sight: Sight | None = None  # this and _row: the lease's thread alone
        self._row: LeaseRow | None = None
        self._looked = float("-inf")
        self._renewed = float("-inf")
        self._announced: object = None
        self._reason = ""
        self._told: tuple[datetime | None, datetime | None] = (None, None)

        self._changed = threading.Condition()
        self._woken = False
        self._closing = False
        self._apart_until = float("-inf")
        self._release: tuple[int, str] | None = None  # a term to hand back, and why
        self._thread: threading.Thread | None = None

    # what everybody may ask, from any thread

    def held(self) -> int | None:
        """The term by which this process may act at this very moment, else ``None``. Lock-free and cheap."""
        grant = self._grant
        if grant is None or not grant.acts(self._clock()) or os.getpid() != self._pid:
            return None
        return grant.term

    def check(self, term: int) -> None:
        """Raise :class:`LeaseGone` unless this process may act by ``term`` at this very moment."""
        held = self.held()
        if held != term:
            raise LeaseGone(f"Term {term} is over; " + ("nobody here leads" if held is None else f"now it is {held}"))

    def confirm(self, tx: Transaction, term: int) -> None:
        """The same by the row itself, for what is committed under the lease."""
        self.check(term)
        row = tx.lease()
        if row is None or row.term != term or not row.holder:
            raise LeaseGone(f"Term {term} is over: the database names another leader")

    def standing(self) -> Standing:
        row, term = self._row, self.held()
        if term is not None:
            listed, look = self._told
            return Standing(leading=True, term=term, holder=self.holder, listed_at=listed, next_look_at=look)
        if row is None or not row.holder:
            return Standing(leading=False, term=None, holder=None, reason=self._reason)
        return Standing(
            leading=False, term=row.term, holder=row.holder, listed_at=row.listed_at, next_look_at=row.next_look_at,
            reason=self._reason,
        )  # fmt: skip

    def wait(self, leading: bool = True, timeout: float | None = None) -> bool:
        """Wait until this process leads (or leads no more); whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: (self.held() is not None) == leading, timeout)

    def watch(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` as ``on_change`` is; returns what ends that."""
        with self._changed:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            with self._changed:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return stop

    def tell(self, *, listed_at: datetime | None, next_look_at: datetime | None) -> None:
        """What followers are shown; written with the next renewal."""
        self._told = (listed_at, next_look_at)

    # what its owner does

    def start(self) -> None:
        """Begin to try (or only to watch, where the store is read-only). Returns at once."""
        with self._changed:
            if self._closing or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="skydeck-lease", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Look at the row now: somebody wrote to the database."""
        with self._changed:
            self._looked, self._woken = float("-inf"), True
            self._changed.notify_all()

    def close(self, timeout: float = BUSY) -> None:
        """Act no more, hand the lease back and stop trying; idempotent."""
        self._step_down("closed", apart=float("inf"), closing=True, timeout=timeout)
        if self._record is not None:
            self._record.release()  # even where the row could not be written: then this lets others in

    def give_up(self, reason: str, *, apart: float = LIFE, timeout: float = BUSY) -> None:
        """Act no more and hand the lease back, for ``apart`` seconds; then try again like any follower."""
        self._step_down(reason, apart=apart, closing=False, timeout=timeout)

    def hand_over(self, *, apart: float = APART, timeout: float = BUSY) -> None:
        """Let another process that already tries (the background loop) have it at once."""
        self.give_up("handed over", apart=apart, timeout=timeout)

    def resume(self) -> None:
        """End the time apart of :meth:`give_up`."""
        with self._changed:
            if not self._closing:
                self._apart_until = float("-inf")
        self.wake()

    def _step_down(self, reason: str, *, apart: float, closing: bool, timeout: float) -> None:
        with self._changed:
            self._apart_until = max(self._apart_until, self._clock() + apart)
            self._closing = self._closing or closing
            if self._grant is not None:
                self._release, self._grant = (self._grant.term, reason), None
            self._reason = reason
            self._woken = True
            self._changed.notify_all()
            thread = self._thread
            if thread is threading.current_thread():
                return
            if thread is not None:
                self._changed.wait_for(lambda: self._release is None or not thread.is_alive(), timeout)
        if thread is None:
            self.step()
        elif closing:
            thread.join(timeout)

    # what its thread does

    def _run(self) -> None:
        while True:
            pause = self.step()
            with self._changed:
                if self._closing and self._release is None:
                    return
                self._changed.wait_for(lambda: self._woken, pause)
                self._woken = False

    def step(self) -> float:
        """One look and what follows from it; returns the seconds until the next. The thread calls it, and tests."""
        try:
            self._hand_back()
            pause = self._lead() if self._grant is not None else self._follow()
        except DatabaseError as error:
            if isinstance(error, DatabaseTooNew | DatabaseDamaged) or _identity(self._path) != self._file:
                self._drop(str(error))  # whatever stands there now is not ours to lead
                pause = TRY
            else:  # busy, or failed for a moment: time decides
                log.info("The lease waits for the database: %s", error)
                pause = AGAIN
        except Exception:
            log.exception("The lease's thread failed a step; it tries again")
            pause = AGAIN
        self._announce()
        return pause

    def _lead(self) -> float:
        grant, now = self._grant, self._clock()
        if grant is None:
            return 0.0
        self._keep_record(grant)
        due = self._renewed + RENEW - now
        if due > 0:
            return min(due, PROBE) if self._record is not None and not self._record.held else due
        begun = now
        listed_at, next_look_at = self._told
        with self._store.write(timeout=BUSY) as tx:
            row = tx.lease()
            verdict, sight = decide(row, grant, None, self._clock())
            if verdict == "renew":
                tx.renew_lease(grant.term, self.holder, listed_at=listed_at, next_look_at=next_look_at)
        self._row = row
        if verdict != "renew":
            self._lose(grant, row, sight)
            return 0.0
        with self._changed:
            if self._grant is grant:  # else somebody stepped down meanwhile
                self._grant, self._renewed = Grant(grant.term, begun), begun
        return 0.0

    def _follow(self) -> float:
        now = self._clock()
        if self._closing:
            return TRY
        if self._store.read_only or now < self._apart_until:
            self._look()
            return min(TRY, max(0.0, self._apart_until - self._clock()) or TRY)
        vacant = self._acquire()
        try:
            if not vacant and now - self._looked < TRY:
                return PROBE
            row = self._look()
            verdict, self._sight = decide(row, None, self._sight, self._clock(), vacant=self._proves(row, vacant))
            if verdict == "take":
                self._take(vacant)
        finally:
            if self._grant is None and self._record is not None:
                self._record.release()
        if self._grant is not None:
            return 0.0
        return PROBE if self._record is not None else TRY

    def _look(self) -> LeaseRow | None:
        with self._store.read() as tx:
            self._row = tx.lease()
        self._looked = self._clock()
        return self._row

    def _take(self, vacant: bool) -> None:
        """Decide again inside the write transaction, where nobody else can, and take it there."""
        begun, term = self._clock(), 0
        stamped = False
        try:
            with self._store.write(durable=True, timeout=BUSY) as tx:
                row = tx.lease()
                verdict, self._sight = decide(row, None, self._sight, self._clock(), vacant=self._proves(row, vacant))
                if verdict == "take":
                    at = self._now()
                    term = tx.take_lease(self.holder, self._host, self._pid)
                    tx.apply([LeaseTaken(at=at, term=term, holder=self.holder)])
                    row = tx.lease()
                    if vacant and self._record is not None and row is not None:
                        stamped = True
                        self._record.stamp(_stamp(row))  # before the commit, so that no death between the two is slow
        except BaseException:
            if stamped and self._record is not None:
                self._record.stamp("")
            raise
        self._row = row
        if not term:
            return
        with self._changed:
            if self._closing or self._clock() < self._apart_until:  # asked to step down meanwhile
                self._release, self._woken = (term, self._reason), True
                return
            self._grant, self._renewed, self._reason, self._sight = Grant(term, begun), begun, "", None
        log.info("This process leads %s by term %d", self._store.path, term)

    def _lose(self, grant: Grant, row: LeaseRow | None, sight: Sight | None) -> None:
        if row is not None and row.term == grant.term and row.holder:
            reason = f"not renewed for {LIFE:.0f} s"
        elif row is not None and row.holder:
            reason = f"taken by {row.holder}"
        else:
            reason = "released by another process"
        if self._grant is not grant:  # somebody stepped down meanwhile: that is said by _hand_back
            return
        self._sight = sight
        self._drop(reason)
        with self._store.write(durable=True, timeout=BUSY) as tx:
            tx.apply([LeaseLost(at=self._now(), term=grant.term, holder=self.holder, reason=reason)])

    def _drop(self, reason: str) -> None:
        with self._changed:
            self._grant, self._reason = None, reason
        if self._record is not None:
            self._record.release()

    def _hand_back(self) -> None:
        """Write what :meth:`_step_down` asked for: the row first, then the record lock."""
        asked = self._release
        if asked is None:
            return
        term, reason = asked
        try:
            with self._store.write(durable=True, timeout=BUSY) as tx:
                at = self._now()
                if tx.release_lease(term, self.holder):
                    tx.apply([LeaseLost(at=at, term=term, holder=self.holder, reason=reason)])
                self._row = tx.lease()
        finally:  # where the row could not be written, its term lapses by time, or by the record lock
            if self._record is not None:
                self._record.release()
            with self._changed:
                self._release = None
                self._changed.notify_all()

    def _acquire(self) -> bool:
        if self._record is None:
            return False
        try:
            return self._record.acquire()
        except OSError as error:  # the folder went away, or forbids it: time decides, as between hosts
            log.warning("Cannot use %s: %s", self._record.path, error)
            return False

    def _keep_record(self, grant: Grant) -> None:
        """Get the record lock that a frozen process kept, as soon as it can be had, and say so in its stamp."""
        row = self._row
        if row is None or row.term != grant.term or grant.expired(self._clock()) or not self._acquire():
            return
        if self._record is not None and self._record.stamped() != _stamp(row):
            self._record.stamp(_stamp(row))

    def _proves(self, row: LeaseRow | None, vacant: bool) -> bool:
        """Whether our having the record lock shows that the row's holder is dead: it was the last to have it."""
        return vacant and row is not None and self._record is not None and self._record.stamped() == _stamp(row)

    def _announce(self) -> None:
        """Tell listeners when who acts, or who is shown, has changed."""
        row = self._row
        state = (self.held(), row.term if row else 0, bool(row and row.holder), self._reason)
        if state == self._announced:
            return
        self._announced = state
        with self._changed:
            self._changed.notify_all()
            listeners = self._listeners
        for listener in listeners:
            try:
                listener()
            except Exception:
                log.exception("A listener of the lease failed")


__all__ = ["Grant", "Lease", "LeaseGone", "RecordLock", "Sight", "Standing", "decide", "sleepless_clock"]
