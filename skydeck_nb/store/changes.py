"""Changes of rows as SQL statements, many at a time.

Decides which change is an insert and which an update, groups those that one
statement can carry, and refuses what would make the rows and the fold of the log
differ. Refuses to know events and connections' lives.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from skydeck_nb.codec import TABLES, Table
from skydeck_nb.errors import DatabaseError
from skydeck_nb.events import Cell, Change, Key

_REMOVE: Final = None
Columns = tuple[str, ...] | None


def parts(row_key: Key) -> tuple[int | str, ...]:
    """A key as the cells of its columns."""
    return row_key if isinstance(row_key, tuple) else (row_key,)


def known(connection: sqlite3.Connection, table: Table, keys: Iterable[Key]) -> set[Key]:
    """Those of these keys that the table has."""
    wanted = json.dumps([parts(k) for k in keys])
    names = ", ".join(table.key)
    values = ", ".join(f"json_extract(value, '$[{i}]')" for i in range(len(table.key)))
    found = connection.execute(
        f"SELECT {names} FROM {table.name} WHERE ({names}) IN (SELECT {values} FROM json_each(?))", (wanted,)
    ).fetchall()
    return {row if len(row) > 1 else row[0] for row in found}


@lru_cache(maxsize=512)
def _upsert(table: Table, columns: tuple[str, ...]) -> str:
    names = (*table.key, *columns)
    changed = " OR ".join(f"{c} IS NOT excluded.{c}" for c in columns)
    assigned = ", ".join(f"{c} = excluded.{c}" for c in columns)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {assigned} WHERE {changed}"
    )


@lru_cache(maxsize=512)
def _update(table: Table, columns: tuple[str, ...]) -> str:
    first = len(table.key) + 1
    assigned = ", ".join(f"{c} = ?{first + i}" for i, c in enumerate(columns))
    changed = " OR ".join(f"{c} IS NOT ?{first + i}" for i, c in enumerate(columns))
    keyed = " AND ".join(f"{k} = ?{i + 1}" for i, k in enumerate(table.key))
    return f"UPDATE {table.name} SET {assigned} WHERE {keyed} AND ({changed})"


def _delete(table: Table) -> str:
    return f"DELETE FROM {table.name} WHERE {' AND '.join(f'{k} = ?' for k in table.key)}"


def top_id(connection: sqlite3.Connection, table: str) -> int:
    """The highest id that this table ever gave (0 where it gave none)."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchall()
    return int(found[0][0]) if found else 0


class Writer:
    """Collects changes per table and writes each run of like ones with one statement.

    The order of changes is kept within a table; between tables it is free, since
    foreign keys are checked at the commit.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._waiting: dict[str, tuple[Columns, list[tuple[Key, tuple[Cell, ...]]]]] = {}

    def add(self, changes: Iterable[Change]) -> None:
        """Take changes in order; some are written at once, the rest by :meth:`flush`."""
        waiting = self._waiting
        for change in changes:
            columns = _REMOVE if change.columns is None else tuple(change.columns)
            batch = waiting.get(change.table)
            if batch is None or batch[0] != columns:
                if batch is not None:
                    self._write(change.table, *batch)
                self._examine(change.table, columns)
                batch = waiting[change.table] = (columns, [])
            batch[1].append((change.key, () if change.columns is None else tuple(change.columns.values())))

    def flush(self) -> None:
        """Write what waits."""
        for table, batch in self._waiting.items():
            self._write(table, *batch)
        self._waiting.clear()

    def _examine(self, name: str, columns: Columns) -> None:
        table = TABLES.get(name)
        if table is None:
            raise ValueError(f"An event changes {name}, which is no table that the log folds to.")
        strange = set(columns or ()) - set(table.columns)
        if strange:
            raise ValueError(f"An event changes {name}.{min(strange)}, which is no column that an event may change.")
        if columns == ():
            raise ValueError(f"An event changes a row of {name} without saying which columns.")

    def _write(self, name: str, columns: Columns, rows: Sequence[tuple[Key, tuple[Cell, ...]]]) -> None:
        table = TABLES[name]
        values: list[tuple[Any, ...]] = [(*parts(k), *cells) for k, cells in rows]
        try:
            if columns is None:
                self._connection.executemany(_delete(table), values)
            elif table.required <= set(columns):
                self._insert(table, columns, rows, values)
            else:
                self._change(table, columns, rows, values)
        except (OverflowError, UnicodeEncodeError) as error:
            raise DatabaseError(
                f"A value for {name} ({', '.join(columns or ())}) cannot be stored: {error}."
            ) from error

    def _insert(
        self,
        table: Table,
        columns: tuple[str, ...],
        rows: Sequence[tuple[Key, tuple[Cell, ...]]],
        values: list[tuple[Any, ...]],
    ) -> None:
        if table.autoincrement:
            top = top_id(self._connection, table.name)
            old = {k for k, _ in rows if isinstance(k, int) and k <= top}
            reused = old - known(self._connection, table, old) if old else set()
            if reused:
                raise DatabaseError(f"The ids {sorted(reused)[:5]} of {table.name} were given before; take next_id().")
        self._connection.executemany(_upsert(table, columns), values)

    def _change(
        self,
        table: Table,
        columns: tuple[str, ...],
        rows: Sequence[tuple[Key, tuple[Cell, ...]]],
        values: list[tuple[Any, ...]],
    ) -> None:
        touched = self._connection.executemany(_update(table, columns), values).rowcount
        if touched < len(rows):
            keys = {k for k, _ in rows}
            gone = keys - known(self._connection, table, keys)
            if gone:
                missing = sorted(table.required - set(columns))
                raise DatabaseError(
                    f"A change of {table.name} {next(iter(gone))!r} finds no such row; it was removed meanwhile, "
                    f"or it should be made and lacks {', '.join(missing[:5])}."
                )
