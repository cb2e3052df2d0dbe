"""The loop's thread on the fake and the local backend: it leads, follows, hurries, rests and ends."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb import codec
from skydeck_nb import events as ev
from skydeck_nb.backends.base import Backend, Cadence
from skydeck_nb.backends.fake import FakeBackend, Outcome
from skydeck_nb.backends.local import LocalBackend
from skydeck_nb.control import requesting
from skydeck_nb.control.runner import Runner
from skydeck_nb.control.surroundings import LoopSettings
from skydeck_nb.errors import BackendUnavailable, DatabaseError
from skydeck_nb.flags.values import spec_hash
from skydeck_nb.models import ExperimentRow, Spec
from skydeck_nb.store.mirror import Mirror
from skydeck_nb.store.store import Store

Word = Callable[..., requesting.Prepared]


def declare(store: Store, count: int, spec: Spec) -> None:
    now = datetime.now(UTC)
    rows = [
        ExperimentRow(id=i, name=f"e{i}", spec=spec, spec_hash=spec_hash(spec), created_at=now, updated_at=now)
        for i in range(1, count + 1)
    ]
    events = [
        ev.SpecChanged(at=now, experiment_id=r.id, what="created", generation=1, changes=(codec.insert(r),))
        for r in rows
    ]
    store.apply(events, durable=True)


def ask(store: Store, word: Word, ids: list[int], **how: Any) -> None:
    with store.write(durable=True) as tx:
        rows = tx.experiments(ids=ids)
        work = requesting.Work(
            jobs={i: tx.jobs(experiment_ids=[i]) for i in ids},
            unanswered={a.experiment_id for a in tx.attempts(experiment_ids=ids, open=True)},
        )
        tx.apply(word(rows, work, datetime.now(UTC), **how).events)


class Loop:
    """A runner, and the waiting for what it brings about."""

    def __init__(self, store: Store, backend: Backend, settings: LoopSettings | None = None) -> None:
        self.store = store
        self.runner = Runner(store, backend, settings or LoopSettings())
        self._moved = threading.Condition()
        self.runner.subscribe(self._tell)
        self.runner.start()

    def _tell(self, _: object) -> None:
        with self._moved:
            self._moved.notify_all()

    def until(self, holds: Callable[[Mirror], bool], timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        with self._moved:
            while not self.runner.view(holds):
                left = deadline - time.monotonic()
                assert left > 0, self.runner.view(lambda m: {e.name: e.message for e in m.experiments.values()})
                self._moved.wait(min(left, 0.2))

    def states(self) -> dict[str, str]:
        return self.runner.view(lambda m: {e.name: e.current_state for e in m.experiments.values()})


def all_in(*states: str) -> Callable[[Mirror], bool]:
    return lambda m: all(e.current_state in states for e in m.experiments.values())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "deck.db")
    yield made
    made.close()


@pytest.fixture
def loops() -> Iterator[list[Loop]]:
    made: list[Loop] = []
    yield made
    for loop in made:
        loop.runner.close()


SPEC = Spec(command=("true",))


def test_what_is_started_runs_to_its_end(store: Store, loops: list[Loop]) -> None:
    declare(store, 3, SPEC)
    loop = Loop(store, FakeBackend(speed=50))
    loops.append(loop)
    loop.until(all_in("STOPPED"))
    ask(store, requesting.start, [1, 2, 3])
    loop.runner.wake()
    loop.until(all_in("SUCCEEDED"))


def test_a_request_of_another_process_wakes_the_leader(store: Store, loops: list[Loop]) -> None:
    declare(store, 1, SPEC)
    loop = Loop(store, FakeBackend(speed=50))
    loops.append(loop)
    other = Store.open(store.path)
    try:
        ask(other, requesting.start, [1])
    finally:
        other.close()
    loop.until(all_in("SUCCEEDED"))


def test_a_stop_while_the_launch_is_under_way_leaves_nothing_alive(store: Store, loops: list[Loop]) -> None:
    declare(store, 20, SPEC)
    backend = FakeBackend(faults=["Slow(0.05, methods=('launch',))"])
    loop = Loop(store, backend)
    loops.append(loop)
    everyone = list(range(1, 21))
    ask(store, requesting.start, everyone)
    loop.runner.wake()
    loop.until(lambda m: len(m.attempts) > 5)
    ask(store, requesting.stop, everyone)
    loop.runner.wake()
    loop.until(all_in("STOPPED"))
    assert [j for j in backend.truth() if j.status not in ("CANCELLED", "SUCCEEDED")] == []


def test_what_waits_for_the_server_to_take_it_is_stopped_at_once_and_never_sent(
    store: Store, loops: list[Loop]
) -> None:
    declare(store, 20, SPEC)
    cadence = Cadence(hot=0.05, discovery=0.2, launches=3)
    backend = FakeBackend(faults=["Slow(0.5, methods=('launch',), where='request')"], cadence=cadence)
    loop = Loop(store, backend)
    loops.append(loop)
    everyone = list(range(1, 21))
    ask(store, requesting.start, everyone)
    loop.runner.wake()
    loop.until(lambda m: len(m.attempts) == 3 and sum(e.reason == "Queued" for e in m.experiments.values()) == 17)
    ask(store, requesting.stop, everyone)
    loop.runner.wake()
    loop.until(all_in("STOPPED"))
    assert backend.truth() == ()
    assert len(loop.runner.view(lambda m: list(m.attempts))) == 3


def test_slow_answers_hold_the_next_launches_back_and_all_run_in_the_end(store: Store, loops: list[Loop]) -> None:
    declare(store, 20, SPEC)
    cadence = Cadence(hot=0.05, discovery=0.2, launches=3)
    backend = FakeBackend(faults=["Slow(0.05, methods=('launch',))"], cadence=cadence, outcomes={"*": "RUNNING"})
    loop = Loop(store, backend)
    loops.append(loop)
    open_at_once: list[int] = []
    loop.runner.subscribe(
        lambda _: open_at_once.append(loop.runner.view(lambda m: sum(a.open for a in m.attempts.values())))
    )
    ask(store, requesting.start, list(range(1, 21)))
    loop.runner.wake()
    loop.until(all_in("RUNNING"))
    assert max(open_at_once) == 3
    assert len(backend.truth()) == 20


def test_a_failing_server_is_said_and_survived(store: Store, loops: list[Loop]) -> None:
    declare(store, 1, SPEC)
    backend = FakeBackend(faults=["FailedListing"], speed=50)
    loop = Loop(store, backend)
    loops.append(loop)
    ask(store, requesting.start, [1])
    loop.runner.wake()
    loop.until(lambda m: m.experiments[1].reason == "ListingFailed")
    assert loop.runner.status().error
    assert not [c for c in backend.calls if c.method == "launch"]
    backend.heal()
    loop.until(all_in("SUCCEEDED"))
    assert loop.runner.status().error is None


def test_an_expired_sign_in_is_said_with_its_remedy_and_goes_on_by_itself(store: Store, loops: list[Loop]) -> None:
    declare(store, 1, SPEC)
    backend = FakeBackend(faults=["SignInExpired"], speed=50)
    loop = Loop(store, backend)
    loops.append(loop)
    ask(store, requesting.start, [1])
    loop.runner.wake()
    loop.until(lambda m: m.experiments[1].reason == "NeedsSignIn")
    assert loop.runner.status().needs_sign_in
    backend.heal()
    loop.until(all_in("SUCCEEDED"))
    assert not loop.runner.status().needs_sign_in


def test_refresh_returns_when_a_look_that_began_after_it_is_done(store: Store, loops: list[Loop]) -> None:
    backend = FakeBackend()
    loop = Loop(store, backend, LoopSettings(discovery=3600))
    loops.append(loop)
    loop.runner.refresh()
    looks = len([c for c in backend.calls if c.method == "observe"])
    loop.runner.refresh()
    assert len([c for c in backend.calls if c.method == "observe"]) == looks + 1


def test_refresh_says_why_a_look_failed(store: Store, loops: list[Loop]) -> None:
    loop = Loop(store, FakeBackend(faults=["FailedListing"]))
    loops.append(loop)
    with pytest.raises(BackendUnavailable, match="as it was told to"):
        loop.runner.refresh()


class Hanging(FakeBackend):
    """A server that accepts a call and never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.looking = threading.Event()
        self.released = threading.Event()

    def observe(self, *args: Any, **how: Any) -> Any:
        self.looking.set()
        self.released.wait()
        return super().observe(*args, **how)


def test_the_loop_ends_within_two_seconds_whatever_the_network_does(store: Store) -> None:
    backend = Hanging()
    loop = Loop(store, backend)
    began = time.monotonic()
    loop.runner.close()
    took = time.monotonic() - began
    backend.released.set()
    assert took < 3
    assert not loop.runner.status().alive


def test_the_loop_does_not_spin_while_a_look_is_under_way(store: Store) -> None:
    backend = Hanging()
    loop = Loop(store, backend)
    try:
        assert backend.looking.wait(10)
        assert loop.runner._pause() > 0
    finally:
        backend.released.set()
        loop.runner.close()


def test_one_broken_round_does_not_end_the_loop(
    store: Store, loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(store, 1, SPEC)
    backend = FakeBackend(speed=50)
    broken = iter([True])
    real = FakeBackend.missing

    def missing(self: FakeBackend, spec: Spec) -> tuple[str, str] | None:
        if next(broken, False):
            raise ZeroDivisionError("a fault of the loop's own")
        return real(self, spec)

    monkeypatch.setattr(FakeBackend, "missing", missing)
    loop = Loop(store, backend)
    loops.append(loop)
    ask(store, requesting.start, [1])
    loop.runner.wake()
    loop.until(all_in("SUCCEEDED"))


def test_a_database_that_is_busy_for_long_does_not_end_the_loop(
    store: Store, loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(store, 1, SPEC)
    loop = Loop(store, FakeBackend(speed=50))
    loops.append(loop)
    loop.until(all_in("STOPPED"))
    busy = iter([True] * 2)
    real = store.write

    def write(**how: Any) -> Any:
        if threading.current_thread().name == "skydeck-loop" and next(busy, False):
            raise DatabaseError("The database is locked.")
        return real(**how)

    monkeypatch.setattr(store, "write", write)
    ask(store, requesting.start, [1])
    loop.runner.wake()
    loop.until(all_in("SUCCEEDED"))
    assert loop.runner.status().alive


def test_a_follower_shows_what_the_leader_does_and_does_nothing(store: Store, loops: list[Loop]) -> None:
    declare(store, 2, SPEC)
    backend = FakeBackend(speed=20)
    leader = Loop(store, backend)
    loops.append(leader)
    assert leader.runner._lease.wait(timeout=5)
    other = Store.open(store.path)
    seeing = FakeBackend(speed=20)
    follower = Loop(other, seeing)
    ask(other, requesting.start, [1, 2])
    follower.runner.wake()
    follower.until(all_in("SUCCEEDED"))
    assert seeing.calls == ()
    assert not follower.runner.status().leading
    assert str(leader.runner.status().holder) in str(follower.runner.status().holder)
    follower.runner.close()
    other.close()


def test_a_retry_after_a_failure_waits_for_its_back_off(store: Store, loops: list[Loop]) -> None:
    declare(store, 1, SPEC)
    with store.write() as tx:
        (row,) = tx.experiments(ids=[1])
        change = codec.update(row, replace(row, max_restarts=1))
        assert change is not None
        tx.apply(
            [ev.SpecChanged(at=datetime.now(UTC), experiment_id=1, what="edited", generation=1, changes=(change,))]
        )
    loop = Loop(store, FakeBackend(speed=50, outcomes={"e1": Outcome("FAILED", after=1, exit_code=1)}))
    loops.append(loop)
    ask(store, requesting.start, [1])
    loop.runner.wake()
    loop.until(lambda m: m.experiments[1].reason == "BackOff")
    explained = loop.runner.explain(1)
    assert explained.next_look_at is not None
    assert 5 < (explained.next_look_at - datetime.now(UTC)).total_seconds() < 11


def test_real_processes_run_and_stop(tmp_path: Path, store: Store, loops: list[Loop]) -> None:
    sleeper = Spec(command=(sys.executable, "-c", "import time; time.sleep(60)"), workdir=str(tmp_path))
    declare(store, 3, sleeper)
    backend = LocalBackend(tmp_path / "local", slots=3, grace=2)
    loop = Loop(store, backend)
    loops.append(loop)
    ask(store, requesting.start, [1, 2, 3])
    loop.runner.wake()
    loop.until(all_in("RUNNING"))
    ask(store, requesting.stop, [2])
    loop.runner.wake()
    loop.until(lambda m: m.experiments[2].current_state == "STOPPED")
    assert loop.states() == {"e1": "RUNNING", "e2": "STOPPED", "e3": "RUNNING"}
    ask(store, requesting.stop, [1, 3])
    loop.runner.wake()
    loop.until(all_in("STOPPED"))
