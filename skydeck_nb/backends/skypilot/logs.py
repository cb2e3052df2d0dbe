"""A job's output as SkyPilot's server streams it, without what is said around it.

Decides which parts of the stream are the job's own lines. Refuses to know HTTP.
The stream (``sky/server/stream_utils.py``, ``sky/jobs/utils.py``) mixes control
messages, frames drawn by the log tailer, and lines with the task's name and
process in front of them.
"""

from __future__ import annotations

import re
from typing import Final

_PAYLOAD: Final = re.compile(r"<sky-payload[^>]*>.*?</sky-payload[^>]*>\n?", re.DOTALL)
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_FRAME: Final = re.compile(
    r"(?:[├└]──|✓ |\u2a2f |ERROR: Job |Job \d+ not found\.$|Job started\. Streaming logs"
    r"|Tailing the last |Task \d+ finished)"
)
_COLOURS: Final = r"(?:\x1b\[[0-9;]*m)*"
_PREFIX: Final = re.compile(
    rf"^{_COLOURS}\([^()\n]*?,? ?(?:rank=(?P<rank>\d+),? ?)?pid=\d+(?:, ip=[^)]*)?\){_COLOURS} ?"
)
_RESET: Final = re.compile(r"(?:\x1b\[0m)+$")


def lines(stream: str) -> list[str]:
    """The job's own lines, colours kept; of several nodes each with its rank in front."""
    own: list[str] = []
    ranks: set[str] = set()
    parsed: list[tuple[str | None, str]] = []
    for line in _PAYLOAD.sub("", stream).split("\n"):
        found = _PREFIX.match(line)
        if found is None:
            bare = _ANSI.sub("", line)
            if _FRAME.match(bare) or not bare.strip():
                continue
            parsed.append((None, _RESET.sub("", line)))
            continue
        rank = found["rank"]
        if rank is not None:
            ranks.add(rank)
        parsed.append((rank, _RESET.sub("", line[found.end() :])))
    for rank, text in parsed:
        own.append(f"[{rank}] {text}" if rank is not None and len(ranks) > 1 else text)
    return own


def tail(stream: str, count: int | None) -> str:
    """The last lines of a stream as text, each with its line break."""
    own = lines(stream)
    chosen = own if count is None else own[-count:] if count > 0 else []
    return "".join(f"{line}\n" for line in chosen)
