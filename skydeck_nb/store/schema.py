"""The tables, the ordered migrations, and what kind of file a path holds.

Decides how a file gets from any older version to this build's, and which files
are refused: newer ones, broken ones, and databases of something else. Refuses
to know rows, threads and network file systems.

No column has a default in SQL: an insert says every NOT NULL column, so that
folding the log gives the stored cells. Foreign keys are checked at the commit,
so that the order of changes within a transaction is free.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from skydeck_nb.errors import DatabaseDamaged, DatabaseError, DatabaseTooNew
from skydeck_nb.store import location

APPLICATION_ID: Final = 0x534B4442  # "SKDB"
BACKUPS_KEPT: Final = 3
CHECKED_BYTES: Final = 64 << 20
"""Files up to this size are checked whole at each open, larger ones before a migration alone."""

TERMINAL_SQL: Final = (
    "('CANCELLED', 'FAILED', 'FAILED_CONTROLLER', 'FAILED_NO_RESOURCE', 'FAILED_PRECHECKS', 'FAILED_SETUP',"
    " 'SUCCEEDED')"
)
"""``states.TERMINAL`` as SQL; queries must spell it like the partial index does."""
ALIVE_SQL: Final = f"forgotten = 0 AND status NOT IN {TERMINAL_SQL}"
OPEN_SQL: Final = "state IN ('PREPARED', 'SENDING', 'UNKNOWN')"

_FIRST: Final = (
    """CREATE TABLE deck (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE user_settings (
        key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE sweeps (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, definition TEXT NOT NULL, max_live INTEGER,
        brake TEXT NOT NULL, brake_message TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL)""",
    """CREATE TABLE experiments (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
        command TEXT, script TEXT, task TEXT, flags TEXT NOT NULL, nodes INTEGER NOT NULL, gpus INTEGER,
        accelerators TEXT, spot INTEGER, infra TEXT, resources TEXT NOT NULL, workdir TEXT, git_ref TEXT,
        git_commit TEXT, setup TEXT, env TEXT NOT NULL, secrets TEXT NOT NULL, file_mounts TEXT NOT NULL, pool TEXT,
        interpreter TEXT, path TEXT,
        spec_hash TEXT NOT NULL, desired_state TEXT NOT NULL, run INTEGER NOT NULL, generation INTEGER NOT NULL,
        run_name TEXT, description TEXT NOT NULL, tags TEXT NOT NULL, priority INTEGER NOT NULL,
        max_restarts INTEGER NOT NULL, max_hours REAL, max_gpu_hours REAL, max_cost REAL,
        sweep_id INTEGER REFERENCES sweeps(id) DEFERRABLE INITIALLY DEFERRED, coordinates TEXT NOT NULL,
        declared TEXT NOT NULL, exp_order REAL NOT NULL, starred INTEGER NOT NULL, deleted INTEGER NOT NULL,
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, wanted_at INTEGER,
        current_state TEXT NOT NULL, current_job_id INTEGER, observed_run INTEGER NOT NULL, reason TEXT NOT NULL,
        message TEXT NOT NULL, attention INTEGER NOT NULL, conditions TEXT NOT NULL, cluster_name TEXT)""",
    """CREATE UNIQUE INDEX experiments_name ON experiments(name) WHERE deleted = 0""",
    """CREATE INDEX experiments_sweep ON experiments(sweep_id)""",
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY, experiment_id INTEGER REFERENCES experiments(id) DEFERRABLE INITIALLY DEFERRED,
        attempt_id TEXT, run INTEGER NOT NULL, generation INTEGER NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
        reason TEXT NOT NULL, error_message TEXT, created_at INTEGER NOT NULL, submitted_at INTEGER,
        started_at INTEGER, ended_at INTEGER, exit_code INTEGER, recoveries INTEGER NOT NULL, infra TEXT,
        cluster_name TEXT, nodes INTEGER, gpus INTEGER, accelerators TEXT, command TEXT, logs_path TEXT, run_dir TEXT,
        git_commit TEXT, user TEXT, mine INTEGER NOT NULL, workspace TEXT, url TEXT, adopted INTEGER NOT NULL,
        lost INTEGER NOT NULL, forgotten INTEGER NOT NULL, cancel_asked INTEGER NOT NULL, cancel_sent_at INTEGER,
        cancel_count INTEGER NOT NULL, changed_at INTEGER NOT NULL)""",
    """CREATE INDEX jobs_experiment ON jobs(experiment_id, run)""",
    f"""CREATE INDEX jobs_alive ON jobs(experiment_id) WHERE {ALIVE_SQL}""",
    """CREATE TABLE attempts (
        id TEXT PRIMARY KEY,
        experiment_id INTEGER NOT NULL REFERENCES experiments(id) DEFERRABLE INITIALLY DEFERRED,
        run INTEGER NOT NULL, generation INTEGER NOT NULL, claim TEXT NOT NULL UNIQUE, spec_hash TEXT NOT NULL,
        term INTEGER NOT NULL, state TEXT NOT NULL, created_at INTEGER NOT NULL, send_before INTEGER, request_id TEXT,
        job_id INTEGER, replacing INTEGER, misses INTEGER NOT NULL, missed_at INTEGER, error TEXT, ended_at INTEGER)""",
    f"""CREATE UNIQUE INDEX attempts_one_open ON attempts(experiment_id) WHERE {OPEN_SQL}""",
    """CREATE INDEX attempts_experiment ON attempts(experiment_id, run)""",
    """CREATE TABLE experiment_groups (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, flags TEXT NOT NULL,
        group_order REAL NOT NULL, collapsed INTEGER NOT NULL, max_live INTEGER, created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL)""",
    """CREATE TABLE experiment_group_members (
        group_id INTEGER NOT NULL REFERENCES experiment_groups(id) DEFERRABLE INITIALLY DEFERRED,
        experiment_id INTEGER NOT NULL REFERENCES experiments(id) DEFERRABLE INITIALLY DEFERRED,
        member_order REAL NOT NULL, PRIMARY KEY (group_id, experiment_id)) WITHOUT ROWID""",
    """CREATE INDEX members_experiment ON experiment_group_members(experiment_id)""",
    """CREATE TABLE checkpoints (
        experiment_id INTEGER NOT NULL REFERENCES experiments(id) DEFERRABLE INITIALLY DEFERRED,
        epoch INTEGER NOT NULL, model_path TEXT NOT NULL, replay_paths TEXT NOT NULL, size INTEGER,
        metrics TEXT NOT NULL, created_at INTEGER NOT NULL, policy_version TEXT,
        PRIMARY KEY (experiment_id, epoch)) WITHOUT ROWID""",
    """CREATE TABLE metrics (
        experiment_id INTEGER NOT NULL REFERENCES experiments(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        name TEXT NOT NULL, n INTEGER NOT NULL, job_id INTEGER, step INTEGER, value REAL, at INTEGER NOT NULL,
        PRIMARY KEY (experiment_id, name, n)) WITHOUT ROWID""",
    """CREATE TABLE metric_latest (
        experiment_id INTEGER NOT NULL REFERENCES experiments(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        name TEXT NOT NULL, n INTEGER NOT NULL, job_id INTEGER, step INTEGER, value REAL, at INTEGER NOT NULL,
        PRIMARY KEY (experiment_id, name)) WITHOUT ROWID""",
    """CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, recorded_at INTEGER NOT NULL,
        type TEXT NOT NULL, experiment_id INTEGER, job_id INTEGER, is_request INTEGER NOT NULL, term INTEGER,
        payload TEXT NOT NULL)""",
    """CREATE INDEX events_experiment ON events(experiment_id, sequence)""",
    """CREATE INDEX events_type ON events(type, sequence)""",
    """CREATE TABLE leases (
        name TEXT PRIMARY KEY, holder TEXT, host TEXT, pid INTEGER, term INTEGER NOT NULL, counter INTEGER NOT NULL,
        taken_at INTEGER, renewed_at INTEGER, listed_at INTEGER, next_look_at INTEGER) WITHOUT ROWID""",
    f"""PRAGMA application_id = {APPLICATION_ID}""",
)


def _first(connection: sqlite3.Connection) -> None:
    for statement in _FIRST:
        connection.execute(statement)
    deck_id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(6))
    connection.executemany(
        "INSERT INTO deck(key, value) VALUES (?, ?)", [("deck_id", deck_id), ("created_by", version("skydeck-nb"))]
    )


def _for_a_shared_server(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE jobs ADD COLUMN hourly_cost REAL")
    connection.execute("ALTER TABLE sweeps ADD COLUMN max_gpu_hours REAL")
    connection.execute("ALTER TABLE sweeps ADD COLUMN max_cost REAL")
    connection.execute("ALTER TABLE attempts ADD COLUMN sent_as TEXT")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first, _for_a_shared_server)
"""Number *n* takes a file from version *n* to *n + 1*, inside one transaction that the caller holds."""


def newest() -> int:
    """The version (``PRAGMA user_version``) that this build reads and writes."""
    return len(MIGRATIONS)


def user_version(connection: sqlite3.Connection) -> int:
    """The version that the file says of itself, as this connection sees it now."""
    return int(connection.execute("PRAGMA user_version").fetchall()[0][0])


def too_new(path: Path, found: int) -> DatabaseTooNew:
    """The error for a file that another build took further than this one can read."""
    return DatabaseTooNew(
        f"{path} was written by a newer skydeck_nb (its version {found}, this build reads up to {newest()}): "
        "restart this kernel with that build."
    )


def damaged(path: Path, why: str) -> DatabaseDamaged:
    """The error for a broken file, with the place of its newest backup."""
    kept = backups(path)
    remedy = (
        f"Its newest backup is {kept[-1]}: close every kernel that uses the deck, move {path} with its -wal and -shm "
        "away, and copy the backup to its place."
        if kept
        else f"There is no backup of it beside it; close every kernel that uses the deck and move {path} away."
    )
    return DatabaseDamaged(f"The deck's file {path} is broken: {why}. {remedy}")


def backups(path: Path) -> list[Path]:
    """The backups that lie beside a database, oldest first."""
    pattern = re.compile(re.escape(path.name) + r"\.\d{8}T\d{6}\.\d{6}Z\.v\d+\.backup")
    return sorted((p for p in path.parent.iterdir() if pattern.fullmatch(p.name)), key=lambda p: p.name)


def back_up(path: Path, found: int, now: datetime) -> Path:
    """Copy what is committed to a file beside it, complete or not at all; keep the newest three.

    The source is a connection of its own: SQLite copies from none that is writing,
    and ``Connection.backup`` would ask it for ever.

    Returns the copy: ``<name>.<UTC time>.v<version>.backup``, mode 0600.
    """
    target = path.with_name(f"{path.name}.{now:%Y%m%dT%H%M%S.%fZ}.v{found}.backup")
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    copy = sqlite3.connect(location.uri(part, "mode=rw"), uri=True, isolation_level=None)
    source = sqlite3.connect(location.uri(path, "mode=rw"), uri=True, isolation_level=None)
    try:
        source.backup(copy)
    except BaseException:
        part.unlink()
        raise
    finally:
        source.close()
        copy.close()
    part.replace(target)
    for old in backups(path)[:-BACKUPS_KEPT]:
        old.unlink()
    return target


def examine(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a file that is ours or empty, after reading alone.

    Raises:
        DatabaseDamaged: SQLite's own check finds it broken.
        DatabaseTooNew: a newer build wrote it.
        DatabaseError: it is a database of something else.
    """
    found = user_version(connection)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}
    if not names and found == 0:
        return 0
    if "deck" not in names:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(experiments)").fetchall()}
        if columns & {"base_command", "tool_path"}:
            raise DatabaseError(
                f"{path} is a database of the original SkyDeck, which this build cannot read yet. It was left "
                f'untouched: give another path, such as sd.open("{path.with_name("skydeck-nb.db")}").'
            )
        raise DatabaseError(
            f"{path} is an SQLite database of something else (tables: {', '.join(sorted(names)[:5]) or 'none'}). "
            "It was left untouched: give another path."
        )
    if found > newest():
        raise too_new(path, found)
    if found < newest() or path.stat().st_size <= CHECKED_BYTES:
        check(connection, path)
    return found


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Have SQLite look at every page of the file (raises ``DatabaseDamaged``)."""
    answer = [str(line) for (line,) in connection.execute("PRAGMA quick_check(3)").fetchall()]
    if answer != ["ok"]:
        raise damaged(path, "; ".join(" ".join(line.split()) for line in answer))


def migrate(connection: sqlite3.Connection, path: Path, now: Callable[[], datetime]) -> None:
    """Bring the file to this build's version; several processes may do so at once.

    What is pending is read again under the write lock, so that one of them
    migrates and the others find nothing to do. The connection is in no
    transaction before and after.

    Raises:
        DatabaseTooNew: another process took the file further than this build reads.
        sqlite3.Error: SQLite could not; nothing was changed.
    """
    if user_version(connection) == newest():
        return
    connection.execute("PRAGMA foreign_keys = OFF")  # a migration may rebuild a table; checked below
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = user_version(connection)
        if found > newest():
            raise too_new(path, found)
        if 0 < found < newest():
            back_up(path, found, now())
        for migration in MIGRATIONS[found:]:
            migration(connection)
        if connection.execute("PRAGMA foreign_key_check").fetchall():
            raise DatabaseError(f"The migration of {path} from version {found} left dangling rows.")
        connection.execute(f"PRAGMA user_version = {newest()}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA foreign_keys = ON")
