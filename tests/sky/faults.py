"""What can go wrong between a client and a server, which requests it strikes, and what became of each.

Decides, with a seed, whether a fault strikes a request. Refuses to know
sockets: ``proxy.py`` does what is decided here.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

LOGIN_PAGE = "<!DOCTYPE html><html><body><form action='/login'>Sign in</form></body></html>"


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The connection ends before the server hears of it."""


@dataclass(frozen=True, slots=True)
class DropAnswer:
    """The server does it, and the connection ends before the answer."""


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """The connection ends after so many bytes of the answer's body."""

    after: int = 1


@dataclass(frozen=True, slots=True)
class Twice:
    """The server gets it two times, one after the other; the answer is that of the second."""


@dataclass(frozen=True, slots=True)
class DelayRequest:
    """It takes so long until the server hears of it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DelayAnswer:
    """The server has done it, and it takes so long until the answer comes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Hold:
    """Stays on its way until the test lets it go."""

    gate: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.gate.set()


@dataclass(frozen=True, slots=True)
class HoldRequest(_Hold):
    """As :class:`DelayRequest`, until it is released."""


@dataclass(frozen=True, slots=True)
class HoldAnswer(_Hold):
    """As :class:`DelayAnswer`, until it is released."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Something else answers; the server hears nothing."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


Fault = DropRequest | DropAnswer | CutAnswer | Twice | DelayRequest | DelayAnswer | HoldRequest | HoldAnswer | Reply


def unavailable(status: int = 503) -> Reply:
    """What a load balancer says while the server restarts (502, 503, 504)."""
    return Reply(status, {"Content-Type": "text/html"}, f"<html><h1>{status}</h1></html>")


def login_redirect(target: str = "/oauth2/start?rd=%2F") -> Reply:
    """What SkyPilot's server says behind oauth2-proxy when the session has ended."""
    return Reply(307, {"Location": target})


def login_page() -> Reply:
    """What an identity provider says to a client that followed the redirect."""
    return Reply(200, {"Content-Type": "text/html; charset=utf-8"}, LOGIN_PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """Without this header, or this cookie, nobody is let in; the server behind does not see it."""

    bearer: str | None = None
    cookie: tuple[str, str] | None = None

    def shown(self, headers: Mapping[str, str]) -> bool:
        if self.bearer is not None and headers.get("authorization") != f"Bearer {self.bearer}":
            return False
        pairs = [pair.strip() for pair in headers.get("cookie", "").split(";")]
        return self.cookie is None or "=".join(self.cookie) in pairs

    def refusal(self, path: str) -> Reply:
        if path == "/api/health":
            return Reply(200, {"Content-Type": "application/json"}, '{"status": "needs_auth", "api_version": "62"}')
        if self.bearer is not None:
            return Reply(401, {"Content-Type": "application/json"}, '{"detail": "Authentication required"}')
        return login_redirect()


@dataclass(slots=True)
class Rule:
    """A fault for the requests it means; ``count`` is how often it still strikes."""

    fault: Fault
    method: str = "*"
    path: str = "*"
    count: int | None = None
    chance: float = 1.0

    def means(self, method: str, path: str) -> bool:
        return self.count != 0 and fnmatchcase(method, self.method) and fnmatchcase(path, self.path)


@dataclass(slots=True)
class Exchange:
    """One request of a client, and what became of it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    fault: Fault | None = None
    forwarded: int = 0
    """How often the server was sent all of it."""
    status: int | None = None
    """What the client was told; ``None`` while it was told nothing."""
    ended: bool = False

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Faults:
    """The rules, oldest first, and the log. Any thread may use it."""

    def __init__(self, seed: int = 0) -> None:
        self.credential: Credential | None = None
        self._rules: list[Rule] = []
        self._log: list[Exchange] = []
        self._random = random.Random(seed)
        self._changed = threading.Condition()

    @property
    def hidden(self) -> frozenset[str]:
        """The headers that are for the one who demands them, not for the server."""
        return frozenset(["authorization", "cookie"]) if self.credential is not None else frozenset()

    def add(self, rule: Rule) -> None:
        with self._changed:
            self._rules.append(rule)

    def clear(self) -> None:
        """No more faults, and nothing held; the log stays."""
        with self._changed:
            for rule in self._rules:
                if isinstance(rule.fault, _Hold):
                    rule.fault.release()
            self._rules.clear()
            self.credential = None

    def begin(self, exchange: Exchange) -> None:
        """Write it down, and decide what strikes it."""
        with self._changed:
            self._log.append(exchange)
            exchange.fault = self._strikes(exchange)
            self._changed.notify_all()

    def changed(self) -> None:
        """Something of an exchange did; who waits for it looks again."""
        with self._changed:
            self._changed.notify_all()

    def log(self, method: str = "*", path: str = "*") -> list[Exchange]:
        with self._changed:
            return self._matching(method, path)

    def wait(self, method: str = "*", path: str = "*", *, forwarded: int = 1, timeout: float = 10.0) -> list[Exchange]:
        """Until the server was sent so many of them; the log of these."""
        with self._changed:

            def enough() -> bool:
                return sum(one.forwarded for one in self._matching(method, path)) >= forwarded

            if not self._changed.wait_for(enough, timeout):
                raise TimeoutError(f"{method} {path} was not forwarded {forwarded} times within {timeout:g} s")
            return self._matching(method, path)

    def _matching(self, method: str, path: str) -> list[Exchange]:
        return [one for one in self._log if fnmatchcase(one.method, method) and fnmatchcase(one.path, path)]

    def _strikes(self, exchange: Exchange) -> Fault | None:
        if self.credential is not None and not self.credential.shown(exchange.headers):
            return self.credential.refusal(exchange.path)
        for rule in self._rules:
            if rule.means(exchange.method, exchange.path) and self._random.random() < rule.chance:
                if rule.count is not None:
                    rule.count -= 1
                return rule.fault
        return None
