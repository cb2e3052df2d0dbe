"""Rows to DataFrames: fixed columns, fixed dtypes, also when empty.

Decides what every frame of the API looks like. Pure: takes the raw cells of one
SELECT each (the ``…_COLUMNS`` say which, in which order) and the time it is, and
refuses to know SQL, connections and clocks.
"""

from skydeck_nb.frames.decks import GROUP_COLUMNS, SWEEP_COLUMNS, diff, groups, outcomes, settings, sweeps
from skydeck_nb.frames.experiments import (
    EPOCH_COLUMNS,
    EXPERIMENT_COLUMNS,
    LATEST_COLUMNS,
    MEMBERSHIP_COLUMNS,
    TOTAL_COLUMNS,
    experiments,
)
from skydeck_nb.frames.jobs import (
    ATTEMPT_COLUMNS,
    CLUSTER_COLUMNS,
    JOB_COLUMNS,
    ORPHAN_COLUMNS,
    attempts,
    clusters,
    jobs,
    orphans,
)
from skydeck_nb.frames.records import (
    CHECKPOINT_COLUMNS,
    EVENT_COLUMNS,
    METRIC_COLUMNS,
    checkpoints,
    events,
    metrics,
)

__all__ = [
    "ATTEMPT_COLUMNS",
    "CHECKPOINT_COLUMNS",
    "CLUSTER_COLUMNS",
    "EPOCH_COLUMNS",
    "EVENT_COLUMNS",
    "EXPERIMENT_COLUMNS",
    "GROUP_COLUMNS",
    "JOB_COLUMNS",
    "LATEST_COLUMNS",
    "MEMBERSHIP_COLUMNS",
    "METRIC_COLUMNS",
    "ORPHAN_COLUMNS",
    "SWEEP_COLUMNS",
    "TOTAL_COLUMNS",
    "attempts",
    "checkpoints",
    "clusters",
    "diff",
    "events",
    "experiments",
    "groups",
    "jobs",
    "metrics",
    "orphans",
    "outcomes",
    "settings",
    "sweeps",
]
