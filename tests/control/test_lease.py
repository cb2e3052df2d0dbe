"""The lease: who may act on a database, by which term, until when.

First the decision, then one process after another by a clock of ours, then
random worlds, then real processes that are killed, frozen and closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skydeck_nb.control.lease import ACT, LIFE, PROBE, RENEW, TRY, Grant, Lease, LeaseGone, Sight, decide
from skydeck_nb.control.recordlock import RecordLock
from skydeck_nb.errors import DatabaseError
from skydeck_nb.events import Event, LeaseLost, LeaseTaken
from skydeck_nb.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    term: int = 1
    counter: int = 0
    holder: str | None = "somebody"
    host: str = "here"
    pid: int = 1
    taken_at: datetime = NOON
    renewed_at: datetime = NOON
    listed_at: datetime | None = None
    next_look_at: datetime | None = None


def verdict(row: Row | None, grant: Grant | None, sight: Sight | None, now: float, **more: bool) -> str:
    return decide(cast("Any", row), grant, sight, now, **more)[0]


# -- the decision -------------------------------------------------------------------------

FREE = Row(holder=None)
MINE = Grant(term=1, since=100.0)
SEEN = Sight(term=1, counter=0, since=100.0)


@pytest.mark.parametrize(
    ("says", "row", "grant", "sight", "now", "vacant"),
    [
        ("take", None, None, None, 0.0, False),  # nobody ever led
        ("take", FREE, None, None, 0.0, False),  # it was handed back
        ("follow", Row(), None, None, 0.0, False),  # seen for the first time
        ("follow", Row(), None, SEEN, 100 + LIFE - 0.01, False),
        ("take", Row(), None, SEEN, 100 + LIFE, False),  # unchanged for the whole life
        ("follow", Row(counter=1), None, SEEN, 500.0, False),  # renewed meanwhile: counted anew
        ("follow", Row(term=2), None, SEEN, 500.0, False),  # taken meanwhile
        ("take", Row(), None, None, 0.0, True),  # its holder is dead
        ("renew", Row(), MINE, None, 100.0, False),
        ("renew", Row(counter=9), MINE, None, 100 + LIFE - 0.01, False),
        ("lost", Row(), MINE, None, 100 + LIFE, False),  # renewal works only while unexpired
        ("lost", Row(term=2), MINE, None, 101.0, False),
        ("lost", FREE, MINE, None, 101.0, False),
        ("lost", None, MINE, None, 101.0, False),  # another file
    ],
)
def test_what_is_decided(
    says: str, row: Row | None, grant: Grant | None, sight: Sight | None, now: float, vacant: bool
) -> None:
    assert verdict(row, grant, sight, now, vacant=vacant) == says


def test_a_renewal_seen_starts_the_count_again() -> None:
    _, sight = decide(cast("Any", Row(counter=1)), None, SEEN, 110.0)
    assert sight == Sight(term=1, counter=1, since=110.0)


def test_a_holder_that_expired_unseen_may_take_again_at_once() -> None:
    row = Row(counter=4)
    says, sight = decide(cast("Any", row), MINE, None, 100 + LIFE + 1)
    assert says == "lost"
    assert verdict(row, None, sight, 100 + LIFE + 1) == "take"


def test_nobody_may_take_while_the_holder_may_still_act() -> None:
    # A follower sees a counter no earlier than the renewal that wrote it began.
    assert ACT < LIFE
    assert RENEW + 2 * TRY < ACT, "one renewal may fail"


# -- a store in memory, shared by several "processes" of this one -------------------------


@dataclass
class World:
    folder: Path
    time: float = 1000.0
    row: Row | None = None
    events: list[Event] = field(default_factory=list)
    fails: Exception | None = None
    journal: str = "wal"

    def open(self, name: str, *, offset: float = 0.0, read_only: bool = False, journal: str | None = None) -> Lease:
        store: Any = MemoryStore(self, read_only=read_only, journal=journal or self.journal)
        return Lease(
            store,
            holder=name,
            clock=lambda: self.time + offset,
            now=lambda: NOON + timedelta(seconds=self.time),
        )

    def told(self) -> list[tuple[type[Event], int, str]]:
        return [(type(e), e.term, e.holder) for e in self.events if isinstance(e, LeaseTaken | LeaseLost)]


class MemoryStore:
    def __init__(self, world: World, *, read_only: bool, journal: str) -> None:
        self.world, self.read_only, self.journal, self.path = world, read_only, journal, world.folder / "deck.db"
        self.path.touch()

    @contextmanager
    def write(self, *, durable: bool = False, timeout: float = 30.0) -> Iterator[MemoryTransaction]:
        assert not self.read_only
        if self.world.fails:
            raise self.world.fails
        tx = MemoryTransaction(self.world.row, NOON + timedelta(seconds=self.world.time))
        yield tx
        self.world.row = tx.row
        self.world.events += tx.events

    @contextmanager
    def read(self) -> Iterator[MemoryTransaction]:
        if self.world.fails:
            raise self.world.fails
        yield MemoryTransaction(self.world.row)

    def apply(self, events: list[Event], *, durable: bool = False) -> None:
        with self.write() as tx:
            tx.apply(events)


class MemoryTransaction:
    def __init__(self, row: Row | None, at: datetime = NOON) -> None:
        self.row = row
        self.at = at
        self.events: list[Event] = []

    def apply(self, events: list[Event]) -> None:
        self.events += events

    def lease(self) -> Row | None:
        return self.row

    def take_lease(self, holder: str, host: str, pid: int) -> int:
        self.row = Row((self.row.term if self.row else 0) + 1, 0, holder, host, pid, self.at, self.at)
        return self.row.term

    def renew_lease(self, term: int, holder: str, *, listed_at: datetime | None, next_look_at: datetime | None) -> bool:
        if self.row is None or self.row.term != term or self.row.holder != holder:
            return False
        self.row = replace(
            self.row,
            counter=self.row.counter + 1,
            renewed_at=self.at,
            listed_at=listed_at,
            next_look_at=next_look_at,
        )
        return True

    def release_lease(self, term: int, holder: str) -> bool:
        if self.row is None or self.row.term != term or self.row.holder != holder:
            return False
        self.row = replace(self.row, holder=None)
        return True


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def far(tmp_path: Path) -> World:
    """On a network file system: no record lock, time alone."""
    return World(tmp_path, journal="delete")


def kill(lease: Lease) -> None:
    """What the system does for a process that dies: it drops its record locks."""
    if lease._record:
        lease._record.release()


def run(world: World, seconds: float, *leases: Lease) -> None:
    """Let time pass; each lease looks as often as its thread would."""
    end = world.time + seconds
    while world.time < end:
        for lease in leases:
            lease.step()
        world.time += PROBE


# -- one after another ----------------------------------------------------------------------


def test_the_first_to_look_leads_and_says_so_in_the_log(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    a.step()
    b.step()
    assert (a.held(), b.held()) == (1, None)
    assert world.told() == [(LeaseTaken, 1, "a")]
    assert b.standing().holder == "a"


def test_it_leads_for_as_long_as_it_renews(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    run(world, 300, a, b)
    assert (a.held(), b.held()) == (1, None)
    assert world.row is not None
    assert 55 <= world.row.counter <= 61


def test_it_stops_acting_by_itself_when_it_cannot_renew(far: World) -> None:
    a = far.open("a")
    a.step()
    far.fails = DatabaseError("Another program holds it locked.")
    run(far, ACT - 0.1, a)
    far.time = 1000.0 + ACT - 0.01
    assert a.held() == 1
    far.time = 1000.0 + ACT
    assert a.held() is None
    with pytest.raises(LeaseGone, match="Term 1 is over"):
        a.check(1)


def test_a_renewal_between_12_and_15_seconds_brings_it_back_with_the_same_term(far: World) -> None:
    a = far.open("a")
    a.step()
    far.time += ACT + 1
    assert a.held() is None
    a.step()
    assert a.held() == 1


def test_after_an_expiry_the_same_process_leads_by_a_new_term(world: World) -> None:
    a = world.open("a")
    a.step()
    world.time += LIFE
    a.step()
    a.step()
    assert a.held() == 2
    assert world.told() == [(LeaseTaken, 1, "a"), (LeaseLost, 1, "a"), (LeaseTaken, 2, "a")]


def test_on_one_host_a_dead_holder_is_replaced_at_once(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    run(world, 1, a, b)
    kill(a)
    run(world, 2 * PROBE, b)
    assert b.held() == 2


def test_between_hosts_a_dead_holder_is_replaced_by_time(far: World) -> None:
    a, b = far.open("a"), far.open("b", offset=-500.0)
    run(far, 1, a, b)
    run(far, LIFE - 3, b)
    assert b.held() is None
    run(far, 3 + TRY, b)
    assert b.held() == 2


def test_a_frozen_holder_is_replaced_by_time_and_never_acts_again(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    run(world, 1, a, b)
    run(world, LIFE + TRY, b)  # a keeps its record lock all the while
    assert b.held() == 2
    assert a.held() is None
    a.step()  # it thaws
    assert a.held() is None
    assert a.standing().holder == "b"
    assert (LeaseLost, 1, "a") in world.told()


def test_who_leads_without_the_record_lock_is_not_robbed_by_who_gets_it(world: World) -> None:
    a, b, c = (world.open(name) for name in "abc")
    run(world, 1, a, b, c)
    run(world, LIFE + TRY, b, c)
    leader, other = (b, c) if b.held() else (c, b)
    assert leader.held() == 2
    kill(a)  # the frozen one dies: its lock is free before the leader gets it
    other.step()
    assert (leader.held(), other.held()) == (2, None)
    leader.step()
    kill(leader)  # it had the lock in the end: its death shows at once
    run(world, 2 * PROBE, other)
    assert other.held() == 3


def test_closing_hands_it_over_at_once(far: World) -> None:
    a, b = far.open("a"), far.open("b")
    run(far, 1, a, b)
    a.close()
    assert a.held() is None
    run(far, TRY + PROBE, b)
    assert b.held() == 2
    assert far.told() == [(LeaseTaken, 1, "a"), (LeaseLost, 1, "a"), (LeaseTaken, 2, "b")]


def test_who_hands_over_leaves_it_to_others_for_a_while_and_takes_it_where_nobody_does(world: World) -> None:
    a = world.open("a")
    a.step()
    a.hand_over(apart=30)
    run(world, 29, a)
    assert a.held() is None
    run(world, 3, a)
    assert a.held() == 2


def test_resume_ends_the_time_apart(world: World) -> None:
    a = world.open("a")
    a.step()
    a.give_up("the loop failed", apart=300)
    assert a.standing().reason == "the loop failed"
    a.resume()
    a.step()
    assert a.held() == 2


def test_a_deck_that_only_reads_never_tries(world: World) -> None:
    reader, a = world.open("reader", read_only=True), world.open("a")
    run(world, 60, reader)
    assert world.row is None
    run(world, 3, a, reader)
    assert reader.held() is None
    assert reader.standing().holder == "a"
    assert (reader._record, a._record is None) == (None, False), "nor does it open the lock"


def test_followers_are_shown_what_the_leader_told(far: World) -> None:
    a, b = far.open("a"), far.open("b")
    a.step()
    a.tell(listed_at=NOON, next_look_at=NOON + timedelta(seconds=10))
    run(far, RENEW + TRY + PROBE, a, b)
    standing = b.standing()
    assert (standing.listed_at, standing.next_look_at) == (NOON, NOON + timedelta(seconds=10))


def test_a_file_deleted_or_replaced_ends_it_at_once(world: World) -> None:
    a = world.open("a")
    a.step()
    world.fails = DatabaseError("The file was replaced under us.")
    (world.folder / "deck.db").unlink()
    world.time += RENEW
    a.step()
    assert a.held() is None
    assert a.standing().reason == "The file was replaced under us."
    assert RecordLock(world.folder / "deck.db.lead").acquire(), "and lets others in"


def test_what_is_committed_under_the_lease_is_checked_by_the_row_too(world: World) -> None:
    a = world.open("a")
    a.step()
    a.confirm(cast("Any", MemoryTransaction(world.row)), 1)
    with pytest.raises(LeaseGone, match="names another"):
        a.confirm(cast("Any", MemoryTransaction(Row(term=2))), 1)


def test_a_failed_take_leaves_no_stamp_that_could_rob_another(world: World) -> None:
    a = world.open("a")
    world.fails = OSError("disk full")
    a.step()
    assert a.held() is None
    assert (world.folder / "deck.db.lead").read_text() == ""


def test_the_lead_file_is_nobody_elses(world: World) -> None:
    world.open("a").step()
    assert (world.folder / "deck.db.lead").stat().st_mode & 0o777 == 0o600


# -- the record lock --------------------------------------------------------------------------


def test_two_owners_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    a, b = RecordLock(tmp_path / "x"), RecordLock(tmp_path / "x")
    assert a.acquire()
    assert a.acquire()
    assert not b.acquire()
    b.release()
    assert a.held
    a.release()
    assert b.acquire()


def test_a_lock_on_a_file_that_was_deleted_is_taken_again_on_the_new_one(tmp_path: Path) -> None:
    a, b = RecordLock(tmp_path / "x"), RecordLock(tmp_path / "x")
    assert a.acquire()
    (tmp_path / "x").unlink()
    assert a.acquire()
    assert not b.acquire()
    assert (tmp_path / "x").exists()


def test_a_forked_child_holds_nothing_and_harms_nothing(tmp_path: Path) -> None:
    lock = RecordLock(tmp_path / "x")
    assert lock.acquire()
    child = os.fork()
    if not child:
        other = RecordLock(tmp_path / "x")
        os._exit(0 if not lock.held and not other.acquire() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lock.held


def test_a_forked_child_never_acts(world: World) -> None:
    a = world.open("a")
    a.step()
    child = os.fork()
    if not child:
        os._exit(0 if a.held() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert a.held() == 1


# -- its thread -------------------------------------------------------------------------------


def test_its_thread_takes_tells_and_closes_quickly(tmp_path: Path) -> None:
    world = World(tmp_path)
    changes: list[int | None] = []
    store: Any = MemoryStore(world, read_only=False, journal="wal")
    changed = threading.Event()

    def note() -> None:
        changes.append(lease.held())
        changed.set()

    lease = Lease(store, holder="a", on_change=note)
    lease.start()
    assert lease.wait(timeout=5)
    assert changed.wait(5)
    assert changes == [1]
    begun = datetime.now(UTC)
    lease.close()
    assert datetime.now(UTC) - begun < timedelta(seconds=0.2)
    assert lease.held() is None
    assert world.row is not None
    assert world.row.holder is None
    lease.close()


def test_two_leases_in_one_process_follow_each_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    stores: list[Any] = [MemoryStore(world, read_only=False, journal="wal") for _ in range(2)]
    first, second = (Lease(store, holder=str(n)) for n, store in enumerate(stores))
    first.start()
    assert first.wait(timeout=5)
    second.start()
    assert not second.wait(timeout=0.7)
    first.close()
    assert second.wait(timeout=3)
    assert second.held() == 2
    second.close()


# -- real processes on one real database ---------------------------------------------------

CHILD = """
import signal, sys, threading, time
from skydeck_nb.control.lease import Lease, sleepless_clock
from skydeck_nb.store import Store

store = Store.open(sys.argv[1])
log = open(sys.argv[2], "a", buffering=1)
acting = None
lease = Lease(store, holder=sys.argv[3])
lease.start()
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
# One line when it begins to act, one when it stops: the clock is read before and after held() said so.
while not done.wait(0.005):
    before = sleepless_clock()
    term = lease.held()
    if term != acting:
        if acting is not None:
            log.write(f"{sys.argv[3]} {acting} stop {before}\\n")
        if term is not None:
            log.write(f"{sys.argv[3]} {term} start {sleepless_clock()}\\n")
        acting = term
    if term is not None:
        log.write(f"{sys.argv[3]} {term} acts {before}\\n")
lease.close()
store.close()
"""


class Process:
    """One process that follows or leads, and the lines it wrote of when it could act."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self.log.touch()
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder / "deck.db"), str(self.log), name], stdin=subprocess.PIPE
        )

    def lines(self) -> list[tuple[int, str, float]]:
        found = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(f[1]), f[2], float(f[3])) for f in found if len(f) == 4]

    def terms(self) -> set[int]:
        return {term for term, what, _ in self.lines() if what == "acts"}

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            assert self.child.stdin
            self.child.stdin.close()
            self.child.wait(10)
        elif self.child.stdin:
            self.child.stdin.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Process]]:
    Store.open(tmp_path / "deck.db").close()
    processes = [Process(tmp_path, name) for name in "abc"]
    try:
        yield processes
    finally:
        for process in processes:
            process.end()


def leader(processes: list[Process], term: int, timeout: float) -> Process:
    """Wait for whoever acts by this term."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for process in processes:
            if term in process.terms():
                return process
        time.sleep(0.02)
    raise AssertionError(f"nobody acts by term {term} after {timeout} s")


def overlaps(processes: list[Process]) -> list[tuple[str, str]]:
    """Pairs of processes of which one acted between two moments at which the other acted by one term."""
    spans = []
    for process in processes:
        for term in process.terms():
            at = [when for t, what, when in process.lines() if t == term and what == "acts"]
            spans.append((process.name, min(at), max(at)))
    return [(a[0], b[0]) for a in spans for b in spans if a[0] != b[0] and a[1] <= b[2] and b[1] <= a[2]]


@pytest.mark.kill
def test_a_killed_leader_is_replaced_within_3_seconds(three: list[Process]) -> None:
    for term in (1, 2):
        first = leader(three, term, 20)
        first.child.kill()
        leader([p for p in three if p is not first], term + 1, 3)
    assert overlaps(three) == []


@pytest.mark.kill
def test_a_closed_leader_is_replaced_within_3_seconds(three: list[Process]) -> None:
    first = leader(three, 1, 20)
    first.end()
    leader([p for p in three if p is not first], 2, 3)
    assert overlaps(three) == []


@pytest.mark.kill
def test_a_frozen_leader_is_replaced_within_20_seconds_and_never_acts_by_its_old_term_again(
    three: list[Process],
) -> None:
    first = leader(three, 1, 20)
    first.child.send_signal(signal.SIGSTOP)
    second = leader([p for p in three if p is not first], 2, 20)
    first.child.send_signal(signal.SIGCONT)
    second.child.kill()  # it led without the record lock, or with it: somebody else follows
    third = leader([p for p in three if p is not second], 3, 20)
    assert third.terms() >= {3}
    assert overlaps(three) == []


# -- random worlds ------------------------------------------------------------------------------

MOVES = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 2)),
    st.tuples(st.just("step"), st.integers(0, 2)),
    st.tuples(st.just("pass"), st.floats(0.05, 7.0)),
    st.tuples(st.just("freeze"), st.integers(0, 2)),
    st.tuples(st.just("thaw"), st.integers(0, 2)),
    st.tuples(st.just("kill"), st.integers(0, 2)),
    st.tuples(st.just("close"), st.integers(0, 2)),
    st.tuples(st.just("hand over"), st.integers(0, 2)),
    st.tuples(st.just("busy"), st.booleans()),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVES, max_size=60), st.sampled_from(["wal", "delete"]), st.lists(st.floats(-1e4, 1e4), min_size=3))
def test_in_no_world_do_two_act_at_once_and_somebody_leads_in_the_end(
    moves: list[tuple[str, float]], journal: str, offsets: list[float]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), journal=journal)
        born = 0

        def birth(i: int) -> Lease:
            nonlocal born
            born += 1
            return world.open(f"process {born}", offset=offsets[i])

        leases = [birth(i) for i in range(3)]
        frozen: set[int] = set()
        acted: dict[int, str] = {}

        def look() -> None:
            acting = [(lease.holder, term) for lease in leases if (term := lease.held()) is not None]
            assert len(acting) <= 1, acting
            for holder, term in acting:
                assert acted.setdefault(term, holder) == holder, "one term, one process"

        for what, which in moves:
            i = int(which)
            match what:
                case "step" if i not in frozen:
                    leases[i].step()
                case "pass":
                    world.time += which
                case "freeze":
                    frozen.add(i)
                case "thaw":
                    frozen.discard(i)
                case "kill":
                    kill(leases[i])
                    frozen.discard(i)
                    leases[i] = birth(i)
                case "close" if i not in frozen:
                    leases[i].close()
                    leases[i] = birth(i)
                case "hand over" if i not in frozen:
                    leases[i].hand_over(apart=10)
                case "busy":
                    world.fails = DatabaseError("Another program holds it locked.") if which else None
            look()
        world.fails = None
        frozen.clear()
        for _ in range(80):
            world.time += PROBE
            for lease in leases:
                lease.step()
                look()
        assert sum(lease.held() is not None for lease in leases) == 1
        terms = [event.term for event in world.events if isinstance(event, LeaseTaken)]
        assert terms == sorted(set(terms)), "the term grows at every take"
        for lease in leases:
            kill(lease)
