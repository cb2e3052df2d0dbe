"""The deck's file: opened, written in transactions, read in snapshots, followed.

Decides when transactions begin and end, which connection a thread has, when a
file is not the one that was opened any more, and who is told after a commit.
Refuses to know what rows mean. A write is ``BEGIN IMMEDIATE``: row and event
together, or neither.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from skydeck_nb.errors import DatabaseError, WrongBackend
from skydeck_nb.events import Event
from skydeck_nb.store import location, schema
from skydeck_nb.store.connection import Access, Connection, Journal, translate
from skydeck_nb.store.opening import Opened, open_to_read, open_to_write
from skydeck_nb.store.records import Stored
from skydeck_nb.store.transaction import Transaction

CHUNK: Final = 5_000
"""Events in one transaction of a chunked :meth:`Store.apply`."""

Listener = Callable[[tuple[Stored, ...]], None]
_log = logging.getLogger(__name__)


def utcnow() -> datetime:
    """The time, aware, UTC."""
    return datetime.now(UTC)


class Store:
    """One database file. May be used from any thread; each gets its own connection.

    Attributes:
        path: absolute, links resolved.
        deck_id: six random letters of ``[a-z2-7]`` that belong to the database.
        read_only: nothing is ever written.
        journal: ``wal``, or ``delete`` on a network file system.
        notices: sentences for the person who opened it (network file system, wide modes).
    """

    def __init__(self, path: Path, opened: Opened, now: Callable[[], datetime]) -> None:
        """Internal: use :meth:`open`."""
        self.path = path
        self.read_only = opened.access != "rw"
        self.journal: Journal = opened.journal
        self.notices: tuple[str, ...] = opened.notices
        self.now = now
        self._access: Access = opened.access
        self._pid = os.getpid()
        self._inode = location.inode(path)
        self._version = schema.newest()
        self._local = threading.local()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._registry = threading.Lock()
        self._writing = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._traced: Callable[[str], object] | None = None
        self._closed = False
        with self.read() as tx:
            self.deck_id: str = tx.rows("deck", ["value"], "key = 'deck_id'")[0][0]

    @classmethod
    def open(cls, path: Path | str, *, read_only: bool = False, now: Callable[[], datetime] = utcnow) -> Store:
        """Open a deck's file; make it, and its folder, where there is none; migrate it where it is older.

        Raises:
            DatabaseTooNew: a newer build wrote it.
            DatabaseDamaged: it is broken; the message says where its newest backup lies.
            DatabaseError: it is something else's, cannot be written, or was left in WAL on a network file system.
        """
        place = location.absolute(path)
        try:
            store = cls(place, open_to_read(place) if read_only else open_to_write(place, now), now)
        except sqlite3.Error as error:
            raise translate(error, place) from error
        store._say_wide_modes()
        return store

    # -- who it belongs to -------------------------------------------------------------

    def identity(self) -> Mapping[str, str] | None:
        """The backend that it belongs to (``kind``, ``place``, ``scope``), ``None`` before the first claim."""
        with self.read() as tx:
            found = tx.rows("deck", ["value"], "key = 'identity'")
        return cast("Mapping[str, str]", json.loads(found[0][0])) if found else None

    def claim_identity(self, identity: Mapping[str, str]) -> None:
        """Write which backend this database belongs to, at its first open; compare at each later one.

        Raises:
            WrongBackend: it belongs to another; both are named.
        """
        wanted = dict(identity)
        found = self.identity()
        if found is None and not self.read_only:
            with self.write(durable=True) as tx:
                tx.claim_identity(json.dumps(wanted))
            found = self.identity()
        if found is not None and dict(found) != wanted:
            raise WrongBackend(
                f"The database {self.path} belongs to {_named(found)}, and was opened for {_named(wanted)}. "
                f'Open it with its own backend, or make another: sd.open("{self.path.stem}-{wanted.get("kind", "new")}'
                f'{self.path.suffix}", backend="{wanted.get("kind", "")}").'
            )

    # -- transactions ------------------------------------------------------------------

    @contextmanager
    def write(self, *, durable: bool = False, timeout: float = 30.0, term: int | None = None) -> Iterator[Transaction]:
        """One write transaction; listeners hear of its events after the commit. An exception undoes it all.

        Args:
            durable: the commit survives a power cut (requests, attempts, lease takes).
            timeout: how long to wait for other writers, in seconds.
            term: the lease's term, kept with each event that is written under it.

        Raises:
            DatabaseTooNew: another build migrated the file meanwhile; restart this kernel.
            DatabaseError: read-only, deleted or replaced, locked, full; nothing was written.
        """
        if self.read_only:
            raise DatabaseError(f"{self.path} was opened with read_only=True: nothing can be written.")
        deadline = time.monotonic() + timeout
        mine = self._mine()
        if mine.busy.locked():
            raise RuntimeError("A transaction is open in this thread already.")
        if not self._writing.acquire(timeout=timeout):
            raise DatabaseError(f"Another thread is writing to {self.path} since {timeout:g} s; nothing was written.")
        try:
            with self._transaction(mine):
                mine.prepare(
                    durable=durable, timeout=max(0.0, deadline - time.monotonic()) if timeout < 30 else timeout
                )
                mine.raw.execute("BEGIN IMMEDIATE")
                self._check(mine)
                tx = Transaction(mine, self.now, writable=True, term=term)
                yield tx
                self._same_file()
                mine.raw.execute("COMMIT")
                mine.commits += 1
        finally:
            self._writing.release()
        if tx.stored:
            self._tell(tuple(tx.stored))

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent snapshot of the rows and the log; nothing can be written in it."""
        mine = self._mine()
        if mine.busy.locked():
            raise RuntimeError("A transaction is open in this thread already.")
        with self._transaction(mine):
            before = self._untouched() if mine.access == "immutable" else None
            mine.raw.execute("BEGIN")
            tx = Transaction(mine, self.now, writable=False)
            self._check(mine)
            yield tx
            mine.raw.execute("COMMIT")
            if before is not None and before != self._untouched():
                raise DatabaseError(f"{self.path} was written while it was read: read again.")

    def apply(
        self, events: Iterable[Event], *, durable: bool = False, chunk: bool = False, term: int | None = None
    ) -> int:
        """Write events with their rows; the highest sequence of the log afterwards.

        ``chunk=True`` is for facts and imports: transactions of 5,000 events each.
        """
        found = list(events)
        size = CHUNK if chunk else max(1, len(found))
        last = 0
        for start in range(0, max(1, len(found)), size):
            with self.write(durable=durable, term=term) as tx:
                tx.apply(found[start : start + size])
                last = tx.sequence
        return last

    # -- following ---------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have a function called with what each commit of this process wrote; call the result to end it.

        It is called on the thread that committed, under no lock. What it raises
        is logged: the commit stands, and its caller must not take it for failed.
        """
        with self._registry:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._registry:
                self._listeners = tuple(x for x in self._listeners if x is not listener)

        return unsubscribe

    def publish(self, events: Sequence[Event]) -> None:
        """Tell listeners of events that are not recorded."""
        for event in events:
            if event.recorded:
                raise ValueError(f"{event.type} is recorded: use apply().")
        if events:
            self._tell(tuple(Stored(0, event) for event in events))

    def data_version(self) -> int:
        """A number that grows whenever anybody commits. Compare it with one got in the same thread."""
        mine = self._mine()
        if mine.access == "immutable":
            return hash(self._untouched())
        try:
            return int(mine.raw.execute("PRAGMA data_version").fetchall()[0][0]) + mine.commits
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    @contextmanager
    def trace(self) -> Iterator[list[str]]:
        """The statements that run meanwhile, on all threads' connections: for tests and benchmarks."""
        statements: list[str] = []
        self._trace(statements.append)
        try:
            yield statements
        finally:
            self._trace(None)

    def close(self) -> None:
        """Close the connections of all threads. One that is in a transaction ends it first, and closes then."""
        with self._registry:
            self._closed = True
            found = list(self._connections)
        deadline = time.monotonic() + 1.0
        for connection in found:
            if connection.owner == threading.get_ident() and connection.busy.locked():
                continue
            if connection.busy.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    connection.close()
                finally:
                    connection.busy.release()

    # -- inside ------------------------------------------------------------------------

    def _mine(self) -> Connection:
        if os.getpid() != self._pid:
            raise DatabaseError("A database that was opened before a fork cannot be used after it: open it again.")
        mine: Connection | None = getattr(self._local, "connection", None)
        access = self._access
        if access == "immutable" and location.has_log(self.path):
            access = "ro"  # somebody writes now
            if mine is not None and mine.access != access:
                mine.close()
        if mine is None or (mine.closed and not self._closed):
            self._same_file()
            try:
                mine = Connection(self.path, access, self.journal)
                self._same_file()
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            with self._registry:
                if not self._closed:
                    self._connections.add(mine)
                    self._local.connection = mine
                    mine.trace(self._traced)
        if self._closed:
            mine.close()
            raise DatabaseError(f"{self.path} was closed: open it again.")
        return mine

    @contextmanager
    def _transaction(self, mine: Connection) -> Iterator[None]:
        with mine.busy:
            if mine.closed:
                raise DatabaseError(f"{self.path} was closed: open it again.")
            try:
                yield
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            finally:
                try:
                    if mine.raw.in_transaction:
                        mine.raw.execute("ROLLBACK")
                finally:
                    if self._closed:
                        mine.close()

    def _check(self, mine: Connection) -> None:
        self._same_file()
        found = schema.user_version(mine.raw)
        if found > self._version:
            raise schema.too_new(self.path, found)
        if found < self._version:
            raise DatabaseError(f"{self.path} was put back to an older version ({found}): restart this kernel.")

    def gone(self) -> bool:
        """Whether the file was deleted, replaced or closed since it was opened: it will not come back."""
        return self._closed or location.inode(self.path) != self._inode

    def _same_file(self) -> None:
        if location.inode(self.path) != self._inode:
            raise DatabaseError(
                f"{self.path} was deleted or replaced while it was open; nothing is written any more. "
                "Put the file back, or restart this kernel to go on with what lies there now."
            )

    def _untouched(self) -> tuple[int, int, bool]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, location.has_log(self.path)

    def _tell(self, stored: tuple[Stored, ...]) -> None:
        for listener in self._listeners:
            try:
                listener(stored)
            except Exception:  # noqa: BLE001  (whatever it raises, the commit stands)
                _log.exception("A listener failed on %s", ", ".join(sorted({s.type for s in stored})))

    def _say_wide_modes(self) -> None:
        """Add what the file's and folder's modes let others do to the notices, once for the same modes."""
        wide = location.wide_modes(self.path)
        if wide and not self.read_only:
            with self.read() as tx:
                told = tx.setting("store.wide_modes")
            if told == list(wide):
                return
            with self.write() as tx:
                tx.set_setting("store.wide_modes", list(wide))
        self.notices = (*self.notices, *wide)

    def _trace(self, into: Callable[[str], object] | None) -> None:
        with self._registry:
            self._traced = into
            for connection in list(self._connections):
                if not connection.closed:
                    connection.trace(into)


def _named(identity: Mapping[str, Any]) -> str:
    scope = identity.get("scope")
    return f"{identity.get('kind')} on {identity.get('place')}" + (f" as {scope}" if scope else "")
