"""Who may be launched now, over all experiments of a deck.

Decides the order of the queue, what each limit lets through, and when a sweep's
brake holds the rest. Refuses to know why a candidate is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One limit and whom it concerns: the deck or the server (``members is None``), a group or a sweep."""

    name: str
    max_live: int | None = None
    max_gpus: int | None = None
    max_launches: int | None = None
    """How many launches may be under way at once."""
    members: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An experiment that would be launched now, and what decides its place in the queue."""

    experiment_id: int
    gpus: int = 0
    priority: int = 0
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    admitted: frozenset[int]
    waits: Mapping[int, str] = field(default_factory=dict)
    """Why each of the others waits, in words."""
    hopeless: Mapping[int, str] = field(default_factory=dict)
    """Why some can never be admitted as things are: they hold nobody back."""


def admit(
    candidates: Iterable[Candidate],
    live: Mapping[int, int],
    scopes: Sequence[Scope],
    launching: Collection[int] = (),
) -> Admission:
    """Who may be launched now, by priority, then age, then id.

    ``live`` maps the experiments that hold a job or an unanswered launch to
    their GPUs, ``launching`` are those whose launch is under way. One that does
    not fit does not hold back smaller ones of other scopes, but keeps its place
    within each limit that it waits for: nothing behind it may use that limit up.
    """
    count = [sum(1 for e in live if s.members is None or e in s.members) for s in scopes]
    gpus = [sum(g for e, g in live.items() if s.members is None or e in s.members) for s in scopes]
    launches = [sum(1 for e in launching if s.members is None or e in s.members) for s in scopes]
    full = [False] * len(scopes)
    admitted: set[int] = set()
    waits: dict[int, str] = {}
    hopeless: dict[int, str] = {}
    for candidate in sorted(candidates, key=lambda c: (-c.priority, c.since, c.experiment_id)):
        mine = [i for i, s in enumerate(scopes) if s.members is None or candidate.experiment_id in s.members]
        why = never = ""
        for i in mine:
            scope = scopes[i]
            if scope.max_live is not None and (full[i] or count[i] >= scope.max_live):
                why = f"{scope.name} runs {scope.max_live} at once"
            elif scope.max_gpus is not None and candidate.gpus > scope.max_gpus:
                never = f"it needs {candidate.gpus} GPUs, and {scope.name} may use {scope.max_gpus} at once"
                break
            elif (
                scope.max_gpus is not None and candidate.gpus and (full[i] or gpus[i] + candidate.gpus > scope.max_gpus)
            ):
                why = f"{scope.name} uses at most {scope.max_gpus} GPUs at once"
            elif scope.max_launches is not None and (full[i] or launches[i] >= scope.max_launches):
                some = "one launch" if scope.max_launches == 1 else f"{scope.max_launches} launches"
                why = f"{scope.name} takes {some} at once"
            if why:
                full[i] = True
                break
        if never:
            hopeless[candidate.experiment_id] = never
            continue
        if why:
            waits[candidate.experiment_id] = why
            continue
        admitted.add(candidate.experiment_id)
        for i in mine:
            count[i] += 1
            gpus[i] += candidate.gpus
            launches[i] += 1
    return Admission(admitted=frozenset(admitted), waits=waits, hopeless=hopeless)


BRAKE_AFTER: Final = 3
"""This many first runs of a sweep, all failed, hold the rest: a typo should not cost 500 launches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one member's present run ended, when no restart follows."""

    ended_at: datetime
    experiment_id: int
    failed: bool
    error: str = ""


def brake(ended: Iterable[Ended]) -> tuple[str, str] | None:
    """``("HELD", why)`` or ``("PASSED", "")`` once the first three runs have ended, else ``None``."""
    first = sorted(ended, key=lambda e: (e.ended_at, e.experiment_id))[:BRAKE_AFTER]
    if any(not e.failed for e in first):
        return "PASSED", ""
    if len(first) < BRAKE_AFTER:
        return None
    said = first[-1].error.rstrip(".")
    return "HELD", f"its first {BRAKE_AFTER} runs to end have all failed" + (f" ({said})." if said else ".")
