"""A deck's folder on the real server, and what a test asks of that server from outside.

Decides what counts as the truth: the server's own queue, asked by name and read
without this package's backend. Refuses to believe the deck.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

import skydeck_nb as sd
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.states import TERMINAL
from skydeck_nb.store.store import Store
from tests.sky.stack import Stack

PATIENCE: Final = 420.0
"""Seconds until something that should happen counts as never: a queue answers in 4 to 20 on two busy cores."""

SMALL: Final[dict[str, Any]] = {"infra": "slurm", "resources": {"cpus": 1}}
FAST: Final[dict[str, Any]] = {"poll_interval": 5.0, "reconcile_interval": 40.0}


def until(holds: Callable[[], Any], what: Callable[[], object] | str, patience: float = PATIENCE) -> Any:
    """The first true answer; fails with what was seen when patience ends."""
    end = time.monotonic() + patience
    while not (answer := holds()):
        assert time.monotonic() < end, f"after {patience:g} s never came: {what() if callable(what) else what}"
        time.sleep(1.0)
    return answer


class Yard:
    """A folder with one database, whose decks share a deck id on the server."""

    def __init__(self, folder: Path, stack: Stack, url: str | None = None) -> None:
        self.folder = folder
        self.stack = stack
        self.path = folder / "deck.db"
        self.url = url or stack.endpoint
        self._http = httpx.Client(base_url=stack.endpoint, timeout=120)
        self._decks: list[sd.Deck] = []
        self._backends: list[SkyPilotBackend] = []
        folder.mkdir(parents=True, exist_ok=True)

    def environ(self) -> dict[str, str]:
        """A client's environment; through the proxy where the yard has one."""
        return {**self.stack.env(), "SKYPILOT_API_SERVER_ENDPOINT": self.url}

    def open(self, **settings: Any) -> sd.Deck:
        backend = SkyPilotBackend(self.environ())
        self._backends.append(backend)
        deck = sd.open(self.path, backend=backend, **{**FAST, **settings})
        self._decks.append(deck)
        return deck

    @property
    def deck_id(self) -> str:
        store = Store.open(self.path, read_only=True)
        try:
            return store.deck_id
        finally:
            store.close()

    # -- the server's word --------------------------------------------------------------

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """One request to the server itself, whatever proxy the deck has."""
        environ = self.stack.env()
        user = (self.stack.home / ".sky" / "user_hash").read_text().strip()
        common = {"env_vars": {"SKYPILOT_USER_ID": user, "SKYPILOT_USER": environ.get("USER", "root")}}
        headers = {"X-SkyPilot-API-Version": "62", "X-SkyPilot-Version": "0.14.1"}
        posted = self._http.post(path, json={**common, **body}, headers=headers)
        posted.raise_for_status()
        answer = self._http.get("/api/get", params={"request_id": posted.headers["X-Skypilot-Request-ID"]})
        answer.raise_for_status()
        return json.loads(answer.json()["return_value"])

    def truth(self) -> list[dict[str, Any]]:
        """Every job that the server has of this yard."""
        fields = ["job_id", "job_name", "status", "metadata"]
        body = {"name_match": f"-sd{self.deck_id}-", "all_users": True, "fields": fields}
        jobs: list[dict[str, Any]] = self.ask("/jobs/queue/v2", body)["jobs"]
        return jobs

    def status(self, experiment: str) -> str:
        """The status that the server has of an experiment's one job."""
        (job,) = [job for job in self.truth() if job["metadata"]["experiment"] == experiment]
        return str(job["status"])

    def alive(self) -> Counter[str]:
        """How many live jobs the server has of each experiment."""
        return Counter(job["metadata"]["experiment"] for job in self.truth() if job["status"] not in TERMINAL)

    def requests(self) -> list[dict[str, Any]]:
        """The launch requests of this yard that the server knows."""
        listed = self._http.get("/api/status", params={"all_status": True}).json()
        ours = f"-sd{self.deck_id}-"
        return [one for one in listed if one["name"] == "sky.jobs.launch" and ours in one["request_body"]]

    def await_quiet(self) -> None:
        """No launch request of ours is under way, so nothing more can appear."""
        until(
            lambda: not [one for one in self.requests() if one["status"] not in ("SUCCEEDED", "FAILED", "CANCELLED")],
            lambda: f"the end of {self.requests()}",
        )

    def await_none_alive(self) -> None:
        self.await_quiet()
        until(lambda: not self.alive(), lambda: f"the end of {self.alive()}")

    def close(self) -> None:
        """Have nothing of it left on the server: its cancels are the test's own, by id."""
        for deck in self._decks:
            deck.close()
        for backend in self._backends:
            backend.close()
        if self.path.exists():
            self.await_quiet()
            ids = [job["job_id"] for job in self.truth() if job["status"] not in TERMINAL]
            if ids:
                self.ask("/jobs/cancel", {"job_ids": ids})
        self._http.close()


def one_each(yard: Yard, names: Sequence[str]) -> bool:
    """Whether every one of these has exactly one live job on the server, and nothing else has one."""
    return yard.alive() == Counter(names)
