"""The lease's row: taken, renewed, released. What it means is decided in ``control/lease.py``.

Decides the conditions under which the row changes, and nothing else; these
writes bypass the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from skydeck_nb.errors import DatabaseError
from skydeck_nb.events import micros, moment
from skydeck_nb.store.records import LeaseRow

_NAME: Final = "loop"


def _time(us: int | None) -> datetime | None:
    return None if us is None else moment(us)


class Leases:
    """The part of a transaction that concerns the lease."""

    def __init__(self, raw: sqlite3.Connection, now: Callable[[], datetime], *, writable: bool) -> None:
        self._raw = raw
        self._now = now
        self.writable = writable

    def _all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        return self._raw.execute(sql, params).fetchall()

    def _check_writable(self) -> None:
        if not self.writable:
            raise DatabaseError("This transaction reads only: write inside store.write().")

    def lease(self) -> LeaseRow | None:
        """Who leads, or led last; ``None`` when nobody ever did."""
        found = self._all(
            "SELECT holder, host, pid, term, counter, taken_at, renewed_at, listed_at, next_look_at "
            "FROM leases WHERE name = ?",
            (_NAME,),
        )
        if not found:
            return None
        holder, host, pid, term, counter, taken, renewed, listed, look = found[0]
        return LeaseRow(
            holder=holder,
            host=host,
            pid=pid,
            term=term,
            counter=counter,
            taken_at=_time(taken),
            renewed_at=_time(renewed),
            listed_at=_time(listed),
            next_look_at=_time(look),
        )

    def take_lease(self, holder: str, host: str, pid: int) -> int:
        """Give the lease to this holder, whoever had it; its term, one higher than any before."""
        self._check_writable()
        now = micros(self._now())
        found = self._all(
            "INSERT INTO leases (name, holder, host, pid, term, counter, taken_at, renewed_at) "
            "VALUES (?, ?, ?, ?, 1, 0, ?, ?) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
            "host = excluded.host, pid = excluded.pid, term = term + 1, counter = 0, taken_at = excluded.taken_at, "
            "renewed_at = excluded.renewed_at, listed_at = NULL, next_look_at = NULL RETURNING term",
            (_NAME, holder, host, pid, now, now),
        )
        return int(found[0][0])

    def renew_lease(self, term: int, holder: str, *, listed_at: datetime | None, next_look_at: datetime | None) -> bool:
        """Count one renewal and say what followers show; whether this term and holder still have the lease."""
        self._check_writable()
        done = self._raw.execute(
            "UPDATE leases SET counter = counter + 1, renewed_at = ?, listed_at = ?, next_look_at = ? "
            "WHERE name = ? AND term = ? AND holder = ?",
            (
                micros(self._now()),
                None if listed_at is None else micros(listed_at),
                None if next_look_at is None else micros(next_look_at),
                _NAME,
                term,
                holder,
            ),
        )
        return done.rowcount == 1

    def release_lease(self, term: int, holder: str) -> bool:
        """Mark the lease as held by nobody; its term stays. Whether it was this holder's to release."""
        self._check_writable()
        done = self._raw.execute(
            "UPDATE leases SET holder = NULL, next_look_at = NULL WHERE name = ? AND term = ? AND holder = ?",
            (_NAME, term, holder),
        )
        return done.rowcount == 1
