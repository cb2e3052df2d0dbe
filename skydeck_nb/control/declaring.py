"""What a ``create`` or ``sweep`` call says, to the rows that are to stand.

Decides which experiments a call makes, changes and leaves alone: the three-way
apply of ``kubectl``, over the points of a sweep. Refuses to know the database,
the backend and clocks, and never launches: it hands back requests, and in words
what it left as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from skydeck_nb import codec
from skydeck_nb.control import requesting
from skydeck_nb.control.editing import applies, edited
from skydeck_nb.control.grouping import Membership
from skydeck_nb.control.requesting import Outcome, Work, check_name
from skydeck_nb.declaration import (
    BUDGETS,
    LENT,
    LOOSE,
    Said,
    Surroundings,
    agreed,
    budget,
    differences,
    loose_of,
    merge,
    of_row,
    plain,
    said,
    spec_of,
)
from skydeck_nb.errors import InvalidSetting, NameTaken
from skydeck_nb.events import Change, Event, SpecChanged, SweepChanged
from skydeck_nb.flags import grid
from skydeck_nb.flags.command import validate
from skydeck_nb.flags.grid import Existing, Point
from skydeck_nb.flags.values import canonical, spec_hash
from skydeck_nb.models import ExperimentRow, FlagValue, GroupRow, SweepRow
from skydeck_nb.selection import shortened

NAMED: Final = "$name"
"""Where a row's ``declared`` keeps the name that its cell gave it: one renamed since keeps its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: what it says, and how it wants it applied."""

    name: str
    keywords: Mapping[str, Any]
    flags: Mapping[Any, Any]
    start: bool = False
    overwrite: bool = False
    # of a sweep alone
    names: str | None = None
    where: Any = None
    max_live: int | None = None
    max_gpu_hours: float | None = None
    max_cost: float | None = None
    prune: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The rows a declaration is compared with, and the ids that new rows will carry."""

    rows: Sequence[ExperimentRow] = ()
    """Of this sweep or of this name; deleted ones too."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """The names of all other experiments that are not deleted, and whose they are."""
    sweep: SweepRow | None = None
    groups: Sequence[GroupRow] = ()
    members: Mapping[tuple[int, int], float] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    next_experiment: int = 1
    next_sweep: int = 1
    next_group: int = 1


@dataclass(slots=True)
class Declared:
    """What a declaration does. ``left`` are in words the experiments that stand otherwise than the cell says."""

    events: list[Event] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    """One for each experiment that is not simply unchanged."""
    rows: list[ExperimentRow] = field(default_factory=list)
    """As they are to stand, in the order of the points."""
    points: Sequence[Point] = ()
    sweep: SweepRow | None = None
    """As it is to stand, where the call declares one."""
    limited: bool = False
    """Whether the limits of a sweep that was there are others now."""
    created: int = 0
    started: int = 0
    changed: int = 0
    pruned: int = 0

    def say(self, row: ExperimentRow, action: str, reason: str) -> None:
        self.outcomes.append(Outcome(row.id, row.name, action, reason))

    def named(self, action: str) -> list[str]:
        return [outcome.name for outcome in self.outcomes if outcome.action == action]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """One experiment as the call says it, with the one that it is already."""

    name: str
    said: Said
    coordinates: Mapping[str, FlagValue] = field(default_factory=dict)
    row: ExperimentRow | None = None
    rename: bool = False


# -- One experiment ---------------------------------------------------------------------


def create(call: Call, world: World, around: Surroundings, now: datetime) -> Declared:
    """One experiment by its name: a new one, or what changed in its cell."""
    check_name(call.name)
    if call.name in world.taken:
        raise NameTaken(f"{call.name!r} belongs to {world.taken[call.name]}: take another name.")
    words = said({**call.keywords, "flags": call.flags}, around)
    live = [row for row in world.rows if not row.deleted]
    row = max(live or world.rows, key=lambda row: row.id, default=None)
    if row is not None and row.deleted and not row.declared:
        row = None
    declared = Declared()
    _apply(declared, [_Point(name=call.name, said=words, row=row)], call, world, around, now, sweep_id=None)
    return declared


# -- A sweep ----------------------------------------------------------------------------


def sweep(call: Call, world: World, around: Surroundings, now: datetime) -> Declared:
    """The experiments of a sweep: new points, changed ones, and those that no point has any more."""
    check_name(call.name)
    if call.max_live is not None and (isinstance(call.max_live, bool) or call.max_live < 1):
        raise InvalidSetting(f"max_live={call.max_live!r}: write how many may run at once, 1 or more, or None.")
    call = replace(
        call,
        max_gpu_hours=budget("max_gpu_hours", call.max_gpu_hours, around),
        max_cost=budget("max_cost", call.max_cost, around),
    )
    given = {keyword: value for keyword, value in call.keywords.items() if value is not None}
    points = grid.points(call.flags, given, call.where)
    declared = Declared(points=points)
    everything = _said_of_points(points, given, around)
    existing = [
        Existing(
            id=row.id,
            spec_hash=_mark(row.declared),
            coordinates=row.coordinates,
            values={**row.declared, **row.declared.get("flags", {})},
        )
        for row in world.rows
    ]
    matching = grid.match(points, [_mark(words) for words in everything], existing)
    by_id = {row.id: row for row in world.rows}
    made = grid.names(call.names, call.name, points)
    before = world.sweep.definition.get("names") if world.sweep is not None else None
    rename = call.names is not None and world.sweep is not None and call.names != before
    if not points[0].coordinates and call.names is None:
        made = (call.name,)
    wanted = [
        _Point(
            name=name,
            said=words,
            coordinates=point.coordinates,
            row=by_id[known] if known is not None else None,
            rename=rename,
        )
        for name, words, point, known in zip(made, everything, points, matching.ids, strict=True)
    ]
    left = [by_id[number] for number in matching.left if not by_id[number].deleted]
    sweep_id = world.sweep.id if world.sweep is not None else world.next_sweep
    _declare_sweep(declared, call, points, world, sweep_id, now)
    if call.prune:
        events, _ = requesting.delete(left, world.work, now)
        declared.events += events
        declared.pruned = len(left)
        for row in left:
            declared.say(row, "pruned", "no point of the sweep any more: stopped and hidden")
    kept = {row.name: "a point of this sweep that the cell has no more" for row in ([] if call.prune else left)}
    world = replace(world, taken={**world.taken, **kept})
    _apply(declared, wanted, call, world, around, now, sweep_id=sweep_id)
    if not call.prune:
        for row in left:
            declared.say(row, "left over", "no point of the sweep any more; prune=True stops and hides it")
    return declared


def _said_of_points(points: Sequence[Point], given: Mapping[str, Any], around: Surroundings) -> list[Said]:
    axes = [keyword for keyword in points[0].coordinates if keyword in given]
    base = plain({keyword: value for keyword, value in points[0].resources.items() if keyword not in axes}, around)
    if not axes:
        base = agreed(base)
    everything: list[Said] = []
    for point in points:
        own = plain({keyword: point.resources[keyword] for keyword in axes}, around)
        words = agreed({**base, **own}) if axes else dict(base)
        if point.flags:
            words["flags"] = dict(point.flags)
        everything.append(words)
    return everything


def _mark(words: Mapping[str, Any]) -> str:
    """What tells points apart: all that a cell says of what is executed."""
    return canonical(
        {keyword: value for keyword, value in words.items() if keyword not in LOOSE and keyword not in (LENT, NAMED)}
    )


def _declare_sweep(
    declared: Declared, call: Call, points: Sequence[Point], world: World, sweep_id: int, now: datetime
) -> None:
    axes: dict[str, list[Any]] = {}
    seen: dict[str, set[str]] = {}
    for point in points:
        for key, value in point.coordinates.items():
            mark = canonical(value)
            if mark not in seen.setdefault(key, set()):
                seen[key].add(mark)
                axes.setdefault(key, []).append(value)
    definition = {
        "axes": axes,
        "names": call.names,
        "max_live": call.max_live,
        "points": len(points),
        "where": call.where is not None,
        **{keyword: said for keyword in BUDGETS if (said := getattr(call, keyword)) is not None},
    }
    old = world.sweep
    limits = {keyword: getattr(call, keyword) for keyword in ("max_live", *BUDGETS)}
    if old is None:
        row = SweepRow(id=sweep_id, name=call.name, definition=definition, created_at=now, updated_at=now, **limits)
        change: Change | None = codec.insert(row)
    else:
        said_now = {k: v for k, v in limits.items() if call.overwrite or old.definition.get(k) != v}
        row = replace(old, definition=definition, **said_now)
        same = canonical(dict(old.definition)) == canonical(definition) and row == replace(old, definition=definition)
        change = None if same else codec.update(old, replace(row, updated_at=now))
    declared.sweep, declared.limited = row, old is not None and any(getattr(old, k) != getattr(row, k) for k in limits)
    if change is not None:
        what = "declared" if old is None else "changed"
        declared.events.append(SweepChanged(at=now, sweep_id=sweep_id, what=what, changes=(change,)))


# -- What both share --------------------------------------------------------------------


def _apply(
    declared: Declared,
    wanted: Sequence[_Point],
    call: Call,
    world: World,
    around: Surroundings,
    now: datetime,
    sweep_id: int | None,
) -> None:
    groups = Membership(world.groups, world.members, world.next_group, now)
    around = _remembering(around, world.rows, call)
    owned = {row.name for row in world.rows if not row.deleted and row.name not in world.taken}
    stand: dict[int, ExperimentRow] = {}
    for place in _in_order(wanted, owned, world.taken):
        stand[place] = _stand(declared, wanted[place], call, world, around, groups, now)
    taken = owned | {row.name for row in stand.values() if not row.deleted}
    number = world.next_experiment
    for place, point in enumerate(wanted):
        if point.row is not None:
            continue
        _free(point.name, taken, world.taken)
        row = _new(point, number, around, sweep_id, now)
        number += 1
        declared.events.append(_spec_changed(row, now, codec.insert(row)))
        groups.put(row.id, point.said.get("groups", ()))
        declared.created += 1
        declared.say(row, "created", "declared" if not call.start else "declared and started")
        if call.start:
            declared.events += requesting.start([row], Work(), now).events
            row = replace(row, run=1, desired_state="RUNNING", wanted_at=now)
            declared.started += 1
        stand[place] = row
    declared.events += groups.events()
    declared.rows = [stand[place] for place in range(len(wanted))]


def _free(name: str, taken: Collection[str], others: Mapping[str, str]) -> None:
    if name in others or name in taken:
        whose = others.get(name, "another point of this sweep")
        raise NameTaken(f"{name!r} belongs to {whose}: choose another name, or rename or delete that one first.")


def _in_order(wanted: Sequence[_Point], owned: set[str], others: Mapping[str, str]) -> list[int]:
    """The places of the points that exist, each rename after the one that frees its name; ``owned`` follows."""
    places = [place for place, point in enumerate(wanted) if point.row is not None and not _moves(point)]
    moving = [place for place, point in enumerate(wanted) if _moves(point)]
    while moving:
        ready = [place for place in moving if wanted[place].name not in owned and wanted[place].name not in others]
        if not ready:
            _free(wanted[moving[0]].name, owned, others)
        for place in ready[:1]:
            row = wanted[place].row
            owned.discard(row.name if row is not None else "")
            owned.add(wanted[place].name)
            places.append(place)
            moving.remove(place)
    return places


def _moves(point: _Point) -> bool:
    """Whether the cell's template gives this experiment another name; one renamed elsewhere keeps its own."""
    row = point.row
    if row is None or row.deleted or not point.rename or row.name == point.name:
        return False
    return bool(row.name == row.declared.get(NAMED, row.name))


def _new(point: _Point, number: int, around: Surroundings, sweep_id: int | None, now: datetime) -> ExperimentRow:
    spec = spec_of(point.said, around)
    validate(spec, point.name)
    around.check(spec)
    return ExperimentRow(
        id=number,
        name=point.name,
        spec=spec,
        spec_hash=spec_hash(spec),
        sweep_id=sweep_id,
        coordinates=point.coordinates,
        declared=_as_declared(point, around.workdir),
        exp_order=float(number),
        created_at=now,
        updated_at=now,
        **loose_of(point.said),
    )


def _as_declared(point: _Point, lent: str | None) -> dict[str, Any]:
    words: dict[str, Any] = {**point.said, NAMED: point.name}
    if lent is not None and "workdir" not in point.said:
        words[LENT] = lent
    return words


def _stand(
    declared: Declared,
    point: _Point,
    call: Call,
    world: World,
    around: Surroundings,
    groups: Membership,
    now: datetime,
) -> ExperimentRow:
    """What is to stand of an experiment that exists, with its event and its words."""
    row = point.row
    assert row is not None
    if row.deleted:
        declared.say(row, "deleted", f"stays deleted; deck.undelete({row.name!r}) brings it back")
        return row
    stands = of_row(row, groups.of(row.id))
    before = {keyword: value for keyword, value in row.declared.items() if keyword not in (LENT, NAMED)}
    merged = merge(before, point.said, stands, overwrite=call.overwrite)
    after = row
    if merged.said is stands and not _moves(point) and canonical(point.coordinates) == canonical(row.coordinates):
        _speak(declared, call, world.work, row, row, (), ())
        return row
    changes = [] if merged.said is stands else differences(stands, merged.said)
    if changes or call.overwrite:
        after = edited(row, agreed(merged.said), around, anew=call.overwrite)
        groups.put(row.id, merged.said.get("groups", ()))
    lent = around.workdir if call.overwrite else row.declared.get(LENT)
    after = replace(after, declared=_as_declared(point, lent), coordinates=point.coordinates)
    if _moves(point):
        after = replace(after, name=point.name)
        changes.append(f"renamed from {row.name}")
    elif row.name != point.name and row.declared.get(NAMED) is not None:
        after = replace(after, declared={**after.declared, NAMED: row.declared[NAMED]})
    change = codec.update(row, after)
    if change is not None:
        after = replace(after, updated_at=now)
        change = codec.update(row, after)
        assert change is not None
        declared.events.append(_spec_changed(after, now, change))
    _speak(declared, call, world.work, row, after, changes, merged.kept)
    return after


def _speak(
    declared: Declared,
    call: Call,
    work: Work,
    row: ExperimentRow,
    after: ExperimentRow,
    changes: Sequence[str],
    kept: Sequence[str],
) -> None:
    at = requesting.phase(row, work)
    stays = {
        "stopped": "stopped: start runs it again",
        "new": "never started: start=True concerns what a call creates, start runs it" if call.start else "",
    }.get(at, "")
    if changes:
        carried = after.generation != row.generation or after.max_hours != row.max_hours  # by the job itself
        when = applies(row, work) if carried else "at once"
        declared.changed += 1
        declared.say(after, "changed", f"{shortened(changes, 3)}; applies {when}")
    if kept:
        declared.say(after, "kept", f"edited elsewhere: {shortened(kept, 3)}; overwrite=True takes the cell's")
    if stays:
        declared.say(after, "left", stays)


def _spec_changed(row: ExperimentRow, now: datetime, change: Change, what: str = "declared") -> Event:
    return SpecChanged(at=now, experiment_id=row.id, what=what, generation=row.generation, changes=(change,))


def _remembering(around: Surroundings, rows: Sequence[ExperimentRow], call: Call) -> Surroundings:
    """A sweep runs one commit: points that a later cell adds take the one that its first points were pinned to."""
    if call.overwrite:
        return around
    known = {(row.spec.git_ref, row.spec.workdir): row.spec.git_commit for row in rows if row.spec.git_ref}
    resolve = around.commit
    return replace(around, commit=lambda ref, workdir: known.get((ref, workdir)) or resolve(ref, workdir))
