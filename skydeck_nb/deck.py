"""The facade that a notebook holds: DataFrames out, requests in.

Decides what each call of the API means in the words of the parts below it.
Refuses to know SQL, plans and backends: requests ask, tables read, the loop
acts. No call here waits for the network, but for those that say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

import pandas as pd

from skydeck_nb import config
from skydeck_nb.arguments import seconds, whole
from skydeck_nb.code import to_code
from skydeck_nb.control import requesting
from skydeck_nb.control.declaring import Call
from skydeck_nb.control.editing import Edit
from skydeck_nb.errors import InvalidSetting, SkydeckError, UnknownExperiment
from skydeck_nb.experiment import Experiment
from skydeck_nb.loop import Loop
from skydeck_nb.models import ExperimentRow, SweepRow
from skydeck_nb.notebook import Why
from skydeck_nb.plan import Plan
from skydeck_nb.requests import Requests
from skydeck_nb.results import Result
from skydeck_nb.roster import Lookup
from skydeck_nb.selection import Selection
from skydeck_nb.sweep import Sweep, Sweeps
from skydeck_nb.tables import Tables
from skydeck_nb.tracebacks import shorten

if TYPE_CHECKING:
    from skydeck_nb.backends.base import Backend
    from skydeck_nb.store.store import Store
    from skydeck_nb.widget.grid import DeckGrid

JOB: Final = "the number of a job, as in deck.jobs().index"
ORPHAN: Final = "the number of a job, as in deck.orphans().index"
LIVE: Final = "how many may run at once, 1 or more, or None"


@shorten
class Deck:
    """One database, one backend, one loop. Made by :func:`skydeck_nb.open`."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        settings: config.Settings,
        *,
        folder: TemporaryDirectory[str] | None = None,
        owns_backend: bool = True,
    ) -> None:
        """Internal: use ``sd.open()``."""
        self._loop = Loop(store, backend, settings, folder=folder, owns_backend=owns_backend)
        self._desk = self._loop.desk
        self._tables = Tables(self._desk)
        self._lookup = Lookup(self._desk, lambda row: Experiment(self, row.id, row=row))
        self._requests = Requests(self._desk, self._lookup, self._loop.runner, backend, self._loop.notices)
        self._grid: DeckGrid | None = None
        self.sweeps = Sweeps(self)
        """The deck's sweeps by name; ``deck.sweeps.frame()`` is one row a sweep."""

    # -- declare -------------------------------------------------------------------------

    def create(
        self,
        name: str,
        command: str | Sequence[Any] | None = None,
        *,
        script: str | None = None,
        task: Any = None,
        flags: Mapping[Any, Any] | None = None,
        nodes: int = 1,
        gpus: int | None = None,
        accelerators: str | Mapping[str, int] | None = None,
        spot: bool | None = None,
        infra: str | None = None,
        resources: Mapping[str, Any] | None = None,
        workdir: Any = None,
        git_ref: str | None = None,
        setup: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        file_mounts: Mapping[str, str] | None = None,
        groups: Sequence[str] = (),
        tags: Sequence[str] = (),
        description: str = "",
        priority: int = 0,
        pool: str | None = None,
        max_restarts: int = 0,
        max_hours: float | None = None,
        max_gpu_hours: float | None = None,
        max_cost: float | None = None,
        start: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> Experiment:
        """Declare one experiment. Nothing runs before it is started.

        Running the cell again applies only what changed in the cell; what was
        edited elsewhere stays and is named, unless ``overwrite=True``.
        ``max_gpu_hours`` and ``max_cost`` (US dollars, an estimate by the backend's
        prices) are the budget of each run, all its attempts together. With
        ``dry_run=True`` it writes nothing and returns a :class:`Plan`.
        """
        said = {
            k: v for k, v in locals().items() if k not in ("self", "name", "flags", "start", "overwrite", "dry_run")
        }
        call = Call(name=name, keywords=said, flags=flags or {}, start=start, overwrite=overwrite)
        declared = self._requests.declare(call, of_sweep=False, dry_run=dry_run)
        if isinstance(declared, Plan):
            return declared  # type: ignore[return-value]
        made, notices = declared
        return Experiment(self, made.rows[0].id, notices=notices)

    def sweep(
        self,
        name: str,
        command: str | Sequence[Any] | None = None,
        *,
        names: str | None = None,
        flags: Mapping[Any, Any] | None = None,
        where: Callable[[Mapping[str, Any]], object] | None = None,
        max_live: int | None = None,
        max_gpu_hours: float | None = None,
        max_cost: float | None = None,
        prune: bool = False,
        script: Any = None,
        task: Any = None,
        nodes: Any = 1,
        gpus: Any = None,
        accelerators: Any = None,
        spot: Any = None,
        infra: Any = None,
        resources: Any = None,
        workdir: Any = None,
        git_ref: Any = None,
        setup: Any = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        file_mounts: Mapping[str, str] | None = None,
        groups: Sequence[str] = (),
        tags: Sequence[str] = (),
        description: Any = "",
        priority: Any = 0,
        pool: Any = None,
        max_restarts: Any = 0,
        max_hours: Any = None,
        start: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> Sweep:
        """Declare an experiment for every point of a grid: a list in ``flags`` or in a resource is an axis.

        Args:
            names: such as ``"ppo-{layers}L-{lr}"``; by default ``<sweep>-<axis><value>…``.
            where: given a point's flags and resources by key, whether to keep it.
            max_live: how many of it may run at once.
            max_gpu_hours, max_cost: the budget of the whole sweep, over every job that it ever
                has; once it is used up, nothing of it runs until the cell says a larger one.
                ``deck.update(sel, max_gpu_hours=…)`` limits each experiment.
            prune: stop and hide the experiments whose values the cell has no more.

        Everything else is as in :meth:`create`.
        """
        own = {"self", "name", "flags", "start", "overwrite", "dry_run"}
        own |= {"own", "names", "where", "max_live", "max_gpu_hours", "max_cost", "prune"}
        said = {k: v for k, v in locals().items() if k not in own}
        call = Call(
            name=name,
            keywords=said,
            flags=flags or {},
            names=names,
            where=where,
            max_live=None if max_live is None else whole(max_live, "max_live", LIVE),
            max_gpu_hours=max_gpu_hours,
            max_cost=max_cost,
            prune=prune,
            start=start,
            overwrite=overwrite,
        )
        declared = self._requests.declare(call, of_sweep=True, dry_run=dry_run)
        if isinstance(declared, Plan):
            return declared  # type: ignore[return-value]
        made, notices = declared
        assert made.sweep is not None
        return Sweep(self, made.sweep.id, notices=notices)

    # -- act -----------------------------------------------------------------------------

    def start(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Run what was stopped or never ran. Skips what is alive, done, or failed (:meth:`retry`)."""
        if isinstance(sel, Sweep):
            return self._start_sweep(sel.id, None, dry_run=dry_run)
        return self._requests.start(sel, "start", dry_run=dry_run)

    def retry(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Run again what failed."""
        return self._requests.start(sel, "retry", dry_run=dry_run)

    def restart(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Run again, whatever it does now; what is alive is cancelled first."""
        return self._requests.start(sel, "restart", dry_run=dry_run)

    def stop(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Have nothing of it run. Once this returns no launch of it is sent any more."""
        return self._requests.act(sel, requesting.stop, dry_run=dry_run)

    def terminate(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Have neither a job nor a cluster of it left."""
        return self._requests.act(sel, requesting.terminate, dry_run=dry_run)

    def update(
        self,
        sel: Selection,
        *,
        flags: Mapping[Any, Any] | None = None,
        unset: str | Sequence[str] = (),
        dry_run: bool = False,
        **spec: Any,
    ) -> Result | Plan:
        """Change flags (merged; ``unset`` removes) and any keyword of :meth:`create`; ``None`` is its default."""
        return self._requests.update(sel, Edit({**spec, "flags": flags}, unset), dry_run=dry_run)

    def rename(self, name: Selection, to: str, *, dry_run: bool = False) -> Result | Plan:
        """Give another name. Its runs, folders and checkpoints stay where they are."""
        return self._requests.rename(name, to, dry_run=dry_run)

    def duplicate(
        self, name: Selection, to: str, *, flags: Mapping[Any, Any] | None = None, dry_run: bool = False
    ) -> Experiment | Plan:
        """Another experiment with the same spec, and these flags besides."""
        copy = self._requests.duplicate(name, to, flags, dry_run=dry_run)
        return copy if isinstance(copy, Plan) else Experiment(self, copy.id)

    def delete(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Stop and hide; :meth:`undelete` brings it back."""
        return self._requests.act(sel, requesting.delete, dry_run=dry_run)

    def undelete(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Bring back what was deleted, stopped."""
        return self._requests.undelete(sel, dry_run=dry_run)

    def purge(self, sel: Selection, *, dry_run: bool = False) -> Result | Plan:
        """Remove the rows of what was deleted, for good."""
        return self._requests.purge(sel, dry_run=dry_run)

    def star(self, sel: Selection, on: bool = True, *, dry_run: bool = False) -> Result | Plan:
        """Put the star on, or take it off."""
        return self._requests.act(sel, lambda rows, _, now: requesting.star(rows, now, on=on), dry_run=dry_run)

    def cancel(self, job_id: int, others: bool = False, *, dry_run: bool = False) -> Result | Plan:
        """Cancel one job; ``others=True`` insists where it is not this deck's."""
        return self._requests.cancel(whole(job_id, "job_id", JOB), others=others, dry_run=dry_run)

    def adopt(self, job_id: int, name: Selection, others: bool = False, *, dry_run: bool = False) -> Result | Plan:
        """Put an orphan under an experiment; ``deck.orphans()`` lists them."""
        return self._requests.adopt(whole(job_id, "job_id", ORPHAN), name, others=others, dry_run=dry_run)

    def forget(self, job_id: int | str, *, dry_run: bool = False) -> Result | Plan:
        """Say that a lost job is gone, or that a launch without an answer (its id in ``deck.attempts()``) made none."""
        if isinstance(job_id, str):
            return self._requests.give_up(job_id, dry_run=dry_run)
        return self._requests.forget(whole(job_id, "job_id", JOB), dry_run=dry_run)

    # -- the loop ------------------------------------------------------------------------

    def plan(self) -> Plan:
        """What the next pass of the loop would do by itself."""
        return self._loop.plan()

    def explain(self, name: Selection) -> Why:
        """Why an experiment is as it is: the rule that decided, its inputs, the age of what was seen."""
        return self._loop.explain(self._requests.one(name))

    def reconcile(self, timeout: float | None = None) -> None:
        """Look at the backend and plan every experiment once, and wait for that."""
        self._loop.runner.reconcile(None if timeout is None else seconds(timeout))

    def refresh(self, timeout: float | None = None) -> None:
        """Look at the backend now, and wait for it; by default for as long as it may take (one or two minutes)."""
        self._loop.runner.refresh(None if timeout is None else seconds(timeout))

    def health(self) -> pd.DataFrame:
        """One row a part of the deck: whether it is well, and what to do where it is not."""
        return self._loop.health()

    def sign_in(self) -> str:
        """Sign in where the backend asks for it."""
        return self._loop.sign_in()

    @property
    def settings(self) -> pd.DataFrame:
        """Each setting with its value and where that came from."""
        return self._loop.settings_frame()

    def on(self, kind: Any, function: Callable[[Any], object]) -> Callable[[], None]:
        """Call a function with every event of a kind, such as ``sd.JobFinished``; the result ends that."""
        return self._loop.callbacks.on(kind, function)

    def logs(self, job_id: int, tail: int | None = 200) -> str:
        """The last lines of a job's output; ``tail=None`` is all. Waits for the backend."""
        lines = None if tail is None else whole(tail, "tail", "how many lines, or None for all")
        return self._loop.logs(whole(job_id, "job_id", JOB), lines)

    def to_code(self, sel: Selection) -> str:
        """The shortest cell that declares the selection."""
        rows = self._lookup.pick(sel).rows
        sweeps = {row.id: row for row in self._sweep_rows()}
        groups: dict[int, list[str]] = {}
        for member, group in self._desk.read(lambda tx: tx.memberships([row.id for row in rows])):
            groups.setdefault(member, []).append(group)
        return to_code(rows, sweeps, groups)

    def detach(self) -> str:
        """Start the background loop and hand it the lease, so that the lid may be closed."""
        return self._loop.detach()

    # -- handles -------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Experiment:
        if not isinstance(name, str):
            raise UnknownExperiment(f"{name!r:.60} is no name: deck['name'] takes one, deck.by_id({name!r:.20}) an id.")
        return Experiment(self, self._requests.one(name).id)

    def by_id(self, id: int) -> Experiment:
        """The experiment of this id, also when it was deleted."""
        number = whole(id, "id", "a number of the column `id` of deck.experiments()")
        self._row(number)
        return Experiment(self, number)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._desk.read(lambda tx: tx.experiments(names=[name])))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        cells = self._desk.read(lambda tx: tx.rows("experiments", ["exp_order", "id", "name", "deleted"]))
        return [name for _, _, name, deleted in sorted(cells) if not deleted]

    def _ipython_key_completions_(self) -> list[str]:
        return self._names()

    # -- analyse -------------------------------------------------------------------------

    def experiments(
        self, sel: Selection = None, flags: bool = True, metrics: bool = False, deleted: bool = False
    ) -> pd.DataFrame:
        """One row an experiment, its flags as columns; ``metrics=True`` adds their last values."""
        ids = (
            None if sel is None else [row.id for row in self._lookup.pick(sel, deleted=None if deleted else False).rows]
        )
        return self._tables.experiments(ids, flags=flags, metrics=metrics, deleted=deleted)

    def jobs(self, sel: Selection = None, live: bool | None = None, all_users: bool = False) -> pd.DataFrame:
        """One row a job; with ``all_users=True`` also the live ones of everybody else.

        The first call asks for those and shows what is known already: :meth:`refresh` waits for them. They are
        looked for while this is called where the deck is led, and for ten minutes more, and hidden then.
        """
        if all_users:
            self._loop.runner.ask_for_everyone()
        return self._tables.jobs(self._lookup.ids(sel), live=live, all_users=all_users)

    def metrics(self, sel: Selection = None, keys: str | Sequence[str] | None = None) -> pd.DataFrame:
        """One row a reading."""
        return self._tables.metrics(self._lookup.ids(sel), [keys] if isinstance(keys, str) else keys)

    def checkpoints(
        self,
        sel: Selection = None,
        epoch: int | None = None,
        latest: bool = False,
        best: str | None = None,
        mode: Literal["max", "min"] = "max",
        flags: bool = False,
    ) -> pd.DataFrame:
        """One row a checkpoint; the ``latest`` of each experiment, or its ``best`` by a metric."""
        ids = self._lookup.ids(sel)
        return self._tables.checkpoints(ids, epoch=epoch, latest=latest, best=best, mode=mode, flags=flags)

    def events(self, sel: Selection = None, since: Any = None) -> pd.DataFrame:
        """One row an event; ``since`` is a sequence, a time, or an age such as ``"1h"``."""
        return self._tables.events(self._lookup.ids(sel), since)

    def diff(self, *sel: Selection) -> pd.DataFrame:
        """What differs between two experiments or more, one row a field."""
        ids = [row.id for one in sel for row in self._lookup.pick(one).rows]
        return self._tables.diff(list(dict.fromkeys(ids)))

    def groups(self) -> pd.DataFrame:
        """One row a group."""
        return self._tables.groups()

    def clusters(self) -> pd.DataFrame:
        """One row a cluster on which something of this deck is alive."""
        return self._tables.clusters()

    def orphans(self, all_users: bool = False) -> pd.DataFrame:
        """One row a job that carries no claim of this deck; ``all_users`` as in :meth:`jobs`."""
        if all_users:
            self._loop.runner.ask_for_everyone()
        return self._tables.orphans(all_users=all_users)

    def attempts(self, sel: Selection = None) -> pd.DataFrame:
        """One row an intent to launch, and what became of it."""
        return self._tables.attempts(self._lookup.ids(sel))

    # -- the grid ------------------------------------------------------------------------

    def grid(self, view: Any = None) -> DeckGrid:
        """The one live grid of this deck; displayed in several cells it is one grid with several views."""
        if view is not None:
            raise InvalidSetting("Views come with the complete grid, which this build has not yet: write deck.grid().")
        if self._grid is None:
            self._grid = self._loop.make_grid(self)
        return self._grid

    @property
    def selected(self) -> pd.DataFrame:
        """What is ticked in the grid, a frame that selects."""
        ids = self._grid.selected if self._grid is not None else ()
        return self._tables.experiments(ids, flags=True, metrics=False, deleted=False)

    def select(self, sel: Selection) -> None:
        """Tick these in the grid, and no others."""
        self.grid().select(row.id for row in self._lookup.pick(sel).rows)

    # -- its life ------------------------------------------------------------------------

    def close(self) -> None:
        """Hand the lease back and close the file. What runs goes on running."""
        grid, self._grid = self._grid, None
        if grid is not None:
            grid.close()
        self._loop.close()

    def __enter__(self) -> Deck:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._loop.headline()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self._loop.closed:
            return {"text/plain": repr(self)}
        bundle = self.grid()._repr_mimebundle_(include=include, exclude=exclude)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/plain": repr(self)}, metadata

    # -- what handles read ---------------------------------------------------------------

    def _row(self, id: int) -> ExperimentRow:
        found = self._desk.read(lambda tx: tx.experiments([id], deleted=None))
        if not found:
            raise UnknownExperiment(f"There is no experiment with the id {id}: deck.experiments() has an `id` column.")
        return found[0]

    def _points(self, sweep_id: int) -> list[ExperimentRow]:
        return self._desk.points(sweep_id)

    def _sweep_rows(self) -> list[SweepRow]:
        return self._desk.read(lambda tx: tx.sweeps())

    def _sweep_row(self, sweep_id: int) -> SweepRow:
        found = self._desk.read(lambda tx: tx.sweeps([sweep_id]))
        if not found:
            raise SkydeckError(f"There is no sweep with the id {sweep_id} any more.")
        return found[0]

    def _start_sweep(self, sweep_id: int, first: int | None, *, dry_run: bool) -> Result | Plan:
        return self._requests.start_sweep(sweep_id, self._points(sweep_id), first, dry_run=dry_run)

    def _groups_of(self, id: int) -> tuple[str, ...]:
        return tuple(name for _, name in self._desk.read(lambda tx: tx.memberships([id])))

    def _newest_job(self, id: int) -> int | None:
        return self._desk.read(lambda tx: max((job.id for job in tx.jobs(experiment_ids=[id])), default=None))

    def _run_name(self, row: ExperimentRow) -> str:
        return self._loop.run_name(row)

    def _task_yaml(self, row: ExperimentRow) -> str:
        return self._loop.task_yaml(row)

    @property
    def _follow_pause(self) -> float:
        """Seconds between two looks at a log that is followed."""
        return self._loop.backend.cadence.follow

    def _wait(self, ids: Sequence[int], *, timeout: float | None, check: bool) -> pd.DataFrame:
        self._loop.wait(ids, timeout=None if timeout is None else seconds(timeout), check=check)
        return self._tables.experiments(ids, flags=True, metrics=False, deleted=True)
