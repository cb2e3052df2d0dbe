"""Signing in: one sentence with the one command, once; from here or a terminal; and the loop goes on by itself."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import skydeck_nb as sd
from skydeck_nb.backends.skypilot import SkyPilotBackend
from tests.backends.skypilot.conftest import access_to, needs_sdk
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import HEALTHY, VERSIONS, Answer, Asked, says, shows
from tests.deck.conftest import until

SESSION = "session=good"


class Guarded(Server):
    """A server behind a proxy that lets nobody in without a session, and SkyPilot's login by polling."""

    def __init__(self) -> None:
        self.authorized = False
        super().__init__()

    def reply(self, asked: Asked) -> Answer:
        if asked.path == "/auth/authorize":
            self.authorized = True
            return says("Thank you.")
        if asked.path == "/api/v1/auth/token":
            return shows({"token": self.token()}) if self.authorized else shows({"detail": "not yet"}, 404)
        if SESSION in asked.headers.get("cookie", ""):
            return super().reply(asked)
        if asked.path == "/api/health":
            return shows({**HEALTHY, "status": "needs_auth"}, headers=VERSIONS)
        return shows({}, 307, {"Location": "/oauth2/start"})

    def token(self) -> str:
        said = {"v": 1, "user": "ab12cd34", "cookies": {"session": "good"}}
        return base64.b64encode(json.dumps(said).encode()).decode()


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with Guarded() as server:
        yield server


@pytest.fixture
def deck(guarded: Guarded, tmp_path: Path) -> Iterator[sd.Deck]:
    backend = SkyPilotBackend(access=access_to(guarded))
    with sd.open(tmp_path / "deck.db", backend=backend) as deck:
        yield deck
    backend.close()


@pytest.fixture
def needs_skypilot() -> None:
    needs_sdk()


def signed_in_elsewhere(server: Guarded) -> None:
    """What `sky api login` in a terminal leaves behind."""
    file = access_to(server).credentials.cookie_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# Netscape HTTP Cookie File\n.127.0.0.1\tTRUE\t/\tFALSE\t4000000000\tsession\tgood\n")


def test_a_missing_sign_in_is_said_once_with_the_one_command(guarded: Guarded, deck: sd.Deck) -> None:
    with pytest.raises(sd.NeedsSignIn, match=rf"deck\.sign_in\(\).*sky api login -e {re.escape(guarded.url)}"):
        deck.refresh()
    said = [str(deck.create(name, "train", start=True)) for name in ("a", "b", "c")]
    assert sum("sky api login" in each for each in said) == 1
    assert "sky api login" in str(deck.health().loc["backend", "message"])
    assert not [one for one in guarded.paths() if one not in ("/api/health", "/api/v1/auth/token")]


def test_the_loop_goes_on_by_itself_when_somebody_signed_in_elsewhere(guarded: Guarded, deck: sd.Deck) -> None:
    until(lambda: deck._loop.status().needs_sign_in)
    signed_in_elsewhere(guarded)
    until(lambda: deck._loop.status().listed_at is not None)
    assert not deck._loop.status().needs_sign_in


@pytest.mark.timeout(300)
def test_one_signs_in_from_the_notebook(
    guarded: Guarded, deck: sd.Deck, capsys: pytest.CaptureFixture[str], needs_skypilot: None
) -> None:
    answers: list[str] = []
    signing = threading.Thread(target=lambda: answers.append(deck.sign_in()))
    signing.start()
    printed: list[str] = []

    def address() -> str | None:
        printed.append(capsys.readouterr().out)
        found = re.search(r"http://\S*/auth/authorize\?code_challenge=[\w-]+", "".join(printed))
        return found[0] if found else None

    until(lambda: address() is not None, 120)
    httpx.get(str(address()))  # the person opens it
    signing.join(120)
    assert answers == [f"Signed in to {deck._loop.place}."]
    assert not deck._loop.status().needs_sign_in
    assert "good" not in "".join(printed), "a session is nothing to print"


@pytest.mark.timeout(300)
def test_a_sign_in_that_fails_says_why(guarded: Guarded, deck: sd.Deck, needs_skypilot: None) -> None:
    guarded.tell("/api/v1/auth/token", shows({"detail": "denied"}, 403))
    with pytest.raises(sd.BackendUnavailable, match=r"The sign-in to .* did not succeed"):
        deck.sign_in()
