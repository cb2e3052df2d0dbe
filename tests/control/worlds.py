"""A small world: one database, one fake server with faults, leaders that die, and people who change their minds.

Drives the controller step by step with a clock that stands still, so that a
world is a function of what it is told. Whatever must never happen is checked at
the moment at which it would.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest import mock

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.backends.base import Cadence, Gate, Launched, Listing, Order, Query, Resolution
from skydeck_nb.backends.fake import FakeBackend, FakeClock
from skydeck_nb.control import calls, planning, requesting
from skydeck_nb.control.calls import Call, Lost, Observe, Outcome, perform
from skydeck_nb.control.controller import Controller
from skydeck_nb.control.surroundings import LoopSettings
from skydeck_nb.errors import SkydeckError
from skydeck_nb.flags.values import spec_hash
from skydeck_nb.models import ExperimentRow, GroupRow, JobRow, Spec, SweepRow
from skydeck_nb.states import TERMINAL
from skydeck_nb.store.store import Store
from skydeck_nb.usage import of_job, total

TWINS = ("Duplicate", "LateDuplicate", "LateRequest", "Retried")
"""Faults that make two jobs of one launch by themselves; nothing on our side can prevent it."""


LATEST = 220.0
"""Seconds after which no fault has a twin arrive any more."""


@cache
def blank() -> bytes:
    """A new database, always with the same deck id: made once, since making it costs more than a short life."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deck.db"
        with mock.patch("skydeck_nb.store.schema.secrets.choice", random.Random(0).choice):
            Store.open(path, now=FakeClock()).close()
        return path.read_bytes()


HOLDING = ("Queued", "SweepHeld", "UnclaimedJobAlive", "LimitReached")
"""Why an experiment that is wanted may have no job at the end, and has not ended."""


class Killed(BaseException):
    """The leader's process died here."""


class Switch:
    """Counts the steps of a process, and has something happen at those it is set to: people's words, or its death."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.steps = 0
        self.where = ""
        self.amid: list[tuple[int, Callable[[], None]]] = []
        self.fatal = ""

    def at(self, steps: int, action: Callable[[], None]) -> None:
        """Have this happen at the so-manieth step from now."""
        self.amid.append((self.steps + steps, action))

    def point(self, where: str) -> None:
        """A point at which the process may die, and at which nobody is heard: between a check and what it allows."""
        self.where = where
        if self.fatal == where:
            self.fatal = ""
            self._world.kill()

    def step(self, where: str) -> None:
        self.point(where)
        self.steps += 1
        due = [one for one in self.amid if one[0] <= self.steps]
        for one in due:
            self.amid.remove(one)
            self._world.counts[f"amid {where}"] += 1
            one[1]()


class MortalStore:
    """The store as one process uses it: it can die before and after each commit."""

    def __init__(self, store: Store, switch: Switch) -> None:
        self._store, self._switch = store, switch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def write(self, **how: Any) -> Iterator[Any]:
        self._switch.step("before a commit")
        with self._store.write(**how) as tx:
            yield tx
        self._switch.step("after a commit")


class MortalBackend:
    """The backend as one process uses it: it can die before and after each call, and each send is examined."""

    kind = "fake"

    def __init__(self, world: World, switch: Switch) -> None:
        self._world, self._backend, self._switch = world, world.backend, switch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def observe(self, query: Query, *, deadline: float) -> Listing:
        self._switch.step("before a look")
        listing = self._backend.observe(query, deadline=deadline)
        self._switch.step("after a look")
        return listing

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        self._switch.step("before a launch")

        def examined() -> None:
            self._switch.step("before a write of a launch")
            gate()
            self._switch.point("between permission and write")
            self._world.examine_send(order)

        if not self._world.enforces:
            order = replace(order, max_seconds=None)
        launched = self._backend.launch(order, examined, deadline=deadline)
        self._switch.step("after a launch")
        return launched

    def cancel(self, job_ids: Sequence[int], *, deadline: float) -> None:
        self._switch.step("before a cancel")
        self._world.examine_cancel(job_ids)
        self._backend.cancel(job_ids, deadline=deadline)
        self._switch.step("after a cancel")

    def refuse(self, claim: str, attempt_id: str, request_id: str | None, *, deadline: float, **sent: Any) -> None:
        self._switch.step("before a refusal")
        self._backend.refuse(claim, attempt_id, request_id, deadline=deadline)
        self._switch.step("after a refusal")

    def resolve(
        self, claim: str, attempt_id: str, request_id: str | None, *, deadline: float, **sent: Any
    ) -> Resolution:
        self._switch.step("before a search")
        found = self._backend.resolve(claim, attempt_id, request_id, deadline=deadline)
        self._switch.step("after a search")
        return found


class Leader:
    """One process that leads: its controller, its calls on the way, and its term."""

    def __init__(self, world: World, term: int) -> None:
        self.world, self.term, self.switch, self.calls = world, term, Switch(world), list[Call]()
        self.store = cast("Any", MortalStore(world.store, self.switch))
        self.backend = cast("Any", MortalBackend(world, self.switch))
        self.controller = Controller(
            self.store, self.backend, world.settings, seeded=random.Random(f"{world.seed}:{term}")
        )
        self.controller.lead(term, world.clock())

    def held(self) -> int | None:
        return self.term if self.world.leader is self else None

    def perform(self, call: Call) -> Outcome:
        return perform(call, self.store, self.backend, self, self.world.clock)


class World:
    """Experiments of one deck on one fake server."""

    def __init__(
        self,
        path: Path,
        seed: int,
        experiments: int = 3,
        settings: LoopSettings | None = None,
        sweep: bool = False,
        sweep_live: int | None = None,
        sweep_cost: float | None = None,
        group_live: int | None = None,
        max_hours: float | None = None,
        enforces: bool = True,
        launches: int | None = None,
        **backend: Any,
    ) -> None:
        self.seed, self.experiments = seed, experiments
        self.clock = FakeClock()
        self.settings = settings or LoopSettings(hot=10.0, discovery=60.0)
        cadence = Cadence(hot=0.02, discovery=0.1, launches=launches)
        self.backend = FakeBackend(seed=seed, clock=self.clock, cadence=cadence, **backend)
        path.write_bytes(blank())
        self.store = Store.open(path, now=self.clock)
        self.foreign: set[int] = set()
        self.unclaimed: set[int] = set()
        """Jobs of the own user that nobody claims."""
        self.adopted: dict[int, int] = {}
        """Those that a person put under an experiment, and which."""
        self.named: set[int] = set()
        """Jobs that a person wants cancelled."""
        self.cancels_tried: set[int] = set()
        self.enforces = enforces
        """Whether the server itself ends what runs too long."""
        self.max_hours = max_hours
        self.twins_allowed = False
        self.counts: Counter[str] = Counter()
        """What has happened, for those who ask whether these worlds are worth something."""
        self.leader: Leader | None = None
        self._declare(experiments, sweep, sweep_live, sweep_cost, group_live)
        self.take_over()

    def close(self) -> None:
        self.store.close()

    # -- people -------------------------------------------------------------------------

    def _declare(
        self, count: int, sweep: bool, sweep_live: int | None, sweep_cost: float | None, group_live: int | None
    ) -> None:
        """Experiments, all but the last of them in one sweep and the odd ones in one group, if so told."""
        spec, now = Spec(command=("true",), gpus=1), self.clock()
        events: list[ev.Event] = []
        if sweep:
            limits: dict[str, Any] = {"max_live": sweep_live, "max_cost": sweep_cost}
            row = SweepRow(id=1, name="s", definition={}, created_at=now, updated_at=now, **limits)
            events.append(ev.SweepChanged(at=now, sweep_id=1, what="created", changes=(codec.insert(row),)))
        for number in range(1, count + 1):
            one = ExperimentRow(
                id=number,
                name=f"e{number}",
                spec=spec,
                spec_hash=spec_hash(spec),
                sweep_id=1 if sweep and number < count else None,
                priority=number % 2,
                max_restarts=number % 3,
                max_hours=self.max_hours,
                created_at=now,
                updated_at=now,
            )
            changes = (codec.insert(one),)
            events.append(ev.SpecChanged(at=now, experiment_id=number, what="created", generation=1, changes=changes))
        if group_live is not None:
            group = GroupRow(id=1, name="g", max_live=group_live, created_at=now, updated_at=now)
            inside = [codec.member(1, number, float(number)) for number in range(1, count + 1, 2)]
            events.append(ev.GroupChanged(at=now, group_id=1, what="created", changes=(codec.insert(group), *inside)))
        self.store.apply(events, durable=True)

    def ask(self, word: str, number: int) -> None:
        """One person says one word about one experiment."""
        with self.store.write(durable=True) as tx:
            rows = tx.experiments(ids=[number], deleted=None)
            work = requesting.Work(
                jobs={number: tx.jobs(experiment_ids=[number])},
                unanswered={number} if tx.attempts(experiment_ids=[number], open=True) else set(),
            )
            now = self.clock()
            words: dict[str, Callable[[], requesting.Prepared]] = {
                "start": lambda: requesting.start(rows, work, now),
                "retry": lambda: requesting.start(rows, work, now, how="retry"),
                "restart": lambda: requesting.start(rows, work, now, how="restart"),
                "stop": lambda: requesting.stop(rows, work, now),
                "terminate": lambda: requesting.terminate(rows, work, now),
                "delete": lambda: requesting.delete(rows, work, now),
                "undelete": lambda: requesting.undelete(rows, set(), now),
            }
            tx.apply(words[word]().events)

    def start_all(self) -> None:
        with self.store.write(durable=True) as tx:
            tx.apply(requesting.start(tx.experiments(), requesting.Work(), self.clock()).events)

    def stop_all(self) -> None:
        """One word about all of them."""
        with self.store.write(durable=True) as tx:
            rows = tx.experiments(deleted=None)
            tx.apply(requesting.stop(rows, requesting.Work(), self.clock()).events)

    def release(self) -> None:
        """A person has the sweep go on although its brake holds it."""
        with self.store.write(durable=True) as tx:
            for sweep in tx.sweeps():
                tx.apply(requesting.release(sweep, self.clock()))

    def change(self, number: int) -> None:
        """A person changes what is executed; by itself that launches nothing."""
        with self.store.write(durable=True) as tx:
            (row,) = tx.experiments(ids=[number], deleted=None)
            change = ev.Change("experiments", number, {"generation": row.generation + 1})
            tx.apply(
                [
                    ev.SpecChanged(
                        at=self.clock(),
                        experiment_id=number,
                        what="edited",
                        generation=row.generation + 1,
                        changes=(change,),
                    )
                ]
            )

    def _job(self, holds: Callable[[JobRow], bool], nth: int) -> JobRow | None:
        with self.store.read() as tx:
            found = [j for j in tx.jobs() if holds(j)]
        return found[nth % len(found)] if found else None

    def cancel(self, nth: int) -> None:
        """A person cancels one job: of an experiment, or without one."""
        job = self._job(lambda j: j.alive and j.mine, nth)
        if job is None:
            return
        with self.store.write(durable=True) as tx:
            row = next(iter(tx.experiments(ids=[job.experiment_id], deleted=None)), None) if job.experiment_id else None
            work = requesting.Work(jobs={row.id: tx.jobs(experiment_ids=[row.id])} if row else {})
            tx.apply(requesting.cancel(job, row, work, self.clock(), others=True).events)
        self.named.add(job.id)
        self.counts["word cancel"] += 1

    def forget(self, nth: int) -> None:
        """A person says that a lost job is gone, and may be wrong."""
        job = self._job(lambda j: j.alive and j.lost, nth)
        if job is None:
            return
        with self.store.write(durable=True) as tx:
            tx.apply(requesting.forget(job, None, self.clock()).events)
        self.twins_allowed = True
        self.counts["word forget"] += 1

    def adopt(self, nth: int, number: int) -> None:
        """A person puts an unclaimed job under an experiment."""
        job = self._job(lambda j: j.alive and j.mine and j.experiment_id is None, nth)
        if job is None:
            return
        with self.store.write(durable=True) as tx, suppress(SkydeckError):
            (row,) = tx.experiments(ids=[number], deleted=None)
            unanswered = {number} if tx.attempts(experiment_ids=[number], open=True) else set()
            work = requesting.Work(jobs={number: tx.jobs(experiment_ids=[number])}, unanswered=unanswered)
            tx.apply(requesting.adopt(job, row, work, None, self.clock()).events)
            self.adopted[job.id] = number
            self.counts["word adopt"] += 1

    def mine(self, number: int) -> None:
        """A job that the own user began by hand, with the very name of an experiment."""
        self.unclaimed.add(self.backend.add_foreign_job(f"e{number}"))

    def somebody_else(self, number: int) -> None:
        """A job of another user, with the very name of an experiment."""
        self.foreign.add(self.backend.add_foreign_job(f"e{number}", user="somebody"))

    def everyone(self) -> None:
        """A person wants to see everybody's jobs."""
        assert self.leader is not None
        self.leader.controller.looks.ask_for_everyone(self.clock())
        self.round()
        self.counts["word everyone"] += 1

    # -- leaders ------------------------------------------------------------------------

    def take_over(self) -> None:
        """A new process leads; what the old one had on the way is never heard of again."""
        with self.store.write(durable=True) as tx:
            term = tx.take_lease("somebody", "host", 1)
        self.leader = None
        self.leader = Leader(self, term)

    def kill_after(self, steps: int) -> None:
        """The leader dies at the so-manieth step from now."""
        self.amid(steps, self.kill)

    def kill_at(self, where: str) -> None:
        """The leader dies the next time that it comes there."""
        assert self.leader is not None
        self.leader.switch.fatal = where

    def amid(self, steps: int, action: Callable[[], None]) -> None:
        """Something happens amid what the leader does."""
        assert self.leader is not None
        self.leader.switch.at(steps, action)

    def kill(self) -> None:
        assert self.leader is not None
        self.counts[f"killed {self.leader.switch.where}"] += 1
        raise Killed

    def round(self, *, keep: bool = False) -> None:
        """One round of the loop; with ``keep`` the calls stay on their way until a later one."""
        leader = self.leader
        assert leader is not None
        try:
            leader.controller.advance()
            now = self.clock()
            look = leader.controller.look(now)
            if look is not None:
                leader.calls.append(look)
            self._plan(leader)
            if keep:
                return
            for _ in range(20):
                waiting, leader.calls = leader.calls, []
                for call in waiting:
                    leader.controller.finish(leader.perform(call), self.clock())
                leader.controller.advance()
                self._plan(leader)
                look = leader.controller.look(self.clock())
                if look is not None:
                    leader.calls.append(look)
                if not leader.calls:
                    break
        except Killed:
            self.take_over()
        except Lost:
            assert leader is not self.leader, "the leader was told that another leads"
            self.counts["old leader told"] += 1
        else:
            if leader is self.leader:
                self.examine_twins()
        self.examine()

    def _plan(self, leader: Leader) -> None:
        planned = leader.controller.plan_pass(self.clock())
        self.examine_plan(leader, planned)
        leader.calls += planned

    def thaw(self, frozen: Leader) -> None:
        """A leader that lost its term meanwhile goes on where it stood: nothing of it may reach the server."""
        before = len(self.backend.calls)
        for call in frozen.calls:
            self.counts[f"frozen with {type(call).__name__}"] += 1
            if not isinstance(call, Observe):
                outcome = frozen.perform(call)
                assert outcome.refused or outcome.error, outcome
        sent = [c for c in self.backend.calls[before:] if c.method in ("launch", "cancel", "refuse")]
        assert sent == []

    def look(self) -> None:
        """One round with a look at everything."""
        assert self.leader is not None
        self.leader.controller.looks.ask()
        self.round()

    def again(self, number: int) -> None:
        """A person restarts it, and what ran has ended: the next round launches."""
        self.ask("restart", number)
        self.round()
        self.clock.advance(2)

    def pass_time(self, seconds: float) -> None:
        """Time goes by in steps no longer than the loop's own, each with a round."""
        left = seconds
        while left > 0:
            step = min(left, 10.0)
            self.clock.advance(step)
            left -= step
            self.round()

    def converge(self, limit: float = 3600) -> None:
        """Faults end; time passes until nothing is under way any more."""
        self.backend.heal()
        if self.leader is not None:
            self.leader.switch.amid.clear()
            self.leader.switch.fatal = ""
        quiet = 0
        waited = 0.0
        while quiet < 2 or (self.twins_allowed and waited < LATEST):
            before = self.sequence()
            self.clock.advance(30)
            waited += 30
            self.look()
            quiet = quiet + 1 if self.sequence() == before and self.settled() else 0
            assert waited < limit, f"not settled after {limit} s: {self.story()}"

    def settled(self) -> bool:
        with self.store.read() as tx:
            waits = [r for r in tx.experiments(deleted=None) if r.reason in ("LaunchRetry", "BackOff", "NoResource")]
            if waits:
                return False
            return not tx.attempts(open=True) and not any(
                j.alive and j.status != "RUNNING" and j.experiment_id is not None for j in tx.jobs(alive=True)
            )

    # -- what must hold -----------------------------------------------------------------

    def examine_send(self, order: Order) -> None:
        """Never two launches for one run without a certain miss or an end between; none for what was stopped."""
        with self.store.read() as tx:
            (row,) = tx.experiments(ids=[order.experiment_id], deleted=None)
            attempts = tx.attempts(experiment_ids=[order.experiment_id])
            jobs = {j.attempt_id: j for j in tx.jobs(experiment_ids=[order.experiment_id])}
        assert row.desired_state == "RUNNING", f"launched though {row.desired_state}"
        assert not row.deleted
        for attempt in attempts:
            if attempt.id == order.attempt_id:
                continue
            job = jobs.get(attempt.id)
            over = attempt.state in ("NOT_LAUNCHED", "REJECTED") or (job is not None and not job.alive)
            assert over, f"{order.claim} is sent while {attempt.claim} is {attempt.state}"
        assert not [j for j in jobs.values() if j.alive]
        self.counts["sent"] += 1

    def examine_cancel(self, job_ids: Sequence[int]) -> None:
        assert not self.foreign & set(job_ids), "somebody else's job was cancelled"
        unasked = self.unclaimed & set(job_ids) - set(self.adopted) - self.named
        assert not unasked, f"{unasked} were never given to this deck, and cancelled"
        self.cancels_tried |= set(job_ids)

    def examine_plan(self, leader: Leader, planned: Sequence[Call]) -> None:
        """No limit is passed by a launch, nothing is launched beside an unclaimed job, one call per experiment."""
        mirror = leader.controller.mirror
        launched = {c.attempt.experiment_id for c in planned if isinstance(c, calls.Launch)}
        assert not launched or leader.controller.evidence.complete_at is not None, "launched before it was seen"
        if launched:
            live = {j.experiment_id for j in mirror.jobs.values() if j.alive and j.experiment_id is not None}
            live |= {a.experiment_id for a in mirror.attempts.values() if a.open}
            everyone = set(mirror.experiments)
            scopes: list[tuple[int | None, set[int]]] = [
                (self.settings.max_live, everyone),
                (self.settings.max_gpus, everyone),
            ]
            scopes += [(s.max_live, {r.id for r in mirror.experiments.values() if r.sweep_id == s.id})
                       for s in mirror.sweeps.values()]  # fmt: skip
            scopes += [(g.max_live, set(mirror.members.get(g.id, {}))) for g in mirror.groups.values()]
            for most, members in scopes:
                if most is not None and launched & members:
                    assert len(live & members) <= most, f"{len(live & members)} of at most {most}: {self.story()}"
            most = self.backend.cadence.launches
            busy = [a.claim for a in mirror.attempts.values() if planning.under_way(a, self.clock())]
            assert most is None or len(busy) <= most, f"{busy} of at most {most} launches: {self.story()}"
            broke = self.broke()
            assert not launched & broke, f"launched though its budget is used up: {self.story()}"
            for job in mirror.jobs.values():
                if job.experiment_id is None and job.alive and job.mine:
                    names = {mirror.experiments[i].name for i in launched}
                    assert job.name not in names, f"launched beside the unclaimed job {job.id}"
        under_way = [c for c in [*leader.calls, *planned] if not isinstance(c, Observe)]
        sends = [i for c in under_way if not isinstance(c, calls.Cancel) for i in whose(c)]
        assert len(sends) == len(set(sends)), "two launches or searches for one experiment"
        stops = {i for c in under_way if isinstance(c, calls.Cancel) for i in whose(c)}
        assert not launched & stops, "launched while a cancel is under way"
        kinds = [isinstance(c, calls.Cancel) for c in planned]
        assert kinds == sorted(kinds, reverse=True), "launches ahead of stops"

    def broke(self) -> set[int]:
        """The experiments whose shared budget is used up, counted from all jobs there ever were."""
        with self.store.read() as tx:
            rows, jobs, sweeps = tx.experiments(deleted=None), tx.jobs(), tx.sweeps()
        found: set[int] = set()
        scopes = [(s.max_gpu_hours, s.max_cost, {r.id for r in rows if r.sweep_id == s.id}) for s in sweeps]
        scopes.append((self.settings.max_gpu_hours, self.settings.max_cost, {r.id for r in rows}))
        for gpu_hours, dollars, members in scopes:
            used = total(of_job(job, self.clock()) for job in jobs if job.experiment_id in members)
            over = gpu_hours is not None and used.gpu_hours >= gpu_hours
            if over or (dollars is not None and used.cost >= dollars):
                found |= members
        return found

    def alive(self) -> dict[int, list[int]]:
        """Which jobs really live, by experiment."""
        found: dict[int, list[int]] = defaultdict(list)
        for job in self.backend.truth():
            if job.status not in TERMINAL and job.metadata.get("deck_id") == self.store.deck_id:
                found[int(job.metadata["experiment_id"])].append(job.id)
            elif job.status not in TERMINAL and job.id in self.adopted:
                found[self.adopted[job.id]].append(job.id)
        return found

    def examine(self) -> None:
        for number, jobs in self.alive().items():
            self.counts["round with twins"] += len(jobs) > 1
            if self.twins_allowed:
                continue
            assert len(jobs) <= 1, f"e{number} lives {len(jobs)} times: {self.story()}"

    def examine_twins(self) -> None:
        """Of several live jobs that a listing has shown, all but one have been told to end, in the same round."""
        leader = self.leader
        if leader is None or leader.calls or leader.controller.evidence.failed:
            return
        loose: dict[int, list[int]] = defaultdict(list)
        for job in leader.controller.mirror.jobs.values():
            ending = job.status == "CANCELLING" or job.id in self.cancels_tried
            if job.alive and not job.lost and not ending and job.experiment_id is not None:
                loose[job.experiment_id].append(job.id)
        mirror = leader.controller.mirror
        older = {j.experiment_id for j in mirror.jobs.values() if j.alive and j.run != self._run(leader, j)}
        twins = {i: jobs for i, jobs in loose.items() if len(jobs) > 1 and i not in older}
        assert not twins, f"nobody ends one of {twins}: {self.story()}"

    def _run(self, leader: Leader, job: JobRow) -> int | None:
        row = leader.controller.mirror.experiments.get(job.experiment_id or 0)
        return row.run if row is not None else None

    def examine_end(self) -> None:
        """After convergence: one job where one is wanted, none where none is, a reason for every row, and silence."""
        alive = self.alive()
        leader = self.leader
        assert leader is not None
        leader.controller.advance()
        now = self.clock()
        assert not self.broke() & {i for i, jobs in alive.items() if jobs}, f"beyond its budget: {self.story()}"
        with self.store.read() as tx:
            rows = tx.experiments(deleted=None)
            jobs = tx.jobs()
        for row in rows:
            living = alive.get(row.id, [])
            assert len(living) <= 1, f"{row.name} lives {len(living)} times at the end: {self.story()}"
            if row.desired_state != "RUNNING" or row.deleted:
                assert living == [], f"{row.name} was stopped and lives: {self.story()}"
            elif not living:
                held = row.current_state == "QUEUED" and row.reason in HOLDING
                assert held or row.current_state in ("SUCCEEDED", "FAILED", "CANCELLED"), (row.reason, row.message)
                if row.reason == "Queued":
                    assert any(alive.values()), f"{row.name} waits for nobody: {self.story()}"
                self.counts[f"end {row.reason}"] += 1
            if row.deleted and row.id not in leader.controller.mirror.experiments:
                continue  # hidden, and loaded again only when something of it comes back
            explained = leader.controller.explain(row.id, now)
            assert explained.message
            assert explained.rule
            assert explained.reason == row.reason or explained.reason == "Running"
        rows = [r for r in rows if r.id in leader.controller.mirror.experiments]
        assert [p for p in leader.controller.preview(rows, now) if p.action != "queue"] == []
        before = self.sequence()
        leader.controller.plan_everything()
        assert leader.controller.plan_pass(now) == []
        assert self.sequence() == before, "a second pass changed something"
        self.examine_fold()
        known = {j.id for j in jobs}
        assert all(i in known for ids in alive.values() for i in ids), "a live job is not known"
        assert not [j for j in jobs if j.id in self.foreign and (j.experiment_id or j.lost or j.cancel_sent_at)]
        shown = {j.id for j in jobs if j.id in self.foreign and not j.forgotten}
        assert not shown or leader.controller.looks.everyone(now), "another user's job is shown to nobody"
        for job in self.backend.truth():
            if job.id in self.foreign or job.id in self.unclaimed - set(self.adopted) - self.named:
                assert job.status == "RUNNING", f"job {job.id} is nobody's here, and was touched"

    def examine_fold(self) -> None:
        """The log folds to the stored rows."""
        with self.store.read() as tx:
            assert tx.folded() == tx.tables()

    def sequence(self) -> int:
        with self.store.read() as tx:
            return tx.sequence

    def story(self) -> str:
        """What happened, for a failing test."""
        with self.store.read() as tx:
            lines = [f"{i.sequence} {i.type} e{i.experiment_id} job {i.job_id} {i.payload[:160]}" for i in tx.log()]
        return "\n" + "\n".join(lines[-60:])


def whose(call: Call) -> set[int]:
    """The experiments about which a call changes something."""
    match call:
        case calls.Launch(attempt=attempt) | calls.Resolve(attempt=attempt):
            return {attempt.experiment_id}
        case calls.Cancel(jobs=jobs):
            return {i for i, _ in jobs if i}
        case _:
            return set()
