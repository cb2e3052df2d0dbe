"""One answer of SkyPilot's API server, and what it says of its own failure.

Decides what is read out of a failure: the server's exception and one line of its
words, never a web page and never a traceback. Refuses to know how it was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from skydeck_nb.errors import BackendError, BackendUnavailable

ERROR_TEXT: Final = 300
"""Characters of a server's own words that are shown."""


class RequestFailed(BackendUnavailable):
    """The server took the request and says that it failed; ``kind`` is the name of the server's exception."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(sentence(f"SkyPilot's server says {kind}: {message}".removesuffix(": ")))
        self.kind = kind
        self.said = message


class Cancelled(BackendUnavailable):
    """The server says that the request was cancelled."""


class NoSuchRequest(BackendUnavailable):
    """The server knows no such request (any more): it forgets them when it starts, and after a day."""


class Forbidden(BackendError):
    """The server knows who asks and does not allow it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, what: str) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise BackendUnavailable(f"The answer to {what} is no JSON ({str(error)[:80]}).") from None


def failure(answer: Answer, what: str) -> BackendError:
    """What a 500 of ``/api/get`` says of the request."""
    with suppress(BackendUnavailable):
        detail = answer.json(what)
        detail = detail.get("detail") if isinstance(detail, dict) else None
        error = loaded(detail.get("error"), what) if isinstance(detail, dict) else None
        if isinstance(error, dict):
            kind = str(error.get("type") or "an error")
            return RequestFailed(kind[:80], last_line(str(error.get("message") or "")))
    return BackendUnavailable(f"The server answered {what} with HTTP 500: {said(answer)}")


def last_line(message: str) -> str:
    """A message without the traceback of the server in front of it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = lines[-1] if lines and any(line.startswith("Traceback ") for line in lines) else " ".join(lines)
    return text if len(text) <= ERROR_TEXT else f"{text[: ERROR_TEXT - 1]}…"


def loaded(text: Any, what: str) -> Any:
    """The value of a field that holds JSON as text."""
    if not isinstance(text, str):
        raise BackendUnavailable(f"The answer to {what} holds no result.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BackendUnavailable(f"The result of {what} is no JSON.") from None


def said(answer: Answer) -> str:
    """What an answer says of its own failure: its ``detail`` or ``message``, never a web page."""
    if "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<":
        return "a web page."
    text = answer.body[:2000].decode(errors="replace")
    with suppress(ValueError, RecursionError):
        facts = json.loads(answer.body[:20_000])
        if isinstance(facts, dict):
            found = facts.get("detail") or facts.get("message") or facts.get("error")
            text = found if isinstance(found, str) else text
    text = " ".join(text.split())
    return sentence(text[:ERROR_TEXT] or "no reason")


def sentence(text: str) -> str:
    """A text with an end."""
    return text if not text or text[-1] in ".!?…" else f"{text}."
