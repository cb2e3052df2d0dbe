"""What a server may do wrong, by name, with the one condition that it is."""

from __future__ import annotations

from typing import Final

from skydeck_nb.backends.skypilot.answers import Forbidden
from skydeck_nb.errors import BackendError, BackendUnavailable, NeedsSignIn
from tests.backends.skypilot.wrongdoer import REQUEST_ID, Answer, hangs_up, never, raw, reset, says, shows, trickles

DEEP: Final = b"[" * 100_000 + b"]" * 100_000

NO_JSON: Final = {
    "empty": b"",
    "cut off": b"{",
    "no UTF-8": b'{"a": "\xff\xfe\xfa"}',
    "nested deeply": DEEP,
    "more behind it": b"null garbage",
    "bytes": b"\x00\x01",
    "an endless number": b"9" * 5_000,
}

SIGN_IN: Final[dict[str, Answer]] = {
    "a page": says("<html>Welcome</html>", kind="text/html; charset=utf-8"),
    "307 to a login": says("", 307, headers={"Location": "/oauth2/start?rd=%2Fapi"}),
    "302 to elsewhere": says("", 302, headers={"Location": "https://login.example.com/"}),
    "401": shows({"detail": "Not authenticated"}, 401),
    "401 as a page": says("<html>401</html>", 401, kind="text/html"),
}

UNAVAILABLE: Final[dict[str, Answer]] = {
    "400 version_mismatch": shows({"error": "version_mismatch", "message": "Client too old."}, 400),
    "400": shows({"detail": "Bad field."}, 400),
    "500": shows({"detail": "Internal."}, 500),
    "500 as text": says("Internal Server Error.", 500, kind="text/plain"),
    "502": says("<html><h1>502 Bad Gateway</h1></html>", 502, kind="text/html"),
    "503": shows({"detail": "No backend is ready."}, 503),
    "504 of nothing": says("", 504),
    "204": says("", 204),
    "half an answer": raw(
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"sta', keep=False
    ),
    "a head cut off": raw(b"HTTP/1.1 200 OK\r\nContent-Ty", keep=False),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n", keep=False),
    "an endless head": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000, keep=False),
    "a reset": reset,
    "a hang-up": hangs_up,
    "a length that is none": raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", keep=False),
    "chunks cut off": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{", keep=False),
    "gzip that is none": raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", keep=False),
    "10 MB": says(b"[" + b"1," * 5_000_000 + b"1]"),
    **{f"no JSON, {name}": says(body, headers={REQUEST_ID: "r"}) for name, body in NO_JSON.items()},
}

SLOW: Final[dict[str, Answer]] = {
    "no answer": never,
    "a head byte by byte": trickles(
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5_000)) + b"\r\n", every=0.02
    ),
    "a body byte by byte": trickles(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b" " * 50_000, every=0.02),
}
"""To their ends they take minutes, each byte in time."""

FORBIDDEN: Final[dict[str, Answer]] = {"403": shows({"detail": "Only admins may do that."}, 403)}

ALL: Final[dict[str, tuple[Answer, type[BackendError]]]] = {
    name: (answer, kind)
    for kind, answers in (
        (NeedsSignIn, SIGN_IN),
        (BackendUnavailable, UNAVAILABLE),
        (BackendUnavailable, SLOW),
        (Forbidden, FORBIDDEN),
    )
    for name, answer in answers.items()
}
