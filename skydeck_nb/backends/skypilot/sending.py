"""Launches through SkyPilot's client in a process beside the kernel.

Decides what one launch's end means: taken, refused by us, said no to, or unknown.
Refuses to know the SDK (``sdk.py`` does) and what is launched. One launch at a
time: the SDK is not made for threads, and one takes some half a second. A process
that does not answer in time is killed, which ends whatever it was about to write.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Final

from skydeck_nb.backends.skypilot.access import ENDPOINT
from skydeck_nb.backends.skypilot.queue import plain
from skydeck_nb.backends.skypilot.sdk import clock
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendUnavailable, LaunchRejected

log = logging.getLogger("skydeck_nb")

IMPORT: Final = 120.0
"""Seconds for a process to import SkyPilot: 3 on a quiet machine."""

NO: Final = frozenset({400, 403, 404, 405, 409, 411, 413, 414, 415, 422, 429})
"""Answers to a launch that say: not taken."""

TURNED_AWAY: Final = frozenset({301, 302, 303, 307, 308, 401})
"""Answers that send to a sign-in instead."""

PERMANENT: Final = frozenset(
    {"ValueError", "TypeError", "KeyError", "FileNotFoundError", "InvalidSkyPilotConfigError", "NotSupportedError",
     "UserRequestRejectedByPolicy", "ResourcesUnavailableError", "ResourcesMismatchError", "InvalidCloudConfigs",
     "UsageError", "StorageSpecError", "StorageSourceError"}
)  # fmt: skip
"""Exceptions before the first write that the same launch would meet again: the task itself is at fault."""

SIGN_IN: Final = frozenset({"SignIn", "ApiServerAuthenticationError"})

GLANCE: Final = 1.0
"""Seconds between two glances at whether a launch that is being prepared is still wanted."""

Gate = Callable[[], None]


class Ended(BackendUnavailable):
    """The client process is gone."""


class Late(BackendUnavailable):
    """The client process did not say anything in time."""


class Send:
    """One launch on its way, as far as this side knows."""

    def __init__(self, claim: str, gate: Gate, wanted: Callable[[], bool], until: float, send_within: float) -> None:
        self.claim = claim
        self.wanted = wanted
        self.until = until
        self._gate = gate
        self._send_within = send_within
        self.asked = False
        """Whether the gate was asked: from then on something may be sent."""
        self.passed = False
        self.refusal: BaseException | None = None
        """What the gate raised."""

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def ask(self) -> None:
        """Ask the gate; its first yes is good for as long as a launch may be sent."""
        self.asked = True
        try:
            self._gate()
        except BaseException as error:  # noqa: BLE001  it is raised as it is, once the process knows
            self.refusal = error
            return
        if not self.passed:
            self.passed, self.until = True, min(self.until, time.monotonic() + self._send_within)


class Sender:
    """Sends launches for one deck. Safe from any thread; the process is started with the first one."""

    def __init__(self, transport: Transport, environ: Mapping[str, str] | None = None) -> None:
        self._transport = transport
        self._environ = environ
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._process: Process | None = None
        self._closed = False

    def send(
        self,
        task: Mapping[str, Any],
        *,
        claim: str,
        pool: str | None,
        secrets: Mapping[str, str],
        gate: Gate,
        until: float,
        send_within: float,
        wanted: Callable[[], bool] = lambda: True,
    ) -> str:
        """The id of the launch request that the server took; an upload ends once it is not ``wanted``.

        Raises:
            LaunchRejected: nothing of it runs.
            BackendUnavailable: after the gate let it pass: nobody knows.
            Exception: what ``gate`` raised, as it is; nothing (more) was sent.
        """
        if not self._turn.acquire(timeout=max(until - time.monotonic(), 0)):
            raise BackendUnavailable(f"{claim} found no turn to be sent in time.")
        try:
            if time.monotonic() >= until:
                raise BackendUnavailable(f"There was no time left to send {claim}.")
            launch = {"task": dict(task), "name": claim, "pool": pool, "secrets": dict(secrets)}
            launch["workspace"] = self._transport.access.chosen_workspace
            send = Send(claim, gate, wanted, until, send_within)
            try:
                return self._exchange(self._ready(until), launch, send)
            except Ended as error:
                if send.asked:
                    raise BackendUnavailable(str(error)) from None
                return self._exchange(self._ready(until), launch, send)  # an idle one ended at that moment
        finally:
            self._turn.release()

    def _ready(self, until: float) -> Process:
        """The process, started where there is none."""
        process = self._process
        if process is not None and process.alive:
            return process
        with self._guard:
            if self._closed:
                raise BackendUnavailable("This deck is closed.")
            self._process = process = Process(self._environment(), self._transport.access.cwd)
        process.expect("ready", min(until, time.monotonic() + IMPORT))
        return process

    def _environment(self) -> dict[str, str]:
        environ = dict(os.environ if self._environ is None else self._environ)
        environ[ENDPOINT] = self._transport.access.url
        environ["SKYPILOT_DISABLE_LOCAL_API_SERVER"] = "1"
        environ["PYTHONUNBUFFERED"] = "1"
        return environ

    def _exchange(self, process: Process, launch: dict[str, Any], send: Send) -> str:
        try:
            process.say(launch={**launch, "before": clock() + send.left})
            while "gate" in (message := self._hear(process, send)):
                send.ask()
                process.say(go=None if send.refusal is not None else clock() + send.left)
        except BackendUnavailable as error:
            process.kill()
            if send.refusal is not None:
                raise send.refusal from None
            if isinstance(error, Ended) and not send.asked:
                raise
            raise BackendUnavailable(f"{error} {process.last_words}".strip()) from None
        if (request_id := message.get("request_id")) is not None:
            return str(request_id)
        raise self._failed(message["failed"], send)

    def _hear(self, process: Process, send: Send) -> dict[str, Any]:
        """The next message; raises what the gate says where the launch is not wanted any more before it was asked."""
        while True:
            if send.asked or send.wanted():
                slice_ = send.until if send.asked else min(send.until, time.monotonic() + GLANCE)
                try:
                    return process.hear(slice_)
                except Late:
                    if time.monotonic() >= send.until:
                        raise
                    continue
            send.ask()
            if send.refusal is not None:
                raise BackendUnavailable("It is not wanted any more.")

    def _failed(self, failed: Mapping[str, Any], send: Send) -> BaseException:
        """What the SDK's failure means, by how far the launch had come."""
        kinds = set(failed["kinds"])
        said = redacted(plain(failed["said"] or failed["message"])) or failed["kind"]
        statuses = [int(status) for status in failed["statuses"]]
        if not failed["writes"]:
            if send.refusal is not None:
                return send.refusal
            if kinds & SIGN_IN:
                error = self._transport.needs_sign_in()
                return LaunchRejected(str(error), retryable=True, reason="NeedsSignIn") if send.passed else error
            if send.passed:  # the gate let it pass, and no byte of it left
                return LaunchRejected(said, retryable=True, reason="ServerUnreachable")
            if kinds & PERMANENT and not kinds & {"RequestException", "OSError"} - {"FileNotFoundError"}:
                return LaunchRejected(said, reason="LaunchRejected")
            return BackendUnavailable(f"{send.claim} could not be prepared: {said}")
        if len(statuses) == failed["writes"] and all(status in NO or status in TURNED_AWAY for status in statuses):
            if statuses[-1] in TURNED_AWAY:
                return LaunchRejected(str(self._transport.needs_sign_in()), retryable=True, reason="NeedsSignIn")
            return LaunchRejected(said, retryable=429 in statuses, reason="LaunchRejected")
        return BackendUnavailable(f"The launch of {send.claim} was sent and got no usable answer ({said}).")

    def close(self) -> None:
        with self._guard:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            process.kill()

    @property
    def memory(self) -> int | None:
        """Resident bytes of the process, ``None`` while there is none."""
        import psutil

        process = self._process
        if process is None or not process.alive:
            return None
        try:
            return int(psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None


def redacted(text: str) -> str:
    """A text without the passwords of addresses in it."""
    return re.sub(r"//[^/\s@]*@", "//", text)


class Process:
    """One running ``sdk.py`` and its pipe."""

    def __init__(self, environ: Mapping[str, str], cwd: str | None) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "skydeck_nb.backends.skypilot.sdk"],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            start_new_session=True,  # an interrupt of the kernel is not for a launch that is under way
        )
        self._messages: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._words: deque[str] = deque(maxlen=20)
        self._orders: SimpleQueue[bytes | None] = SimpleQueue()
        for name, work in (
            ("skydeck-sky-answers", self._read),
            ("skydeck-sky-words", self._listen),
            ("skydeck-sky-orders", self._write),
        ):
            threading.Thread(target=work, name=name, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def last_words(self) -> str:
        """The last line that it wrote for people."""
        words = [line for line in self._words if line.strip()]
        return redacted(plain(words[-1])) if words else ""

    def say(self, **what: Any) -> None:
        """Returns at once, also where the process does not read."""
        if not self.alive:
            raise Ended("SkyPilot's client process has ended.")
        self._orders.put(json.dumps(what).encode() + b"\n")

    def hear(self, until: float) -> dict[str, Any]:
        """Its next message (raises ``Late`` or ``Ended``)."""
        try:
            message = self._messages.get(timeout=max(until - time.monotonic(), 0.001))
        except Empty:
            raise Late("SkyPilot's client did not come to an end in time.") from None
        if message is None:
            self._messages.put(None)
            raise Ended("SkyPilot's client process has ended.")
        return message

    def expect(self, key: str, until: float) -> None:
        """Wait for its first message (raises ``BackendUnavailable`` with its last words)."""
        try:
            self.hear(until)[key]
        except (BackendUnavailable, KeyError) as error:
            self.kill()
            raise BackendUnavailable(f"SkyPilot's client did not start ({error}). {self.last_words}".strip()) from None

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._orders.put(None)

    def _write(self) -> None:
        pipe = self._popen.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:  # that it has ended is what its answers say
            while (order := self._orders.get()) is not None:
                pipe.write(order)
                pipe.flush()

    def _read(self) -> None:
        pipe = self._popen.stdout
        assert pipe is not None
        with pipe:
            for line in pipe:
                try:
                    self._messages.put(json.loads(line))
                except ValueError:
                    log.warning("SkyPilot's client process said something that is no message: %.200r", line)
        self._messages.put(None)

    def _listen(self) -> None:
        pipe = self._popen.stderr
        assert pipe is not None
        with pipe:
            for line in pipe:
                text = line.decode(errors="replace").rstrip()
                self._words.append(text)
                log.debug("SkyPilot's client: %s", text)
