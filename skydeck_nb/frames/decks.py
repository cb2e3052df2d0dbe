"""The small frames: groups, sweeps, settings, what a bulk call did, and what differs.

Decides their columns. Refuses to know SQL and who asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from skydeck_nb.errors import InvalidSetting
from skydeck_nb.frames import cells
from skydeck_nb.models import ExperimentRow

Rows = Sequence[Sequence[Any]]

GROUP_COLUMNS: Final = ("name", "id", "experiments", "alive", "max_live", "flags", "collapsed", "created_at")
"""Of ``experiment_groups``, ordered by group_order, id. ``experiments`` and ``alive`` count members not deleted."""

SWEEP_COLUMNS: Final = (
    "name", "id", "experiments", "alive", "succeeded", "failed", "max_live", "brake", "brake_message", "created_at",
    "updated_at", "jobs", "gpu_us", "cost_us", "max_gpu_hours", "max_cost",
)  # fmt: skip
"""Of ``sweeps``, ordered by id, with counts of their experiments that are not deleted, by ``current_state``.
``jobs gpu_us cost_us`` are, as those of an experiment, of all jobs ever, NULL where there is none: deleted
experiments used what they used.
"""

BRAKES: Final = ("ARMED", "PASSED", "HELD", "RELEASED")

DIFFED: Final = tuple(f.name for f in dataclasses.fields(ExperimentRow) if f.name in (
    "description", "tags", "priority", "max_restarts", "max_hours", "max_gpu_hours", "max_cost"
))  # fmt: skip
"""What ``deck.diff`` compares besides the spec and its flags."""


def groups(rows: Rows) -> pd.DataFrame:
    """``deck.groups()``; ``flags`` are the group's own columns, a tuple."""
    got = cells.columns(rows, GROUP_COLUMNS)
    return pd.DataFrame(
        {
            "id": cells.integers(got["id"]),
            "experiments": cells.integers(got["experiments"]),
            "alive": cells.integers(got["alive"]),
            "max_live": cells.integers(got["max_live"]),
            "flags": cells.tuples(got["flags"], "flags", got["name"]),
            "collapsed": cells.booleans(got["collapsed"]),
            "created_at": cells.times(got["created_at"]),
        },
        index=pd.Index(cells.strings(got["name"]), name="group"),
        copy=False,
    )


def sweeps(rows: Rows) -> pd.DataFrame:
    """``deck.sweeps.frame()``.

    ``gpu_hours`` and ``cost`` are what the sweep's budgets are held against: all
    jobs that its experiments ever had, those of deleted ones too. The cost is an
    estimate, as in ``deck.experiments()``.
    """
    got = cells.columns(rows, SWEEP_COLUMNS)
    frame = pd.DataFrame(
        {
            "id": cells.integers(got["id"]),
            "experiments": cells.integers(got["experiments"]),
            "alive": cells.integers(got["alive"]),
            "succeeded": cells.integers(got["succeeded"]),
            "failed": cells.integers(got["failed"]),
            "max_live": cells.integers(got["max_live"]),
            "brake": cells.categories(got["brake"], BRAKES),
            "brake_message": cells.strings(got["brake_message"]),
            "created_at": cells.times(got["created_at"]),
            "updated_at": cells.times(got["updated_at"]),
            "gpu_hours": cells.totals(got["jobs"], got["gpu_us"]),
            "cost": cells.totals(got["jobs"], got["cost_us"]),
            "max_gpu_hours": cells.floats(got["max_gpu_hours"]),
            "max_cost": cells.floats(got["max_cost"]),
        },
        index=pd.Index(cells.strings(got["name"]), name="sweep"),
        copy=False,
    )
    return cells.costed(frame)


def settings(rows: Iterable[tuple[str, Any, str]]) -> pd.DataFrame:
    """``deck.settings``: name, value as it is, and where it came from."""
    got = cells.columns(list(rows), ("setting", "value", "source"))
    return pd.DataFrame(
        {"value": cells.objects(list(got["value"]), len(got["value"])), "source": cells.strings(got["source"])},
        index=pd.Index(cells.strings(got["setting"]), name="setting"),
    )


def outcomes(
    rows: Iterable[Sequence[str | None]], columns: Sequence[str] = ("action", "reason", "applies")
) -> pd.DataFrame:
    """What a bulk call did: the experiment's name, then a text for each of ``columns``."""
    got = cells.columns(list(rows), ("experiment", *columns))
    return pd.DataFrame(
        {name: cells.strings(got[name]) for name in columns},
        index=pd.Index(cells.strings(got["experiment"]), name="experiment"),
        columns=pd.Index(list(columns)),
    )


def diff(rows: Sequence[ExperimentRow]) -> pd.DataFrame:
    """``deck.diff(a, b, …)``: one row for each field that is not the same in all; what one has not is missing.

    Values are kept as they are, in object columns. Env, resources and mounts are
    compared key by key, as flags are.

    Raises:
        InvalidSetting: fewer than two experiments.
    """
    if len(rows) < 2:
        raise InvalidSetting(f"A diff needs two experiments or more; {len(rows)} given.")
    fields = [_fields(row) for row in rows]
    order = list(dict.fromkeys(name for each in fields for name in each if not name.startswith("flags.")))
    order += sorted({name for each in fields for name in each if name.startswith("flags.")})
    differing = [name for name in order if not _same([each.get(name, _MISSING) for each in fields])]
    return (
        pd.DataFrame(
            {i: pd.Series([each.get(name, pd.NA) for name in differing], dtype=object) for i, each in enumerate(fields)}
        )
        .set_axis(pd.Index([row.name for row in rows], name="experiment"), axis=1)
        .set_axis(pd.Index(cells.strings(differing), name="field"), axis=0)
    )


_MISSING: Final = object()


def _same(values: Sequence[Any]) -> bool:
    """Equal in type too: ``1``, ``1.0`` and ``True`` are three values. NaN equals NaN."""
    return len({(type(value), repr(value)) for value in values}) == 1


def _fields(row: ExperimentRow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(row.spec):
        value = getattr(row.spec, field.name)
        if isinstance(value, Mapping):
            found.update({f"{field.name}.{key}": value[key] for key in sorted(value)})
        else:
            found[field.name] = value
    return found | {name: getattr(row, name) for name in DIFFED}
