"""A reverse proxy on loopback that does to a server's clients what networks do.

Decides when connections open, stall and end. Refuses to decide whom that
strikes: see ``faults.py``. It speaks HTTP/1.1, keeps the clients' connections
alive, and opens one to the server for each request; answers flow through as
they come, and a client that goes away ends the connection to the server too.

    with Proxy(endpoint) as proxy:
        proxy.on(DropAnswer(), "POST", "/jobs/launch", count=1)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.sky.faults import (
    Credential,
    CutAnswer,
    DelayAnswer,
    DelayRequest,
    DropAnswer,
    DropRequest,
    Exchange,
    Fault,
    Faults,
    HoldAnswer,
    HoldRequest,
    Reply,
    Rule,
    Twice,
)

T = TypeVar("T")
LIMIT = 1 << 20
CHUNK = 1 << 16
# Each of the two connections has its own.
HOP_BY_HOP = frozenset(["connection", "keep-alive", "expect"])


class Ended(Exception):
    """A connection is over, by a fault or by its other end."""


class Proxy:
    """One proxy in front of one server, on a thread of its own."""

    def __init__(self, upstream: str, *, seed: int = 0) -> None:
        split = urlsplit(upstream)
        assert split.hostname is not None
        assert split.port is not None
        self._upstream = (split.hostname, split.port)
        self._faults = Faults(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(self._listen())
        host, port = self._server.sockets[0].getsockname()
        self.endpoint = f"http://{host}:{port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._faults.clear()
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def on(
        self, fault: Fault, method: str = "*", path: str = "*", *, count: int | None = None, chance: float = 1.0
    ) -> None:
        """From now on the fault strikes such requests: so many, or with this chance. Globs; a path has no query."""
        self._faults.add(Rule(fault, method, path, count, chance))

    def demand(self, *, bearer: str | None = None, cookie: tuple[str, str] | None = None) -> None:
        """Let nobody in without it."""
        self._faults.credential = Credential(bearer=bearer, cookie=cookie)

    def heal(self) -> None:
        """No more faults, nothing held, everybody let in."""
        self._faults.clear()

    def log(self, method: str = "*", path: str = "*") -> list[Exchange]:
        """Every request of a client, oldest first."""
        return self._faults.log(method, path)

    def wait(self, method: str = "*", path: str = "*", *, forwarded: int = 1, timeout: float = 10.0) -> list[Exchange]:
        """Until the server was sent so many such requests."""
        return self._faults.wait(method, path, forwarded=forwarded, timeout=timeout)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()

        def protocol() -> Client:
            return Client(asyncio.StreamReader(LIMIT, loop), self._accept)

        return await loop.create_server(protocol, "127.0.0.1", 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _stop(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection, until either side ends it."""
        client = writer.transport.get_protocol()
        assert isinstance(client, Client)
        # Nothing waits in the process: what was written has left when `drain` returns, also before an abrupt end.
        writer.transport.set_write_buffer_limits(0)
        try:
            while (exchange := await read_request(reader)) is not None:
                self._faults.begin(exchange)
                await self._carry(exchange, client, writer)
        except (Ended, OSError, asyncio.IncompleteReadError):
            return
        finally:
            await end(writer)

    async def _carry(self, exchange: Exchange, client: Client, writer: asyncio.StreamWriter) -> None:
        """One request and its answer, or as much of them as comes to pass."""
        answering = asyncio.ensure_future(self._answer(exchange, writer))
        leaving = asyncio.ensure_future(client.left.wait())
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if exchange.forwarded and not answering.done():
                raise Ended
            # What is on its way arrives, also when its client has not waited for that.
            await answering
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            exchange.ended = True
            self._faults.changed()

    async def _answer(self, exchange: Exchange, client: asyncio.StreamWriter) -> None:
        """Do to one request what its fault says."""
        match exchange.fault:
            case DropRequest():
                raise Ended
            case Reply() as reply:
                exchange.status = reply.status
                client.write(render(reply))
                await client.drain()
                return
            case DelayRequest(seconds):
                await asyncio.sleep(seconds)
            case HoldRequest(gate):
                await asyncio.to_thread(gate.wait)
            case Twice():
                async with self._forwarded(exchange) as server:
                    await server.read()
        async with self._forwarded(exchange) as server:
            await self._relay(exchange, server, client)

    async def _relay(self, exchange: Exchange, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        head = await server.readuntil(b"\r\n\r\n")
        status, headers = parse_answer(head)
        left: int | None = None
        match exchange.fault:
            case DropAnswer():
                raise Ended
            case DelayAnswer(seconds):
                await asyncio.sleep(seconds)
            case HoldAnswer(gate):
                await asyncio.to_thread(gate.wait)
            case CutAnswer(after):
                left = after
        exchange.status = status
        client.write(without_hops(head))
        while chunk := await server.read(CHUNK):
            client.write(chunk if left is None else chunk[:left])
            await client.drain()
            if left is not None and (left := left - len(chunk)) <= 0:
                raise Ended
        if not {"content-length", "transfer-encoding"} & set(headers):
            raise Ended

    @contextlib.asynccontextmanager
    async def _forwarded(self, exchange: Exchange) -> AsyncIterator[asyncio.StreamReader]:
        """A connection on which the server was sent all of it."""
        server, writer = await asyncio.open_connection(*self._upstream, limit=LIMIT)
        try:
            writer.write(request_bytes(exchange, self._faults.hidden))
            await writer.drain()
            exchange.forwarded += 1
            self._faults.changed()
            yield server
        finally:
            await end(writer)


class Client(asyncio.StreamReaderProtocol):
    """Knows when the other end has left, also while nothing is read from it."""

    def __init__(
        self, reader: asyncio.StreamReader, accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
    ) -> None:
        super().__init__(reader, accept)
        self.left = asyncio.Event()

    def eof_received(self) -> bool:
        self.left.set()
        return bool(super().eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self.left.set()
        super().connection_lost(exc)


async def end(writer: asyncio.StreamWriter) -> None:
    """At once, and with nothing left to do for the loop."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Exchange | None:
    """The next one with all of its body; nothing when the client has no more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, _, block = head.partition(b"\r\n")
    method, target, _ = line.decode("latin-1").split()
    headers = parse_headers(block)
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b"".join([chunk async for chunk in read_chunks(reader)])
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Exchange(method, target, headers, body)


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).partition(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        continue


def parse_headers(block: bytes) -> dict[str, str]:
    pairs = [line.partition(":") for line in block.decode("latin-1").split("\r\n") if line]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def parse_answer(head: bytes) -> tuple[int, dict[str, str]]:
    line, _, block = head.partition(b"\r\n")
    return int(line.split()[1]), parse_headers(block)


def request_bytes(exchange: Exchange, hidden: frozenset[str]) -> bytes:
    """It as the server gets it, without what is the proxy's own business."""
    dropped = HOP_BY_HOP | {"transfer-encoding", "content-length"} | hidden
    headers = {name: value for name, value in exchange.headers.items() if name not in dropped}
    headers |= {"connection": "close", "content-length": str(len(exchange.body))}
    return head_bytes(f"{exchange.method} {exchange.target} HTTP/1.1", headers) + exchange.body


def without_hops(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join([line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in HOP_BY_HOP])


def render(reply: Reply) -> bytes:
    body = reply.body.encode()
    headers = dict(reply.headers) | {"Content-Length": str(len(body))}
    return head_bytes(f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", headers) + body


def head_bytes(line: str, headers: Mapping[str, str]) -> bytes:
    return "\r\n".join([line, *[f"{name}: {value}" for name, value in headers.items()], "", ""]).encode("latin-1")
