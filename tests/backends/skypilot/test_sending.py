"""A launch through SkyPilot's own client: asked for before each write, and its end never guessed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.skypilot.access import Access, Credentials
from skydeck_nb.backends.skypilot.sending import Sender, redacted
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendUnavailable, LaunchRejected, NeedsSignIn
from tests.backends.local.host import gone, until
from tests.backends.skypilot.conftest import needs_sdk
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import Answer, Exchange, never, reset, says, shows, took, waits

PATIENCE = 100.0
"""Seconds for a process to import SkyPilot on a busy machine, and then some."""

TOKEN = "sky_t0ken-of-the-service"
SECRET = "s3cr3t-of-the-job"
CLAIM = "ppo-sdabcdef-aaaaaaaaaa"
TASK = {"name": CLAIM, "run": "echo hello", "envs": {"A": "b"}, "secrets": {"KEY": None}, "_metadata": {"run": "1"}}


class Closed(Exception):
    """The gate's word."""


class Bench:
    """One server, one client process after another, and what was asked of the gate."""

    def __init__(self, home: Path) -> None:
        self.server = Server()
        self.url = self.server.url.replace("http://", "http://ada:passw0rd@")
        self.transport = Transport(Access(url=self.url, credentials=Credentials(TOKEN, home / "cookies")))
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SKYPILOT_")},
            "HOME": str(home),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_SERVICE_ACCOUNT_TOKEN": TOKEN,
            "SKYPILOT_ROOT_JOB_ID": "7",  # as in a kernel that is itself a member of a job group
            "SKYPILOT_MANAGED_JOB_ID": "7",
        }
        self.sender = Sender(self.transport, environ)
        self.gates = 0
        self.open = sys.maxsize
        """How often the gate lets a write pass."""

    def gate(self) -> None:
        self.gates += 1
        if self.gates > self.open:
            raise Closed

    def send(self, seconds: float = PATIENCE, **changes: Any) -> str:
        order: dict[str, Any] = {
            "claim": CLAIM, "pool": None, "secrets": {"KEY": SECRET}, "gate": self.gate,
            "until": time.monotonic() + seconds, "send_within": 60.0,
        }  # fmt: skip
        return self.sender.send(TASK, **{**order, **changes})

    def posts(self) -> int:
        """How many launches arrived."""
        return len(self.server.of("/jobs/launch"))

    @property
    def pid(self) -> int:
        process = self.sender._process
        assert process is not None
        return process.pid

    def close(self) -> None:
        self.sender.close()
        self.transport.close()
        self.server.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    needs_sdk()
    made = Bench(tmp_path_factory.mktemp("sender"))
    yield made
    made.close()


@pytest.fixture
def bench(kept: Bench) -> Bench:
    """The bench as at first, with the client process that it has."""
    kept.server.forget()
    kept.server.jobs.clear()
    kept.gates, kept.open = 0, sys.maxsize
    return kept


def test_a_launch_is_a_request_of_the_claims_name(bench: Bench) -> None:
    assert bench.send() == bench.server.requests[-1].id
    (asked,) = bench.server.of("/jobs/launch")
    assert asked.json["name"] == CLAIM
    assert "echo hello" in asked.json["task"]
    assert [job["job_name"] for job in bench.server.jobs] == [CLAIM]
    assert bench.gates == 1


def test_a_launch_joins_no_job_group(bench: Bench) -> None:
    """By default the SDK makes it a member of the job in which it runs."""
    bench.send()
    (asked,) = bench.server.of("/jobs/launch")
    assert asked.json["parent_job_id"] is None


def test_the_client_process_serves_one_launch_after_the_other(bench: Bench) -> None:
    bench.send()
    pid = bench.pid
    bench.send()
    assert bench.pid == pid
    assert bench.posts() == 2


def test_a_secret_reaches_the_body_and_nothing_else(
    bench: Bench, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    bench.send()
    bench.server.tell("/jobs/launch", shows({"detail": "No."}, 400))
    with pytest.raises(LaunchRejected) as caught:
        bench.send()
    assert [SECRET.encode() in asked.body for asked in bench.server.of("/jobs/launch")] == [True, True]
    shown = caplog.text + repr(caught.value) + repr(vars(bench.sender)) + "".join(capfd.readouterr())
    assert SECRET not in shown


def test_the_token_is_not_in_what_is_sent(bench: Bench) -> None:
    """SkyPilot's own client puts it into the body, where the server keeps it."""
    bench.send()
    assert not [asked.path for asked in bench.server.asked if TOKEN.encode() in asked.body]


def test_the_notebook_is_left_as_it_is(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    before = (getattr(sys, "tracebacklimit", None), logging.getLogger("httpx").level, logging.getLogger("sky").handlers)
    bench.send()
    after = (getattr(sys, "tracebacklimit", None), logging.getLogger("httpx").level, logging.getLogger("sky").handlers)
    assert "sky" not in sys.modules
    assert after == before
    assert capfd.readouterr() == ("", "")


# -- the gate ----------------------------------------------------------------------------


def test_a_closed_gate_sends_nothing_and_its_word_is_raised(bench: Bench) -> None:
    bench.open = 0
    with pytest.raises(Closed):
        bench.send()
    assert (bench.gates, bench.posts()) == (1, 0)


def test_each_write_asks_the_gate_and_a_closed_one_ends_the_retries(bench: Bench) -> None:
    """The SDK sends again by itself when the server is busy."""
    bench.server.tell("/jobs/launch", shows({"detail": "busy"}, 503))
    bench.open = 1
    with pytest.raises(BackendUnavailable, match="got no usable answer"):
        bench.send()
    assert (bench.gates, bench.posts()) == (2, 1)


def test_what_was_stopped_before_it_was_sent_is_not_sent(bench: Bench) -> None:
    with pytest.raises(BackendUnavailable):
        bench.send(seconds=-1.0)
    assert bench.posts() == 0


# -- answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "retryable", "words"),
    [
        (shows({"detail": "The pool p does not exist."}, 400), False, "The pool p does not exist."),
        (shows({"detail": {"type": "ValueError", "message": "No such pool."}}, 400), False, "No such pool."),
        (shows({"detail": "You may not launch here."}, 403), False, "You may not launch here."),
        (shows({"detail": [{"msg": "bad", "input": SECRET}]}, 422), False, "422"),
        (shows({"detail": "Too many."}, 429), True, "Too many."),
        (says("<html>413</html>", 413, kind="text/html"), False, "413"),
    ],
)
def test_a_launch_that_the_server_does_not_take_is_rejected_with_its_word(
    bench: Bench, answer: Answer, retryable: bool, words: str
) -> None:
    bench.server.tell("/jobs/launch", answer)
    with pytest.raises(LaunchRejected) as caught:
        bench.send()
    assert caught.value.retryable == retryable
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "passw0rd" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 307, 401])
def test_a_launch_that_meets_a_sign_in_is_rejected_until_there_is_one(bench: Bench, status: int) -> None:
    bench.server.tell("/jobs/launch", says("", status, headers={"Location": "/oauth2/start"}))
    with pytest.raises(LaunchRejected, match="Set SKYPILOT_SERVICE_ACCOUNT_TOKEN") as caught:
        bench.send()
    assert (caught.value.retryable, caught.value.reason) == (True, "NeedsSignIn")
    assert bench.server.of("/oauth2/start") == []


def test_a_sign_in_that_is_missing_before_the_launch_is_said_so(bench: Bench) -> None:
    bench.server.tell("/validate", says("", 307, headers={"Location": "/oauth2/start"}))
    with pytest.raises(NeedsSignIn):
        bench.send()
    assert (bench.gates, bench.posts()) == (0, 0)


def test_a_task_that_the_server_finds_wrong_is_rejected_before_the_gate(bench: Bench) -> None:
    wrong = {"detail": {"type": "ValueError", "message": "No cloud has that.", "args": ["No cloud has that."]}}
    bench.server.tell("/validate", shows(wrong, 400))
    with pytest.raises(LaunchRejected, match=r"No cloud has that\."):
        bench.send()
    assert (bench.gates, bench.posts()) == (0, 0)


def test_a_task_that_the_client_finds_wrong_is_rejected_before_the_gate(bench: Bench) -> None:
    with pytest.raises(LaunchRejected, match="resources"):
        bench.sender.send(
            {"run": "true", "resources": {"no_such_key": 1}}, claim=CLAIM, pool=None, secrets={}, gate=bench.gate,
            until=time.monotonic() + PATIENCE, send_within=60,
        )  # fmt: skip
    assert bench.gates == 0


@pytest.mark.parametrize(
    "answer",
    [reset, shows({}, 500), says("<p>", 502, kind="text/html"), says("null"), says("<p>", kind="text/html")],
    ids=["reset", "500", "502", "no id", "a page"],
)  # fmt: skip
def test_a_launch_without_a_usable_answer_is_unknown(bench: Bench, answer: Answer) -> None:
    bench.server.tell("/jobs/launch", answer)
    with pytest.raises(BackendUnavailable, match=f"The launch of {CLAIM} was sent and got no usable answer") as caught:
        bench.send()
    assert bench.posts() == 1
    assert "passw0rd" not in str(caught.value)


def test_an_answer_that_was_taken_before_the_deadline_counts(bench: Bench) -> None:
    seen = threading.Event()
    bench.server.tell("/jobs/launch", waits(seen, took("late-but-there")))

    def let_go() -> None:
        bench.server.wait_for("/jobs/launch")
        seen.set()

    threading.Thread(target=let_go).start()
    assert bench.send() == "late-but-there"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("for url: http://ada:pw@host/jobs", "for url: http://host/jobs"),
        ("at https://token@host:80.", "at https://host:80."),
        ("mail a@b.c or see https://host/a@b", "mail a@b.c or see https://host/a@b"),
    ],
)
def test_passwords_of_addresses_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_server_that_is_gone_before_the_launch_has_got_nothing(bench: Bench) -> None:
    bench.server.tell("/validate", reset)
    with pytest.raises(BackendUnavailable, match=f"{CLAIM} could not be prepared"):
        bench.send()
    assert (bench.gates, bench.posts()) == (0, 0)


# -- ends. The last tests: each leaves no client process behind -------------------------------


def test_a_client_that_is_killed_before_the_gate_has_sent_nothing(bench: Bench) -> None:
    def kill(exchange: Exchange) -> None:
        os.kill(bench.pid, signal.SIGKILL)
        never(exchange)

    bench.server.tell("/validate", kill)
    with pytest.raises(BackendUnavailable, match="has ended"):
        bench.send()
    assert (bench.gates, bench.posts()) == (0, 0)


def test_a_client_that_is_killed_after_the_gate_leaves_it_unknown(bench: Bench) -> None:
    def kill(exchange: Exchange) -> None:
        os.kill(bench.pid, signal.SIGKILL)
        never(exchange)

    bench.server.tell("/jobs/launch", kill)
    with pytest.raises(BackendUnavailable, match="has ended"):
        bench.send()
    assert (bench.gates, bench.posts()) == (1, 1)


def test_an_answer_that_does_not_come_is_unknown_and_its_client_is_killed(bench: Bench) -> None:
    bench.server.tell("/jobs/launch", never)
    with pytest.raises(BackendUnavailable, match=r"in time|no usable answer"):
        bench.send(send_within=0.5)
    assert (bench.gates, bench.posts()) == (1, 1)


def test_a_sender_that_is_closed_ends_what_is_under_way_and_sends_nothing_more(bench: Bench) -> None:
    pids: list[int] = []

    def close(exchange: Exchange) -> None:
        pids.append(bench.pid)
        bench.sender.close()
        never(exchange)

    bench.server.tell("/jobs/launch", close)
    with pytest.raises(BackendUnavailable, match="has ended"):
        bench.send()
    assert gone(pids[0])
    with pytest.raises(BackendUnavailable, match="closed"):
        bench.send()
    assert bench.sender.memory is None
    assert bench.posts() == 1


def test_a_notebook_that_is_killed_at_the_gate_takes_its_client_along(server: Server, tmp_path: Path) -> None:
    needs_sdk()
    environ = {**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    command = [sys.executable, "-m", "tests.backends.skypilot.parent", server.url]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until(lambda: gone(pid), "the end of its client")
    assert server.of("/jobs/launch") == []
