"""``skydeck start | stop | restart NAME…``: requests, written whatever the kernel does.

Decides which experiments names and globs mean here, and what is said where nobody
is there to act. Refuses to act: what is asked for is a row in the database, which
whoever leads takes up within a moment.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from skydeck_nb import background
from skydeck_nb.cli.place import Deck, Leader
from skydeck_nb.cli.printing import note, plain, say, show, table
from skydeck_nb.errors import UnknownExperiment

if TYPE_CHECKING:
    from skydeck_nb.control.requesting import Outcome, Prepared, Work
    from skydeck_nb.models import ExperimentRow
    from skydeck_nb.store import Transaction

Verb = Literal["start", "stop", "restart"]


class _NoLoop:
    """Stands for the loop that a command has not: the one that leads sees the commit by itself."""

    def wake(self, ids: Iterable[int] | None = None) -> None: ...


def ask(deck: Deck, verb: Verb, names: Sequence[str]) -> None:
    """Write one request for all experiments that are named, or raise and write none."""
    with deck.store(read_only=False) as store:
        with background.without_pandas():
            from skydeck_nb.desk import Desk, Draft, ordered, work
        for text in store.notices:
            note(f"Note: {text}")
        with store.read() as tx:
            ids = [row.id for row in ordered(pick(tx, names))]
        word = _word(verb)

        def prepare(tx: Transaction) -> Draft[list[Outcome]]:
            by_id = {row.id: row for row in tx.experiments(ids, deleted=None)}
            rows = [by_id[i] for i in ids if i in by_id]
            events, outcomes = word(rows, work(tx, rows), datetime.now(UTC))
            return Draft(events, outcomes, ids=ids, before=by_id)

        outcomes = Desk(store, cast("Any", _NoLoop())).commit(prepare)
        with store.read() as tx:
            leader = Leader.of(tx)
            asked = [row for row in tx.experiments(ids) if row.id in _changed(outcomes)]
    show(table(("EXPERIMENT", "DID", "WHY"), [(o.name, o.action, o.reason) for o in outcomes]) if outcomes else [])
    say(_summary(outcomes) + (_gpus(asked) if verb != "stop" else ""))
    if leader.who is None and asked:
        note(_nobody(deck, verb, len(asked)))


def _word(verb: Verb) -> Callable[[Sequence[ExperimentRow], Work, datetime], Prepared]:
    from skydeck_nb.control import requesting

    if verb == "stop":
        return lambda rows, known, now: requesting.stop(rows, known, now, reason="skydeck stop")
    return lambda rows, known, now: requesting.start(rows, known, now, how=verb)


def _changed(outcomes: Iterable[Outcome]) -> set[int]:
    return {outcome.experiment_id for outcome in outcomes if outcome.action != "skipped"}


def _summary(outcomes: Iterable[Outcome]) -> str:
    counts = Counter(outcome.action for outcome in outcomes)
    said = ", ".join(f"{n:,} {action}" for action, n in sorted(counts.items(), key=lambda each: each[0] == "skipped"))
    return f"{said}." if said else "Nothing to do."


def _gpus(rows: Sequence[ExperimentRow]) -> str:
    gpus = sum(row.spec.total_gpus for row in rows)
    return f" That is up to {gpus:,} GPUs." if gpus else ""


def _nobody(deck: Deck, verb: Verb, number: int) -> str:
    start = deck.command("start")
    if verb == "stop":
        return (
            f"Nobody leads this deck: what runs goes on until a deck opens or the background loop runs, "
            f"which {'stops it' if number == 1 else 'stops them'} first. Start the loop: {start}"
        )
    return f"Nobody leads this deck: nothing happens until a deck opens or the background loop runs. Start it: {start}"


# -- names ------------------------------------------------------------------------------


def pick(tx: Transaction, names: Sequence[str]) -> list[ExperimentRow]:
    """The experiments of these names and globs (``*`` and ``?``), each once.

    Raises:
        UnknownExperiment: a literal name that is none of them.
    """
    globs = [name for name in names if _is_glob(name)]
    rows = tx.experiments() if globs else tx.experiments(names=names)
    chosen: dict[int, ExperimentRow] = {}
    for name in names:
        pattern = _pattern(name)
        found = [row for row in rows if pattern.fullmatch(row.name)]
        if not found and name in globs:
            note(f"{name!r} matches none of {len(rows):,} experiments.")
        elif not found:
            raise UnknownExperiment(_unknown(tx, name))
        chosen |= {row.id: row for row in found}
    return list(chosen.values())


def _is_glob(name: str) -> bool:
    return "*" in name or "?" in name


def _pattern(name: str) -> re.Pattern[str]:
    if not _is_glob(name):
        return re.compile(re.escape(name))
    return re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in name))


def _unknown(tx: Transaction, name: str) -> str:
    names: Collection[str] = {row[0] for row in tx.rows("experiments", ["name"], "deleted = 0")}
    sweep = next((sweep for sweep in tx.sweeps() if sweep.name == name), None)
    if sweep is not None:
        points = [row[0] for row in tx.rows("experiments", ["name"], "sweep_id = ? AND deleted = 0", [sweep.id])]
        which = f"such as {points[0]!r}" if points else "of which there are none"
        return f"{name!r} is a sweep, not an experiment: name its experiments, {which}; a glob takes many."
    if tx.rows("experiments", ["id"], "name = ? AND deleted = 1", [name]):
        return f"{name!r} is deleted: deck.undelete({name!r}) in a notebook brings it back."
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "`skydeck ls` lists them."
    return f"There is no experiment {plain(name)!r}. {remedy}"
