"""A server on loopback that answers as it is told, well or badly, and remembers what it was asked.

An *answer* is a function that is given one :class:`Exchange` and writes what it
likes to its connection. Routes are looked up by path; the last answer of a route
is given again and again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs

REQUEST_ID: Final = "X-Skypilot-Request-ID"

PATIENCE: Final = 30.0
"""Seconds after which what should have come is said not to have come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Exchange:
    """One request and the connection on which it is answered."""

    asked: Asked
    wire: socket.socket
    ended: threading.Event
    """The server ends: whatever takes its time stops."""
    keep: bool = True
    """Whether the connection stays open for another request."""

    def send(self, data: bytes) -> None:
        self.wire.sendall(data)


Answer = Callable[[Exchange], None]


Headers = Mapping[str, str]
NO_HEADERS: Final[Headers] = {}


def says(
    body: bytes | str = b"", status: int = 200, kind: str = "application/json", headers: Headers = NO_HEADERS
) -> Answer:
    """A well-formed answer."""
    content = body.encode() if isinstance(body, str) else body
    given = {"Content-Type": kind, "Content-Length": str(len(content)), **headers}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in given.items())]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


def shows(value: Any, status: int = 200, headers: Headers = NO_HEADERS) -> Answer:
    """A value as JSON."""
    return says(json.dumps(value), status, headers=headers)


def raw(data: bytes, *, keep: bool = True) -> Answer:
    """Exactly these bytes."""

    def answer(exchange: Exchange) -> None:
        exchange.keep = keep
        exchange.send(data)

    return answer


def never(exchange: Exchange) -> None:
    """No answer, for as long as the server lives."""
    exchange.keep = False
    exchange.ended.wait()


def reset(exchange: Exchange) -> None:
    """The connection is torn down without a word."""
    exchange.keep = False
    exchange.wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.wire.close()


def hangs_up(exchange: Exchange) -> None:
    """The connection is closed without a word."""
    exchange.keep = False


def trickles(data: bytes, every: float) -> Answer:
    """One byte after the other."""

    def answer(exchange: Exchange) -> None:
        exchange.keep = False
        for byte in data:
            exchange.send(bytes([byte]))
            if exchange.ended.wait(every):
                return

    return answer


def waits(event: threading.Event, then: Answer) -> Answer:
    """Nothing before the event."""

    def answer(exchange: Exchange) -> None:
        while not event.wait(0.02):
            if exchange.ended.is_set():
                exchange.keep = False
                return
        then(exchange)

    return answer


class Wrongdoer:
    """The server. ``tell`` what it answers, then look at ``asked``."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self._routes: dict[str, list[Answer]] = {}
        self._otherwise: Answer = shows({"detail": "Not Found"}, 404)
        self._wrong: Answer | None = None
        self._news = threading.Condition()
        self._ended = threading.Event()
        self._wires: set[socket.socket] = set()
        self._server: _Server | None = _Server(("127.0.0.1", 0), self._converse)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="wrongdoer")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, path: str, *answers: Answer) -> None:
        """These answers, one after the other, to this path."""
        with self._news:
            self._routes[path] = list(answers)

    def tell_all(self, answer: Answer) -> None:
        """This answer to everything that has none of its own."""
        self._otherwise = answer

    def do_wrong(self, answer: Answer | None) -> None:
        """This answer to everything from now on, whatever else was told; ``None`` ends that."""
        self._wrong = answer

    def forget(self) -> None:
        """No answers and no memory."""
        with self._news:
            self._routes.clear()
            self.asked.clear()
            self.connections = 0

    def paths(self) -> list[str]:
        """What was asked, in order."""
        with self._news:
            return [one.path for one in self.asked]

    def of(self, path: str) -> list[Asked]:
        """The requests of one path."""
        with self._news:
            return [one for one in self.asked if one.path == path]

    def wait_for(self, path: str, count: int = 1) -> list[Asked]:
        """The requests of a path, once there are that many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.of(path)) >= count, PATIENCE), f"{path} was not asked"
            return self.of(path)

    def close(self) -> None:
        """Stop listening and hang up everywhere, as a killed server does."""
        server, self._server = self._server, None
        if server is None:
            return
        self._ended.set()
        server.shutdown()
        for wire in list(self._wires):
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- one connection -----------------------------------------------------------------

    def _converse(self, wire: socket.socket) -> None:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._news:
            self.connections += 1
            self._wires.add(wire)
        try:
            with wire.makefile("rb") as source:
                while (asked := _read(source)) is not None:
                    exchange = Exchange(asked, wire, self._ended)
                    self._answer_to(asked)(exchange)
                    if not exchange.keep:
                        return
        except (OSError, ValueError):  # the client went away
            return
        finally:
            with self._news:
                self._wires.discard(wire)
            with contextlib.suppress(OSError):
                wire.close()

    def _answer_to(self, asked: Asked) -> Answer:
        with self._news:
            self.asked.append(asked)
            self._news.notify_all()
            if self._wrong is not None:
                return self._wrong
            answers = self._routes.get(asked.path)
            if not answers:
                return self.reply(asked)
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def reply(self, asked: Asked) -> Answer:
        """The answer where none was told."""
        return self._otherwise


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], converse: Callable[[socket.socket], None]) -> None:
        self._converse = converse
        super().__init__(address, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._converse(request)


def _read(source: Any) -> Asked | None:
    """One request, ``None`` at the end of the connection."""
    line = source.readline().decode("latin-1").split()
    if len(line) < 2:
        return None
    headers: dict[str, str] = {}
    while (text := source.readline().decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = source.read(int(headers.get("content-length", 0)))
    path, _, query = line[1].partition("?")
    return Asked(method=line[0], path=path, query=parse_qs(query), headers=headers, body=body)


# -- SkyPilot's own answers ---------------------------------------------------------------

HEALTHY: Final = {"status": "healthy", "api_version": "62", "version": "0.14.1", "commit": "c0ffee", "user": None}
VERSIONS: Final = {"X-SkyPilot-API-Version": "62", "X-SkyPilot-Version": "0.14.1"}


def failed(kind: str, message: str, request_id: str = "r") -> Answer:
    """What ``/api/get`` says of a request that failed."""
    error = json.dumps({"object": "gASVAAAA", "type": kind, "message": message})
    return shows(
        {"detail": {"request_id": request_id, "status": "FAILED", "error": error, "return_value": "null"}}, 500
    )


def returned(value: Any, request_id: str = "r") -> Answer:
    """What ``/api/get`` says of a request that succeeded."""
    return shows({"request_id": request_id, "status": "SUCCEEDED", "return_value": json.dumps(value), "error": "null"})


def took(request_id: str = "r") -> Answer:
    """What a POST answers that became a request."""
    return says("null", headers={REQUEST_ID: request_id})
