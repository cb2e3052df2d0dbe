"""``skydeck ls`` and ``skydeck status``: a deck as a table and as JSON.

Decides which facts of an experiment and of a deck are shown. Refuses to write,
and to import pandas: a table in a terminal should not cost a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from skydeck_nb import background, states
from skydeck_nb.cli.asking import pick
from skydeck_nb.cli.place import Deck, Leader
from skydeck_nb.cli.printing import counted, note, show, show_json, span, table
from skydeck_nb.errors import SkydeckError
from skydeck_nb.events import micros, moment

if TYPE_CHECKING:
    from skydeck_nb.models import ExperimentRow
    from skydeck_nb.store import Transaction

HEADS = ("EXPERIMENT", "STATE", "REASON", "RUNTIME", "GPUS", "RESTARTS", "AGE", "MESSAGE")
RIGHT = ("RUNTIME", "GPUS", "RESTARTS", "AGE")


def ls(deck: Deck, names: Sequence[str], *, as_json: bool) -> None:
    """Experiments, one a line, in the deck's order; those that need a person have a ``!``."""
    now = datetime.now(UTC)
    with deck.store() as store, store.read() as tx:
        rows = pick(tx, names) if names else tx.experiments()
        facts = experiments(tx, sorted(rows, key=lambda row: (row.exp_order, row.id)), now)
    if as_json:
        show_json(facts)
    elif facts:
        show(table(HEADS, map(_line, facts), right=RIGHT))
    else:
        note("No experiments." if names else "No experiments are declared in this deck.")


def _line(fact: Mapping[str, Any]) -> tuple[object, ...]:
    gpus = fact["accelerators"] or fact["gpus"] or ""
    return (
        fact["experiment"],
        f"{fact['state']}{'!' if fact['attention'] else ''}",
        fact["reason"],
        span(fact["runtime"]),
        f"{fact['nodes']}x{gpus}" if gpus and fact["nodes"] > 1 else gpus,
        fact["restarts"] or "",
        span(fact["age"]),
        fact["message"],
    )


def experiments(tx: Transaction, rows: Sequence[ExperimentRow], now: datetime) -> list[dict[str, Any]]:
    """The facts of experiments, by the names that the frame of ``deck.experiments()`` gives them."""
    ids = [row.id for row in rows]
    totals = {cells[0]: cells for cells in tx.job_totals(micros(now), ids)}
    epochs: dict[int, int] = dict(tx.epochs(ids))
    groups: dict[int, list[str]] = {}
    for id_, group in tx.memberships(ids):
        groups.setdefault(id_, []).append(group)
    sweeps = {sweep.id: sweep.name for sweep in tx.sweeps()}
    return [
        {
            "experiment": row.name,
            "id": row.id,
            "state": shown(row),
            "desired": row.desired_state,
            "reason": row.reason,
            "message": row.message,
            "attention": row.attention,
            "starred": row.starred,
            "groups": groups.get(row.id, []),
            "sweep": sweeps.get(row.sweep_id) if row.sweep_id is not None else None,
            "run": row.run,
            "job_id": row.current_job_id,
            "epoch": epochs.get(row.id),
            **_of_jobs(totals.get(row.id), now),
            "nodes": row.spec.nodes,
            "gpus": row.spec.gpus,
            "accelerators": row.spec.accelerators,
            "spot": row.spec.spot,
            "git_commit": row.spec.git_commit,
            "created_at": row.created_at,
            "age": now - row.created_at,
            "tags": list(row.tags),
            "flags": dict(row.spec.flags),
        }
        for row in rows
    ]


def _of_jobs(cells: Sequence[Any] | None, now: datetime) -> dict[str, Any]:
    """What an experiment's jobs add up to; the last or present one's times."""
    nothing = (0, 0, 0, 0, None, 0, None, None, None)
    _, jobs, launched, recoveries, gpu_us, alive, started, ended, cost_us = cells or nothing
    start = moment(started) if started is not None else None
    end = moment(ended) if ended is not None else None
    until = now if alive and end is None else end
    return {
        "jobs": jobs,
        "restarts": max((launched or 0) - 1, 0),
        "recoveries": recoveries or 0,
        "started_at": start,
        "ended_at": end,
        "runtime": max(until - start, timedelta()) if start and until else None,
        "gpu_hours": gpu_us / 3.6e9 if gpu_us is not None else None if jobs else 0.0,
        "cost": cost_us / 3.6e9 if cost_us is not None else None if jobs else 0.0,
    }


def shown(row: ExperimentRow) -> str:
    """The state that people see."""
    return states.shown(row.desired_state, row.run, row.observed_run, row.current_state)


def alive(tx: Transaction) -> int:
    """How many experiments have a run that lives, or a launch without an answer."""
    ids = {job.experiment_id for job in tx.jobs(alive=True) if job.experiment_id is not None}
    return len(ids | {attempt.experiment_id for attempt in tx.attempts(open=True)})


# -- status -----------------------------------------------------------------------------


def status(deck: Deck, *, as_json: bool) -> None:
    """What a person asks first: which deck, who leads, how old is what is shown, does the background loop run."""
    facts: dict[str, Any] = {"database": str(deck.path), "backend": None, "error": None}
    facts |= {**Leader(None).facts(), "experiments": {}, "attention": 0, "alive": 0}
    if deck.there:
        try:
            with deck.store() as store:
                facts["backend"] = store.identity()
                with store.read() as tx:
                    facts |= _of_deck(tx)
        except SkydeckError as error:
            facts["error"] = str(error)
    loop = background.find(place := background.Place.of(deck.settings)) if deck.settings.backend != "fake" else None
    facts["loop"] = {
        "running": loop is not None,
        "pid": loop.pid if loop else None,
        "host": loop.host if loop else None,
        "since": loop.since if loop else None,
        "leads": loop is not None and loop.pid is not None and loop.pid == facts["pid"],
        "log": str(place.log) if deck.settings.backend != "fake" else None,
    }
    if as_json:
        show_json(facts)
    else:
        lines = list(_said(deck, facts))
        width = max(len(key) for key, _ in lines)
        show(f"{key.ljust(width)}  {value}" for key, value in lines)


def _of_deck(tx: Transaction) -> dict[str, Any]:
    rows = tx.experiments()
    counts = Counter(shown(row) for row in rows)
    return {
        **Leader.of(tx).facts(),
        "experiments": {state: counts[state] for state in states.STATES if counts[state]},
        "attention": sum(row.attention for row in rows),
        "alive": alive(tx),
    }


def _said(deck: Deck, facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    now = datetime.now(UTC)
    yield "database", f"{facts['database']}{'' if deck.there else ' (not made yet)'}"
    if facts["error"]:
        yield "error", facts["error"]
    if (backend := facts["backend"]) is not None:
        scope = f" as {backend['scope']}" if backend.get("scope") else ""
        yield "backend", f"{backend['kind']} on {backend['place']}{scope}"
    else:
        yield "backend", deck.settings.backend
    if facts["leader"]:
        which = " (the background loop)" if facts["loop"]["leads"] else ""
        yield "leader", f"{facts['leader']}, term {facts['term']}{which}"
    else:
        yield "leader", f"nobody: nothing is launched, stopped or watched. `{deck.command('start')}` leads it"
    seen = facts["listed_at"]
    yield "listing", f"{span(now - seen)} old" if seen else "none under the present leader"
    total = sum(facts["experiments"].values())
    yield (
        "experiments",
        ": ".join(
            filter(None, [f"{total:,}", ", ".join(f"{n:,} {state}" for state, n in facts["experiments"].items())])
        ),
    )
    if facts["attention"]:
        yield (
            "attention",
            f"{counted(facts['attention'], 'experiment')} wait for a person: skydeck ls marks them with !",
        )
    yield "alive", counted(facts["alive"], "run")
    loop = facts["loop"]
    if loop["running"]:
        since = f", up {span(now - loop['since'])}" if loop["since"] else ""
        yield "loop", f"runs on {loop['host']}, pid {loop['pid'] or 'unknown'}{since}"
    else:
        yield "loop", "does not run in the background"
    if loop["log"]:
        yield "log", loop["log"]
