"""Servers on loopback, and SkyPilot's own client in one process beside the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.skypilot.access import Access, Credentials
from skydeck_nb.backends.skypilot.transport import Transport
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import Wrongdoer
from tests.conftest import REQUIRE_ALL


@pytest.fixture
def wrongdoer() -> Iterator[Wrongdoer]:
    with Wrongdoer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is read at once: the usual one takes each client 30 ms."""
    import certifi

    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    return file


@pytest.fixture(autouse=True)
def quick_clients(monkeypatch: pytest.MonkeyPatch, one_certificate: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(one_certificate))


def access_to(server: Wrongdoer, token: str | None = None, **config: Any) -> Access:
    """One client of this server: user u1, cookies in this test's home."""
    cookies = Path(os.environ["HOME"]) / ".sky" / "cookies.txt"
    return Access(url=server.url, credentials=Credentials(token, cookies), user_id="u1", user_name="ada", config=config)


@pytest.fixture
def transport(server: Server) -> Iterator[Transport]:
    made = Transport(access_to(server))
    yield made
    made.close()


def needs_sdk() -> None:
    """SkyPilot's distribution: without it the test is skipped, and fails where everything must run."""
    if find_spec("sky") is None:
        if REQUIRE_ALL:
            pytest.fail("SKYDECK_REQUIRE=all, and SkyPilot is not installed", pytrace=False)
        pytest.skip("no SkyPilot: install `skydeck-nb[sky]`")


class Sdk:
    """SkyPilot's own word, from a process that has imported it."""

    def __init__(self, home: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SKYPILOT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.skypilot.oracle"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environ, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
            text=True,
        )

    def ask(self, what: str, **about: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"what": what, **about}) + "\n")
        self.process.stdin.flush()
        answer: Mapping[str, Any] = json.loads(self.process.stdout.readline())
        return answer["answer"]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    needs_sdk()
    made = Sdk(tmp_path_factory.mktemp("sky-home"))
    yield made
    made.close()
