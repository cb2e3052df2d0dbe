"""The permission to send: what is asked before preparing and at each write, and what a call's end means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.backends.base import Gate, Launched, Order
from skydeck_nb.backends.fake import FakeBackend, FakeClock
from skydeck_nb.control import orders
from skydeck_nb.control.calls import PREPARE, Cancel, Launch, Outcome, Resolve, perform
from skydeck_nb.control.permission import Permission, Refused
from skydeck_nb.control.planning import SEND_WITHIN
from skydeck_nb.control.planning import Launch as Decided
from skydeck_nb.errors import BackendUnavailable, LaunchRejected, NeedsSignIn
from skydeck_nb.flags.values import spec_hash
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow, Spec
from skydeck_nb.store.store import Store


@dataclass
class Lease:
    term: int | None

    def held(self) -> int | None:
        return self.term


class Slowly(FakeBackend):
    """Has something happen while it prepares, before its first write, and before its second where there is one."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.meanwhile: Any = lambda: None
        self.between: Any = lambda: None
        self.deadline = 0.0
        self.asked = 0

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        self.deadline = deadline
        self.meanwhile()

        def counted() -> None:
            self.asked += 1
            if self.asked == 2:
                self.between()
            gate()

        return super().launch(order, counted, deadline=deadline)


class Desk:
    """One experiment that is wanted, one attempt that is prepared, one leader."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.backend = Slowly(clock=self.clock)
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
    def row_of_attempt(self) -> AttemptRow:
        with self.store.read() as tx:
            return tx.attempts(ids=[self.attempt.id])[0]

    @property
    def state(self) -> str:
        return self.row_of_attempt.state

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
    row = desk.row_of_attempt
    assert (row.state, row.send_before) == ("SENDING", desk.clock() + SEND_WITHIN)
    assert timedelta(0) < SEND_WITHIN <= timedelta(seconds=60)


def test_the_minute_begins_at_the_first_write_however_long_preparing_took(desk: Desk) -> None:
    def upload() -> None:
        assert desk.row_of_attempt.send_before is None
        desk.clock.advance(590)

    desk.backend.meanwhile = upload
    outcome = desk.perform()
    assert outcome.launched is not None
    assert desk.row_of_attempt.send_before == desk.clock() + SEND_WITHIN
    assert desk.backend.deadline == (PREPARE + SEND_WITHIN).total_seconds()


CHANGES = {
    "stopped": lambda d: d.want(desired_state="STOPPED"),
    "terminated": lambda d: d.want(desired_state="TERMINATED"),
    "deleted": lambda d: d.want(deleted=1),
    "restarted": lambda d: d.want(run=2),
    "its attempt closed": Desk.close_attempt,
    "the term gone": Desk.forget_term,
}


@pytest.mark.parametrize("what", [*CHANGES, "a job alive"])
def test_what_is_not_wanted_any_more_is_not_even_prepared(desk: Desk, what: str) -> None:
    {**CHANGES, "a job alive": Desk.live}[what](desk)
    before = desk.state
    outcome = desk.perform()
    assert outcome.refused
    assert desk.backend.deadline == 0, "the backend was not called"
    assert desk.state == before


@pytest.mark.parametrize("what", [*CHANGES, "a job alive", "another leader"])
def test_what_changes_while_it_is_prepared_is_never_sent_and_that_is_certain(desk: Desk, what: str) -> None:
    change = {**CHANGES, "a job alive": Desk.live, "another leader": Desk.give_away}[what]
    desk.backend.meanwhile = lambda: change(desk)
    outcome = desk.perform()
    assert desk.sent == []
    assert outcome.refused
    assert not outcome.error
    assert desk.state in ("PREPARED", "NOT_LAUNCHED")


def test_a_stop_during_the_commit_of_the_permission_still_stops_the_write(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow = Permission._allow

    def slowly(permission: Permission) -> datetime:
        send_before = allow(permission)
        desk.want(desired_state="STOPPED")
        return send_before

    monkeypatch.setattr(Permission, "_allow", slowly)
    outcome = desk.perform()
    assert desk.sent == []
    assert outcome.refused == "its experiment was stopped"


@pytest.mark.parametrize("what", [*CHANGES, "its time over"])
def test_a_launch_stopped_at_its_second_write_is_no_certain_miss(desk: Desk, what: str) -> None:
    change = {**CHANGES, "its time over": Desk.be_late}[what]
    desk.backend.inject("Retried(1, first_arrives=True)")
    desk.backend.between = lambda: change(desk)
    outcome = desk.perform()
    assert desk.backend.asked == 2
    assert outcome.error
    assert not outcome.refused
    assert outcome.rejected is None
    assert len(desk.backend.truth()) == 1


FAILURES = [
    (BackendUnavailable("The upload broke off."), "The upload broke off.", "BackendUnavailable"),
    (NeedsSignIn("Sign in again."), "Sign in again.", "NeedsSignIn"),
    (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", "ZeroDivisionError"),
]


@pytest.mark.parametrize(("error", "message", "reason"), FAILURES, ids=[reason for _, _, reason in FAILURES])
def test_what_fails_before_the_first_write_sent_nothing_and_may_be_taken_later(
    desk: Desk, caplog: pytest.LogCaptureFixture, error: Exception, message: str, reason: str
) -> None:
    def fail() -> None:
        raise error

    desk.backend.meanwhile = fail
    outcome = desk.perform()
    assert not outcome.error
    assert outcome.rejected is not None
    assert (str(outcome.rejected), outcome.rejected.retryable, outcome.rejected.reason) == (message, True, reason)
    assert desk.state == "PREPARED", "it was not even allowed"
    surprising = not isinstance(error, BackendUnavailable | NeedsSignIn)
    assert [record.exc_info is not None for record in caplog.records] == [True] * surprising


def test_a_refusal_of_what_was_prepared_stays_as_the_backend_said_it(desk: Desk) -> None:
    def refuse() -> None:
        raise LaunchRejected("There is no such image.", reason="NoImage")

    desk.backend.meanwhile = refuse
    outcome = desk.perform()
    assert outcome.rejected is not None
    assert (outcome.rejected.retryable, outcome.rejected.reason) == (False, "NoImage")


@pytest.mark.parametrize("fault", ["LostRequest", "LostAnswer", "Slow(61)"])
def test_what_fails_after_the_first_write_is_unknown(desk: Desk, fault: str) -> None:
    desk.backend.inject(fault)
    outcome = desk.perform()
    assert outcome.error
    assert outcome.rejected is None
    assert desk.state == "SENDING"


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
