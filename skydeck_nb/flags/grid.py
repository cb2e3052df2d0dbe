"""A sweep definition to its points, their names, and the experiments they already are.

Decides what an axis is, which points a definition has and in which order, what each is called,
and which existing experiment a point is. Refuses to know commands, stores and what a point does.

An axis is a list, tuple, range, 1-d numpy array or pandas Series, in ``flags`` or as a resource
(``nodes=[1, 4]``). Points come in the order of nested loops as the axes are written, flags first,
then resources: the last axis advances fastest. :func:`zipped` axes advance together, at the place of
the first of them; a :func:`fixed` list is a value.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

from skydeck_nb.errors import InvalidFlag, InvalidName
from skydeck_nb.flags.values import (
    Fixed,
    bare_key,
    canonical,
    flatten,
    format_value,
    items_of,
    normalise_value,
    suggest,
    unique,
)
from skydeck_nb.models import FlagValue

__all__ = [
    "Existing", "Fixed", "Matching", "Point", "Summary", "Zipped",
    "fixed", "match", "names", "points", "summary", "zipped",
]  # fmt: skip

MAX_POINTS: Final = 100_000

LISTS: Final = frozenset({"command", "secrets", "groups", "tags"})
"""Keywords whose value is a list by itself: never an axis."""

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")


# What users write


def fixed(value: Any) -> Fixed:
    """A list that is one value of a flag and not an axis: ``flags={"layers": sd.fixed([64, 64])}``."""
    return Fixed(value)


@dataclass(frozen=True, slots=True, eq=False)
class Tied:
    """One axis of a :class:`Zipped`."""

    key: str
    values: tuple[Any, ...]
    group: Zipped


class Zipped(Mapping[str, Tied]):
    """Axes that advance together; a mapping, so that it goes where flags or keywords go."""

    def __init__(self, axes: Mapping[str, Any]) -> None:
        self._axes: dict[str, Tied] = {}
        if not axes:
            raise InvalidFlag("zipped() ties nothing: name its axes, as in zipped(lr=[1e-3, 1e-4], layers=[1, 4]).")
        for key, value in axes.items():
            items = items_of(value)
            if items is None:
                raise InvalidFlag(f"zipped axis {key!r}: {value!r:.60} is no list; write [value, …].")
            self._axes[key] = Tied(key, tuple(items), self)
        lengths = {key: len(axis.values) for key, axis in self._axes.items()}
        if len(set(lengths.values())) > 1:
            counted = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            raise InvalidFlag(f"zipped axes differ in length: {counted}; each needs one value for every point.")

    def __getitem__(self, key: str) -> Tied:
        return self._axes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    def __repr__(self) -> str:
        return f"zipped({', '.join(f'{key}={list(axis.values)!r}' for key, axis in self._axes.items())})"


def zipped(axes: Mapping[str, Any] | None = None, /, **more: Any) -> Zipped:
    """Axes that advance together, of one length: ``zipped(layers=[1, 4], batch=[64, 16])`` are two values, not four.

    Dotted keys go into a mapping: ``zipped({"trainer.lr": […]}, layers=[…])``. It stands for all flags
    (``flags=zipped(…)``), among them (``flags={"seed": 1, **zipped(…)}``), or under a prefix; and it ties a
    resource to a flag: ``z = zipped(nodes=[1, 4], batch=[64, 16])``, then ``nodes=z["nodes"]`` and
    ``flags={"batch": z["batch"]}``. Raises :class:`InvalidFlag` where lengths differ, naming them.
    """
    return Zipped({**(axes or {}), **more})


# Points


@dataclass(frozen=True, slots=True)
class Point:
    """One experiment of a sweep: all its flags, all its resources, and its values of the axes alone."""

    flags: Mapping[str, FlagValue]
    resources: Mapping[str, Any]
    coordinates: Mapping[str, FlagValue]

    def __getitem__(self, key: str) -> Any:
        return self.resources[key] if key in self.resources else self.flags[key]

    def __contains__(self, key: object) -> bool:
        return key in self.resources or key in self.flags


class _Row(dict[str, Any]):
    """What a ``where`` sees of a point: its flags and resources by key."""

    def __missing__(self, key: str) -> Any:
        raise InvalidFlag(f"where: the points of this sweep have no {key!r}.{suggest(str(key), self)}")


_Loop = tuple[list[str], list[tuple[FlagValue, ...]]]  # keys that advance together, and their rows


def points(
    flags: Mapping[Any, Any],
    resources: Mapping[str, Any] | None = None,
    where: Callable[[Mapping[str, Any]], object] | None = None,
) -> tuple[Point, ...]:
    """The points of a sweep, in the order of nested loops.

    Args:
        flags: flags by key, nested mappings flattened; see the module for what is an axis.
        resources: the spec keywords that the call names, ``nodes=[1, 4]`` among them; other values stay as they are.
        where: given all flags and resources of a point by key, whether to keep it.

    Raises:
        InvalidFlag: naming the key, for an axis that is empty, has a value twice or no order, for a key that is
            both flag and resource, for more than 100,000 points, and where no point is left.
    """
    resources = {} if resources is None else resources
    given = [*unique(flatten(flags)).items()]
    raw: list[tuple[str, Any, bool]] = [(key, value, True) for key, value in given]
    raw += [(key, value, False) for key, value in resources.items()]
    is_axis = {key for key, value, flag in raw if _is_axis(key, value, flag)}
    for key in is_axis:
        if key in resources and any(key == other for other, _ in given):
            raise InvalidFlag(
                f"axis {key!r} is both a flag and a resource: keep the resource, "
                f"and pass it to the program with {{{key}}} in the command."
            )
    constants: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    grouped: dict[object, list[tuple[str, Sequence[Any]]]] = {}
    for key, value, flag in raw:
        if key in is_axis:
            constants[flag][key] = None  # its place in the order
            items = value.values if isinstance(value, Tied) else items_of(value) or ()
            grouped.setdefault(id(value.group) if isinstance(value, Tied) else key, []).append((key, items))
        else:
            constants[flag][key] = normalise_value(key, value) if flag else _resource(key, value)
    _count(grouped.values())
    loops = [_loop(group) for group in grouped.values()]
    keys = [key for group, _ in loops for key in group]
    on_flags = [key for key in keys if key in constants[True]]
    on_resources = [key for key in keys if key in constants[False]]
    result: list[Point] = []
    total = 0
    for rows in itertools.product(*(rows for _, rows in loops)):
        total += 1
        at = dict(zip(keys, itertools.chain.from_iterable(rows), strict=True))
        its_flags = {**constants[True], **{key: at[key] for key in on_flags}}
        its_resources = {**constants[False], **{key: at[key] for key in on_resources}}
        if where is None or where(_Row({**its_flags, **its_resources})):
            result.append(Point(its_flags, its_resources, at))
    if not result:
        raise InvalidFlag(f"where leaves none of the {total:,} points: loosen it.")
    return tuple(result)


def _is_axis(key: str, value: Any, flag: bool) -> bool:
    if isinstance(value, Tied):
        return True
    if isinstance(value, Fixed) or (not flag and key in LISTS):
        return False
    if isinstance(value, (Iterator, KeysView, ValuesView)):
        raise InvalidFlag(f"axis {key!r}: a {type(value).__name__} is no list; write list(x).")
    if isinstance(value, AbstractSet):
        raise InvalidFlag(f"axis {key!r}: a {type(value).__name__} has no order; write sorted(x).")
    if getattr(value, "ndim", 0) > 1:
        raise InvalidFlag(f"axis {key!r}: it has {value.ndim} dimensions; write a list, or x.ravel().")
    return items_of(value) is not None


def _resource(key: str, value: Any) -> Any:
    value = value.value if isinstance(value, Fixed) else value
    return normalise_value(key, value) if type(value).__module__.partition(".")[0] == "numpy" else value


def _count(groups: Any) -> None:
    lengths = {}
    for group in groups:
        for key, items in group:
            if not len(items):
                raise InvalidFlag(f"axis {key!r} is empty: give it values; an empty list as a value is sd.fixed([]).")
        lengths["+".join(key for key, _ in group)] = len(group[0][1])
    if (total := math.prod(lengths.values())) > MAX_POINTS:
        product = " x ".join(f"{key} {length:,}" for key, length in lengths.items())
        raise InvalidFlag(f"this sweep has {total:,} points ({product}); at most {MAX_POINTS:,}: shorten an axis.")


def _loop(group: list[tuple[str, Sequence[Any]]]) -> _Loop:
    keys = [key for key, _ in group]
    rows = list(zip(*([normalise_value(key, item) for item in items] for key, items in group), strict=True))
    seen: set[str] = set()
    for row in rows:
        if (text := canonical(row)) in seen:
            what = ", ".join(f"{key}={format_value(value)}" for key, value in zip(keys, row, strict=True))
            raise InvalidFlag(f"axis {'+'.join(keys)!r} has {what} twice; leave one out.")
        seen.add(text)
    return keys, rows


# Names

_PLACE: Final = re.compile(r"\{\{|\}\}|\{([^{}:!]*)(?::([^{}]*))?\}|[{}]")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")


def names(template: str | None, sweep: str, points: Sequence[Point]) -> tuple[str, ...]:
    """A unique name for each point, from its own values alone.

    Args:
        template: as ``"ppo-{layers}L-{trainer.lr:.0e}"``, over any flag or resource; ``None`` for
            ``<sweep>-<axis><value>…`` with all axes, by their last component where that is unambiguous.
        sweep: the sweep's name, where the default begins.
        points: what :func:`points` gave.

    Characters of values that a name cannot have become ``-``. Raises :class:`InvalidName` for an unknown
    placeholder, a varying axis that is left out (naming it), two points of one name, and what is no name.
    """
    if not points:
        return ()
    parts = _template(template, points[0]) if template is not None else _default(sweep, points[0])
    used = {key for key, _ in parts if key is not None}
    made: dict[str, Point] = {}
    for point in points:
        name = "".join(text if key is None else _UNFIT.sub("-", _shown(key, point[key], text)) for key, text in parts)
        if not NAME.fullmatch(name):
            raise _no_name(name)
        if (other := made.setdefault(name, point)) is not point:
            raise _collision(name, other, point, used)
    return tuple(made)


_Part = tuple[str | None, str]  # (None, literal) or (key, format specification)


def _template(template: str, point: Point) -> list[_Part]:
    parts: list[_Part] = []
    at = 0
    for found in _PLACE.finditer(template):
        parts.append((None, template[at : found.start()]))
        at = found.end()
        if found[1] is None:
            raise InvalidName(f"names={template!r} has {found[0]!r}, which no name can have; a placeholder is {{key}}.")
        key = found[1]
        if key not in point:
            known = [*point.flags, *point.resources]
            raise InvalidName(f"names={template!r} has {{{key}}}, which no point has.{suggest(key, known)}")
        parts.append((key, found[2] or ""))
    return [*parts, (None, template[at:])]


def _default(sweep: str, point: Point) -> list[_Part]:
    bare = {key: bare_key(key) for key in point.coordinates}
    last = {key: re.split(r"[./]", text)[-1] for key, text in bare.items()}
    counts = [*last.values()]
    parts: list[_Part] = [(None, sweep)]
    for key in point.coordinates:
        label = last[key] if counts.count(last[key]) == 1 else bare[key]
        parts += [(None, "-" + _UNFIT.sub("-", label)), (key, "")]
    return parts


def _shown(key: str, value: Any, spec: str) -> str:
    if not spec:
        return format_value(value) if value is None or isinstance(value, (str, int, float, list)) else str(value)
    try:
        return format(value, spec)
    except (ValueError, TypeError) as wrong:
        raise InvalidName(f"names: {{{key}:{spec}}} cannot show {value!r:.40} ({wrong}); leave it out.") from None


def _no_name(name: str) -> InvalidName:
    if len(name) > 100:
        return InvalidName(f"the name {name!r:.120} has {len(name)} characters, at most 100: shorten it with names=….")
    return InvalidName(
        f"{name!r:.120} is no name: it begins with a letter and has letters, digits, '.', '_' and '-' only; "
        f"write another with names=…."
    )


def _collision(name: str, one: Point, two: Point, used: set[str]) -> InvalidName:
    differ = [key for key in two.coordinates if canonical(one.coordinates[key]) != canonical(two.coordinates[key])]
    missing = [key for key in differ if key not in used]
    if missing and len(missing) == len(differ):
        return InvalidName(
            f"names= leaves out the axis {missing[0]!r}, so that two points are called {name!r}: add {{{missing[0]}}}."
        )
    both = " and ".join("(" + ", ".join(f"{key}={p[key]!r}" for key in differ) + ")" for p in (one, two))
    return InvalidName(f"two points are called {name!r}: {both}; write names=… that tells them apart.")


# What it would cost


@dataclass(frozen=True, slots=True)
class Summary:
    """How much a sweep asks for. GPUs count over all nodes; unknown ones as 0."""

    points: int
    live: int
    """How many may run at once."""
    largest: int
    """GPUs of the largest point."""
    gpus: int
    """GPUs at once at most: the ``live`` largest points together."""
    total: int
    """GPUs of all points together."""


def summary(points: Sequence[Point], max_live: int | None = None) -> Summary:
    """What ``points`` ask for when at most ``max_live`` run at once (``None``: all)."""
    each = sorted((_gpus(point) for point in points), reverse=True)
    live = len(each) if max_live is None else min(max(max_live, 0), len(each))
    return Summary(len(each), live, each[0] if each else 0, sum(each[:live]), sum(each))


def _gpus(point: Point) -> int:
    gpus, accelerators = point.resources.get("gpus"), point.resources.get("accelerators")
    if gpus is None and isinstance(accelerators, str) and accelerators:
        count = accelerators.rpartition(":")[2] if ":" in accelerators else "1"
        gpus = float(count) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", count) else 0
    elif gpus is None and isinstance(accelerators, Mapping):
        gpus = max((count or 1 for count in accelerators.values()), default=0)
    return math.ceil((point.resources.get("nodes") or 1) * (gpus or 0))


# The experiments that points already are


@dataclass(frozen=True, slots=True)
class Existing:
    """An experiment of the sweep, as its cell last declared it: not as it was edited elsewhere.

    ``values`` are its flags and spec fields by key, defaults too; without them a changed set of
    axes is matched by ``spec_hash`` alone.
    """

    id: int
    spec_hash: str
    coordinates: Mapping[str, FlagValue]
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Matching:
    """For each point the id of its experiment, or ``None`` for a new one; and the ids that no point has."""

    ids: tuple[int | None, ...]
    left: tuple[int, ...]


def match(points: Sequence[Point], hashes: Sequence[str], existing: Sequence[Existing]) -> Matching:
    """Which experiments of a sweep the ``points`` are; ``hashes`` are the spec hashes of the points.

    First by the full spec, first of all where the coordinates agree too. Then by equal coordinates: a common
    flag changed. Then, where the axes themselves changed, by equal values on the old and the new axes together:
    a common flag became an axis, or an axis became common, while something else changed too. Each experiment is
    at most one point, and of several that fit equally the one with the lowest id.
    """
    ids: list[int | None] = [None] * len(points)
    free = {row.id: row for row in sorted(existing, key=lambda row: row.id)}
    at = [_place(point.coordinates) for point in points]
    stands = {row.id: _place(row.coordinates) for row in existing}

    def pair(of_point: Callable[[int], object], of_row: Callable[[Existing], object]) -> None:
        """Gives each point without an experiment the first free one that has its mark; ``None`` is no mark."""
        waiting: defaultdict[object, list[int]] = defaultdict(list)
        for row in reversed(free.values()):
            if (mark := of_row(row)) is not None:
                waiting[mark].append(row.id)
        for index, known in enumerate(ids):
            if known is None and waiting and (mark := of_point(index)) is not None and waiting.get(mark):
                ids[index] = found = waiting[mark].pop()
                del free[found]

    pair(lambda i: (hashes[i], at[i]), lambda row: (row.spec_hash, stands[row.id]))
    pair(lambda i: hashes[i], lambda row: row.spec_hash)
    pair(lambda i: at[i], lambda row: stands[row.id])
    axes = {frozenset(point.coordinates): None for point in points}
    for new in axes:
        for old in {frozenset(row.coordinates): None for row in free.values()}:
            if old == new:
                continue
            union = sorted(old | new)

            def of_point(index: int, new: frozenset[str] = new, union: list[str] = union) -> str | None:
                point = points[index]
                return _mark(union, point.coordinates, point) if point.coordinates.keys() == new else None

            def of_row(row: Existing, old: frozenset[str] = old, union: list[str] = union) -> str | None:
                return _mark(union, row.coordinates, row.values) if row.coordinates.keys() == old else None

            pair(of_point, of_row)
    return Matching(tuple(ids), tuple(free))


def _place(coordinates: Mapping[str, FlagValue]) -> str:
    """Equal for the same normalised coordinates in any order; quicker than ``canonical``."""
    return repr(sorted(coordinates.items()))


def _mark(keys: Sequence[str], coordinates: Mapping[str, Any], values: Point | Mapping[str, Any]) -> str | None:
    if any(key not in coordinates and key not in values for key in keys):
        return None
    return canonical([coordinates[key] if key in coordinates else values[key] for key in keys])
