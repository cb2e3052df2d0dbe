"""One HTTP client for everything that is read from SkyPilot's API server.

Decides deadlines, headers, cookies, how much of an answer is taken, and which
condition its head is: a sign-in that is missing, a server that is not there, or
a result (what a failed request says is read by ``answers.py``). Refuses to know
what is asked, to follow a redirect, to retry, and to unpickle anything.

The protocol (``sky/server/server.py``): a POST names its request in the header
``X-Skypilot-Request-ID``; ``GET /api/get`` blocks until it has finished and
answers with a ``RequestPayload``, whose ``return_value`` and ``error`` are JSON.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy, MozillaCookieJar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from urllib.request import Request as UrlRequest

from skydeck_nb.backends.skypilot.access import Access
from skydeck_nb.backends.skypilot.answers import (
    ERROR_TEXT,
    Answer,
    Cancelled,
    Forbidden,
    NoSuchRequest,
    RequestFailed,
    failure,
    loaded,
    said,
    sentence,
)
from skydeck_nb.errors import BackendError, BackendUnavailable, NeedsSignIn

if TYPE_CHECKING:
    import httpx

    from skydeck_nb.backends.skypilot.deadlines import Network

log = logging.getLogger("skydeck_nb")

API_VERSION: Final = 62
"""The API version (``sky/server/constants.py``) that this client was written against."""

OLDEST_API_VERSION: Final = 42
"""SkyPilot 0.12.0: the oldest server that answers all that is asked here."""

CLIENT_VERSION: Final = "0.14.1"
"""The release of that API version, as the header says it."""

REQUEST_ID: Final = "X-Skypilot-Request-ID"

MOST_BYTES: Final = 4 << 20
"""The largest answer that is taken: parsing holds the interpreter, 4 MB for some 40 ms."""

FRESH: Final = 60.0
"""Seconds for which the server's health, version and user count as known."""

_CONNECT: Final = 5.0
"""Seconds to reach the server, of whatever deadline there is."""

_CANCEL: Final = 3.0
"""Seconds to take back a request whose answer came too late to be of use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What ``/api/health`` says."""

    api_version: int
    version: str
    user_id: str | None
    """The server's id of whoever asks; ``None`` where it has no sign-in and goes by the client's word."""
    user_name: str | None
    checked_at: float
    """By the monotonic clock."""


@dataclass(slots=True)
class Counts:
    """What went over the wire, for benchmarks and ``deck.health()``."""

    requests: int = 0
    received: int = 0
    """Bytes of bodies, as they were read."""


class Transport:
    """A client of one API server. Safe from any thread; connections are kept alive."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.counts = Counts()
        self._client: httpx.Client | None = None
        self._network: Network | None = None
        self._lock = threading.Lock()
        self._jar: tuple[tuple[int, int] | None, MozillaCookieJar] | None = None
        self._unsaved = False
        self._server: Server | None = None
        self._closed = False

    # -- what is asked ------------------------------------------------------------------

    def server(self, until: float, *, fresh: float = FRESH) -> Server:
        """The server's health, version and user; asked at most once in ``fresh`` seconds.

        Raises:
            NeedsSignIn: it wants a sign-in, or what answers is no SkyPilot server.
            BackendUnavailable: it is not there, unwell, or too old.
        """
        known = self._server
        if known is not None and time.monotonic() - known.checked_at < fresh:
            return known
        answer = self.send("GET", "/api/health", until=until)
        self._server = found = self._health(answer)
        self._keep_cookies(answer)
        return found

    @property
    def known_server(self) -> Server | None:
        """What was last heard of its health."""
        return self._server

    def forget(self) -> None:
        """Ask for the server's health anew before the next call."""
        self._server = None

    def call(self, path: str, body: Mapping[str, Any], *, until: float) -> Any:
        """Make a request and wait for its result; one whose result does not come is taken back."""
        return self.exchange(path, body, until=until)[1]

    def exchange(
        self, path: str, body: Mapping[str, Any], *, until: float, empty: str | None = None
    ) -> tuple[str, Any]:
        """The same, with the request's id; ``empty`` is the failure that means ``None``."""
        request_id = self.post(path, body, until=until)
        try:
            value = self.result(request_id, until=until)
        except RequestFailed as error:
            if error.kind == empty:
                return request_id, None
            raise
        except (Cancelled, NoSuchRequest):
            raise
        except BackendError:
            with suppress(BackendError):  # or a wedged server would have one more of it at every look
                self.take_back([request_id], until=time.monotonic() + _CANCEL)
            raise
        if value is None and empty is not None:
            raise BackendUnavailable(f"SkyPilot's server says that request {request_id} returned nothing at all.")
        return request_id, value

    def post(self, path: str, body: Mapping[str, Any], *, until: float) -> str:
        """Make a request and return its id."""
        answer = self._ok("POST", path, until=until, body=body)
        request_id = answer.headers.get(REQUEST_ID)
        if not request_id:
            raise BackendUnavailable(f"{self.access.place} took POST {path} and named no request.")
        return request_id

    def result(self, request_id: str, *, until: float) -> Any:
        """What a request returned, waiting for it.

        Raises:
            RequestFailed, Cancelled, NoSuchRequest: what became of it.
        """
        answer = self.send("GET", f"/api/get?request_id={quote(request_id)}", until=until)
        what = f"request {request_id}"
        if answer.status == 404:
            raise NoSuchRequest(f"{self.access.place} knows no {what}.")
        if answer.status == 500:
            raise failure(answer, what)
        payload = self._checked(answer, "GET", "/api/get").json(what)
        if not isinstance(payload, dict):
            raise BackendUnavailable(f"The answer to {what} is no mapping.")
        if payload.get("status") == "CANCELLED":
            raise Cancelled(f"SkyPilot's server says that {what} was cancelled.")
        if payload.get("status") not in ("SUCCEEDED", None):
            raise BackendUnavailable(f"{what} is {payload.get('status')!r:.40}, and no result came.")
        return loaded(payload.get("return_value"), what)

    def get(self, path: str, *, until: float) -> Any:
        """The JSON of an endpoint that answers at once."""
        return self._ok("GET", path, until=until).json(f"GET {path.partition('?')[0]}")

    def take_back(self, request_ids: list[str], *, until: float) -> None:
        """Cancel requests by id. An empty list would mean all of the user's, and asks nothing."""
        if request_ids:
            self._ok("POST", "/api/cancel", until=until, body={"request_ids": request_ids})

    def common(self) -> dict[str, Any]:
        """What every body carries: who asks, and in which workspace where one is chosen; else the server's choice."""
        workspace = self.access.chosen_workspace
        return {
            "env_vars": {"SKYPILOT_USER_ID": self.access.user_id, "SKYPILOT_USER": self.access.user_name},
            "entrypoint": "skydeck_nb",
            "entrypoint_command": "skydeck_nb",
            "using_remote_api_server": True,
            "override_skypilot_config": {} if workspace is None else {"active_workspace": workspace},
        }

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None and self._network is not None:
            self._network.hang_up()
            client.close()

    # -- one exchange -------------------------------------------------------------------

    def send(
        self, method: str, path: str, *, until: float, body: Mapping[str, Any] | None = None, most: int = MOST_BYTES
    ) -> Answer:
        """One request and its whole answer, whatever its status."""
        with self.stream(method, path, until=until, body=body) as (head, chunks):
            parts: list[bytes] = []
            size = 0
            for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise BackendUnavailable(
                        f"The answer of {self.access.place} to {method} {path.partition('?')[0]} is longer than "
                        f"{most:,} bytes; what lies behind it is not read."
                    )
                parts.append(chunk)
        return replace(head, body=b"".join(parts))

    @contextmanager
    def stream(
        self, method: str, path: str, *, until: float, body: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """One request, its head and the chunks of its body until ``until``; leaving it ends the request."""
        import httpx

        where = f"{self.access.place} to {method} {path.partition('?')[0]}"
        timeout = self._timeout(until, where)
        content = None if body is None else json.dumps({**self.common(), **body}).encode()
        headers = self._headers(path) | ({} if content is None else {"Content-Type": "application/json"})
        client = self._http(until)
        try:
            request = client.build_request(
                method, self.access.url + path, content=content, headers=headers, timeout=timeout
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise self._no_address(error) from None
        self.counts.requests += 1
        try:
            try:
                response = client.send(request, stream=True)
            except UnicodeError as error:  # of a host's name that none can have
                raise self._no_address(error) from None
            except RuntimeError:  # httpx's word for a client that was closed meanwhile
                raise self._closed_now() from None
            with closing(response):
                yield Answer(response.status_code, response.headers, b""), self._chunks(response, until, where)
        except httpx.TimeoutException:
            raise BackendUnavailable(f"No answer of {where} in time.") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise BackendUnavailable(f"The connection to {where} failed: {sentence(said[:ERROR_TEXT])}") from None

    def _chunks(self, response: httpx.Response, until: float, where: str) -> Iterator[bytes]:
        for chunk in response.iter_bytes():
            self.counts.received += len(chunk)
            yield chunk
            if time.monotonic() > until:
                raise BackendUnavailable(f"The answer of {where} was not complete in time.")

    def _timeout(self, until: float, where: str) -> httpx.Timeout:
        import httpx

        left = until - time.monotonic()
        if left <= 0:
            raise BackendUnavailable(f"There was no time left for an answer of {where}.")
        return httpx.Timeout(left, connect=min(_CONNECT, left), pool=min(_CONNECT, left))

    def _http(self, until: float) -> httpx.Client:
        """The client, with this thread's deadline."""
        from skydeck_nb.backends.skypilot import deadlines

        with self._lock:
            if self._closed:
                raise self._closed_now()
            if self._client is None or self._network is None:
                self._client = self._made()
                self._network = deadlines.bound(self._client)
            self._network.deadline.until = until
            return self._client

    def _made(self) -> httpx.Client:
        import httpx

        none_of_its_own = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # the file's are all there are
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=30)
        try:
            return httpx.Client(follow_redirects=False, limits=limits, cookies=none_of_its_own)
        except OSError as error:
            raise BackendUnavailable(
                f"The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be used ({error}): correct them."
            ) from None
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise BackendUnavailable(
                f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names a proxy that cannot be used: {sentence(str(error))}"
            ) from None

    def _no_address(self, error: Exception) -> BackendUnavailable:
        return BackendUnavailable(f"{self.access.place} is no address that can be asked ({error}).")

    def _closed_now(self) -> BackendUnavailable:
        return BackendUnavailable("This deck's connection to SkyPilot is closed.")

    def _headers(self, path: str) -> dict[str, str]:
        headers = {
            "X-SkyPilot-API-Version": str(API_VERSION),
            "X-SkyPilot-Version": CLIENT_VERSION,
            "User-Agent": "skydeck_nb",
        }
        token = self.access.credentials.token
        if token is not None:
            if not _sendable(token):
                raise self.needs_sign_in("The service account token holds a character that no token has.")
            return {**headers, "Authorization": f"Bearer {token}"}
        try:
            request = UrlRequest(self.access.url + path)  # never opened: it tells the jar what is asked
            self._cookies().add_cookie_header(request)
        except ValueError as error:
            raise self._no_address(error) from None
        cookie = request.get_header("Cookie")
        if cookie is not None and not _sendable(cookie):
            raise NeedsSignIn(
                f"{self.access.credentials.cookie_file} holds a cookie that cannot be sent: remove that file and sign "
                "in with deck.sign_in()."
            )
        return headers if cookie is None else {**headers, "Cookie": cookie}

    # -- cookies ------------------------------------------------------------------------

    def _cookies(self) -> MozillaCookieJar:
        """The cookie file's cookies, read again when it has changed."""
        stamp = self.access.credentials.stamp()
        known = self._jar
        if known is None or known[0] != stamp:
            self._server = None
            self._jar = known = (stamp, self.access.credentials.cookies())
        return known[1]

    def _keep_cookies(self, answer: Answer) -> None:
        """Write back a session that the server renewed, as SkyPilot's own client does after its health check."""
        import httpx

        if "set-cookie" not in answer.headers or self.access.credentials.token is not None:
            return
        jar = self.access.credentials.cookies()
        response = httpx.Response(200, headers=answer.headers, request=httpx.Request("GET", self.access.url))
        for cookie in response.cookies.jar:
            if _sendable(f"{cookie.name}={cookie.value}"):
                jar.set_cookie(cookie)
        try:
            self.access.credentials.keep(jar)
        except OSError as error:
            if not self._unsaved:
                log.warning(
                    "The renewed session of %s cannot be kept: %s; make that writable.", self.access.place, error
                )
            self._unsaved = True
        else:
            self._jar = (self.access.credentials.stamp(), jar)  # nobody else's sign-in

    # -- what an answer is --------------------------------------------------------------

    def _ok(self, method: str, path: str, *, until: float, body: Mapping[str, Any] | None = None) -> Answer:
        return self._checked(self.send(method, path, until=until, body=body), method, path)

    def _checked(self, answer: Answer, method: str, path: str) -> Answer:
        error = self.problem(answer, f"{method} {path.partition('?')[0]}")
        if error is not None:
            raise error
        return answer

    def problem(self, answer: Answer, what: str) -> BackendError | None:
        """The condition that an answer's head is, ``None`` for a result."""
        place, status = self.access.place, answer.status
        kind = answer.headers.get("content-type", "")
        if 300 <= status < 400 or status == 401:
            return self.needs_sign_in()
        if status == 403:
            return Forbidden(f"{place} does not allow {what}: {said(answer)}")
        if status == 200 and "html" in kind:
            return self.needs_sign_in(f"What answers at {place} is a web page, not SkyPilot's API.")
        if status == 400 and b"version_mismatch" in answer.body[:200]:
            return BackendUnavailable(f"{place} takes no client like this one: {said(answer)}")
        if status != 200:
            return BackendUnavailable(f"{place} answered {what} with HTTP {status}: {said(answer)}")
        return None

    def needs_sign_in(self, why: str = "") -> NeedsSignIn:
        """The one sentence with the one command, by how one proves who one is."""
        place = self.access.place
        if self.access.credentials.token is not None:
            why = why or f"{place} does not take the service account token."
            return NeedsSignIn(f"{why} Set SKYPILOT_SERVICE_ACCOUNT_TOKEN to a valid one and open the deck again.")
        why = why or f"{place} wants a sign-in."
        return NeedsSignIn(f"{why} Run deck.sign_in(), or in a terminal: {self.access.sign_in_command}")

    def _health(self, answer: Answer) -> Server:
        place = self.access.place
        if answer.status == 404:
            raise self.needs_sign_in(f"What answers at {place} is no SkyPilot API server.")
        facts = self._checked(answer, "GET", "/api/health").json("GET /api/health")
        if not isinstance(facts, dict) or "status" not in facts:
            raise self.needs_sign_in(f"What answers at {place} is no SkyPilot API server.")
        if facts["status"] == "needs_auth":
            raise self.needs_sign_in()
        if facts["status"] != "healthy":
            raise BackendUnavailable(f"SkyPilot's server at {place} says that it is {facts['status']!r:.60}.")
        version = str(facts.get("api_version") or "")[:20]
        if not (version.isascii() and version.isdigit()) or int(version) < OLDEST_API_VERSION:
            raise BackendUnavailable(
                f"SkyPilot's server at {place} is {facts.get('version')!r:.40} (API {version or 'unknown'}); "
                "this client needs SkyPilot 0.12 or newer."
            )
        user = facts.get("user")
        user = user if isinstance(user, dict) else {}
        return Server(
            api_version=int(version),
            version=str(facts.get("version") or ""),
            user_id=str(user["id"]) if user.get("id") else None,
            user_name=str(user["name"]) if user.get("name") else None,
            checked_at=time.monotonic(),
        )


def _sendable(value: str) -> bool:
    """Whether a header can hold it; what cannot would be shown by whoever says so."""
    return value.isascii() and value.isprintable() and value == value.strip()
