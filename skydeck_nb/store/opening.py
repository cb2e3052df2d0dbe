"""How a file becomes a store: made or examined, its journal set, migrated.

Decides in which order, so that nothing is written to a file before it is known
to be ours, whole, and of a version and place that this build can write. Refuses
to know threads and rows.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from skydeck_nb.errors import DatabaseError
from skydeck_nb.store import location, schema
from skydeck_nb.store.connection import Access, Journal, connect, translate


@dataclass(frozen=True, slots=True)
class Opened:
    """How to connect to a file that is ready, and what to tell the person who opened it."""

    access: Access
    journal: Journal
    notices: tuple[str, ...]


def leave_wal(path: Path | str) -> None:
    """Convert a file from WAL to the rollback journal, so that it may lie on a network file system.

    Do it on the host that used it last, with nobody else connected.

    Raises:
        DatabaseError: somebody is connected; nothing was changed.
    """
    place = location.absolute(path)
    try:
        connection = connect(place, "rw", timeout=0)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchall()[0][0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translate(error, place) from error
    if mode != "delete":
        raise DatabaseError(f"{place} stays in WAL: somebody else is connected to it. Close that first.")


def open_to_write(place: Path, now: Callable[[], datetime]) -> Opened:
    """Make the file where there is none, examine what is there, set its journal, migrate it."""
    created = location.create(place)
    if not created:
        if location.was_emptied(place, schema.backups(place)):
            raise schema.damaged(place, "it is empty")
        _examine(place)
    unfit = location.on_network(place.parent)
    notices: list[str] = []
    if unfit:
        _refuse_wal(place, unfit)
        notices.append(
            f"{place} lies on {unfit}: SQLite's rollback journal is used there, which is slower; "
            "a local disk is the better place."
        )
    connection = connect(place, "rw")
    try:
        journal: Journal = "delete" if unfit else "wal"
        _set_journal(connection, place, journal)
        schema.migrate(connection, place, now)
    finally:
        connection.close()
    return Opened("rw", journal, tuple(notices))


def open_to_read(place: Path) -> Opened:
    """Examine a file that is there, and find out how it can be read without writing."""
    location.wait_for_creation()
    if not place.is_file():
        raise DatabaseError(f"There is no file {place} to read.")
    if location.was_emptied(place, schema.backups(place)):
        raise schema.damaged(place, "it is empty")
    unfit = location.on_network(place.parent)
    if unfit:
        _refuse_wal(place, unfit)
    access: Access = "ro" if os.access(place.parent, os.W_OK) or location.has_log(place) else "immutable"
    connection = connect(place, access)
    try:
        found = schema.examine(connection, place)
    finally:
        connection.close()
    if found < schema.newest():
        raise DatabaseError(
            f"{place} is of an older version ({found}) than this build reads ({schema.newest()}): "
            "open it once without read_only=True, which makes a backup and migrates it."
        )
    return Opened(access, "delete" if unfit else "wal", ())


def _examine(place: Path) -> None:
    """Look at an existing file before anything is written to it."""
    access: Access = "ro"
    try:
        connection = connect(place, access)
        try:
            schema.examine(connection, place)
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        # A transaction that a crash left unfinished can be undone by a connection that may write, alone.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
        connection = connect(place, "rw")
        try:
            schema.examine(connection, place)
        finally:
            connection.close()


def _refuse_wal(place: Path, unfit: str) -> None:
    if location.is_wal(place):
        raise DatabaseError(
            f"{place} lies on {unfit} and is in WAL mode, which loses commits there. Close every kernel that uses it; "
            f'then, on the host that used it last: skydeck_nb.store.leave_wal("{place}"). Or move it to a local disk.'
        )


def _set_journal(connection: sqlite3.Connection, place: Path, journal: Journal) -> None:
    """Set the journal; SQLite does not wait by itself where two processes do so at once."""
    deadline = time.monotonic() + 30
    while True:
        try:
            mode = connection.execute(f"PRAGMA journal_mode = {journal}").fetchall()[0][0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        if mode != journal:
            raise DatabaseError(f"{place} cannot be put into the journal mode {journal}; SQLite says {mode}.")
        return
