"""What the jobs that have ended used, by experiment, in memory.

Decides when that is read again: of everybody when somebody first asks, then of
those whose jobs ended, came or went. What is alive is in the mirror and not
here. One thread's, as the mirror is; refuses to know budgets, and writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from skydeck_nb.store.mirror import Mirror, Touched
from skydeck_nb.store.transaction import Transaction
from skydeck_nb.usage import Usage, total


class Ledger:
    """Usage of ended jobs. Nothing is read before :meth:`advance` is told that it is ``wanted``."""

    def __init__(self) -> None:
        self._ended: dict[int, tuple[int | None, Usage]] | None = None
        self._of_sweeps: Mapping[int | None, Usage] = {}

    def advance(self, tx: Transaction, mirror: Mirror, touched: Touched, *, wanted: bool) -> None:
        """Hold what ``mirror`` does not hold of this snapshot, by one query where something has ended."""
        if not wanted:
            self._ended, self._of_sweeps = None, {}
        elif self._ended is None:
            self._ended = {}
            self._read(tx, None)
        elif touched.jobs and self._concerned(mirror, touched):
            self._read(tx, touched.experiments)

    def of_sweep(self, sweep_id: int) -> Usage:
        """Of all experiments that the sweep ever had, deleted ones too."""
        return self._of_sweeps.get(sweep_id, Usage())

    def of_deck(self) -> Usage:
        return total(self._of_sweeps.values())

    def _concerned(self, mirror: Mirror, touched: Touched) -> bool:
        """Whether a job is over or gone, or may have been over before: a lost one that came back."""
        jobs = (mirror.jobs.get(i) for i in touched.jobs)
        return any(job is None or not job.alive or job.experiment_id in (self._ended or ()) for job in jobs)

    def _read(self, tx: Transaction, ids: frozenset[int] | None) -> None:
        assert self._ended is not None
        for i in ids or ():
            self._ended.pop(i, None)
        for experiment_id, sweep_id, gpu_hours, cost in tx.ended_usage(ids):
            self._ended[experiment_id] = sweep_id, Usage(gpu_hours=gpu_hours, cost=cost)
        sums: defaultdict[int | None, list[Usage]] = defaultdict(list)
        for sweep_id, usage in self._ended.values():
            sums[sweep_id].append(usage)
        self._of_sweeps = {sweep_id: total(usages) for sweep_id, usages in sums.items()}
