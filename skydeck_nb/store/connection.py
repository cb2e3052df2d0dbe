"""One SQLite connection, owned by one thread, and SQLite's errors in this package's words.

Decides how a connection is set up (mode, waiting, durability, foreign keys) and
what each of SQLite's refusals means for a person. Refuses to know tables.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from skydeck_nb.errors import DatabaseError, NameTaken
from skydeck_nb.store import location, schema

if TYPE_CHECKING:
    from sqlite_utils import Database

Journal = Literal["wal", "delete"]
Access = Literal["rw", "ro", "immutable"]

_QUERY: Final = {"rw": "mode=rw", "ro": "mode=ro", "immutable": "mode=ro&immutable=1"}
_NAMES: Final = {
    "experiments.name": "experiment that is not deleted",
    "sweeps.name": "sweep",
    "experiment_groups.name": "group",
}


def connect(path: Path, access: Access, timeout: float = 30.0) -> sqlite3.Connection:
    """A connection in no transaction; the file must exist. ``timeout`` in seconds.

    It may be closed from another thread, and is used by its own alone.
    """
    connection = sqlite3.connect(
        location.uri(path, _QUERY[access]),
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


class Connection:
    """A thread's own connection, with what was last set on it.

    ``busy`` is held during a transaction, so that closing from another thread
    never meets a running statement.
    """

    def __init__(self, path: Path, access: Access, journal: Journal) -> None:
        self.access = access
        self.journal = journal
        self.busy = threading.Lock()
        self.owner = threading.get_ident()
        self.commits = 0
        self.raw = connect(path, access)
        self._db: Database | None = None
        self._timeout = 30.0
        self._full: bool | None = None
        self.closed = False

    @property
    def db(self) -> Database:
        """The same connection with ``sqlite_utils``' helpers; imported here, since it imports pandas."""
        if self._db is None:
            from sqlite_utils import Database

            self._db = Database(self.raw, execute_plugins=False)
        return self._db

    def prepare(self, *, durable: bool, timeout: float) -> None:
        """Set, before a transaction, how long to wait (seconds) and how safe its commit is.

        A rollback journal is always synced whole: with less, a power cut may break the file.
        """
        full = durable or self.journal == "delete"
        if timeout != self._timeout:
            self.raw.execute(f"PRAGMA busy_timeout = {max(0, round(timeout * 1000))}")
            self._timeout = timeout
        if full != self._full:
            self.raw.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._full = full

    def trace(self, into: Callable[[str], object] | None) -> None:
        """Report each statement as it runs, or stop doing so."""
        self.raw.set_trace_callback(into)

    def close(self) -> None:
        """Close it; once is enough."""
        self.closed = True
        self.raw.close()

    def __del__(self) -> None:
        # The thread has ended. ``raw`` is missing where opening failed.
        if not getattr(self, "closed", True):
            self.close()


def translate(error: sqlite3.Error, path: Path) -> Exception:
    """What one of SQLite's errors means here; an error of our own making is given back as it is."""
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return error
    text = str(error)
    if isinstance(error, sqlite3.IntegrityError):
        for column, what in _NAMES.items():
            if text.endswith(f"UNIQUE constraint failed: {column}"):
                return NameTaken(f"Another {what} has this name already.")
        return DatabaseError(f"The deck's file refused a row, so that nothing was written: {text}.")
    code = getattr(error, "sqlite_errorcode", 0) or 0
    match code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return schema.damaged(path, text)
        case sqlite3.SQLITE_FULL:
            return DatabaseError(
                f"No space is left for {path}, so that nothing was written: free some on that disk and do it again."
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return DatabaseError(
                f"Another program holds {path} locked for longer than was waited ({text}); nothing was written. "
                "Do it again; if it stays so, close the other program."
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return DatabaseError(
                f"{path} cannot be written ({text}): make the file and its folder writable for you, "
                "or open the deck with read_only=True."
            )
        case sqlite3.SQLITE_CANTOPEN:
            return DatabaseError(f"{path} cannot be opened ({text}): look whether it exists and you may read it.")
        case sqlite3.SQLITE_IOERR:
            return DatabaseError(
                f"The disk failed under {path} ({text}, {getattr(error, 'sqlite_errorname', '')}); "
                "nothing was written. Look after the disk, then restart this kernel."
            )
        case _:
            return error if code == sqlite3.SQLITE_ERROR else DatabaseError(f"SQLite failed on {path}: {text}.")
