"""A deck as its grid sees it: rows, the deck's line, a row's detail, and what its buttons ask for.

Decides which cells a row shows and what its one button does. Answers from
memory; only a detail and an act read the database. Refuses to know the wire.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skydeck_nb.desk import utcnow
from skydeck_nb.experiment import Experiment, shown
from skydeck_nb.flags.command import command_line
from skydeck_nb.models import ExperimentRow, JobRow
from skydeck_nb.requests import leaderless
from skydeck_nb.results import Result, said
from skydeck_nb.widget.source import Action, GridDetail, GridJob, GridRow, GridSummary, Notice, Role

if TYPE_CHECKING:
    from skydeck_nb.deck import Deck
    from skydeck_nb.loop import Loop
    from skydeck_nb.store.mirror import Mirror
    from skydeck_nb.store.records import Stored
    from skydeck_nb.widget.grid import DeckGrid


def make_grid(deck: Deck, loop: Loop) -> DeckGrid:
    """The grid of this deck."""
    from skydeck_nb.widget.grid import DeckGrid

    return DeckGrid(DeckSource(deck, loop))


class DeckSource:
    """What a deck is to its grid."""

    def __init__(self, deck: Deck, loop: Loop) -> None:
        self._deck = deck
        self._loop = loop
        self._totals: dict[int, tuple[int, int, int]] = {}
        self._epochs: dict[int, int] = {}
        self._latest: dict[int, dict[str, float | None]] = {}
        self._read_at = (0, -1)

    def rows(self) -> Sequence[GridRow]:
        if self._loop.closed:
            return ()
        self._read_totals()
        return self._loop.runner.view(self._rows)

    def _rows(self, mirror: Mirror) -> list[GridRow]:
        groups: dict[int, list[str]] = {}
        for group_id, members in mirror.members.items():
            for experiment_id in members:
                groups.setdefault(experiment_id, []).append(mirror.groups[group_id].name)
        found = sorted((row for row in mirror.experiments.values() if not row.deleted), key=_order)
        return [self._row(mirror, row, tuple(groups.get(row.id, ()))) for row in found]

    def _row(self, mirror: Mirror, row: ExperimentRow, groups: tuple[str, ...]) -> GridRow:
        job = mirror.jobs.get(row.current_job_id) if row.current_job_id is not None else None
        jobs, launched, recoveries = self._totals.get(row.id, (0, 0, 0))
        state = shown(row)
        sweep = mirror.sweeps.get(row.sweep_id) if row.sweep_id is not None else None
        return GridRow(
            id=row.id,
            name=row.name,
            state=state,
            desired=row.desired_state,
            created_at=row.created_at,
            action=action(row, state),
            reason="" if row.reason.upper() == state else row.reason,
            message=row.message,
            attention=row.attention,
            started_at=job.started_at if job is not None else None,
            ended_at=job.ended_at if job is not None else None,
            epoch=self._epochs.get(row.id),
            jobs=jobs,
            restarts=max(launched - 1, 0),
            recoveries=recoveries,
            nodes=row.spec.nodes,
            gpus=row.spec.gpus,
            accelerators=row.spec.accelerators,
            sweep=sweep.name if sweep is not None else None,
            groups=groups,
            flags=row.spec.flags,
            metrics=self._latest.get(row.id, {}),
        )

    def _read_totals(self) -> None:
        """Counts, epochs and last metrics, which are in no mirror: three SELECTs, when something was committed."""
        version = threading.get_ident(), self._loop.store.data_version()
        if version == self._read_at:
            return
        totals, epochs, latest = self._loop.desk.read(
            lambda tx: (tx.job_totals(int(utcnow().timestamp() * 1e6)), tx.epochs(), tx.latest_cells())
        )
        self._totals = {row[0]: (row[1] or 0, row[2] or 0, row[3] or 0) for row in totals}
        self._epochs = dict(epochs)
        found: dict[int, dict[str, float | None]] = {}
        for experiment_id, name, value in latest:
            found.setdefault(experiment_id, {})[name] = value
        self._latest = found
        self._read_at = version

    def summary(self) -> GridSummary:
        if self._loop.closed:
            return GridSummary(backend=self._loop.place, role="reading", health="This deck is closed.")
        status = self._loop.status()
        role: Role = "leading" if status.leading else "following" if status.holder is not None else "reading"
        trouble = leaderless(status) or status.error or ""
        notices = tuple(Notice(text=text, level="warning") for text in self._loop.notices.waiting())
        path = self._loop.store.path
        return GridSummary(
            backend=self._loop.place,
            role=role,
            seen_at=status.listed_at,
            health=trouble,
            remedy="deck.sign_in()" if status.needs_sign_in else "",
            notices=notices,
            terminal=f"skydeck --db-path {path} --backend {self._loop.backend.kind} stop {{name}}",
        )

    def detail(self, id: int) -> GridDetail:
        experiment = self._deck.by_id(id)
        row = experiment._row()
        jobs = self._loop.desk.read(lambda tx: tx.jobs(experiment_ids=[id]))
        return GridDetail(
            why=tuple(self._loop.explain(row).lines()),
            command=command_line(experiment.argv),
            jobs=tuple(_job(job) for job in sorted(jobs, key=lambda job: -job.id)),
        )

    def act(self, kind: str, ids: tuple[int, ...], params: Mapping[str, Any]) -> str:
        chosen = [Experiment(self._deck, i) for i in ids]
        call: Callable[..., Any] = getattr(self._deck, kind)
        result = call(chosen)
        assert isinstance(result, Result)
        if len(result) == 1:
            only = result.iloc[0]
            return said(f"{result.index[0]} {only['action']}: {only['reason']}.", *result.notices)
        skipped = result[result["action"] == "skipped"]["reason"].unique().tolist()
        why = f" ({'; '.join(map(str, skipped[:2]))})" if skipped else ""
        return said(f"{result.summary}{why}.", *result.notices)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Wake for rows that changed, and for what is published and in no row of the log (metrics)."""

        def published(stored: Sequence[Stored]) -> None:
            if not all(each.event.recorded for each in stored):
                wake()

        ends = [self._loop.runner.subscribe(lambda touched: wake()), self._loop.store.subscribe(published)]

        def end() -> None:
            for each in ends:
                each()

        return end


def _order(row: ExperimentRow) -> tuple[float, int]:
    return row.exp_order, row.id


def action(row: ExperimentRow, state: str) -> Action | None:
    """What the one button of a row does."""
    if row.desired_state == "RUNNING":
        if state in ("SUCCEEDED", "CANCELLED", "FAILED"):
            return {"SUCCEEDED": "restart", "CANCELLED": "start", "FAILED": "retry"}[state]  # type: ignore[return-value]
        return "stop"
    if state == "SUCCEEDED":
        return "restart"
    return None if state == "STOPPING" else "start"


def _job(job: JobRow) -> GridJob:
    return GridJob(
        id=job.id,
        status=job.status,
        run=job.run,
        started_at=job.started_at,
        ended_at=job.ended_at,
        exit_code=job.exit_code,
        infra=job.infra,
        error=job.error_message,
    )
