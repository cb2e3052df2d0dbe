"""From any older version to this build's, by however many processes at once, with a copy kept."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from skydeck_nb import codec, states
from skydeck_nb.errors import DatabaseError, DatabaseTooNew
from skydeck_nb.store import Store, schema
from tests.store.rows import T0, at, changed, declared, experiment

PROCESSES = 6

TOGETHER = """
import sys, time
from pathlib import Path
from skydeck_nb.store import Store, schema
path, gate, newer = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "newer"
if newer:
    schema.MIGRATIONS += (lambda db: db.execute("ALTER TABLE sweeps ADD COLUMN note TEXT"),)
print("ready", flush=True)
sys.stdin.readline()
store = Store.open(path)
with store.read() as tx:
    [(made,)] = tx.rows("sqlite_master", ["sql"], "name = 'sweeps'")
    print(store.deck_id, len(tx.experiments()), "note TEXT" in made, flush=True)
store.close()
"""


def together(path: Path, *, newer: bool) -> set[str]:
    """What several processes say that open one file at the same moment."""
    command = [sys.executable, "-W", "error", "-c", TOGETHER, str(path), "-", "newer" if newer else "same"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate() for process in running]
    assert [error for _, error in said] == [""] * PROCESSES
    return {out.strip() for out, _ in said}


def test_several_processes_make_one_fresh_file_together(path: Path) -> None:
    [line] = together(path, newer=False)
    assert line.endswith(" 0 False")


def test_several_processes_migrate_one_old_file_together(path: Path) -> None:
    store = Store.open(path)
    store.apply(declared(experiment(1), experiment(2)))
    deck_id = store.deck_id
    store.close()
    assert together(path, newer=True) == {f"{deck_id} 2 True"}
    [backup] = schema.backups(path)
    assert f".v{schema.newest()}." in backup.name


def test_the_copy_before_a_migration_is_whole_private_and_among_the_newest_three(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(path)
    store.apply(declared(experiment(1)))
    store.close()
    for n in range(5):
        grow = lambda db, n=n: db.execute(f"CREATE TABLE extra_{n} (x)")  # noqa: E731
        monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, grow))
        Store.open(path, now=lambda n=n: at(n)).close()  # type: ignore[misc]
    kept, newest = schema.backups(path), schema.newest()
    assert [p.name.split(".")[-2] for p in kept] == [f"v{newest - back}" for back in (3, 2, 1)]
    assert {stat.S_IMODE(p.stat().st_mode) for p in kept} == {0o600}
    copy = sqlite3.connect(kept[-1])
    assert copy.execute("SELECT name FROM experiments").fetchall() == [("e1",)]
    assert copy.execute("PRAGMA user_version").fetchall() == [(newest - 1,)]
    copy.close()
    assert not list(path.parent.glob("*.part*"))


def test_a_file_from_before_there_were_prices_is_read_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        Store.open(path).close()
    old = sqlite3.connect(path)
    old.execute("INSERT INTO sweeps VALUES (1, 's', '{}', 2, 'ARMED', '', 0, 0)")
    old.execute(
        "INSERT INTO jobs(id, run, generation, name, status, reason, created_at, recoveries, mine, adopted, lost, "
        "forgotten, cancel_asked, cancel_count, changed_at) "
        "VALUES (7, 1, 1, 'x', 'RUNNING', '', 0, 0, 1, 0, 0, 0, 0, 0, 0)"
    )
    old.commit()
    old.close()
    store = Store.open(path)
    with store.read() as tx:
        ([found], [swept]) = tx.jobs(), tx.sweeps()
    assert (found.id, found.hourly_cost) == (7, None)
    assert (swept.max_live, swept.max_gpu_hours, swept.max_cost) == (2, None, None)
    store.apply([changed(None, codec.patch_change("jobs", 7, hourly_cost=2.5))])
    with store.read() as tx:
        assert tx.jobs()[0].hourly_cost == 2.5
    store.close()


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(path).close()

    def fails(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (x)")
        db.execute("CREATE TABLE half (x)")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, fails))
        with pytest.raises(sqlite3.OperationalError, match="half already exists"):
            Store.open(path)
    store = Store.open(path)
    with store.read() as tx:
        assert "half" not in tx.db.table_names()
    store.close()


def test_an_open_store_notices_that_another_build_migrated_its_file(store: Store) -> None:
    newer = sqlite3.connect(store.path)
    newer.execute(f"PRAGMA user_version = {schema.newest() + 1}")
    newer.close()
    with pytest.raises(DatabaseTooNew, match="restart this kernel"):
        store.apply(declared(experiment(1)))


def test_an_older_file_cannot_be_read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(path).close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, lambda db: None))
    with pytest.raises(DatabaseError, match="open it once without read_only=True"):
        Store.open(path, read_only=True)


def test_the_tables_have_the_models_columns(store: Store) -> None:
    with store.read() as tx:
        for table in codec.TABLES.values():
            info = tx.db.execute(f"PRAGMA table_info({table.name})").fetchall()
            assert {row[1] for row in info} == set(table.all), table.name
            assert {row[1] for row in info if row[3] and row[1] not in table.key} == table.required, table.name
            assert not [row for row in info if row[4] is not None], "no default in SQL: the fold would not know it"


def test_the_queries_know_the_same_terminal_statuses_as_the_loop() -> None:
    assert f"({', '.join(repr(s) for s in sorted(states.TERMINAL))})" == schema.TERMINAL_SQL


def test_two_backups_never_meet_in_one_name(path: Path) -> None:
    store = Store.open(path)
    for n in range(2):
        schema.back_up(path, 1, T0 + timedelta(microseconds=n))
    assert len(schema.backups(path)) == 2
    store.close()
