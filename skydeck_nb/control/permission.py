"""The right to send one launch, asked for at its first write and again at each later one.

Decides whether a launch is still wanted, and commits until when it may be sent.
Refuses to know the backend: what lies before the first write, an upload say, may
take as long as it likes, and until then it is certain that nothing was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from skydeck_nb.control.planning import SEND_WITHIN
from skydeck_nb.events import Cell, Change, SendAllowed, micros
from skydeck_nb.models import AttemptRow, AttemptState
from skydeck_nb.store.store import Store
from skydeck_nb.store.transaction import Transaction


class Refused(Exception):
    """A launch may not be sent: its experiment was stopped, its time is over, or another process leads."""


class Leading(Protocol):
    """What a call asks of the lease."""

    def held(self) -> int | None:
        """The term in which this process may act right now, else ``None``."""


class Permission:
    """A launch's :data:`~skydeck_nb.backends.base.Gate`. ``passed``: something may have been sent since.

    Called, it raises :class:`Refused` where nothing (more) may be sent.
    """

    def __init__(
        self,
        attempt: AttemptRow,
        term: int,
        store: Store,
        leading: Leading,
        now: Callable[[], datetime],
        user: Callable[[], str | None],
    ) -> None:
        self._attempt = attempt
        self._term = term
        self._store = store
        self._leading = leading
        self._now = now
        self._user = user
        self._send_before: datetime | None = None
        self.passed = False

    def __call__(self) -> None:
        if self._send_before is None:
            self._send_before = self._allow()
        self._lead()
        if self._now() >= self._send_before:
            raise Refused("its time is over")
        with self._store.read() as tx:  # also after the first one's commit, which may have waited for a disk
            self._wanted(tx, "SENDING")
        self.passed = True

    def check(self) -> None:
        """Whether it is worth preparing at all; promises nothing, writes nothing."""
        self._lead()
        with self._store.read() as tx:
            self._launchable(tx)

    def wanted(self) -> bool:
        """The same as an answer: whoever prepares may ask now and then, and stop an upload that is for nobody."""
        try:
            self.check()
        except Refused:
            return False
        return True

    def _allow(self) -> datetime:
        """Commit ``send_before`` if the launch is still wanted, in one durable transaction."""
        self._lead()
        attempt = self._attempt
        with self._store.write(durable=True) as tx:
            lease = tx.lease()
            if lease is None or lease.term != self._term or lease.holder is None:
                raise Refused("another process leads")
            self._launchable(tx)
            moment = self._now()
            send_before = moment + SEND_WITHIN
            columns: dict[str, Cell] = {"state": "SENDING", "send_before": micros(send_before)}
            if (user := self._user()) is not None:
                columns["sent_as"] = user
            tx.apply(
                [
                    SendAllowed(
                        at=moment,
                        experiment_id=attempt.experiment_id,
                        attempt_id=attempt.id,
                        changes=(Change("attempts", attempt.id, columns),),
                    )
                ]
            )
        return send_before

    def _lead(self) -> None:
        if self._leading.held() != self._term:
            raise Refused("another process leads")

    def _launchable(self, tx: Transaction) -> None:
        self._wanted(tx, "PREPARED")
        if tx.jobs(experiment_ids=[self._attempt.experiment_id], alive=True):
            raise Refused("a job of its experiment is alive")

    def _wanted(self, tx: Transaction, state: AttemptState) -> None:
        attempt = self._attempt
        present = tx.attempts(ids=[attempt.id])
        if not present or present[0].state != state:
            raise Refused("its attempt is closed")
        rows = tx.experiments(ids=[attempt.experiment_id], deleted=None)
        if not rows or rows[0].deleted or rows[0].desired_state != "RUNNING" or rows[0].run != attempt.run:
            raise Refused("its experiment was stopped")
