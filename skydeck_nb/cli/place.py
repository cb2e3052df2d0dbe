"""Which deck a command is about: its database, the backend it belongs to, who leads it.

Decides that a command opens a deck without leading it, and that it takes the
backend that the database was made for unless it is told another. Refuses to make
a database: that is for decks and the loop.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skydeck_nb import background, config
from skydeck_nb.cli.printing import note
from skydeck_nb.errors import DatabaseError, SkydeckError, WrongBackend

if TYPE_CHECKING:
    from skydeck_nb.store import LeaseRow, Store, Transaction


@dataclass
class Deck:
    """What a command was told, and what follows from it."""

    db_path: str | None = None
    backend: str | None = None

    @property
    def _told(self) -> dict[str, Any]:
        told = {"db_path": self.db_path, "backend": self.backend}
        return {name: value for name, value in told.items() if value is not None}

    @cached_property
    def _said(self) -> config.Settings:
        settings = config.load(self._told)
        for text in settings.notes:
            note(f"Note: {text}")
        return settings

    @cached_property
    def settings(self) -> config.Settings:
        """With the backend that the database was made for, where no other is asked for."""
        if "backend" in self._said.sources or not self.there:
            return self._said
        kind = self._made_for()
        if kind in (None, self._said.backend):
            return self._said
        return config.load({**self._told, "backend": kind, "db_path": self.path})

    @property
    def path(self) -> Path:
        if self._said.db_path is None:
            raise DatabaseError("The fake backend keeps its deck in memory: name a file by --db-path.")
        return self._said.db_path

    @property
    def there(self) -> bool:
        return self.path.is_file()

    @contextmanager
    def store(self, *, read_only: bool = True) -> Iterator[Store]:
        """The deck's file, which must be there."""
        if not self.there:
            raise DatabaseError(
                f"There is no deck at {self.path} yet: sd.open() or sd.demo() in a notebook makes one (`skydeck lab`)."
            )
        with background.without_pandas():
            from skydeck_nb.store import Store
        store = Store.open(self.path, read_only=read_only)
        try:
            wanted = self._said.backend if "backend" in self._said.sources else None
            found = store.identity() if wanted else None
            if found is not None and found["kind"] != wanted:
                raise WrongBackend(
                    f"{self.path} belongs to {found['kind']} on {found['place']}, not to {wanted}: "
                    "leave the backend out, or name another file by --db-path."
                )
            yield store
        finally:
            store.close()

    def _made_for(self) -> str | None:
        """The kind of backend that the file belongs to, if it can be read as it is."""
        try:
            with self.store() as store:
                found = store.identity()
        except SkydeckError:
            return None  # whoever opens it next says what is wrong with it
        return found["kind"] if found else None

    def command(self, *words: str) -> str:
        """A command about this same deck, to be copied."""
        said: list[str] = ["skydeck", *words]
        if self.db_path is not None:
            said += ["--db-path", self.db_path]
        if self.backend is not None:
            said += ["--backend", self.backend]
        return shlex.join(said)


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads a deck, as its lease says; ``None`` in ``who`` is nobody."""

    who: str | None
    pid: int | None = None
    row: LeaseRow | None = None

    @classmethod
    def of(cls, tx: Transaction) -> Leader:
        row = tx.lease()
        if row is None or not background.leads(row, datetime.now(UTC)):
            return cls(None, row=row)
        return cls(row.holder, row.pid, row)

    def facts(self) -> dict[str, Any]:
        row = self.row
        return {
            "leader": self.who,
            "pid": self.pid,
            "term": row.term if row else None,
            "listed_at": row.listed_at if row else None,
            "next_look_at": row.next_look_at if row and self.who else None,
        }
