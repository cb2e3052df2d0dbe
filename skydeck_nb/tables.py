"""The deck's rows as DataFrames: which cells each frame is read from, in one snapshot.

Decides what a selection means for a frame. Refuses to know columns and dtypes
(:mod:`skydeck_nb.frames` does) and SQL (the store does).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import pandas as pd

from skydeck_nb import frames
from skydeck_nb.desk import Desk, utcnow
from skydeck_nb.errors import InvalidSetting
from skydeck_nb.events import micros

if TYPE_CHECKING:
    from skydeck_nb.store.transaction import Transaction

Ids = Collection[int] | None
"""Experiments by id; ``None`` is all."""


class Tables:
    """Reads frames; each is a snapshot of one moment."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def experiments(self, ids: Ids = None, *, flags: bool, metrics: bool, deleted: bool) -> pd.DataFrame:
        now = utcnow()

        def read(tx: Transaction) -> pd.DataFrame:
            return frames.experiments(
                tx.experiment_cells(ids, deleted=deleted, flags=flags),
                totals=tx.job_totals(micros(now), ids),
                epochs=tx.epochs(ids),
                memberships=tx.memberships(ids),
                latest=tx.latest_cells(ids) if metrics else None,
                flags=flags,
                now=now,
            )

        return self._desk.read(read)

    def jobs(self, ids: Ids, *, live: bool | None, all_users: bool) -> pd.DataFrame:
        now = utcnow()
        return self._desk.read(lambda tx: frames.jobs(tx.job_cells(ids, live=live, all_users=all_users), now=now))

    def metrics(self, ids: Ids, keys: Collection[str] | None) -> pd.DataFrame:
        return self._desk.read(lambda tx: frames.metrics(tx.metric_cells(ids, keys)))

    def checkpoints(
        self,
        ids: Ids,
        *,
        epoch: int | None,
        latest: bool,
        best: str | None,
        mode: Literal["max", "min"],
        flags: bool,
    ) -> pd.DataFrame:
        return self._desk.read(
            lambda tx: frames.checkpoints(
                tx.checkpoint_cells(ids, epoch=epoch, flags=flags), latest=latest, best=best, mode=mode, flags=flags
            )
        )

    def events(self, ids: Ids, since: int | str | datetime | pd.Timestamp | None) -> pd.DataFrame:
        after, moment = _since(since)
        frame = self._desk.read(lambda tx: frames.events(tx.event_cells(ids, since=after)))
        return frame if moment is None else frame[frame["at"] >= moment]

    def attempts(self, ids: Ids) -> pd.DataFrame:
        return self._desk.read(lambda tx: frames.attempts(tx.attempt_cells(ids)))

    def orphans(self, *, all_users: bool) -> pd.DataFrame:
        now = utcnow()
        return self._desk.read(lambda tx: frames.orphans(tx.orphan_cells(all_users=all_users), now=now))

    def clusters(self) -> pd.DataFrame:
        now = utcnow()
        return self._desk.read(lambda tx: frames.clusters(tx.cluster_cells(), now=now))

    def groups(self) -> pd.DataFrame:
        return self._desk.read(lambda tx: frames.groups(tx.group_cells()))

    def sweeps(self) -> pd.DataFrame:
        now = micros(utcnow())
        return self._desk.read(lambda tx: frames.sweeps(tx.sweep_cells(now)))

    def diff(self, ids: Sequence[int]) -> pd.DataFrame:
        def read(tx: Transaction) -> pd.DataFrame:
            rows = {row.id: row for row in tx.experiments(ids, deleted=None)}
            return frames.diff([rows[i] for i in ids if i in rows])

        return self._desk.read(read)


def _since(since: int | str | datetime | pd.Timestamp | None) -> tuple[int | None, pd.Timestamp | None]:
    """A sequence, or a moment in any form that pandas reads; ``"1h"`` is an hour ago."""
    if since is None or (isinstance(since, int) and not isinstance(since, bool)):
        return since, None
    for read in (_moment, _ago):
        try:
            return None, read(since)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            continue
    raise InvalidSetting(
        f"since={since!r}: write a sequence, a time such as '2026-11-23 12:00', or an age such as '1h'."
    )


def _moment(since: str | datetime | pd.Timestamp) -> pd.Timestamp:
    moment = pd.Timestamp(since)
    return moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")


def _ago(since: str | datetime | pd.Timestamp) -> pd.Timestamp:
    return pd.Timestamp(utcnow()) - pd.Timedelta(str(since))
