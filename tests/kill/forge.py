"""``python -m tests.kill.forge``: makes kernels by forking, which spares each of them two seconds of imports.

It has imported what a kernel and a deck need and has one thread. For each line
of JSON on its standard input it forks a child that becomes an ordinary
ipykernel, and answers with the child's PID. When its input ends it ends, and
its kernels with it (they watch their parent, as kernels of a server do).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import ipykernel.debugger
from ipykernel.kernelapp import IPKernelApp
from IPython.core import completerlib, debugger, oinspect
from IPython.extensions import storemagic

from skydeck_nb import config, opening
from tests.kill import inside

WARM = (ipykernel.debugger, completerlib, debugger, oinspect, storemagic, opening, inside)
"""What every kernel would import as it starts."""


def become_kernel(told: dict[str, Any]) -> None:
    parent = os.getppid()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, copy in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, copy)
    os.environ.update(told["environ"])
    os.environ["JPY_PARENT_PID"] = str(parent)
    os.chdir(told["folder"])
    quiet = ("--HistoryManager.enabled=False", "--InteractiveShell.colors=NoColor")
    IPKernelApp.launch_instance(["-f", told["connection"], *quiet])


def main() -> None:
    config.load({"slots": 1})  # imports pydantic
    assert threading.active_count() == 1, "a fork would lose the other threads"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are buried at once
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                become_kernel(json.loads(line))
            finally:
                os._exit(1)
        answers.write(f"{pid}\n")
        answers.flush()


if __name__ == "__main__":
    assert Path("skydeck_nb").is_dir()
    main()
