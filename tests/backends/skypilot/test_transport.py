"""Whatever a server does, a call ends in time as a result or as one condition with one sentence."""

from __future__ import annotations

import json
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skydeck_nb.backends.skypilot import transport as module
from skydeck_nb.backends.skypilot.access import Access, Credentials
from skydeck_nb.backends.skypilot.answers import Cancelled, Forbidden, NoSuchRequest, RequestFailed
from skydeck_nb.backends.skypilot.transport import MOST_BYTES, Transport
from skydeck_nb.errors import BackendError, BackendUnavailable, NeedsSignIn
from tests.backends.skypilot.conftest import access_to
from tests.backends.skypilot.misdeeds import DEEP, FORBIDDEN, SIGN_IN, SLOW, UNAVAILABLE
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import (
    HEALTHY,
    Answer,
    Exchange,
    Wrongdoer,
    failed,
    never,
    returned,
    says,
    shows,
    took,
)

PLENTY = 20.0
SHORT = 0.3
LONGER = 1.5
"""Seconds in which a server that answers has answered, on a busy machine too."""

Ask = Callable[[Transport, float], object]


def health(transport: Transport, until: float) -> object:
    return transport.server(until)


def call(transport: Transport, until: float) -> object:
    return transport.call("/jobs/queue/v2", {"fields": ["job_name"], "all_users": True}, until=until)


def get(transport: Transport, until: float) -> object:
    return transport.get("/api/status?limit=1", until=until)


def result(transport: Transport, until: float) -> object:
    return transport.result("r", until=until)


ASKS: tuple[Ask, ...] = (health, call, get, result)


@pytest.fixture
def asking(wrongdoer: Wrongdoer) -> Iterator[Transport]:
    transport = Transport(access_to(wrongdoer))
    yield transport
    transport.close()


def condition(transport: Transport, ask: Ask, seconds: float = PLENTY) -> BackendError:
    """The one condition that a call ends in; its message is a sentence for a person."""
    with pytest.raises(BackendError) as caught:
        ask(transport, time.monotonic() + seconds)
    error = caught.value
    assert sum(isinstance(error, kind) for kind in (NeedsSignIn, BackendUnavailable, Forbidden)) == 1
    sentence = str(error)
    assert sentence == " ".join(sentence.split())
    assert 20 < len(sentence) < 600
    assert sentence[0].isupper() or sentence.startswith(("http://", "/", "request "))
    assert sentence[-1] in ".…" or sentence.endswith(transport.access.sign_in_command)
    assert "<" not in sentence
    assert "Traceback" not in sentence
    return error


# -- what answers are ------------------------------------------------------------------

WRONG_SHAPES: tuple[Any, ...] = (
    None,
    True,
    7,
    1e400,
    "healthy",
    [],
    [[]],
    {},
    {"a": 1},
    {"status": None},
    {"detail": {}},
)


@pytest.mark.parametrize("mode", SIGN_IN)
def test_a_server_that_wants_a_sign_in_is_said_so(wrongdoer: Wrongdoer, asking: Transport, mode: str) -> None:
    wrongdoer.tell_all(SIGN_IN[mode])
    for ask in ASKS:
        error = condition(asking, ask)
        assert isinstance(error, NeedsSignIn)
        assert f"sky api login -e {wrongdoer.url}" in str(error)
        assert "deck.sign_in()" in str(error)


@pytest.mark.parametrize("mode", UNAVAILABLE)
def test_a_server_that_is_not_well_is_unavailable(wrongdoer: Wrongdoer, asking: Transport, mode: str) -> None:
    wrongdoer.tell_all(UNAVAILABLE[mode])
    for ask in ASKS:
        assert isinstance(condition(asking, ask), BackendUnavailable)


def test_what_the_server_forbids_is_said_with_its_own_word(wrongdoer: Wrongdoer, asking: Transport) -> None:
    wrongdoer.tell_all(FORBIDDEN["403"])
    for ask in ASKS:
        error = condition(asking, ask)
        assert isinstance(error, Forbidden)
        assert "Only admins may do that." in str(error)


@pytest.mark.parametrize("ask", [call, get])
def test_a_path_that_is_not_there_is_unavailable(wrongdoer: Wrongdoer, asking: Transport, ask: Ask) -> None:
    assert "HTTP 404: Not Found" in str(condition(asking, ask))


def test_no_server_at_all_is_unavailable(wrongdoer: Wrongdoer, asking: Transport) -> None:
    wrongdoer.close()
    for ask in ASKS:
        assert isinstance(condition(asking, ask), BackendUnavailable)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://no such host/", "http://a..b:1"])
def test_an_address_that_is_none_is_unavailable(url: str) -> None:
    transport = Transport(Access(url=url))
    with pytest.raises(BackendUnavailable):
        transport.server(time.monotonic() + PLENTY)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["gopher://localhost:1", "socks5://localhost:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_unavailable(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv(variable, proxy)
    transport = Transport(Access(url="http://sky.invalid"))
    with pytest.raises(BackendUnavailable, match="HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"):
        transport.server(time.monotonic() + PLENTY)
    transport.close()


def test_certificates_that_are_not_there_are_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    transport = Transport(Access(url="https://sky.invalid"))
    with pytest.raises(BackendUnavailable, match="SSL_CERT_FILE"):
        transport.server(time.monotonic() + PLENTY)


# -- health ----------------------------------------------------------------------------


def test_a_healthy_server_says_its_version_and_who_asks(server: Server, transport: Transport) -> None:
    server.health |= {"user": {"id": "7f", "name": "ada"}}
    found = transport.server(time.monotonic() + PLENTY)
    assert (found.api_version, found.version, found.user_id, found.user_name) == (62, "0.14.1", "7f", "ada")


def test_health_is_asked_once_while_it_is_fresh_and_again_when_told(server: Server, transport: Transport) -> None:
    for _ in range(3):
        transport.server(time.monotonic() + PLENTY)
    assert server.paths() == ["/api/health"]
    transport.server(time.monotonic() + PLENTY, fresh=0)
    transport.forget()
    transport.server(time.monotonic() + PLENTY)
    assert server.paths() == ["/api/health"] * 3


def test_a_server_without_users_goes_by_the_clients_word(server: Server, transport: Transport) -> None:
    assert transport.server(time.monotonic() + PLENTY).user_id is None


@pytest.mark.parametrize("version", [str(module.OLDEST_API_VERSION - 1), "", None, "new", "²", [], 5.5])
def test_a_server_that_is_too_old_or_says_no_version_is_unavailable(
    wrongdoer: Wrongdoer, asking: Transport, version: Any
) -> None:
    wrongdoer.tell("/api/health", shows({**HEALTHY, "api_version": version}))
    assert "0.12" in str(condition(asking, health))


@pytest.mark.parametrize("version", [str(module.OLDEST_API_VERSION), 62, "9999999"])
def test_a_server_of_any_known_or_newer_version_will_do(wrongdoer: Wrongdoer, asking: Transport, version: Any) -> None:
    wrongdoer.tell("/api/health", shows({**HEALTHY, "api_version": version}))
    assert asking.server(time.monotonic() + PLENTY).api_version == int(version)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (shows({**HEALTHY, "status": "needs_auth"}), NeedsSignIn),
        (shows({**HEALTHY, "status": "unhealthy"}), BackendUnavailable),
        (shows({**HEALTHY, "status": ["?"]}), BackendUnavailable),
        (shows({"detail": "Not Found"}, 404), NeedsSignIn),
        *(
            (shows(value), NeedsSignIn)
            for value in WRONG_SHAPES
            if not isinstance(value, dict) or "status" not in value
        ),
    ],
)
def test_what_is_not_health_is_one_condition(
    wrongdoer: Wrongdoer, asking: Transport, answer: Answer, kind: type[BackendError]
) -> None:
    wrongdoer.tell("/api/health", answer)
    assert type(condition(asking, health)) is kind


# -- requests and their results --------------------------------------------------------


def test_a_call_gives_what_the_request_returned(server: Server, transport: Transport) -> None:
    server.job(4, "ppo")
    found: Any = call(transport, time.monotonic() + PLENTY)
    assert found["jobs"] == [{"job_id": 4, "task_id": 0, "status": "RUNNING", "job_name": "ppo"}]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (failed("ClusterNotUpError", "No controller."), RequestFailed, "ClusterNotUpError: No controller."),
        (failed("ValueError", ""), RequestFailed, "says ValueError."),
        (
            failed("RuntimeError", "Traceback (most recent call last):\n  File …\nKeyError: 'a'"),
            RequestFailed,
            "RuntimeError: KeyError: 'a'",
        ),
        (failed("E", "x" * 5_000), RequestFailed, "x…"),
        (shows({"request_id": "r", "status": "CANCELLED", "return_value": "null"}), Cancelled, "was cancelled"),
        (shows({"detail": "Request 'r' not found"}, 404), NoSuchRequest, "knows no request r"),
        (shows({"status": "RUNNING", "return_value": "null"}), BackendUnavailable, "is 'RUNNING'"),
        (shows({"status": "SUCCEEDED"}), BackendUnavailable, "holds no result"),
        (shows({"status": "SUCCEEDED", "return_value": "{"}), BackendUnavailable, "is no JSON"),
        (shows({"status": "SUCCEEDED", "return_value": DEEP.decode()}), BackendUnavailable, "is no JSON"),
        (shows({"detail": {"error": "not JSON"}}, 500), BackendUnavailable, "HTTP 500"),
        (shows({"detail": {"error": "[]"}}, 500), BackendUnavailable, "HTTP 500"),
        (shows({"detail": {"error": 5}}, 500), BackendUnavailable, "HTTP 500"),
        *((shows(value, 500), BackendUnavailable, "HTTP 500") for value in WRONG_SHAPES),
        *((shows(value), BackendUnavailable, "") for value in WRONG_SHAPES),
    ],
)
def test_what_became_of_a_request_is_one_condition(
    wrongdoer: Wrongdoer, asking: Transport, answer: Answer, kind: type[BackendError], words: str
) -> None:
    wrongdoer.tell("/api/get", answer)
    error = condition(asking, result)
    assert type(error) is kind
    assert words in str(error)


def test_a_server_that_takes_a_request_and_names_none_is_unavailable(wrongdoer: Wrongdoer, asking: Transport) -> None:
    wrongdoer.tell("/jobs/queue/v2", says("null"))
    assert "named no request" in str(condition(asking, call))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ("status", "api_version", "version", "user", "id", "detail", "error", "return_value", "x")
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ),
    status=st.sampled_from((200, 400, 403, 404, 500, 503)),
)
def test_any_json_is_a_result_or_one_condition(wrongdoer: Wrongdoer, asking: Transport, body: Any, status: int) -> None:
    wrongdoer.tell_all(shows(body, status, {"X-Skypilot-Request-ID": "r"}))
    for ask in ASKS:
        asking.forget()
        with suppress(BackendError):
            ask(asking, time.monotonic() + PLENTY)


# -- time ------------------------------------------------------------------------------


def test_no_answer_is_waited_for_until_the_deadline(wrongdoer: Wrongdoer, asking: Transport) -> None:
    wrongdoer.tell_all(never)
    for ask in ASKS:
        assert "in time" in str(condition(asking, ask, SHORT))


@pytest.mark.parametrize("mode", SLOW)
def test_an_answer_that_trickles_is_left_at_the_deadline(wrongdoer: Wrongdoer, asking: Transport, mode: str) -> None:
    wrongdoer.tell_all(SLOW[mode])
    assert "in time" in str(condition(asking, get, SHORT))


def test_no_time_left_asks_nothing(wrongdoer: Wrongdoer, asking: Transport) -> None:
    condition(asking, get, -1.0)
    assert wrongdoer.asked == []


def test_a_request_whose_result_comes_too_late_is_taken_back(server: Server, transport: Transport) -> None:
    server.tell("/api/get", never)
    condition(transport, call, LONGER)
    (cancel,) = server.of("/api/cancel")
    assert cancel.json["request_ids"] == [server.requests[0].id]


def test_a_result_that_fails_in_time_is_not_taken_back(server: Server, transport: Transport) -> None:
    server.tell("/api/get", failed("ValueError", "no"))
    condition(transport, call)
    assert server.of("/api/cancel") == []


def test_a_request_whose_result_does_not_come_is_taken_back(server: Server, transport: Transport) -> None:
    """A wedged server would have one more of it at every look."""
    server.tell("/api/get", says("", 502))
    condition(transport, call)
    (cancel,) = server.of("/api/cancel")
    assert cancel.json["request_ids"] == [server.requests[0].id]


def exchange(transport: Transport) -> tuple[str, Any]:
    body = {"fields": [], "all_users": True}
    return transport.exchange("/jobs/queue/v2", body, until=time.monotonic() + PLENTY, empty="ClusterNotUpError")


def test_a_failure_that_means_nothing_is_nothing(server: Server, transport: Transport) -> None:
    server.tell("/api/get", failed("ClusterNotUpError", "No in-progress managed jobs."))
    assert exchange(transport) == (server.requests[0].id, None)


@pytest.mark.parametrize("answer", [returned(None), failed("ValueError", "ClusterNotUpError"), says("", 502)])
def test_nothing_else_means_nothing(server: Server, transport: Transport, answer: Answer) -> None:
    server.tell("/api/get", answer)
    with pytest.raises(BackendUnavailable):
        exchange(transport)


def test_a_server_that_cannot_take_back_changes_nothing_of_the_condition(server: Server, transport: Transport) -> None:
    server.tell("/api/get", never)
    server.tell("/api/cancel", shows({}, 500))
    assert "in time" in str(condition(transport, call, LONGER))


def test_taking_back_nothing_asks_nothing(server: Server, transport: Transport) -> None:
    """An empty list would mean all requests of the user."""
    transport.take_back([], until=time.monotonic() + PLENTY)
    assert server.asked == []


def test_an_answer_longer_than_is_taken_is_not_read_to_its_end(wrongdoer: Wrongdoer, asking: Transport) -> None:
    gone = threading.Event()

    def pours(exchange: Exchange) -> None:
        exchange.keep = False
        try:
            exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not exchange.ended.is_set():
                exchange.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            gone.set()

    wrongdoer.tell_all(pours)
    assert f"{MOST_BYTES:,}" in str(condition(asking, get))
    assert gone.wait(PLENTY)


# -- what is sent ----------------------------------------------------------------------


def test_every_request_says_its_version(server: Server, transport: Transport) -> None:
    call(transport, time.monotonic() + PLENTY)
    for asked in server.asked:
        assert asked.headers["x-skypilot-api-version"] == "62"
        assert asked.headers["x-skypilot-version"] == module.CLIENT_VERSION


def test_every_body_says_who_asks_and_for_which_workspace(server: Server) -> None:
    transport = Transport(access_to(server, active_workspace="ml"))
    call(transport, time.monotonic() + PLENTY)
    (body,) = server.queue()
    assert body["env_vars"] == {"SKYPILOT_USER_ID": "u1", "SKYPILOT_USER": "ada"}
    assert body["override_skypilot_config"] == {"active_workspace": "ml"}
    transport.close()


def test_connections_are_kept(server: Server, transport: Transport) -> None:
    for _ in range(5):
        call(transport, time.monotonic() + PLENTY)
    assert len(server.asked) == 10
    assert server.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(wrongdoer: Wrongdoer, asking: Transport, status: int) -> None:
    wrongdoer.tell("/api/health", says("", status, headers={"Location": f"{wrongdoer.url}/elsewhere"}))
    condition(asking, health)
    assert wrongdoer.paths() == ["/api/health"]


def test_what_goes_over_the_wire_is_counted(server: Server, transport: Transport) -> None:
    call(transport, time.monotonic() + PLENTY)
    assert transport.counts.requests == 2
    assert transport.counts.received > 0


def test_a_closed_transport_asks_nothing(server: Server, transport: Transport) -> None:
    transport.close()
    transport.close()
    assert "closed" in str(condition(transport, get))
    assert server.asked == []


def test_closing_ends_what_is_under_way_in_another_thread(wrongdoer: Wrongdoer, asking: Transport) -> None:
    wrongdoer.tell_all(never)
    ended: list[BackendError] = []

    def wait() -> None:
        with pytest.raises(BackendError) as caught:
            get(asking, time.monotonic() + 600)
        ended.append(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    wrongdoer.wait_for("/api/status")
    asking.close()
    thread.join(PLENTY)
    assert len(ended) == 1
    assert isinstance(ended[0], BackendUnavailable)


# -- who asks --------------------------------------------------------------------------

FAR = 4_000_000_000


def write_cookies(file: Path, *cookies: tuple[str, str], domain: str = "127.0.0.1", expires: int = FAR) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{domain}\tFALSE\t/\tFALSE\t{expires}\t{name}\t{value}" for name, value in cookies]
    file.write_text("\n".join(("# Netscape HTTP Cookie File", *lines, "")))


def test_the_cookies_of_the_file_are_sent(server: Server, transport: Transport) -> None:
    write_cookies(transport.access.credentials.cookie_file, ("_oauth2_proxy", "abc"))
    call(transport, time.monotonic() + PLENTY)
    assert {asked.headers.get("cookie") for asked in server.asked} == {"_oauth2_proxy=abc"}


@pytest.mark.parametrize("how", [{"domain": "elsewhere.example"}, {"expires": 1_000}], ids=str)
def test_cookies_of_others_and_expired_ones_are_not_sent(
    server: Server, transport: Transport, how: dict[str, Any]
) -> None:
    write_cookies(transport.access.credentials.cookie_file, ("_oauth2_proxy", "abc"), **how)
    health(transport, time.monotonic() + PLENTY)
    assert "cookie" not in server.asked[0].headers


def test_a_token_is_sent_as_bearer_and_no_cookie_then(server: Server) -> None:
    access = access_to(server, token="sky_t0ken")
    write_cookies(access.credentials.cookie_file, ("_oauth2_proxy", "abc"))
    transport = Transport(access)
    call(transport, time.monotonic() + PLENTY)
    for asked in server.asked:
        assert asked.headers["authorization"] == "Bearer sky_t0ken"
        assert "cookie" not in asked.headers
        assert b"sky_t0ken" not in asked.body
    transport.close()


def test_a_sign_in_from_outside_makes_the_next_call_work(server: Server, transport: Transport) -> None:
    healthy = shows(HEALTHY)

    def guarded(exchange: Exchange) -> None:
        signed_in = exchange.asked.headers.get("cookie") == "_oauth2_proxy=abc"
        (healthy if signed_in else SIGN_IN["307 to a login"])(exchange)

    server.tell("/api/health", guarded)
    assert isinstance(condition(transport, health), NeedsSignIn)
    write_cookies(transport.access.credentials.cookie_file, ("_oauth2_proxy", "abc"))
    assert transport.server(time.monotonic() + PLENTY).api_version == 62


def test_another_cookie_file_means_that_health_is_asked_anew(server: Server, transport: Transport) -> None:
    transport.server(time.monotonic() + PLENTY)
    write_cookies(transport.access.credentials.cookie_file, ("_oauth2_proxy", "abc"))
    get(transport, time.monotonic() + PLENTY)
    assert transport.known_server is None


def test_a_renewed_session_is_written_back_for_this_user_alone(server: Server, transport: Transport) -> None:
    file = transport.access.credentials.cookie_file
    write_cookies(file, ("_oauth2_proxy", "old"), ("other", "stays"))
    renewed = {"Set-Cookie": "_oauth2_proxy=new; Path=/; Max-Age=600000"}
    server.tell("/api/health", shows(HEALTHY, headers=renewed))
    transport.server(time.monotonic() + PLENTY)
    found = {cookie.name: cookie.value for cookie in transport.access.credentials.cookies()}
    assert found == {"_oauth2_proxy": "new", "other": "stays"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["cookies.txt"]


def test_a_session_that_the_server_renews_each_time_is_no_sign_in_from_outside(
    server: Server, transport: Transport
) -> None:
    server.tell("/api/health", shows(HEALTHY, headers={"Set-Cookie": "affinity=b; Path=/; Max-Age=600000"}))
    for _ in range(3):
        transport.server(time.monotonic() + PLENTY)
        get(transport, time.monotonic() + PLENTY)
    assert len(server.of("/api/health")) == 1


def test_a_session_is_written_where_there_was_no_file(server: Server, transport: Transport) -> None:
    server.tell("/api/health", shows(HEALTHY, headers={"Set-Cookie": "a=b; Path=/; Max-Age=600000"}))
    transport.server(time.monotonic() + PLENTY)
    assert stat.S_IMODE(transport.access.credentials.cookie_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "value", ["", "a", "a=b; Expires=never", "=;;;=", "a=b\x01; Max-Age=99999", "a=ü; Max-Age=9999"]
)
def test_a_session_that_is_none_does_no_harm(server: Server, transport: Transport, value: str) -> None:
    server.tell("/api/health", shows(HEALTHY, headers={"Set-Cookie": value}))
    assert transport.server(time.monotonic() + PLENTY).api_version == 62
    assert transport.server(time.monotonic() + PLENTY, fresh=0).api_version == 62


def test_a_session_that_cannot_be_written_does_no_harm(server: Server, transport: Transport) -> None:
    transport.access.credentials.cookie_file.parent.write_text("a file where a folder should be")
    server.tell("/api/health", shows(HEALTHY, headers={"Set-Cookie": "a=b; Path=/; Max-Age=600000"}))
    assert transport.server(time.monotonic() + PLENTY).api_version == 62


def test_a_token_keeps_no_session(server: Server) -> None:
    access = access_to(server, token="sky_t0ken")
    transport = Transport(access)
    server.tell("/api/health", shows(HEALTHY, headers={"Set-Cookie": "a=b; Path=/; Max-Age=600000"}))
    transport.server(time.monotonic() + PLENTY)
    get(transport, time.monotonic() + PLENTY)
    assert not access.credentials.cookie_file.exists()
    assert "cookie" not in server.asked[-1].headers
    transport.close()


@pytest.mark.parametrize("content", ["no cookie file", "# Netscape HTTP Cookie File\nbroken\n", "\xff\xfe"])
def test_a_cookie_file_that_is_none_needs_a_sign_in(server: Server, transport: Transport, content: str) -> None:
    file = transport.access.credentials.cookie_file
    file.parent.mkdir()
    file.write_bytes(content.encode("latin-1"))
    error = condition(transport, health)
    assert isinstance(error, NeedsSignIn)
    assert str(file) in str(error)


@pytest.mark.parametrize("value", ["se\x01cret", "secré", "secret\x0c"])
def test_a_cookie_that_cannot_be_sent_needs_a_sign_in_and_is_not_shown(
    server: Server, transport: Transport, value: str
) -> None:
    file = transport.access.credentials.cookie_file
    write_cookies(file, ("_oauth2_proxy", value))
    error = condition(transport, health)
    assert isinstance(error, NeedsSignIn)
    assert "secr" not in str(error)
    assert server.asked == []


@pytest.mark.parametrize("token", ["sky_s3cret\n", "sky_s3cret é", "sky_s3\x00cret"])
def test_a_token_that_cannot_be_sent_needs_another_and_is_not_shown(server: Server, token: str) -> None:
    transport = Transport(access_to(server, token=token))
    error = condition(transport, health)
    assert isinstance(error, NeedsSignIn)
    assert "s3" not in str(error)
    assert "SKYPILOT_SERVICE_ACCOUNT_TOKEN" in str(error)
    transport.close()


def test_a_token_that_is_not_taken_needs_another(wrongdoer: Wrongdoer) -> None:
    transport = Transport(access_to(wrongdoer, token="sky_t0ken"))
    wrongdoer.tell_all(shows({"detail": "Invalid token"}, 401))
    with pytest.raises(NeedsSignIn, match="Set SKYPILOT_SERVICE_ACCOUNT_TOKEN") as caught:
        transport.server(time.monotonic() + PLENTY)
    assert "sky_t0ken" not in str(caught.value)
    transport.close()


def test_a_password_in_the_address_is_sent_and_never_shown(wrongdoer: Wrongdoer) -> None:
    url = wrongdoer.url.replace("http://", "http://ada:s3cret@")
    transport = Transport(Access(url=url, credentials=Credentials(None, Path("nowhere"))))
    for answer in (*SIGN_IN.values(), UNAVAILABLE["503"], UNAVAILABLE["10 MB"], UNAVAILABLE["a reset"], never):
        wrongdoer.tell_all(answer)
        with pytest.raises(BackendError) as caught:
            transport.server(time.monotonic() + 1, fresh=0)
        assert "s3cret" not in str(caught.value)
    assert {asked.headers["authorization"] for asked in wrongdoer.asked} == {"Basic YWRhOnMzY3JldA=="}
    assert "s3cret" not in re.sub(r"\s", "", repr(transport.access.place) + transport.access.sign_in_command)
    transport.close()


def test_results_are_read_whatever_they_hold(wrongdoer: Wrongdoer, asking: Transport) -> None:
    values: tuple[Any, ...] = (None, [], {"jobs": []}, "text", 5, json.loads("NaN"))
    for value in values:
        wrongdoer.tell("/jobs/queue/v2", took())
        wrongdoer.tell("/api/get", returned(value))
        found = call(asking, time.monotonic() + PLENTY)
        assert json.dumps(found) == json.dumps(value)
