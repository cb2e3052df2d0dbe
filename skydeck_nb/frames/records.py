"""The frames of what was recorded: metrics, checkpoints, events.

Decides their columns, which checkpoint is the latest or the best, and what of an
event's payload is data. Refuses to know SQL: the constants below say which cells
it wants, in which order; ``experiment`` is the experiment's present name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import pandas as pd

from skydeck_nb.errors import InvalidSetting
from skydeck_nb.events import KINDS, moment
from skydeck_nb.frames import cells
from skydeck_nb.frames.cells import Array
from skydeck_nb.frames.experiments import flag_columns

Rows = Sequence[Sequence[Any]]

METRIC_COLUMNS: Final = ("experiment", "job_id", "step", "at", "name", "value")
"""Of ``metrics``, ordered by experiment, name, n. A NULL value is NaN: SQLite has no other."""

CHECKPOINT_COLUMNS: Final = (
    "experiment", "epoch", "experiment_id", "model_path", "replay_paths", "size", "created_at", "policy_version",
    "metrics", "flags",
)  # fmt: skip
"""Of ``checkpoints``, ordered by experiment, epoch. Where flags are not wanted, ``flags`` may be NULL."""

EVENT_COLUMNS: Final = ("sequence", "at", "type", "experiment", "job_id", "payload")
"""Of ``events``, ordered by sequence."""

_TIMES: Final[Mapping[str, tuple[str, ...]]] = {
    word: found
    for word, kind in KINDS.items()
    if (found := tuple(f.name for f in dataclasses.fields(kind) if f.name != "at" and "datetime" in str(f.type)))
}
"""The fields of each kind of event that are times."""


def metrics(rows: Rows) -> pd.DataFrame:
    """``deck.metrics()``: one row a reading. A reading that was NaN is NaN, not missing."""
    got = cells.columns(rows, METRIC_COLUMNS)
    return pd.DataFrame(
        {
            "experiment": cells.strings(got["experiment"]),
            "job_id": cells.integers(got["job_id"]),
            "step": cells.integers(got["step"]),
            "at": cells.times(got["at"]),
            "name": cells.strings(got["name"]),
            "value": cells.readings(got["value"]),
        },
        copy=False,
    )


def checkpoints(
    rows: Rows,
    *,
    latest: bool = False,
    best: str | None = None,
    mode: Literal["max", "min"] = "max",
    flags: bool = False,
) -> pd.DataFrame:
    """``deck.checkpoints()``: one row an epoch of an experiment; ``id`` is the experiment's, replays are tuples.

    ``latest`` keeps each experiment's highest epoch, ``best`` the epoch at which
    that metric is highest (``mode="min"``: lowest); of equals, the latest.

    Raises:
        InvalidSetting: ``best`` names a metric that no checkpoint has, ``mode`` is neither word, or both are asked for.
    """
    got = cells.columns(rows, CHECKPOINT_COLUMNS)
    names = [f"{name} epoch {epoch}" for name, epoch in zip(got["experiment"], got["epoch"], strict=True)]
    frame: dict[str, Array] = {
        "id": cells.integers(got["experiment_id"]),
        "model_path": cells.strings(got["model_path"]),
        "replay_paths": cells.tuples(got["replay_paths"], "replay paths", names),
        "size": cells.integers(got["size"]),
        "created_at": cells.times(got["created_at"]),
        "policy_version": cells.strings(got["policy_version"]),
    }
    measured = cells.spread(cells.parsed(got["metrics"], dict, "metrics", names))
    frame |= {f"metrics.{name}": _numbers(column) for name, column in measured.items()}
    if flags:
        frame |= flag_columns(got["flags"], names)
    index = pd.MultiIndex.from_arrays(
        [cells.strings(got["experiment"]), cells.integers(got["epoch"])], names=["experiment", "epoch"]
    )
    made = pd.DataFrame(frame, index=index, copy=False)
    return _chosen(made, latest=latest, best=best, mode=mode) if latest or best is not None else made


def _numbers(column: cells.Column) -> Array:
    return cells.narrowest([None if v is None else float(v) if isinstance(v, int | float) else None for v in column])


def _chosen(frame: pd.DataFrame, *, latest: bool, best: str | None, mode: str) -> pd.DataFrame:
    if mode not in ("max", "min"):
        raise InvalidSetting(f"mode={mode!r} means nothing here; give 'max' or 'min'.")
    if latest and best is not None:
        raise InvalidSetting("latest and best ask for different epochs; give one of them.")
    frame = frame.sort_index(level=["experiment", "epoch"], kind="stable")
    if best is not None:
        name = best if best.startswith("metrics.") else f"metrics.{best}"
        if name not in frame.columns:
            have = [str(c).removeprefix("metrics.") for c in frame.columns if str(c).startswith("metrics.")]
            near = difflib.get_close_matches(best, have, 3)
            known = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(have[:8]) or 'none'}"
            raise InvalidSetting(f"No checkpoint has a metric {best!r}; {known}.")
        values = frame[name].astype("Float64")
        frame = frame[(values.notna() & (values == values)).fillna(False).to_numpy(dtype=bool)]
        frame = frame.sort_values(name, ascending=mode == "max", kind="stable")
    last = ~frame.index.get_level_values("experiment").duplicated(keep="last")
    return frame[last].sort_index()


def events(rows: Rows) -> pd.DataFrame:
    """``deck.events()``: the log. ``data`` is a dict of what this kind of event says besides."""
    got = cells.columns(rows, EVENT_COLUMNS)
    data = cells.parsed(got["payload"], dict, "events", got["sequence"])
    for type_, each in zip(got["type"], data, strict=True):
        each.pop("changes", None)
        for name in _TIMES.get(type_, ()):
            if isinstance(each.get(name), int):
                each[name] = moment(each[name])
    return pd.DataFrame(
        {
            "at": cells.times(got["at"]),
            "type": cells.categories(got["type"], tuple(KINDS)),
            "experiment": cells.strings(got["experiment"]),
            "job_id": cells.integers(got["job_id"]),
            "data": cells.objects(data, len(data)),
        },
        index=pd.Index(cells.integers(got["sequence"]), name="sequence"),
        copy=False,
    )
