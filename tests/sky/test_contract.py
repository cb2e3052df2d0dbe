"""The contract, held to the backend for SkyPilot on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from skydeck_nb.backends.base import Backend, Order, Query, SeenJob
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.states import is_alive
from tests.backends.contract import PROGRAMS, BackendContract, random_deck_id
from tests.sky.stack import Stack

HOUR = 3600
DEADLINE = 90.0


class Shared:
    """One living and one ended job for all tests that only look at such a one, each in a deck of its own.

    Their user is another than those of other tests on this server, whose jobs are strangers' therefore.
    """

    def __init__(self) -> None:
        self.user = f"contract-{random_deck_id()}"
        self.decks = {"stay": random_deck_id(), "quick": random_deck_id()}
        self.alive: tuple[Order, int] | None = None
        self.ended: tuple[Order, SeenJob] | None = None
        self._backend: SkyPilotBackend | None = None

    def backend(self, stack: Stack) -> Backend:
        """One for all tests, until a test closes it: SkyPilot's client takes seconds to start."""
        if self._backend is None or self._backend.closed:
            self._backend = SkyPilotBackend(stack.env(self.user))
        return self._backend


@pytest.fixture(scope="module")
def common(sky_stack: Stack) -> Iterator[Shared]:
    shared = Shared()
    yield shared
    if shared.alive is not None:
        order, _ = shared.alive
        clear(shared.backend(sky_stack), {order.deck_id: {order.claim}})
    shared.backend(sky_stack).close()


def clear(backend: Backend, claims: Mapping[str, set[str]]) -> None:
    """End what lives of the launches of each deck, without waiting for that: CPU is what is short here."""
    for deck_id, ordered in claims.items():
        listing = backend.observe(Query(deck_id=deck_id, claims=frozenset(ordered)), deadline=DEADLINE)
        if living := [job.id for job in listing.jobs if is_alive(job.status) and job.status != "CANCELLING"]:
            backend.cancel(living, deadline=DEADLINE)


class TestSkyPilot(BackendContract):
    """A job takes most of a minute to start, and every look costs the server seconds of CPU."""

    patience = 300.0
    deadline = DEADLINE
    crowd = 4
    young = 2
    python = "python3"
    programs = PROGRAMS | {"stay": PROGRAMS["stay"].replace("600", str(HOUR))}
    shared: Shared

    def pause(self, backend: Backend) -> None:
        time.sleep(2)

    @pytest.fixture
    def backend(self, sky_stack: Stack, common: Shared) -> Iterator[Backend]:
        self.shared = common
        self.ordered: dict[str, set[str]] = {}
        yield common.backend(sky_stack)
        clear(common.backend(sky_stack), {k: v for k, v in self.ordered.items() if k not in common.decks.values()})

    def order(
        self,
        kind: str = "quick",
        *,
        deck_id: str | None = None,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        priority: int = 0,
    ) -> Order:
        order = super().order(kind, deck_id=deck_id, argv=argv, env=env, priority=priority)
        self.ordered.setdefault(order.deck_id, set()).add(order.claim)
        there = replace(order.spec, infra="slurm", resources={"cpus": 1}, workdir=None, interpreter=None, path=None)
        return replace(order, spec=there)

    def alive(self, backend: Backend) -> tuple[Order, int]:
        self.deck_id = self.shared.decks["stay"]
        if self.shared.alive is None:
            self.shared.alive = super().alive(backend)
        return self.shared.alive

    def ended(self, backend: Backend) -> tuple[Order, SeenJob]:
        self.deck_id = self.shared.decks["quick"]
        if self.shared.ended is None:
            self.shared.ended = super().ended(backend)
        return self.shared.ended
