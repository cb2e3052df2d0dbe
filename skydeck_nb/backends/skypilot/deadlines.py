"""One deadline for a whole exchange, however slowly its bytes come.

httpx bounds each read by itself, so a server that sends a byte now and then is in
time for ever, most of all while it is still at its headers. Here every read and
write gets what is left of the exchange that its thread is at. Refuses to know
what is asked. (httpcore's network backend is its public seam; httpx has none to
hand one over, hence the two private names in :func:`bound`.)
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakSet

import httpcore
import httpx

LEAST: Final = 0.001
"""Seconds that a socket is given at least: none would mean that it does not wait at all."""


class Deadline(threading.local):
    """Until when this thread's exchange may take."""

    until: float = float("inf")

    def left(self, timeout: float | None, late: type[Exception]) -> float | None:
        """Seconds for one read or write (raises ``late`` where there are none)."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise late("The deadline is over.")
        return max(left, LEAST) if timeout is None else max(min(timeout, left), LEAST)


class Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end by the deadline of whoever uses it."""

    def __init__(self, stream: httpcore.NetworkStream, network: Network) -> None:
        self._stream = stream
        self._network = network
        self._deadline = network.deadline
        network.streams.add(stream)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class Network(httpcore.SyncBackend):
    """TCP whose streams know the deadline, and end when all is over."""

    def __init__(self) -> None:
        super().__init__()
        self.deadline = Deadline()
        self.streams: WeakSet[httpcore.NetworkStream] = WeakSet()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = self.deadline.left(timeout, httpcore.ConnectTimeout)
        return Stream(super().connect_tcp(host, port, left, local_address, socket_options), self)

    def hang_up(self) -> None:
        """End what other threads wait for: closing a connection would leave them waiting for its answer."""
        for stream in list(self.streams):
            with contextlib.suppress(OSError):  # of TLS the connection below: its own state is the other thread's
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


def bound(client: httpx.Client) -> Network:
    """Give each of the client's exchanges one deadline, through a proxy too; what it then speaks through."""
    network = Network()
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):  # a place that needs no proxy has no transport of its own
            transport._pool._network_backend = network
    return network
