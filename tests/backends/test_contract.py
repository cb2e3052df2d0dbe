"""The contract, held to each backend there is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from skydeck_nb.backends.base import Backend, Query
from skydeck_nb.backends.fake import FakeBackend, FakeClock, Outcome
from skydeck_nb.backends.local import LocalBackend
from skydeck_nb.states import is_alive
from tests.backends.contract import SlotsContract

OUTCOMES = {"stay-*": Outcome("RUNNING"), "fail-*": Outcome("FAILED", exit_code=3)}


class Clocked(FakeBackend):
    """A fake that keeps its clock at hand, and a secret back."""

    def __init__(self, slots: int | None = None) -> None:
        self.clock = FakeClock()
        super().__init__(clock=self.clock, slots=slots, outcomes=OUTCOMES)
        self.withhold("SKYDECK_TEST_NO_SUCH_SECRET")


class TestFake(SlotsContract):
    """On a clock that stands still: time passes when the test says so."""

    executes = False
    patience = 5.0

    def pause(self, backend: Backend) -> None:
        assert isinstance(backend, Clocked)
        backend.clock.advance(0.5)

    def now(self, backend: Backend) -> datetime:
        assert isinstance(backend, Clocked)
        return backend.clock()

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return Clocked()

    @pytest.fixture
    def crowded(self, tmp_path: Path) -> Backend:
        return Clocked(slots=1)


class TestFakeInRealTime(SlotsContract):
    """Jobs walk by themselves, two hundred times as fast."""

    executes = False
    patience = 10.0

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        fake = FakeBackend(speed=200, outcomes=OUTCOMES, path=tmp_path)
        fake.withhold(self.unset_secret(fake))
        return fake

    @pytest.fixture
    def crowded(self, tmp_path: Path) -> Backend:
        return FakeBackend(speed=200, outcomes=OUTCOMES, slots=1)


class TestLocal(SlotsContract):
    """Real processes on this machine."""

    def stop_all(self, backend: Backend) -> None:
        for deck_id in (self.deck_id, self.other_deck_id):
            listing = backend.observe(Query(deck_id=deck_id, discovery=True), deadline=self.deadline)
            alive = [job.id for job in listing.jobs if is_alive(job.status)]
            backend.cancel(alive, deadline=self.deadline)
            for job_id in alive:
                self.until(backend, job_id)
        backend.close()

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        local = LocalBackend(tmp_path / "local", slots=32, grace=1.0)
        yield local
        self.stop_all(local)

    @pytest.fixture
    def crowded(self, tmp_path: Path) -> Iterator[Backend]:
        local = LocalBackend(tmp_path / "local", slots=1, grace=1.0)
        yield local
        self.stop_all(local)
