"""What every backend must do, whichever it is.

A subclass gives the fixture ``backend`` and says in a few hooks what it cannot
know: how time passes, whether commands really run. It runs against ``fake``,
``local`` and a real SkyPilot server alike, so it asserts only what all three
can promise.

Experiments named ``quick-…`` end by themselves, ``fail-…`` end with exit code
3, ``stay-…`` run until somebody ends them: a backend that executes does so by
the command, one that does not by the name.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pytest

from skydeck_nb.backends.base import Backend, Launched, Listing, Order, Query, SeenJob
from skydeck_nb.errors import BackendError, LaunchRejected
from skydeck_nb.models import Spec
from skydeck_nb.states import TERMINAL, is_alive

DEADLINE = 30.0
HOSTILE = (
    "plain",
    "two words",
    'it\'s "quoted"',
    "$(touch /tmp/pwned) `id` $HOME ${PATH}",
    "line one\nline two\ttab",
    "a;b&&c|d>e<f*?[!]{x,y}~#%\\",
    "--flag=-1",
    "",
    "Grüße, 世界 🚀",
    "x" * 100_000,
)

PROGRAMS = {
    "quick": "print('hello from ' + 'quick')",
    "fail": "import sys; print('hello from ' + 'fail'); sys.exit(3)",
    "stay": "import time; print('hello from ' + 'stay', flush=True); time.sleep(600)",
}


class GateClosed(Exception):
    """The gate's own error: it must come out of ``launch`` as it is."""


def random_deck_id() -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz234567", k=6))


def opened() -> None:
    """A gate that lets everything pass."""


def closed() -> None:
    """A gate that lets nothing pass."""
    raise GateClosed("the lease is lost")


class BackendContract:
    """The behaviours; see the module."""

    executes = True
    """Whether the command really runs."""
    patience = 60.0
    """Seconds, by the wall, until something that should happen counts as never."""
    deadline = DEADLINE
    """Seconds that one call may take."""
    crowd = 20
    """How many launch at once."""
    young = 4
    """How many are cancelled as soon as they were launched."""
    python = sys.executable
    """The interpreter where jobs run."""
    programs: Mapping[str, str] = PROGRAMS

    _attempts = itertools.count(1)

    @cached_property
    def deck_id(self) -> str:
        """Another one for each test: a server that outlives the test tells its decks apart."""
        return random_deck_id()

    @cached_property
    def other_deck_id(self) -> str:
        return random_deck_id()

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend | Iterator[Backend]:
        """A fresh backend; closed, and emptied of live jobs, afterwards."""
        raise NotImplementedError

    def pause(self, backend: Backend) -> None:
        """Let a little time pass."""
        time.sleep(0.05)

    def now(self, backend: Backend) -> datetime:
        return datetime.now(UTC)

    def unset_secret(self, backend: Backend) -> str:
        """The name of a secret that this process lacks."""
        return "SKYDECK_TEST_NO_SUCH_SECRET"

    def alive(self, backend: Backend) -> tuple[Order, int]:
        """A job that stays, and its id; no test ends it.

        Where launching is slow, a subclass may share one between tests. It then brings its deck along: from here on
        ``deck_id`` is that of the job, which is the only one in it.
        """
        order = self.order("stay")
        return order, self.launch(backend, order)

    def ended(self, backend: Backend) -> tuple[Order, SeenJob]:
        """A quick job that came to its end; shared as in :meth:`alive`."""
        order = self.order("quick")
        return order, self.until(backend, self.launch(backend, order))

    def order(
        self,
        kind: str = "quick",
        *,
        deck_id: str | None = None,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        priority: int = 0,
    ) -> Order:
        """A launch that nobody ordered before."""
        number = next(self._attempts)
        deck_id = deck_id or self.deck_id
        words = tuple(argv) if argv is not None else (self.python, "-u", "-c", self.programs[kind])
        attempt = hashlib.sha256(f"{os.getpid()}-{time.time_ns()}-{number}".encode()).hexdigest()[:10]
        name = f"{kind}-{number}"
        return Order(
            deck_id=deck_id,
            attempt_id=attempt,
            experiment_id=number,
            experiment=name,
            claim=f"{name}-sd{deck_id}-{attempt}",
            run_name=name,
            spec=Spec(
                command=words,
                env=dict(env or {}),
                workdir=str(Path.cwd()),
                interpreter=sys.executable,
                path=os.environ.get("PATH", ""),
            ),
            argv=words,
            metadata={
                "deck_id": deck_id,
                "experiment_id": str(number),
                "experiment": name,
                "attempt_id": attempt,
                "run": "1",
                "generation": "1",
                "spec_hash": "5" * 16,
            },
            priority=priority,
        )

    # Helpers.

    def look(self, backend: Backend, **query: object) -> Listing:
        return backend.observe(Query(deck_id=self.deck_id, **query), deadline=self.deadline)  # type: ignore[arg-type]

    def settle(self, backend: Backend, predicate: Callable[[Listing], bool], query: Query | None = None) -> Listing:
        """Observe until the predicate holds; fails when patience ends."""
        asked = query or Query(deck_id=self.deck_id, discovery=True)
        until = time.monotonic() + self.patience
        while True:
            listing = backend.observe(asked, deadline=self.deadline)
            if predicate(listing):
                return listing
            if time.monotonic() > until:
                rows = [(job.id, job.name, job.status, job.reason, job.message) for job in listing.jobs]
                pytest.fail(f"it never came to this; last seen: {rows}")
            self.pause(backend)

    def launch(self, backend: Backend, order: Order) -> int:
        """Launch and find the job, by the answer or by its claim."""
        launched = backend.launch(order, opened, deadline=self.deadline)
        return launched.job_id if launched.job_id is not None else self.find(backend, order).id

    def find(self, backend: Backend, order: Order) -> SeenJob:
        query = Query(deck_id=self.deck_id, claims=frozenset({order.claim}))
        listing = self.settle(backend, lambda seen: any(job.name == order.claim for job in seen.jobs), query)
        return next(job for job in listing.jobs if job.name == order.claim)

    def until(self, backend: Backend, job_id: int, *statuses: str) -> SeenJob:
        query = Query(deck_id=self.deck_id, job_ids=frozenset({job_id}))
        wanted = statuses or tuple(TERMINAL)
        listing = self.settle(backend, lambda seen: any(job.status in wanted for job in seen.jobs), query)
        return listing.jobs[0]

    # Who it is.

    def test_it_is_a_backend_and_says_which(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.identity.kind == backend.kind
        assert backend.identity == backend.identity
        assert backend.cadence.hot > 0
        assert backend.cadence.discovery > 0
        assert json.loads(json.dumps(backend.describe()))

    def test_closing_twice_is_once(self, backend: Backend) -> None:
        backend.close()
        backend.close()

    def test_what_it_can_run_is_not_refused_at_declaration(self, backend: Backend) -> None:
        backend.check(self.order().spec)

    def test_a_missing_secret_is_named_with_the_remedy(self, backend: Backend) -> None:
        name = self.unset_secret(backend)
        spec = Spec(command=("true",), secrets=(name,))
        found = backend.missing(spec)
        assert found is not None
        reason, sentence = found
        assert reason == "SecretMissing"
        assert name in sentence
        assert backend.missing(self.order().spec) is None

    # Launching.

    def test_a_launch_appears_under_its_claim_with_its_metadata(
        self, backend: Backend, capfd: pytest.CaptureFixture[str]
    ) -> None:
        order = self.order("stay")
        launched = backend.launch(order, opened, deadline=self.deadline)
        job = self.find(backend, order)
        assert launched.job_id in (None, job.id)
        assert job.name == order.claim
        assert {key: job.metadata.get(key) for key in order.metadata} == order.metadata
        assert job.mine
        assert is_alive(job.status)
        discovered = self.settle(backend, lambda seen: bool(seen.jobs))
        assert [one.id for one in discovered.jobs] == [job.id]
        assert capfd.readouterr() == ("", "")

    def test_the_gate_is_asked_before_anything_is_sent(self, backend: Backend) -> None:
        order = self.order("stay")
        seen: list[int] = []

        def gate() -> None:
            seen.append(len(self.look(backend, claims=frozenset({order.claim})).jobs))

        backend.launch(order, gate, deadline=self.deadline)
        assert seen
        assert seen[0] == 0
        self.find(backend, order)

    def test_a_closed_gate_sends_nothing(self, backend: Backend) -> None:
        order = self.order("stay")
        with pytest.raises(GateClosed):
            backend.launch(order, closed, deadline=self.deadline)
        for _ in range(5):
            self.pause(backend)
            assert self.look(backend, discovery=True).jobs == ()
        assert backend.resolve(order.claim, order.attempt_id, None, deadline=self.deadline).job_id is None

    def test_many_launches_at_once_each_make_one_job(self, backend: Backend) -> None:
        orders = [self.order("quick") for _ in range(self.crowd)]

        def send(order: Order) -> Launched:
            return backend.launch(order, opened, deadline=self.deadline)

        with ThreadPoolExecutor(self.crowd) as pool:
            answers = list(pool.map(send, orders))
        claims = sorted(order.claim for order in orders)
        listing = self.settle(backend, lambda seen: len(seen.jobs) >= self.crowd)
        assert sorted(job.name for job in listing.jobs) == claims
        assert len({job.id for job in listing.jobs}) == self.crowd
        ids = {job.name: job.id for job in listing.jobs}
        for order, answer in zip(orders, answers, strict=True):
            assert answer.job_id in (None, ids[order.claim])

    # Looking.

    def test_an_empty_backend_answers_with_an_empty_complete_listing(self, backend: Backend) -> None:
        listing = self.look(backend, discovery=True)
        assert listing.jobs == ()
        assert listing.complete

    def test_a_listing_knows_when_looking_began(self, backend: Backend) -> None:
        before = self.now(backend)
        listing = self.look(backend, discovery=True)
        assert before - timedelta(milliseconds=1) <= listing.begun_at <= self.now(backend)
        assert listing.begun_at.tzinfo is not None

    def test_a_listing_covers_what_was_asked_and_nothing_else(self, backend: Backend) -> None:
        order, job_id = self.alive(backend)
        hot = self.look(backend, job_ids=frozenset({job_id}), claims=frozenset({"some-claim"}))
        assert hot.covers(job_id)
        assert not hot.covers(job_id + 1)
        assert hot.covers_claim("some-claim")
        assert not hot.covers_claim(order.claim)
        other = self.look(backend, job_ids=frozenset({job_id + 1_000_000}))
        assert other.jobs == ()
        assert not other.covers(job_id)
        assert self.look(backend, discovery=True).covers(job_id)

    def test_ids_that_nobody_has_are_simply_absent(self, backend: Backend) -> None:
        _, job_id = self.alive(backend)
        listing = self.look(backend, job_ids=frozenset({job_id, job_id + 1_000_000}))
        assert [job.id for job in listing.jobs] == [job_id]
        assert listing.complete

    def test_another_deck_sees_none_of_ours(self, backend: Backend) -> None:
        _, ours = self.alive(backend)
        theirs = self.order("stay", deck_id=self.other_deck_id)
        self.launch(backend, theirs)
        other = Query(deck_id=self.other_deck_id, discovery=True)
        listing = self.settle(backend, lambda seen: bool(seen.jobs), other)
        assert [job.name for job in listing.jobs] == [theirs.claim]
        assert [job.id for job in self.look(backend, discovery=True).jobs] == [ours]

    # Ends.

    def test_a_job_that_ended_is_listed_with_its_times_and_exit_code(self, backend: Backend) -> None:
        _, job = self.ended(backend)
        assert job.status == "SUCCEEDED"
        assert job.exit_code in (None, 0)
        if self.executes:
            assert job.submitted_at is None or job.submitted_at.tzinfo is not None
        assert job.started_at is not None
        assert job.ended_at is not None
        assert job.started_at.tzinfo is not None
        assert job.started_at <= job.ended_at <= self.now(backend)
        assert [one.id for one in self.look(backend, discovery=True).jobs] == [job.id]
        assert self.look(backend, job_ids=frozenset({job.id})).jobs == (job,)

    def test_a_job_that_fails_says_so(self, backend: Backend) -> None:
        job = self.until(backend, self.launch(backend, self.order("fail")))
        assert job.status == "FAILED"
        assert job.exit_code in (None, 3)

    def test_cancel_ends_in_cancelled_and_may_be_said_again(self, backend: Backend) -> None:
        job_id = self.launch(backend, self.order("stay"))
        self.until(backend, job_id, "RUNNING")
        backend.cancel([job_id], deadline=self.deadline)
        backend.cancel([job_id], deadline=self.deadline)
        job = self.until(backend, job_id)
        assert job.status == "CANCELLED"
        assert job.ended_at is not None
        backend.cancel([job_id], deadline=self.deadline)
        assert self.until(backend, job_id).status == "CANCELLED"

    def test_a_job_is_cancelled_however_young_it_is(self, backend: Backend) -> None:
        orders = [self.order("stay") for _ in range(self.young)]
        ids = [self.launch(backend, order) for order in orders]
        backend.cancel(ids, deadline=self.deadline)
        for job_id in ids:
            assert self.until(backend, job_id).status == "CANCELLED"

    def test_cancelling_what_has_ended_or_never_was_is_no_error(self, backend: Backend) -> None:
        _, job = self.ended(backend)
        backend.cancel([job.id, job.id + 1_000_000], deadline=self.deadline)
        backend.cancel([], deadline=self.deadline)
        self.pause(backend)
        assert self.until(backend, job.id).status == "SUCCEEDED"

    def test_cancel_touches_no_other_job(self, backend: Backend) -> None:
        goes = self.launch(backend, self.order("stay"))
        _, stays = self.alive(backend)
        self.until(backend, stays, "RUNNING")
        backend.cancel([goes], deadline=self.deadline)
        self.until(backend, goes)
        assert self.until(backend, stays, "RUNNING").id == stays

    # Launches without an answer.

    def test_resolve_finds_the_job_by_its_claim(self, backend: Backend) -> None:
        order, job_id = self.alive(backend)
        found = backend.resolve(order.claim, order.attempt_id, None, deadline=self.deadline)
        assert found.job_id == job_id
        assert not found.never
        assert not found.clean_miss

    def test_resolve_finds_a_job_that_has_ended(self, backend: Backend) -> None:
        order, job = self.ended(backend)
        assert backend.resolve(order.claim, order.attempt_id, None, deadline=self.deadline).job_id == job.id

    def test_resolve_shows_that_what_was_never_sent_is_not_there(self, backend: Backend) -> None:
        order = self.order("stay")
        self.alive(backend)
        until = time.monotonic() + self.patience
        while True:
            before = self.now(backend)
            found = backend.resolve(order.claim, order.attempt_id, None, deadline=self.deadline)
            assert found.job_id is None
            assert before - timedelta(milliseconds=1) <= found.begun_at <= self.now(backend)
            if found.never or found.clean_miss:
                return
            assert time.monotonic() < until, found.message
            self.pause(backend)

    def test_a_refused_launch_makes_nothing_alive(self, backend: Backend) -> None:
        order = self.order("stay")
        backend.refuse(order.claim, order.attempt_id, None, deadline=self.deadline)
        backend.refuse(order.claim, order.attempt_id, None, deadline=self.deadline)
        with contextlib.suppress(LaunchRejected):
            backend.launch(order, opened, deadline=self.deadline)
        for _ in range(10):
            self.pause(backend)
        listing = self.settle(backend, lambda seen: not any(is_alive(job.status) for job in seen.jobs))
        assert not any(job.status == "SUCCEEDED" for job in listing.jobs)

    def test_refusing_what_was_sent_is_no_error(self, backend: Backend) -> None:
        order, job_id = self.alive(backend)
        self.until(backend, job_id, "RUNNING")
        backend.refuse(order.claim, order.attempt_id, None, deadline=self.deadline)
        found = backend.resolve(order.claim, order.attempt_id, None, deadline=self.deadline)
        assert found.job_id == job_id, "what runs is found, so that it can be cancelled by its id"
        assert not found.never
        assert not found.clean_miss

    # Output and arguments.

    def test_logs_hold_what_was_printed(self, backend: Backend) -> None:
        _, job = self.ended(backend)
        whole = backend.logs(job.id, tail=None, deadline=self.deadline)
        if self.executes:
            assert "hello from quick" in whole
        assert whole.strip()
        last = backend.logs(job.id, tail=1, deadline=self.deadline)
        assert len(last.splitlines()) == 1
        assert last.strip() in whole

    def test_logs_of_a_job_that_nobody_has_are_empty_or_an_error_of_ours(self, backend: Backend) -> None:
        said = ""
        try:
            text = backend.logs(999_999, tail=10, deadline=self.deadline)
        except BackendError as error:
            text, said = "", str(error)
        assert text == ""
        assert not said or "999999" in said

    def test_hostile_arguments_and_variables_arrive_as_they_are(self, backend: Backend) -> None:
        program = (
            "import hashlib,os,sys\n"
            "digest = lambda text: hashlib.sha256(text.encode()).hexdigest()\n"
            "print('ARGV', *map(digest, sys.argv[1:]))\n"
            "print('ENV', digest(os.environ['SKYDECK_TEST_TEXT']))\n"
        )
        text = "".join(word for word in HOSTILE if len(word) < 1000)
        argv = (self.python, "-c", program, *HOSTILE)
        order = self.order("quick", argv=argv, env={"SKYDECK_TEST_TEXT": text})
        job = self.until(backend, self.launch(backend, order))
        if not self.executes:
            assert job.command is not None
            assert tuple(shlex.split(job.command)) == argv
            return
        log = backend.logs(job.id, tail=None, deadline=self.deadline)
        assert job.status == "SUCCEEDED", log
        lines = {line.split()[0]: line.split()[1:] for line in log.splitlines() if line[:4] in ("ARGV", "ENV ")}
        assert lines["ARGV"] == [hashlib.sha256(word.encode()).hexdigest() for word in HOSTILE]
        assert lines["ENV"] == [hashlib.sha256(text.encode()).hexdigest()]

    def test_a_job_s_run_folder_is_readable_here_or_nowhere(self, backend: Backend) -> None:
        _, job = self.ended(backend)
        folder = backend.run_dir(job.id)
        assert folder is None or folder.is_dir()


class SlotsContract(BackendContract):
    """What a backend that counts its own resources does besides."""

    @pytest.fixture
    def crowded(self, tmp_path: Path) -> Backend | Iterator[Backend]:
        """A backend with one slot."""
        raise NotImplementedError

    def test_what_finds_no_slot_waits_as_pending_with_the_reason(self, crowded: Backend) -> None:
        first = self.launch(crowded, self.order("stay"))
        self.until(crowded, first, "RUNNING")
        second = self.launch(crowded, self.order("stay"))
        query = Query(deck_id=self.deck_id, job_ids=frozenset({second}))
        waiting = self.settle(crowded, lambda seen: bool(seen.jobs and seen.jobs[0].reason), query).jobs[0]
        assert waiting.status == "PENDING"
        assert waiting.reason.isidentifier()
        assert waiting.message.endswith(".")
        capacity = crowded.capacity()
        assert capacity is not None
        assert (capacity.slots, capacity.slots_free) == (1, 0)
        crowded.cancel([first], deadline=self.deadline)
        running = self.until(crowded, second, "RUNNING")
        assert running.reason == ""

    def test_a_waiting_job_can_be_cancelled_and_frees_nothing_twice(self, crowded: Backend) -> None:
        first = self.launch(crowded, self.order("stay"))
        self.until(crowded, first, "RUNNING")
        second = self.launch(crowded, self.order("stay"))
        crowded.cancel([second], deadline=self.deadline)
        assert self.until(crowded, second).status == "CANCELLED"
        assert self.until(crowded, first, "RUNNING").id == first
