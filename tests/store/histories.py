"""Random histories: lists of transactions, each a list of events that a real deck could write."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.events import Change, Event
from skydeck_nb.models import AttemptRow, CheckpointRow, ExperimentRow, FlagValue, GroupRow, JobRow, Spec, SweepRow
from tests.store.rows import T0, at, attempt, changed, experiment, group, job, sweep

STATUSES = ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "SOMETHING_NEW")

VALUES: list[FlagValue] = [1, 0.5, None, True, "x", [1, "y", None]]


class World:
    """What the rows are, and the next event that could happen to them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.experiments: dict[int, ExperimentRow] = {}
        self.jobs: dict[int, JobRow] = {}
        self.attempts: dict[str, AttemptRow] = {}
        self.sweeps: dict[int, SweepRow] = {}
        self.groups: dict[int, GroupRow] = {}
        self.members: set[tuple[int, int]] = set()
        self.checkpoints: dict[tuple[int, int], CheckpointRow] = {}
        self.ids = {"e": 0, "s": 0, "g": 0, "j": 0, "a": 0}

    def id(self, kind: str) -> int:
        self.ids[kind] += 1
        return self.ids[kind]

    def pick(self) -> ExperimentRow | None:
        return self.random.choice(list(self.experiments.values())) if self.experiments else None

    def save(self, *rows: ExperimentRow | JobRow | AttemptRow) -> tuple[Change, ...]:
        changes = []
        for row in rows:
            table: dict[int | str, codec.Row] = {
                ExperimentRow: self.experiments,
                JobRow: self.jobs,
                AttemptRow: self.attempts,
            }[type(row)]  # type: ignore[assignment]
            before = table.get(row.id)
            table[row.id] = row
            change = codec.insert(row) if before is None else codec.update(before, row)
            changes += [change] if change else []
        return tuple(changes)

    def step(self) -> Event:
        steps = [self.declare, self.edit, self.edit, self.launch, self.launch, self.status, self.status, self.orphan]
        steps += [self.adopt, self.delete, self.hide, self.undelete, self.purge, self.sweep, self.group, self.member]
        steps += [self.checkpoint, self.resolve, self.current]
        while True:
            event = self.random.choice(steps)()
            if event is not None:
                return event

    def declare(self) -> Event:
        i = self.id("e")
        spec = Spec(
            command=("run", "é\n'\""),
            flags={"a": self.random.choice(VALUES)},
            env={"K": "V"} if self.random.random() < 0.5 else {},
            spot=self.random.choice([None, True, False]),
        )
        sweep_id = self.random.choice([None, *self.sweeps])
        row = experiment(
            i, spec=spec, sweep_id=sweep_id, tags=("t",) * (i % 3), wanted_at=self.random.choice([None, T0])
        )
        return changed(i, *self.save(row))

    def edit(self) -> Event | None:
        row = self.pick()
        if row is None:
            return None
        edited = self.random.choice(
            [
                replace(row, desired_state="RUNNING", run=row.run + 1, wanted_at=at(row.run)),
                replace(row, spec=replace(row.spec, flags={"a": self.random.random()}), generation=row.generation + 1),
                replace(row, name=f"n{row.id}x{self.random.randrange(99)}", starred=not row.starred),
                replace(row, exp_order=self.random.random(), max_hours=self.random.choice([None, 1.5])),
                row,
            ]
        )
        return changed(row.id, *self.save(edited))

    def launch(self) -> Event | None:
        row = self.pick()
        if row is None or any(a.open and a.experiment_id == row.id for a in self.attempts.values()):
            return None
        state = self.random.choice(["PREPARED", "SENDING", "UNKNOWN"])
        new = attempt(f"a{self.id('a')}", row.id, run=row.run, state=state, created_at=at(self.ids["a"]))
        return ev.LaunchRequested(
            at=T0,
            experiment_id=row.id,
            attempt_id=new.id,
            run=row.run,
            generation=1,
            spec_hash="h",
            changes=self.save(new),
        )

    def resolve(self) -> Event | None:
        found = [a for a in self.attempts.values() if a.open]
        if not found:
            return None
        old = self.random.choice(found)
        if self.random.random() < 0.3:
            changes = self.save(replace(old, state="NOT_LAUNCHED", ended_at=at(1)))
            return ev.AttemptNotLaunched(
                at=T0, experiment_id=old.experiment_id, attempt_id=old.id, reason="x", changes=changes
            )
        new = job(self.id("j"), old.experiment_id, attempt_id=old.id, run=old.run, status="PENDING")
        owner = self.experiments[old.experiment_id]
        changes = self.save(replace(old, state="SUBMITTED", job_id=new.id), new, replace(owner, current_job_id=new.id))
        return ev.JobSubmitted(at=T0, experiment_id=owner.id, job_id=new.id, attempt_id=old.id, changes=changes)

    def status(self) -> Event | None:
        if not self.jobs:
            return None
        old = self.random.choice(list(self.jobs.values()))
        new = replace(
            old,
            status=self.random.choice(STATUSES),
            started_at=self.random.choice([None, at(1)]),
            ended_at=self.random.choice([None, at(5)]),
            gpus=self.random.choice([None, 2]),
            hourly_cost=self.random.choice([None, 1.5]),
            lost=self.random.random() < 0.2,
            forgotten=self.random.random() < 0.1,
        )
        return ev.JobStateChanged(
            at=T0,
            experiment_id=old.experiment_id,
            job_id=old.id,
            previous=old.status,
            status=new.status,
            changes=self.save(new),
        )

    def orphan(self) -> Event:
        new = job(self.id("j"), None, status=self.random.choice(STATUSES), mine=False)
        return ev.JobSeen(at=T0, job_id=new.id, name="n", status=new.status, changes=self.save(new))

    def adopt(self) -> Event | None:
        found = [j for j in self.jobs.values() if j.experiment_id is None]
        row = self.pick()
        if not found or row is None:
            return None
        old = self.random.choice(found)
        new = replace(old, experiment_id=row.id, run=row.run, adopted=True)
        return ev.JobAdopted(at=T0, experiment_id=row.id, job_id=new.id, changes=self.save(new))

    def current(self) -> Event | None:
        row = self.pick()
        if row is None:
            return None
        own = [j.id for j in self.jobs.values() if j.experiment_id == row.id]
        new = replace(row, current_job_id=self.random.choice([None, *own]))
        return ev.ConditionChanged(
            at=T0, experiment_id=row.id, state="x", reason="r", message="m", changes=self.save(new)
        )

    def delete(self) -> Event | None:
        row = self.pick()
        if row is None or row.deleted:
            return None
        return ev.DeleteRequested(at=T0, experiment_id=row.id, changes=self.save(replace(row, deleted=True)))

    def hide(self) -> Event | None:
        row = self.pick()
        if row is None or not row.deleted:
            return None
        return ev.ExperimentHidden(at=T0, experiment_id=row.id, changes=self.save(replace(row, reason="Deleted")))

    def undelete(self) -> Event | None:
        row = self.pick()
        if row is None or not row.deleted:
            return None
        return ev.UndeleteRequested(at=T0, experiment_id=row.id, changes=self.save(replace(row, deleted=False)))

    def purge(self) -> Event | None:
        row = self.pick()
        if row is None or not row.deleted or self.random.random() < 0.5:
            return None
        gone: list[Change] = [codec.remove(row)]
        tables: tuple[dict[Any, Any], ...] = (self.jobs, self.attempts, self.checkpoints)
        for table in tables:
            keys = [key for key, owned in table.items() if owned.experiment_id == row.id]
            gone += [codec.remove(table.pop(key)) for key in keys]
        for pair in [p for p in self.members if p[1] == row.id]:
            self.members.discard(pair)
            gone.append(codec.member(*pair, None))
        del self.experiments[row.id]
        self.random.shuffle(gone)
        return ev.PurgeRequested(at=T0, experiment_id=row.id, changes=tuple(gone))

    def sweep(self) -> Event:
        if self.sweeps and self.random.random() < 0.6:
            old = self.random.choice(list(self.sweeps.values()))
            new = replace(
                old,
                brake=self.random.choice(["ARMED", "PASSED", "HELD"]),
                max_live=self.random.choice([1, None]),
                max_cost=self.random.choice([1.5, None]),
            )
            change = codec.update(old, new)
        else:
            new = sweep(self.id("s"), definition={"axes": {"lr": [1, 2]}})
            change = codec.insert(new)
        self.sweeps[new.id] = new
        return ev.SweepChanged(at=T0, sweep_id=new.id, what="x", changes=(change,) if change else ())

    def group(self) -> Event:
        chance = self.random.random()
        if self.groups and chance < 0.3:
            old = self.random.choice(list(self.groups.values()))
            gone = [codec.remove(old), *(codec.member(*p, None) for p in self.members if p[0] == old.id)]
            self.members = {p for p in self.members if p[0] != old.id}
            del self.groups[old.id]
            return ev.GroupChanged(at=T0, group_id=old.id, what="removed", changes=tuple(gone))
        if self.groups and chance < 0.6:
            old = self.random.choice(list(self.groups.values()))
            new = replace(old, collapsed=not old.collapsed, flags=("a", "b"))
            change = codec.update(old, new)
        else:
            new = group(self.id("g"))
            change = codec.insert(new)
        self.groups[new.id] = new
        return ev.GroupChanged(at=T0, group_id=new.id, what="x", changes=(change,) if change else ())

    def member(self) -> Event | None:
        row = self.pick()
        if row is None or not self.groups:
            return None
        pair = (self.random.choice(list(self.groups)), row.id)
        place = None if pair in self.members and self.random.random() < 0.5 else self.random.random()
        (self.members.discard if place is None else self.members.add)(pair)
        return ev.GroupChanged(at=T0, group_id=pair[0], what="members", changes=(codec.member(*pair, place),))

    def checkpoint(self) -> Event | None:
        row = self.pick()
        if row is None:
            return None
        epoch = self.random.randrange(3)
        new = CheckpointRow(
            experiment_id=row.id,
            epoch=epoch,
            model_path="m",
            replay_paths=("r",),
            metrics={"loss": self.random.random()},
            created_at=T0,
        )
        self.checkpoints[row.id, epoch] = new
        return ev.CheckpointFound(
            at=T0, experiment_id=row.id, epoch=epoch, model_path="m", changes=(codec.insert(new),)
        )


def history(seed: int, transactions: int) -> list[list[Event]]:
    """Transactions of one to four events each; the same seed gives the same."""
    world = World(seed)
    return [[world.step() for _ in range(world.random.randint(1, 4))] for _ in range(transactions)]
