"""From a decision to launch to the attempt's row and the order that a backend takes.

Decides the claim by which a job is found again and what its metadata says.
Refuses to know when a launch is decided and how it is sent.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

from skydeck_nb import codec
from skydeck_nb.backends.base import Order
from skydeck_nb.control.planning import Launch
from skydeck_nb.events import Change, LaunchRequested
from skydeck_nb.flags.command import argv, render_text
from skydeck_nb.models import AttemptRow, ExperimentRow, Spec


def claim(name: str, deck_id: str, attempt_id: str) -> str:
    """The job's name on the backend: ``<slug, at most 30>-sd<deck id>-<attempt id>``.

    Matches ``^[a-z][a-z0-9]*(-[a-z0-9]+)*$``, which every part of SkyPilot takes.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:30].strip("-")
    return f"{slug or 'x'}-sd{deck_id}-{attempt_id}"


def attempt(
    row: ExperimentRow, launch: Launch, *, deck_id: str, term: int, attempt_id: str, now: datetime
) -> AttemptRow:
    """The row that is written before anything is sent."""
    return AttemptRow(
        id=attempt_id,
        experiment_id=row.id,
        run=launch.run,
        generation=launch.generation,
        claim=claim(row.name, deck_id, attempt_id),
        spec_hash=row.spec_hash,
        term=term,
        created_at=now,
        replacing=launch.replacing,
    )


def requested(row: ExperimentRow, attempt: AttemptRow, run_name: str) -> LaunchRequested:
    """The event that writes it; the first one freezes the experiment's run name."""
    changes = [codec.insert(attempt)]
    if row.run_name is None:
        changes.append(Change("experiments", row.id, {"run_name": run_name}))
    return LaunchRequested(
        at=attempt.created_at,
        experiment_id=row.id,
        attempt_id=attempt.id,
        run=attempt.run,
        generation=attempt.generation,
        spec_hash=attempt.spec_hash,
        replacing=attempt.replacing,
        changes=tuple(changes),
    )


def rendered(row: ExperimentRow, run_name: str) -> Spec:
    """The spec with the placeholders of its folder, mounts and environment filled in; the command's are argv's.

    Raises:
        InvalidCommand: a placeholder that is no flag of this experiment.
    """
    spec = row.spec

    def filled(text: str, where: str) -> str:
        return render_text(text, spec, run_name, where)

    env = {key: filled(text, f"env {key}") for key, text in spec.env.items()}
    workdir = None if spec.workdir is None else filled(spec.workdir, "workdir")
    mounts = {
        filled(target, f"file_mounts {target!r}"): filled(source, f"file_mounts {target!r}")
        for target, source in spec.file_mounts.items()
    }
    if (env, workdir, mounts) == (spec.env, spec.workdir, spec.file_mounts):
        return spec
    return replace(spec, env=env, workdir=workdir, file_mounts=mounts)


def order(row: ExperimentRow, attempt: AttemptRow, *, deck_id: str, run_name: str) -> Order:
    """What the backend is given. Metadata are flat strings; they come back with every listing."""
    metadata = {
        "deck_id": deck_id,
        "experiment_id": str(row.id),
        "experiment": row.name,
        "attempt_id": attempt.id,
        "run": str(attempt.run),
        "generation": str(attempt.generation),
        "spec_hash": attempt.spec_hash,
    }
    if row.spec.git_commit:
        metadata["git_commit"] = row.spec.git_commit
    return Order(
        deck_id=deck_id,
        attempt_id=attempt.id,
        experiment_id=row.id,
        experiment=row.name,
        claim=attempt.claim,
        run_name=run_name,
        spec=rendered(row, run_name),
        argv=argv(row.spec, name=run_name),
        metadata=metadata,
        priority=row.priority,
        max_seconds=row.max_hours * 3600 if row.max_hours is not None else None,
        max_restarts=row.max_restarts,
    )
