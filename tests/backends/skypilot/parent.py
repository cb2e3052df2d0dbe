"""A notebook's process that waits at the gate of a launch for ever: ``… parent URL``; it says its client's PID."""

from __future__ import annotations

import os
import sys
import threading
import time

from skydeck_nb.backends.skypilot.access import Access
from skydeck_nb.backends.skypilot.sending import Sender
from skydeck_nb.backends.skypilot.transport import Transport


def main(url: str) -> None:
    sender = Sender(Transport(Access(url=url)), dict(os.environ))

    def gate() -> None:
        process = sender._process
        assert process is not None
        sys.stdout.write(f"{process.pid}\n")
        sys.stdout.flush()
        threading.Event().wait()

    until = time.monotonic() + 600
    sender.send({"run": "true"}, claim="c", pool=None, secrets={}, gate=gate, until=until, send_within=60)


if __name__ == "__main__":
    main(sys.argv[1])
