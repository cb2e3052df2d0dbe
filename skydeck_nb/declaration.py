"""What one cell says about one experiment: keywords and flags as plain values.

Decides which keywords there are, what each may hold and what it becomes, and
how they make a spec. Refuses to know names, sweeps, rows in the database and
the backend. A declaration holds no defaults: a keyword left out and one at its
default say the same.
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skydeck_nb.errors import InvalidCommand, InvalidSetting
from skydeck_nb.flags.command import parse
from skydeck_nb.flags.values import canonical, check_text, normalise
from skydeck_nb.models import ExperimentRow, Spec
from skydeck_nb.taskfile import absolute, text_of, without_password

Said = dict[str, Any]
"""Keyword to normalised value, without defaults; JSON-able. ``flags`` is one of them."""

MAPPINGS: Final = ("flags", "env", "resources", "file_mounts")
"""Keywords whose entries are declared, edited and compared one by one."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "command": None,
    "script": None,
    "task": None,
    "flags": {},
    "nodes": 1,
    "gpus": None,
    "accelerators": None,
    "spot": None,
    "infra": None,
    "resources": {},
    "workdir": None,
    "git_ref": None,
    "setup": None,
    "env": {},
    "secrets": [],
    "file_mounts": {},
    "pool": None,
    "description": "",
    "tags": [],
    "priority": 0,
    "max_restarts": 0,
    "max_hours": None,
    "max_gpu_hours": None,
    "max_cost": None,
    "groups": [],
}
"""Every keyword that describes an experiment, at the value it has when a cell leaves it out."""

LOOSE: Final = frozenset(
    {"description", "tags", "priority", "max_restarts", "max_hours", "max_gpu_hours", "max_cost", "groups"}
)
"""What does not change what is executed, and so no generation."""


BUDGETS: Final = ("max_gpu_hours", "max_cost")
"""What an experiment's call says of each of its runs, and a sweep's of the whole sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the declaring process lends to a spec that says nothing of it: the process that leads is another."""

    cwd: str
    workdir: str | None = None
    interpreter: str | None = None
    path: str | None = None
    commit: Callable[[str, str | None], str | None] = lambda ref, workdir: None
    """The commit of a git ref in a folder; raises ``InvalidCommand`` where there is none."""
    refuse: Callable[[str, Any], None] = lambda keyword, value: None
    """Raises for a keyword that this backend cannot honour."""
    check: Callable[[Spec], None] = lambda spec: None
    """Raises for what this backend can never run."""


def said(keywords: Mapping[str, Any], around: Surroundings) -> Said:
    """These keywords as a declaration; raises for an unknown one and for what one cannot hold."""
    return agreed(plain(keywords, around))


def plain(keywords: Mapping[str, Any], around: Surroundings) -> Said:
    """Each keyword by itself, those at their default left out."""
    result: Said = {}
    for keyword, value in keywords.items():
        kept = keyword_value(keyword, value, around)
        if kept != DEFAULTS[keyword] or type(kept) is not type(DEFAULTS[keyword]):
            result[keyword] = kept
    return result


def agreed(what: Said) -> Said:
    """The same with what one keyword says of another: ``accelerators="H100:4"`` is ``gpus=4`` too."""
    if "command" in what and "script" in what:
        raise InvalidCommand("command and script= are both given: keep one.")
    if not what.keys() & {"command", "script", "task"}:
        raise InvalidCommand("There is nothing to run: give a command, script= or task=.")
    if "accelerators" not in what:
        return what
    count = int(what["accelerators"].rpartition(":")[2])
    if what.get("gpus", count) != count:
        raise InvalidCommand(
            f"accelerators={what['accelerators']!r} are {count} GPUs a node and gpus={what['gpus']}: leave one out."
        )
    return {**what, "gpus": count}


def keyword_value(keyword: str, value: Any, around: Surroundings) -> Any:
    """One keyword's value as it is kept: text, numbers, lists and mappings."""
    if keyword not in DEFAULTS:
        raise InvalidSetting(f"{keyword!r} is no keyword of an experiment; there are {', '.join(DEFAULTS)}.")
    if value is None:
        return DEFAULTS[keyword]
    if value != DEFAULTS[keyword]:
        around.refuse(keyword, value)
    match keyword:
        case "flags":
            return normalise(value)
        case "command":
            return list(parse(value))
        case "nodes":
            return _whole(keyword, value, 1)
        case "gpus" | "max_restarts":
            return _whole(keyword, value, 0)
        case "priority":
            return _whole(keyword, value, None)
        case "max_hours" | "max_gpu_hours" | "max_cost":
            return _positive(keyword, value)
        case "spot":
            if not isinstance(value, bool) and str(value) not in ("True", "False"):  # numpy's is none
                raise InvalidCommand(f"spot={value!r:.60}: write True, False or None.")
            return bool(value)
        case "accelerators":
            return _accelerators(value)
        case "secrets" | "tags":
            return _texts(keyword, value)
        case "groups":
            return sorted(_texts(keyword, value))
        case "env" | "file_mounts" | "resources":
            return _mapping(keyword, value, around)
        case "task":
            return check_text(text_of(value, around.cwd), keyword, InvalidCommand)
        case "workdir":
            return without_password(absolute(os.fspath(value), around.cwd), keyword)
        case _:
            if not isinstance(value, str):
                raise InvalidCommand(f"{keyword}={value!r:.60} is of type {type(value).__name__}; write text.")
            return check_text(value, keyword, InvalidCommand)


def _whole(keyword: str, value: Any, least: int | None) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        what = "a whole number" if least is None else f"a whole number of {least} or more"
        raise InvalidCommand(f"{keyword}={value!r:.60}: write {what}.")
    return int(value)


def _positive(keyword: str, value: Any) -> float:
    number = isinstance(value, (int, float, numbers.Real)) and value is not True
    if not number or not 0 < float(value) < math.inf:
        raise InvalidCommand(f"{keyword}={value!r:.60}: write a number above 0, or None for no limit.")
    return float(value)


def budget(keyword: str, value: Any, around: Surroundings) -> float | None:
    """The budget of a whole sweep: one number, or ``None`` for no limit."""
    if value is None:
        return None
    if not isinstance(value, numbers.Real | str):
        raise InvalidSetting(
            f"{keyword}={value!r:.60}: one number is the whole sweep's budget; "
            f"deck.update(sel, {keyword}=…) limits each experiment."
        )
    around.refuse(keyword, value)
    return _positive(keyword, value)


def _accelerators(value: Any) -> str:
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, count),) = value.items()
        value = f"{name}:{count or 1}"
    text = str(value).strip() if isinstance(value, str) else ""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9._-]*)(?::([1-9][0-9]*))?", text)
    if not found:
        raise InvalidCommand(f"accelerators={value!r:.60}: write 'H100:4', the kind and how many a node.")
    return f"{found[1]}:{found[2] or 1}"


def _texts(keyword: str, value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise InvalidSetting(f"{keyword}={value!r:.60}: write a list of names.")
    texts = list(items)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InvalidSetting(f"{keyword}: {text!r:.60} is no text; write a list of names.")
    return [check_text(str(text), keyword, InvalidCommand) for text in dict.fromkeys(texts)]


def _mapping(keyword: str, value: Any, around: Surroundings) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidCommand(f"{keyword}={value!r:.60}: write a mapping.")
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidCommand(f"{keyword}: the key {key!r} is no text; write '{key}'.")
        if keyword == "env" and not isinstance(item, str):
            raise InvalidCommand(f"env {key!r}: {item!r:.60} is of type {type(item).__name__}; write it as text.")
    if keyword == "file_mounts":
        return {key: absolute(os.fspath(item), around.cwd) for key, item in value.items()}
    return {str(key): _plain(f"{keyword}[{key!r}]", item) for key, item in value.items()}


def _plain(what: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{what}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(what, item) for item in value]
    raise InvalidCommand(f"{what}: {value!r:.60} is of type {type(value).__name__}; write text, numbers or lists.")


# -- Declarations and rows --------------------------------------------------------------


def spec_of(what: Said, around: Surroundings, before: Spec | None = None) -> Spec:
    """What this declaration executes; what ``before`` was lent by its surroundings stays where nothing is said."""
    git_ref, workdir = what.get("git_ref"), what.get("workdir")
    if workdir is None:
        workdir = before.workdir if before is not None else around.workdir
    if before is not None and before.git_ref == git_ref:
        commit = before.git_commit
    else:
        commit = around.commit(git_ref, workdir) if git_ref is not None else None
    command = what.get("command")
    return Spec(
        command=None if command is None else tuple(command),
        script=what.get("script"),
        task=what.get("task"),
        flags=what.get("flags", {}),
        nodes=what.get("nodes", 1),
        gpus=what.get("gpus"),
        accelerators=what.get("accelerators"),
        spot=what.get("spot"),
        infra=what.get("infra"),
        resources=what.get("resources", {}),
        workdir=workdir,
        git_ref=git_ref,
        git_commit=commit,
        setup=what.get("setup"),
        env=what.get("env", {}),
        secrets=tuple(what.get("secrets", ())),
        file_mounts=what.get("file_mounts", {}),
        pool=what.get("pool"),
        interpreter=around.interpreter if before is None else before.interpreter,
        path=around.path if before is None else before.path,
    )


def loose_of(what: Said) -> dict[str, Any]:
    """The columns beside the spec that this declaration gives."""
    return {
        "description": what.get("description", ""),
        "tags": tuple(what.get("tags", ())),
        "priority": what.get("priority", 0),
        "max_restarts": what.get("max_restarts", 0),
        "max_hours": what.get("max_hours"),
        "max_gpu_hours": what.get("max_gpu_hours"),
        "max_cost": what.get("max_cost"),
    }


def of_row(row: ExperimentRow, groups: Iterable[str] = ()) -> Said:
    """What a cell would have to say to declare this row as it is now."""
    spec = row.spec
    values: Said = {
        "command": None if spec.command is None else list(spec.command),
        "script": spec.script,
        "task": spec.task,
        "flags": dict(spec.flags),
        "nodes": spec.nodes,
        "gpus": spec.gpus,
        "accelerators": spec.accelerators,
        "spot": spec.spot,
        "infra": spec.infra,
        "resources": dict(spec.resources),
        "workdir": None if spec.workdir == lent_workdir(row) else spec.workdir,
        "git_ref": spec.git_ref,
        "setup": spec.setup,
        "env": dict(spec.env),
        "secrets": list(spec.secrets),
        "file_mounts": dict(spec.file_mounts),
        "pool": spec.pool,
        "description": row.description,
        "tags": list(row.tags),
        "priority": row.priority,
        "max_restarts": row.max_restarts,
        "max_hours": row.max_hours,
        "max_gpu_hours": row.max_gpu_hours,
        "max_cost": row.max_cost,
        "groups": sorted(groups),
    }
    return {keyword: value for keyword, value in values.items() if value != DEFAULTS[keyword]}


LENT: Final = "$workdir"
"""Where a row's ``declared`` keeps the folder that it was lent, so that a cell run in another one changes nothing."""


def lent_workdir(row: ExperimentRow) -> str | None:
    lent = row.declared.get(LENT)
    return lent if isinstance(lent, str) else None


# -- The three ways ---------------------------------------------------------------------

_ABSENT: Final = object()
_Flat = dict[tuple[str, str], Any]


@dataclass(frozen=True, slots=True)
class Merged:
    """What is to stand, and what stands otherwise than the cell says, in words."""

    said: Said
    kept: tuple[str, ...] = ()


def merge(before: Said, now: Said, stands: Said, *, overwrite: bool = False) -> Merged:
    """What a cell said before, what it says now and what stands, to what is to stand.

    As ``kubectl apply`` does: only what changed in the cell is applied; what was
    edited elsewhere stays and is named. ``overwrite`` takes the cell's word for all.
    """
    if overwrite:
        return Merged(now)
    if canonical(before) == canonical(now) == canonical(stands):
        return Merged(stands)
    old, new, have = _flat(before), _flat(now), _flat(stands)
    result: _Flat = dict(have)
    kept: list[str] = []
    for key in dict.fromkeys((*have, *new, *old)):
        was, says, is_ = old.get(key, _ABSENT), new.get(key, _ABSENT), have.get(key, _ABSENT)
        if not _same(was, says):
            result[key] = says
        elif not _same(is_, says):
            kept.append(_words(key, is_, says))
    return Merged(_unflat({key: value for key, value in result.items() if value is not _ABSENT}), tuple(kept))


def differences(before: Said, after: Said) -> list[str]:
    """What differs, in words: ``lr 0.1 → 0.2``."""
    old, new = _flat(before), _flat(after)
    keys = [key for key in dict.fromkeys((*old, *new)) if not _same(old.get(key, _ABSENT), new.get(key, _ABSENT))]
    return [
        f"{_label(key)} {_shown(key, old.get(key, _ABSENT))} → {_shown(key, new.get(key, _ABSENT))}" for key in keys
    ]


def _flat(what: Said) -> _Flat:
    flat: _Flat = {}
    for keyword, value in what.items():
        if keyword in MAPPINGS:
            flat.update({(keyword, key): item for key, item in value.items()})
        elif keyword in DEFAULTS:
            flat[keyword, ""] = value
    return flat


def _unflat(flat: _Flat) -> Said:
    what: Said = {}
    for (keyword, key), value in flat.items():
        if keyword in MAPPINGS:
            what.setdefault(keyword, {})[key] = value
        else:
            what[keyword] = value
    return what


def _same(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return bool(one is other)
    return canonical(one) == canonical(other)


def _label(key: tuple[str, str]) -> str:
    keyword, item = key
    return keyword if not item else item if keyword == "flags" else f"{keyword}[{item!r}]"


def _shown(key: tuple[str, str], value: Any) -> str:
    if value is not _ABSENT:
        return f"{value!r:.40}"
    return "unset" if key[0] in MAPPINGS else f"{DEFAULTS[key[0]]!r}"


def _words(key: tuple[str, str], stands: Any, says: Any) -> str:
    return f"{_label(key)} is {_shown(key, stands)}, the cell says {_shown(key, says)}"
