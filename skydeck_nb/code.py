"""Experiments as the shortest cell that declares them.

Decides which calls there are and what each leaves out. Refuses to know the
deck: rows in, Python out. Executed on an empty deck, the cell gives experiments
of the same hashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from skydeck_nb.declaration import BUDGETS, DEFAULTS, Said, of_row
from skydeck_nb.errors import SkydeckError
from skydeck_nb.flags import grid
from skydeck_nb.flags.command import command_line, parse
from skydeck_nb.flags.values import canonical
from skydeck_nb.models import ExperimentRow, SweepRow

WIDTH: Final = 110
"""Columns of a line of code."""


def to_code(
    rows: Sequence[ExperimentRow], sweeps: Mapping[int, SweepRow], groups: Mapping[int, Sequence[str]], cwd: str = ""
) -> str:
    """The calls that declare these rows as they are now."""
    here = cwd or str(Path.cwd())
    calls: list[str] = []
    for sweep_id in dict.fromkeys(row.sweep_id for row in rows):
        some = [row for row in rows if row.sweep_id == sweep_id]
        said = [_said(row, groups.get(row.id, ()), here) for row in some]
        sweep = sweeps.get(sweep_id) if sweep_id is not None else None
        code = _sweep(sweep, some, [_unlimited(words) for words in said]) if sweep is not None else None
        if sweep is not None and code is not None:
            calls += [code, *_limits(sweep, some, said)]
        else:
            calls += [_call("deck.create", row.name, words, {}) for row, words in zip(some, said, strict=True)]
    return "\n".join(calls)


def _said(row: ExperimentRow, groups: Sequence[str], here: str) -> Said:
    words = of_row(row, groups)
    workdir = row.spec.workdir
    if workdir is not None and row.spec.interpreter is not None:  # it was lent one: said only where it is another here
        words.pop("workdir", None)
        if workdir != here:
            words["workdir"] = workdir
    if "accelerators" in words:
        words.pop("gpus", None)
    return words


def _unlimited(words: Said) -> Said:
    return {keyword: value for keyword, value in words.items() if keyword not in BUDGETS}


def _limits(sweep: SweepRow, rows: Sequence[ExperimentRow], said: Sequence[Said]) -> list[str]:
    """The calls that give points limits of their own: in the sweep's call, these words mean the whole sweep."""
    calls: list[str] = []
    limits = [{keyword: words[keyword] for keyword in BUDGETS if keyword in words} for words in said]
    for limit in {canonical(each): each for each in limits if each}.values():
        named = [row.name for row, each in zip(rows, limits, strict=True) if each == limit]
        whom = f"deck.sweeps[{_literal(sweep.name)}]" if len(named) == len(rows) else _python(named)
        calls.append(f"deck.update({whom}, {', '.join(f'{k}={_python(v)}' for k, v in limit.items())})")
    return calls


# -- One sweep --------------------------------------------------------------------------


def _sweep(sweep: SweepRow, rows: Sequence[ExperimentRow], said: Sequence[Said]) -> str | None:
    """The call that declares exactly these points, or ``None`` where one call cannot."""
    flat = [_flat(words) for words in said]
    plain = {key: DEFAULTS[key[0]] for each in flat for key in each if not key[1]}
    flat = [{**plain, **each} for each in flat]
    if any(each.keys() != flat[0].keys() for each in flat):
        return None
    varying = [key for key in flat[0] if len({canonical(each[key]) for each in flat}) > 1]
    if any(keyword in grid.LISTS or (keyword in ("env", "resources", "file_mounts")) for keyword, _ in varying):
        return None
    order = list(sweep.definition.get("axes", {}))
    varying.sort(key=lambda key: order.index(_name(key)) if _name(key) in order else len(order))
    axes = {key: _values(key, flat) for key in varying}
    if math.prod(len(values) for values in axes.values()) == len(flat):
        tied = False
    else:
        tied = True
        axes = {key: [each[key] for each in flat] for key in varying}
    common = {key: value for key, value in flat[0].items() if key not in axes}
    flags: dict[str, Any] = {}
    keywords: dict[str, Any] = {}
    for key in [*varying, *(key for key in common if key not in varying)]:
        keyword, item = key
        if keyword == "flags":
            flags[item] = Axis(axes[key]) if key in axes else _fixed(common[key])
        elif item:
            keywords.setdefault(keyword, {})[item] = common[key]
        else:
            keywords[keyword] = Axis(axes[key]) if key in axes else common[key]
    keywords = {keyword: value for keyword, value in keywords.items() if value != DEFAULTS[keyword]}
    if tied and varying:
        flags, keywords = _tied(varying, axes, flags, keywords)
    beside: dict[str, Any] = {"names": sweep.definition.get("names"), "max_live": sweep.max_live}
    beside |= {keyword: getattr(sweep, keyword) for keyword in BUDGETS}
    words = {**({"flags": flags} if flags else {}), **keywords}
    beside["names"] = _names(sweep, rows, varying, flat)
    if beside["names"] is _NONE:
        return None
    return _call("deck.sweep", sweep.name, words, {key: value for key, value in beside.items() if value is not None})


_NONE: Final = object()


def _names(
    sweep: SweepRow,
    rows: Sequence[ExperimentRow],
    varying: Sequence[tuple[str, str]],
    flat: Sequence[Mapping[Any, Any]],
) -> Any:
    """The template that gives these points their names: none, its own, or no template does."""
    points = []
    for each in flat:
        flags = {item: value for (keyword, item), value in each.items() if keyword == "flags"}
        resources = {keyword: value for (keyword, item), value in each.items() if keyword != "flags" and not item}
        points.append(grid.Point(flags, resources, {_name(key): each[key] for key in varying}))
    wanted = tuple(row.name for row in rows)
    for template in (None, sweep.definition.get("names")):
        try:
            if grid.names(template, sweep.name, points) == wanted:
                return template
        except SkydeckError:
            continue
    return _NONE


def _name(key: tuple[str, str]) -> str:
    return key[1] if key[0] == "flags" else key[0]


def _flat(words: Said) -> dict[tuple[str, str], Any]:
    flat: dict[tuple[str, str], Any] = {}
    for keyword, value in words.items():
        if isinstance(DEFAULTS[keyword], dict):
            flat.update({(keyword, item): each for item, each in value.items()})
        else:
            flat[keyword, ""] = value
    return flat


def _values(key: tuple[str, str], flat: Sequence[Mapping[tuple[str, str], Any]]) -> list[Any]:
    found = {canonical(each[key]): each[key] for each in flat}
    return list(found.values())


def _fixed(value: Any) -> Any:
    return Fixed(value) if isinstance(value, list) else value


def _tied(
    varying: Sequence[tuple[str, str]], axes: Mapping[Any, Any], flags: dict[str, Any], keywords: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same with all axes tied, for points that are no full grid."""
    name = Tie({_name(key): axes[key] for key in varying})
    for keyword, item in varying:
        if keyword == "flags":
            flags[item] = Tied(name, item)
        else:
            keywords[keyword] = Tied(name, keyword)
    return flags, keywords


# -- Python -----------------------------------------------------------------------------


class Axis(list[Any]):
    """Values that make points."""


class Fixed:
    """A list that is one value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Tie(dict[str, Any]):
    """Axes that advance together."""


class Tied:
    """One of them."""

    def __init__(self, tie: Tie, key: str) -> None:
        self.tie, self.key = tie, key


def _call(function: str, name: str, words: Mapping[str, Any], beside: Mapping[str, Any]) -> str:
    ties = [value.tie for value in [*words.get("flags", {}).values(), *words.values()] if isinstance(value, Tied)]
    first = f"axes = {_python(ties[0])}\n" if ties else ""
    rest = {**words, **beside}
    arguments = [_literal(name)]
    if "command" in rest:
        arguments.append(_command(rest.pop("command")))
    arguments += [f"{keyword}={_python(value)}" for keyword, value in rest.items()]
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= WIDTH:
        return first + line
    return first + f"{function}(\n    " + ",\n    ".join(arguments) + ",\n)"


def _command(command: Any) -> str:
    """A string where it is read back as the same arguments, else the list."""
    if isinstance(command, Axis):
        return _python(command)
    line = command_line(command)
    for text in (" ".join(command), line):
        try:
            if parse(text) == tuple(command):
                return _literal(text)
        except SkydeckError:
            continue
    return _python(list(command))


def _python(value: Any) -> str:
    if isinstance(value, Fixed):
        return f"sd.fixed({_python(value.value)})"
    if isinstance(value, Tied):
        return f"axes[{_literal(value.key)}]"
    if isinstance(value, Tie):
        return f"sd.zipped({_python(dict(value))})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_python(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Axis):
        return "[" + ", ".join(f"sd.fixed({_python(v)})" if isinstance(v, list) else _python(v) for v in value) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_python(item) for item in value) + "]"
    return _literal(value)


def _literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value!r}")'
    if isinstance(value, str):
        shown = repr(value)
        plain = shown[1:-1]
        return f'"{plain}"' if shown[0] == "'" and '"' not in plain and "\\'" not in plain else shown
    return repr(value)
