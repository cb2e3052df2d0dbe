"""Decks for tests: rows written as a notebook would have left them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.flags.values import spec_hash
from skydeck_nb.models import ExperimentRow, Spec, SweepRow
from skydeck_nb.store import Store


def declare(path: Path, names: Sequence[str], *command: str, **columns: Any) -> None:
    """Experiments that were declared and never started."""
    now = datetime.now(UTC)
    spec = Spec(command=command or ("true",), workdir=str(path.parent), path=os.environ["PATH"])
    store = Store.open(path)
    with store.read() as tx:
        first = max((row.id for row in tx.experiments(deleted=None)), default=0) + 1
    rows = [
        ExperimentRow(
            **{
                "id": first + i, "name": name, "spec": spec, "spec_hash": spec_hash(spec), "exp_order": first + i,
                "created_at": now, "updated_at": now, **columns,
            }
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    store.apply(
        [
            ev.SpecChanged(at=now, experiment_id=row.id, what="created", generation=1, changes=(codec.insert(row),))
            for row in rows
        ]
    )
    store.close()


def declare_sweep(path: Path, name: str) -> int:
    now = datetime.now(UTC)
    store = Store.open(path)
    row = SweepRow(id=1, name=name, definition={}, created_at=now, updated_at=now)
    store.apply([ev.SweepChanged(at=now, sweep_id=1, what="created", changes=(codec.insert(row),))])
    store.close()
    return row.id


def experiments(path: Path) -> dict[str, ExperimentRow]:
    store = Store.open(path, read_only=True)
    with store.read() as tx:
        found = {row.name: row for row in tx.experiments()}
    store.close()
    return found
