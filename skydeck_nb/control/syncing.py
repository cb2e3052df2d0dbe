"""What runs leave in their folders, brought into the deck: metrics and checkpoints.

Decides which folders are read when, and what of them is new. Refuses to know
how metrics are kept and how file names read. A folder that cannot be read
changes nothing but a ``SyncFailed`` of its experiment, said once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from skydeck_nb import codec
from skydeck_nb.backends.base import Backend
from skydeck_nb.checkpoints.layout import Entry, Layout, checkpoints
from skydeck_nb.control.calls import Lost
from skydeck_nb.control.permission import Leading
from skydeck_nb.events import CheckpointFound, Event, MetricSampled, SyncFailed
from skydeck_nb.metrics import Tail
from skydeck_nb.models import CheckpointRow, JobRow
from skydeck_nb.store.records import Metric
from skydeck_nb.store.store import Store

AT_ONCE: Final = 200
"""Folders read in one go, so that a deck with thousands of old runs opens at once."""

METRICS: Final = "metrics.jsonl"


class Syncer:
    """Reads the folders of one leader's runs. One thread uses it."""

    def __init__(self, store: Store, backend: Backend, leading: Leading, now: Callable[[], datetime]) -> None:
        self._store = store
        self._backend = backend
        self._leading = leading
        self._now = now
        self._tails: dict[int, Tail] = {}
        self._said: set[tuple[int, str]] = set()
        self._listed: dict[int, Layout] = {}
        self._waiting: dict[int, JobRow] = {}

    def offer(self, jobs: Iterable[JobRow]) -> None:
        """Have these be read: those that are alive, and once more those that have ended."""
        self._waiting |= {j.id: j for j in jobs if j.experiment_id is not None}

    def sync(self) -> bool:
        """Read what was offered, as much as one go takes; whether some is left for the next."""
        term = self._leading.held()
        if term is None:
            return False
        batch = [self._waiting.pop(i) for i in list(self._waiting)[:AT_ONCE]]
        readings: list[Metric] = []
        events: list[Event] = []
        for job in batch:
            try:
                readings += self._readings(job)
                events += self._checkpoints(job)
            except OSError as error:
                events += self._failed(job, f"The folder of job {job.id} cannot be read: {error}")
            tail = self._tails.get(job.id)
            for said in tail.notes.sentences() if tail is not None else ():
                events += self._failed(job, said)
            if not job.alive:
                self._tails.pop(job.id, None)
        if readings or events:
            try:
                self._write(term, readings, events)
            except BaseException:
                self._read_again(batch)
                raise
        self._store.publish(
            [
                MetricSampled(
                    at=r.at, experiment_id=r.experiment_id, job_id=r.job_id, name=r.name, value=r.value, step=r.step
                )
                for r in readings
            ]
        )
        return bool(self._waiting)

    def _read_again(self, batch: Iterable[JobRow]) -> None:
        """What could not be written is read anew, from the start; points that are known are dropped then."""
        for job in batch:
            self._tails.pop(job.id, None)
            self._listed.pop(job.experiment_id or 0, None)
            self._waiting.setdefault(job.id, job)

    def _write(self, term: int, readings: list[Metric], events: list[Event]) -> None:
        with self._store.write(term=term) as tx:
            lease = tx.lease()
            if lease is None or lease.term != term or lease.holder is None:
                raise Lost("another process leads")
            named = {e.experiment_id for e in events if e.experiment_id is not None}
            there = {row.id for row in tx.experiments(named, deleted=None)}
            tx.apply([e for e in events if e.experiment_id in there])
            tx.add_metrics(readings)

    def _readings(self, job: JobRow) -> list[Metric]:
        folder = self._backend.run_dir(job.id)
        if folder is None or job.experiment_id is None:
            return []
        tail = self._tails.setdefault(job.id, Tail(folder / METRICS))
        found = tail.read()
        if not job.alive:
            found += tail.rest()
        now = self._now()
        return [
            Metric(job.experiment_id, job.id, name, reading.step, value, reading.at or now)
            for reading in found
            for name, value in reading.values.items()
        ]

    def _checkpoints(self, job: JobRow) -> list[Event]:
        folder = self._backend.checkpoint_dir(job.id)
        if folder is None or job.experiment_id is None:
            return []
        listed = checkpoints(_entries(folder))
        known, self._listed[job.experiment_id] = self._listed.get(job.experiment_id), listed
        if known == listed:
            return []
        with self._store.read() as tx:
            stored = {row.epoch: row for row in tx.checkpoints([job.experiment_id])}
        events: list[Event] = []
        for found in listed.checkpoints:
            row = CheckpointRow(
                experiment_id=job.experiment_id,
                epoch=found.epoch,
                model_path=str(folder / found.model_path),
                replay_paths=tuple(str(folder / path) for path in found.replay_paths),
                size=found.size,
                created_at=found.created_at,
            )
            if stored.get(found.epoch) != row:
                events.append(
                    CheckpointFound(
                        at=found.created_at,
                        experiment_id=job.experiment_id,
                        job_id=job.id,
                        epoch=found.epoch,
                        model_path=row.model_path,
                        changes=(codec.insert(row),),
                    )
                )
        return events

    def _failed(self, job: JobRow, message: str) -> list[Event]:
        if (job.id, message) in self._said:
            return []
        self._said.add((job.id, message))
        return [SyncFailed(at=self._now(), experiment_id=job.experiment_id, job_id=job.id, message=message)]


def _entries(folder: Path) -> list[Entry]:
    """The files of a folder, relative to it; a folder that is not there (yet) has none."""
    found: list[Entry] = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                said = path.stat()
            except FileNotFoundError:  # replaced while it was listed: the next look sees what it became
                continue
            when = datetime.fromtimestamp(said.st_mtime, UTC)
            found.append(Entry(path.relative_to(folder).as_posix(), said.st_size, when))
    return found
