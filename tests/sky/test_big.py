"""A look grows with what is ours and alive, not with what a team has on its server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from skydeck_nb.backends.base import Query
from skydeck_nb.backends.skypilot import SkyPilotBackend
from tests.sky.bigserver import strangers
from tests.sky.stack import Stack

JOBS, ALIVE = 12_500, 200
DEADLINE = 120.0


@pytest.fixture
def backend(sky_stack: Stack) -> Iterator[SkyPilotBackend]:
    made = SkyPilotBackend(sky_stack.env(f"big-{secrets.token_hex(3)}"))
    yield made
    made.close()


def received(backend: SkyPilotBackend, query: Query) -> tuple[int, int]:
    """Requests and bytes of one look."""
    before = dict(backend.describe())
    backend.observe(query, deadline=DEADLINE)
    after = backend.describe()
    return after["requests"] - before["requests"], after["received_bytes"] - before["received_bytes"]


def test_a_team_s_year_of_jobs_changes_no_look(backend: SkyPilotBackend, sky_stack: Stack) -> None:
    steady = Query(deck_id="aaaaaa", job_ids=frozenset(range(10_000_000, 10_000_100)))
    discovery = Query(deck_id="aaaaaa", discovery=True)
    backend.observe(discovery, deadline=DEADLINE)
    alone = [received(backend, query) for query in (steady, discovery)]
    with strangers(sky_stack, jobs=JOBS, alive=ALIVE):
        amid = [received(backend, query) for query in (steady, discovery)]
    assert [requests for requests, _ in amid] == [requests for requests, _ in alone]
    for (_, fewer), (_, more) in zip(alone, amid, strict=True):
        assert more <= fewer + 200, "a few digits of totals, and no row of theirs"
