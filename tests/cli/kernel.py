"""A process that does what a kernel with an open deck does: it obeys words on stdin, and answers in JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skydeck_nb import background, config

with background.without_pandas():
    from skydeck_nb.backends.local import LocalBackend
    from skydeck_nb.control.runner import Runner
    from skydeck_nb.store import Store


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    settings = config.load({"db_path": Path(sys.argv[1])})
    backend = LocalBackend(settings.local_root)
    store = Store.open(sys.argv[1])
    store.claim_identity(asdict(backend.identity))
    runner = Runner(store, backend, background.loop_settings(settings))
    runner.start()
    say(pid=os.getpid())
    for line in sys.stdin:
        if line.strip() == "detach":
            say(said=background.detach(store, settings, runner))
        status = runner.status()
        say(leading=status.leading, holder=status.holder)
    runner.close()


if __name__ == "__main__":
    main()
