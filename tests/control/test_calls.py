"""The permission to send: what is asked before a launch and at each write, and what a call's end means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.backends.base import Gate, Launched, Order
from skydeck_nb.backends.fake import FakeBackend, FakeClock
from skydeck_nb.control import orders
from skydeck_nb.control.calls import SEND_WITHIN, Cancel, Launch, Outcome, Refused, Resolve, perform
from skydeck_nb.control.planning import Launch as Decided
from skydeck_nb.flags.values import spec_hash
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow, Spec
from skydeck_nb.store.store import Store


@dataclass
class Lease:
    term: int | None

    def held(self) -> int | None:
        return self.term


class Writing(FakeBackend):
    """Has something happen between the permission to send and the write."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.meanwhile: Any = lambda: None

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        self.meanwhile()
        return super().launch(order, gate, deadline=deadline)


class Desk:
    """One experiment that is wanted, one attempt that is prepared, one leader."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.backend = Writing(clock=self.clock)
        self.store = Store.open(path, now=self.clock)
        now, spec = self.clock(), Spec(command=("true",))
        with self.store.write() as tx:
            term = tx.take_lease("me", "host", 1)
        self.lease = Lease(term)
        self.row = ExperimentRow(
            id=1,
            name="e1",
            spec=spec,
            spec_hash=spec_hash(spec),
            desired_state="RUNNING",
            run=1,
            created_at=now,
            updated_at=now,
        )
        self.attempt: AttemptRow = orders.attempt(
            self.row,
            Decided(run=1, generation=1),
            deck_id=self.store.deck_id,
            term=term,
            attempt_id="aaaaaaaaaa",
            now=now,
        )
        made = (codec.insert(self.row), codec.insert(self.attempt))
        self.write(*made)
        order = orders.order(self.row, self.attempt, deck_id=self.store.deck_id, run_name="e1")
        self.call = Launch(attempt=self.attempt, order=order, term=term)

    def write(self, *changes: ev.Change) -> None:
        self.store.apply(
            [ev.SpecChanged(at=self.clock(), experiment_id=1, what="edited", generation=1, changes=changes)]
        )

    def want(self, **columns: Any) -> None:
        self.write(ev.Change("experiments", 1, columns))

    def close_attempt(self) -> None:
        self.write(ev.Change("attempts", self.attempt.id, {"state": "NOT_LAUNCHED"}))

    def give_away(self) -> None:
        """Another process leads, and this one has not heard of it."""
        with self.store.write() as tx:
            tx.take_lease("you", "host", 2)

    def forget_term(self) -> None:
        self.lease.term = None

    def be_late(self) -> None:
        self.clock.advance(SEND_WITHIN.total_seconds())

    def live(self) -> None:
        now = self.clock()
        self.write(
            codec.insert(JobRow(id=9, experiment_id=1, name="x", status="RUNNING", created_at=now, changed_at=now))
        )

    def perform(self, call: Any = None) -> Outcome:
        return perform(call or self.call, self.store, self.backend, self.lease, self.clock)

    @property
    def state(self) -> str:
        with self.store.read() as tx:
            return tx.attempts(ids=[self.attempt.id])[0].state

    @property
    def sent(self) -> list[str]:
        return [c.method for c in self.backend.calls]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "deck.db")
    yield made
    made.store.close()


def test_a_launch_is_allowed_for_a_minute_and_sent(desk: Desk) -> None:
    outcome = desk.perform()
    assert outcome.launched is not None
    assert outcome.launched.job_id == 1
    with desk.store.read() as tx:
        (row,) = tx.attempts(ids=[desk.attempt.id])
    assert (row.state, row.send_before) == ("SENDING", desk.clock() + SEND_WITHIN)
    assert timedelta(0) < SEND_WITHIN <= timedelta(seconds=60)


CHANGES = {
    "stopped": lambda d: d.want(desired_state="STOPPED"),
    "terminated": lambda d: d.want(desired_state="TERMINATED"),
    "deleted": lambda d: d.want(deleted=1),
    "restarted": lambda d: d.want(run=2),
    "its attempt closed": Desk.close_attempt,
    "the term gone": Desk.forget_term,
}


@pytest.mark.parametrize("what", [*CHANGES, "a job alive", "another leader"])
def test_what_is_not_wanted_any_more_is_not_allowed(desk: Desk, what: str) -> None:
    {**CHANGES, "a job alive": Desk.live, "another leader": Desk.give_away}[what](desk)
    before = desk.state
    outcome = desk.perform()
    assert outcome.refused
    assert desk.sent == []
    assert desk.state == before


@pytest.mark.parametrize("what", [*CHANGES, "its time over"])
def test_what_changes_between_permission_and_write_stops_the_write(desk: Desk, what: str) -> None:
    change = {**CHANGES, "its time over": Desk.be_late}[what]
    desk.backend.meanwhile = lambda: change(desk)
    outcome = desk.perform()
    assert desk.sent == []
    assert outcome.error, "it is not certain that nothing was sent by an earlier write"
    assert not outcome.refused


def test_a_launch_stopped_at_its_second_write_is_no_certain_miss(desk: Desk) -> None:
    desk.backend.inject("Retried(1, first_arrives=True)")
    gates = 0

    def launch(order: Order, gate: Gate, *, deadline: float) -> Launched:
        def counted() -> None:
            nonlocal gates
            gates += 1
            if gates == 2:
                desk.want(desired_state="STOPPED")
            gate()

        return FakeBackend.launch(desk.backend, order, counted, deadline=deadline)

    desk.backend.launch = launch  # type: ignore[method-assign]
    outcome = desk.perform()
    assert gates == 2
    assert outcome.error
    assert not outcome.refused
    assert len(desk.backend.truth()) == 1


@pytest.mark.parametrize("refuse", [False, True])
def test_a_search_refuses_first_where_it_is_told_to(desk: Desk, refuse: bool) -> None:
    outcome = desk.perform(Resolve(attempt=replace(desk.attempt, state="UNKNOWN"), refuse=refuse, term=desk.call.term))
    assert outcome.resolution is not None
    assert desk.sent == (["refuse", "resolve"] if refuse else ["resolve"])


def test_an_old_leader_cancels_and_searches_nothing(desk: Desk) -> None:
    desk.forget_term()
    assert desk.perform(Cancel(jobs=((1, 1),), term=desk.call.term)).refused
    assert desk.perform(Resolve(attempt=desk.attempt, refuse=True, term=desk.call.term)).refused
    assert desk.sent == []


def test_a_refusal_says_why() -> None:
    assert str(Refused("its time is over")) == "its time is over"
