"""A deck on a server that does wrong: its loop lives, its rows stay, one condition says what is the matter."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import skydeck_nb as sd
from skydeck_nb.backends.base import Cadence
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendError, NeedsSignIn
from skydeck_nb.models import JobRow
from tests.backends.skypilot.conftest import access_to
from tests.backends.skypilot.misdeeds import ALL, SIGN_IN, SLOW
from tests.backends.skypilot.server import Server
from tests.deck.conftest import until

SEED = 20261125


class Quick(SkyPilotBackend):
    """Looks often, and waits for answers as long as a test says."""

    patience = 60.0

    @property
    def cadence(self) -> Cadence:
        return Cadence(hot=0.2, discovery=30.0, launches=4, patience=self.patience, follow=10.0)


@pytest.fixture
def backend(server: Server) -> Iterator[Quick]:
    made = Quick(access=access_to(server))
    yield made
    made.close()


@pytest.fixture
def deck(backend: Quick, tmp_path: Path) -> Iterator[sd.Deck]:
    with sd.open(tmp_path / "deck.db", backend=backend) as deck:
        yield deck


@pytest.fixture
def watched(server: Server, deck: sd.Deck) -> int:
    """One experiment with a job that runs, adopted and seen; the job's id."""
    server.job(7, "ppo", "RUNNING", submitted_at=1.7e9, start_at=1.7e9)
    deck.create("ppo", "train")
    deck.refresh()
    deck.adopt(7, "ppo")
    until(lambda: "RUNNING" in list(deck.jobs()["status"]))
    return 7


def backend_row(deck: sd.Deck) -> tuple[bool, str]:
    """Whether the backend is well, and the sentence."""
    health = deck.health()
    return bool(health.loc["backend", "ok"]), str(health.loc["backend", "message"])


def rows(deck: sd.Deck) -> dict[int, JobRow]:
    return deck._loop.runner.view(lambda mirror: dict(mirror.jobs))


def test_whatever_a_server_does_the_loop_lives_and_says_one_condition(
    server: Server, backend: Quick, deck: sd.Deck, watched: int
) -> None:
    modes = list(ALL)
    random.Random(SEED).shuffle(modes)
    before = rows(deck)
    for mode in modes:
        answer, kind = ALL[mode]
        backend.patience = 0.5 if mode in SLOW else 60.0
        server.do_wrong(answer)
        with pytest.raises(BackendError) as caught:
            deck.refresh()
        assert isinstance(caught.value, NeedsSignIn) == (kind is NeedsSignIn), mode
        status = deck._loop.status()
        assert status.alive, mode
        assert status.needs_sign_in == (kind is NeedsSignIn), mode
        well, message = backend_row(deck)
        assert not well, mode
        assert server.url in message, mode
        assert rows(deck) == before, mode
        server.do_wrong(None)
        backend.patience = 60.0
        deck.refresh()
        assert backend_row(deck)[0], mode


def test_no_call_of_the_notebook_waits_for_the_server(
    server: Server, backend: Quick, deck: sd.Deck, watched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the network's, every call is another thread's."""
    threads: set[threading.Thread] = set()
    stream = Transport.stream

    def noted(self: Transport, *arguments: Any, **named: Any) -> AbstractContextManager[Any]:
        threads.add(threading.current_thread())
        return stream(self, *arguments, **named)

    monkeypatch.setattr(Transport, "stream", noted)
    backend.patience = 0.5
    server.do_wrong(SLOW["no answer"])
    asked = len(server.asked)
    until(lambda: len(server.asked) > asked)
    deck.create("new", "train", start=True)
    deck.start("ppo")
    deck.stop("ppo")
    deck.experiments()
    deck.jobs()
    deck.orphans()
    deck.plan()
    deck.explain("ppo")
    deck.health()
    deck.delete("new")
    with pytest.raises(BackendError):
        deck.refresh()
    assert threads
    assert threading.main_thread() not in threads


def test_a_session_that_ends_and_begins_again_costs_nothing_but_time(
    server: Server, deck: sd.Deck, watched: int
) -> None:
    server.do_wrong(SIGN_IN["307 to a login"])
    until(lambda: deck._loop.status().needs_sign_in)
    server.jobs[0]["status"] = "SUCCEEDED"
    server.do_wrong(None)
    until(lambda: list(deck.jobs()["status"]) == ["SUCCEEDED"])
    assert not deck._loop.status().needs_sign_in
