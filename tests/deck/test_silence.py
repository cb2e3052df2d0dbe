"""Nothing that a thread has to say lands in a cell."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

FAILING = """
import time
import skydeck_nb as sd

def fails(event):
    raise ValueError("of the callback")

with sd.open(backend=sd.FakeBackend()) as deck:
    deck.on(sd.StartRequested, fails)
    deck.create("a", "train", start=True)
    end = time.monotonic() + 20
    while not any("of the callback" in said for said in deck._loop.notices.waiting()):
        assert time.monotonic() < end
        time.sleep(0.01)
"""


def test_a_callback_that_fails_prints_nothing_and_is_in_the_log() -> None:
    # In a process of its own: under pytest the root logger has handlers, so nothing would be printed anyway.
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")
    log = Path.home() / ".skydeck" / "notebook.log"
    assert "ValueError: of the callback" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
