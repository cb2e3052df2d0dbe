"""Where a cell's word meets the machine it was said on: folders, interpreter, git, rows.

Decides what the declaring process lends to a spec, and in which words a
declaration answers. Refuses to decide what a declaration changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skydeck_nb.control import declaring
from skydeck_nb.control.conditions import money
from skydeck_nb.control.declaring import Call, Declared, World
from skydeck_nb.declaration import Surroundings
from skydeck_nb.desk import Draft, work
from skydeck_nb.errors import InvalidCommand, InvalidSetting
from skydeck_nb.models import ExperimentRow, SweepRow
from skydeck_nb.results import sentence
from skydeck_nb.selection import shortened
from skydeck_nb.taskfile import is_git_url

if TYPE_CHECKING:
    from skydeck_nb.backends.base import Backend
    from skydeck_nb.store.transaction import Transaction

GIT_TIMEOUT: Final = 10.0
"""Seconds for one `git rev-parse`: it reads files of this machine only."""


def surroundings(backend: Backend) -> Surroundings:
    """What this process, on this backend, lends to what a cell declares."""
    cwd = str(Path.cwd())
    local = backend.kind == "local"

    def refuse(keyword: str, value: Any) -> None:
        if keyword == "max_cost" and not backend.prices:
            raise InvalidSetting(
                f"max_cost={value!r}: this {backend.kind} backend knows no prices; use max_gpu_hours= or max_hours=."
            )
        if keyword == "task" and local:
            raise InvalidCommand("task= is SkyPilot's, and this deck is local: use command= or script=.")

    return Surroundings(
        cwd=cwd,
        workdir=cwd if local else None,
        interpreter=sys.executable if local else None,
        path=os.environ.get("PATH") if local else None,
        commit=cache(resolve_commit),
        refuse=refuse,
        check=backend.check,
    )


def resolve_commit(ref: str, workdir: str | None) -> str | None:
    """The commit that a git ref means in a folder now; ``None`` for a repository elsewhere, asked at the launch."""
    if workdir is not None and is_git_url(workdir):
        return None
    folder = workdir or str(Path.cwd())
    remedy = f"git_ref={ref!r} is no commit of a git repository in {folder}"
    try:
        found = subprocess.run(
            ["git", "-C", folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise InvalidCommand(
            f"{remedy}, as far as one can see without git: install it, or leave git_ref= out."
        ) from None
    except subprocess.TimeoutExpired:
        raise InvalidCommand(f"{remedy} that answers within {GIT_TIMEOUT:g} s: look at that folder.") from None
    if found.returncode:
        raise InvalidCommand(f"{remedy}: fetch it there, set workdir= to the repository, or write another ref.")
    return found.stdout.strip()


@dataclass(frozen=True, slots=True)
class Declaration:
    """One declaration on a deck, ready to be drafted again and again until it is committed."""

    call: Call
    of_sweep: bool
    around: Surroundings
    now: datetime

    def draft(self, tx: Transaction) -> Draft[Declared]:
        world = world_of(tx, self.call.name, of_sweep=self.of_sweep)
        apply = declaring.sweep if self.of_sweep else declaring.create
        declared = apply(self.call, world, self.around, self.now)
        before = {row.id: row for row in world.rows}
        return Draft(declared.events, declared, ids=before.keys(), names=True, before=before)


def world_of(tx: Transaction, name: str, *, of_sweep: bool) -> World:
    """The rows that a declaration of this name is compared with."""
    sweeps = {row.id: row for row in tx.sweeps()}
    sweep = next((row for row in sweeps.values() if of_sweep and row.name == name), None)
    mine: set[int] = set()
    taken: dict[str, str] = {}
    for number, named, sweep_id, deleted in tx.rows("experiments", ["id", "name", "sweep_id", "deleted"]):
        own = (sweep is not None and sweep_id == sweep.id) if of_sweep else (named == name and sweep_id is None)
        if own:
            mine.add(number)
        elif not deleted:
            owner = sweeps.get(sweep_id)
            taken[named] = f"the sweep {owner.name}" if owner is not None else "an experiment of that name"
    rows = tx.experiments(mine, deleted=None) if mine else []
    return World(
        rows=rows,
        taken=taken,
        sweep=sweep,
        groups=tx.groups(),
        members={(group, member): order for group, member, order in tx.members()},
        work=work(tx, rows),
        next_experiment=tx.next_id("experiments"),
        next_sweep=tx.next_id("sweeps"),
        next_group=tx.next_id("experiment_groups"),
    )


# -- Words ------------------------------------------------------------------------------


def cost(rows: Sequence[ExperimentRow], max_live: int | None, sweeps: Iterable[SweepRow] = ()) -> str:
    """What running these would take: ``8 at once: up to 128 GPUs, at most 640 GPU hours, at most $900``.

    ``sweeps`` are those whose budgets hold some of them.
    """
    gpus = sorted((row.spec.total_gpus for row in rows), reverse=True)
    live = len(gpus) if max_live is None else min(max_live, len(gpus))
    at_once = f"{live:,} at once" if live < len(gpus) else ""
    parts = [at_once] if at_once else []
    if rows and gpus[0]:
        parts = [f"{at_once}{': ' if at_once else ''}up to {sum(gpus[:live]):,} GPUs"]
        hours = _at_most(rows, _gpu_hours, {sweep.id: sweep.max_gpu_hours for sweep in sweeps})
        parts += [f"at most {hours:,.6g} GPU hours"] if hours is not None else []
    dollars = _at_most(rows, lambda row: row.max_cost, {sweep.id: sweep.max_cost for sweep in sweeps})
    parts += [f"at most {money(dollars)}"] if dollars else []
    return ", ".join(parts)


def _at_most(
    rows: Iterable[ExperimentRow],
    of_row: Callable[[ExperimentRow], float | None],
    of_sweep: Mapping[int, float | None],
) -> float | None:
    """What these may use in all, each sweep no more than its budget; ``None``: some of it has no limit."""
    found: dict[int | None, list[float | None]] = {}
    for row in rows:
        found.setdefault(row.sweep_id, []).append(of_row(row))
    in_all = 0.0
    for sweep_id, each in found.items():
        known = [one for one in each if one is not None]
        limits = [sum(known)] if len(known) == len(each) else []
        if sweep_id is not None and (budget := of_sweep.get(sweep_id)) is not None:
            limits.append(budget)
        if not limits:
            return None
        in_all += min(limits)
    return in_all


def _gpu_hours(row: ExperimentRow) -> float | None:
    limits = [limit for limit in (row.max_gpu_hours,) if limit is not None]
    if row.max_hours is not None:
        limits.append(row.max_hours * row.spec.total_gpus)
    return min(limits) if limits else (0.0 if not row.spec.total_gpus else None)


def told(call: Call, declared: Declared, *, of_sweep: bool) -> list[str]:
    """What a declaration did, in sentences: first what counts, then what it left as it was."""
    total = len(declared.rows)
    sweep = declared.sweep
    price = cost(declared.rows, sweep.max_live, [sweep]) if sweep is not None else cost(declared.rows, None)
    price = f"; {price}" if price else ""
    if of_sweep:
        if declared.created == total:
            what = f"{total:,} experiments declared, {declared.started:,} started"
        else:
            parts = [(declared.created, "new"), (declared.changed, "changed"), (declared.pruned, "pruned")]
            words = [f"{count:,} {word}" for count, word in parts if count]
            some = ", ".join([*words, *(["its limits changed"] if declared.limited else [])]) or "nothing changed"
            what = f"{total:,} experiments, {some}" + (f", {declared.started:,} started" if declared.started else "")
        sentences = [f"Sweep {call.name}: {what}{price}."]
    else:
        what = "declared" if declared.created else "changed" if declared.changed else "unchanged"
        what += ", started" if declared.started else ", not started" if declared.created else ""
        sentences = [f"Experiment {call.name}: {what}{price}."]
    for action, head in _LEFT.items():
        named = [outcome for outcome in declared.outcomes if outcome.action == action]
        if len(named) == 1:
            sentences.append(f"{head}: {named[0].name} ({named[0].reason}).")
        elif named:
            reasons = {outcome.reason for outcome in named}
            why = f" ({reasons.pop()})" if len(reasons) == 1 else ""
            sentences.append(f"{head}: {shortened([outcome.name for outcome in named])}{why}.")
    return [sentence(each) for each in sentences]


_LEFT: Final[Mapping[str, str]] = {
    "changed": "Changed",
    "kept": "Edited elsewhere and left so",
    "left": "Left as it is",
    "deleted": "Left deleted",
    "left over": "Left over",
    "pruned": "Pruned",
}
