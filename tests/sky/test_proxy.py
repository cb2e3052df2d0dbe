"""The proxy in front of a small server: each fault is what it says, and nothing else changes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.sky.faults import (
    CutAnswer,
    DelayAnswer,
    DelayRequest,
    DropAnswer,
    DropRequest,
    HoldAnswer,
    HoldRequest,
    Twice,
    login_page,
    login_redirect,
    unavailable,
)
from tests.sky.proxy import Proxy

BODY = b"0123456789" * 1000


class Handler(BaseHTTPRequestHandler):
    """Echoes what it is sent; ``/stream`` sends pieces until its client leaves."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.server.seen[f"GET {self.path}"] += 1
        if self.path == "/stream":
            self.stream()
        else:
            self.answer(BODY)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen[f"POST {self.path}"] += 1
        self.server.headers.append(dict(self.headers))
        self.answer(body)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        # Its client says nothing more: this returns when the connection ends.
        self.rfile.read(1)
        self.server.left.set()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test prints what it wants to say."""


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.left = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy(upstream.endpoint, seed=7) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.endpoint, timeout=10, trust_env=False) as client:
        yield client


def test_without_faults_everything_passes_as_it_is(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    assert client.get("/page?x=1").content == BODY
    assert client.post("/echo", content=b"abc").content == b"abc"
    assert client.post("/echo", content=(piece for piece in (b"in ", b"pieces"))).content == b"in pieces"
    page, *posts = proxy.log()
    assert (page.method, page.target, page.path, page.status, page.forwarded) == ("GET", "/page?x=1", "/page", 200, 1)
    assert [post.body for post in posts] == [b"abc", b"in pieces"]
    assert upstream.seen == {"GET /page?x=1": 1, "POST /echo": 2}


def test_what_is_dropped_before_the_server_is_unknown_to_it(
    proxy: Proxy, upstream: Upstream, client: httpx.Client
) -> None:
    proxy.on(DropRequest(), "POST", "/launch", count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/launch")
    assert upstream.seen == {}
    assert client.post("/launch").status_code == 200
    assert [one.forwarded for one in proxy.log("POST", "/launch")] == [0, 1]


def test_what_is_dropped_before_the_answer_was_done(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    proxy.on(DropAnswer(), "POST", "/launch", count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/launch")
    assert upstream.seen == {"POST /launch": 1}
    (lost,) = proxy.log()
    assert (lost.forwarded, lost.status) == (1, None)


def test_an_answer_is_cut_in_the_middle(proxy: Proxy, client: httpx.Client) -> None:
    proxy.on(CutAnswer(after=7500), path="/page")
    read: list[bytes] = []
    with client.stream("GET", "/page") as answer, pytest.raises(httpx.RemoteProtocolError):
        read += answer.iter_raw()
    assert b"".join(read) == BODY[:7500]


def test_a_request_reaches_the_server_twice(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    proxy.on(Twice(), "POST")
    assert client.post("/launch", content=b"once").content == b"once"
    assert upstream.seen == {"POST /launch": 2}
    assert [one.forwarded for one in proxy.log()] == [2]


@pytest.mark.parametrize("fault", [DelayRequest(0.01), DelayAnswer(0.01)])
def test_a_delay_changes_nothing_else(proxy: Proxy, client: httpx.Client, fault: DelayRequest | DelayAnswer) -> None:
    proxy.on(fault)
    assert client.get("/page").content == BODY


def test_what_is_held_waits_for_its_release(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    before, after = HoldRequest(), HoldAnswer()
    proxy.on(before, path="/before")
    proxy.on(after, path="/after")
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(client.post, path) for path in ("/before", "/after")]
        proxy.wait(path="/after")
        assert not any(answer.done() for answer in answers)
        assert upstream.seen["POST /before"] == 0
        before.release()
        after.release()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert upstream.seen == {"POST /before": 1, "POST /after": 1}


def test_what_is_on_its_way_arrives_after_its_client_gave_up(
    proxy: Proxy, upstream: Upstream, client: httpx.Client
) -> None:
    late = HoldRequest()
    proxy.on(late, "POST", "/launch", count=1)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/launch", timeout=0.05)
    assert upstream.seen == {}
    late.release()
    proxy.wait("POST", "/launch")


@pytest.mark.parametrize("status", [502, 503])
def test_something_else_answers(proxy: Proxy, upstream: Upstream, client: httpx.Client, status: int) -> None:
    proxy.on(unavailable(status), "POST", "/launch")
    answer = client.post("/launch")
    assert answer.status_code == status
    assert upstream.seen == {}
    proxy.heal()
    assert client.post("/launch").status_code == 200


def test_login_pages(proxy: Proxy, client: httpx.Client) -> None:
    proxy.on(login_redirect(), "POST")
    proxy.on(login_page(), "GET")
    moved = client.post("/launch")
    assert (moved.status_code, moved.headers["location"]) == (307, "/oauth2/start?rd=%2F")
    page = client.get("/anything")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


def test_a_demanded_token_is_needed_and_stays_here(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    proxy.demand(bearer="sky_secret")
    assert client.post("/launch").status_code == 401
    assert client.get("/api/health").json()["status"] == "needs_auth"
    assert client.post("/launch", headers={"Authorization": "Bearer sky_secret"}).status_code == 200
    assert "authorization" not in {name.lower() for name in upstream.headers[-1]}


def test_a_demanded_cookie_is_needed(proxy: Proxy, client: httpx.Client) -> None:
    proxy.demand(cookie=("_oauth2_proxy", "me"))
    assert client.post("/launch").status_code == 307
    assert client.post("/launch", headers={"Cookie": "a=b; _oauth2_proxy=me"}).status_code == 200


def test_chances_come_true_as_the_seed_says(upstream: Upstream) -> None:
    def fates(seed: int) -> list[int]:
        with Proxy(upstream.endpoint, seed=seed) as proxy, httpx.Client(base_url=proxy.endpoint) as client:
            proxy.on(unavailable(), chance=0.5)
            return [client.get("/page").status_code for _ in range(20)]

    assert fates(1) == fates(1) != fates(2)
    assert set(fates(1)) == {200, 503}


def test_a_stream_flows_and_ends_when_its_client_leaves(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    with client.stream("GET", "/stream") as answer:
        pieces = answer.iter_text()
        assert next(pieces) == "first"
        assert not upstream.left.is_set()
    assert upstream.left.wait(10)


def test_many_at_once(proxy: Proxy, client: httpx.Client) -> None:
    with ThreadPoolExecutor(20) as pool:
        bodies = list(pool.map(lambda number: client.post("/echo", content=b"%d" % number).content, range(100)))
    assert bodies == [b"%d" % number for number in range(100)]


def test_a_server_that_is_down_ends_the_connection(proxy: Proxy, upstream: Upstream, client: httpx.Client) -> None:
    upstream.shutdown()
    upstream.server_close()
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/page")
