"""A kernel as a test holds it: a process that runs cells, and can be killed, frozen and thawed.

Speaks the Jupyter protocol over one socket, without an event loop, so that a
thread of the test can wait for a reply and for the kernel's death at once.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds until a reply counts as never, on two busy CPUs."""


class KernelDied(Exception):
    """The kernel was gone before it had answered."""


class Forge:
    """Makes kernels; see :mod:`tests.kill.forge`. ``folder`` is short, as names of sockets must be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self._turn = threading.Lock()
        (folder / "home").mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kill.forge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={
                **{name: text for name, text in os.environ.items() if not name.startswith("SKYDECK_")},
                "HOME": str(folder / "home"),
                "OPENBLAS_NUM_THREADS": "1",  # its threads would not survive the fork
                "OMP_NUM_THREADS": "1",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            },
        )

    def kernel(self, home: Path) -> Kernel:
        """A new kernel in a folder that is also its ``HOME``."""
        with self._turn:
            number = next(self._numbers)
            connection = self.folder / f"{number}.json"
            told = {
                "connection": str(connection),
                "log": str(self.folder / f"{number}.log"),
                "folder": str(home),
                "environ": {
                    "HOME": str(home),
                    "SKYDECK_HOME": str(home / ".skydeck"),
                    "IPYTHONDIR": str(self.folder / "ipython"),
                },
            }
            ports = {f"{name}_port": n for n, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
            info: dict[str, Any] = {
                "transport": "ipc",
                "ip": str(self.folder / f"{number}"),
                "key": os.urandom(16).hex(),
                "signature_scheme": "hmac-sha256",
                **ports,
            }
            connection.write_text(json.dumps(info))
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps(told) + "\n")
            self.process.stdin.flush()
            return Kernel(int(self.process.stdout.readline()), info, self.folder / f"{number}.log")

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


class Kernel:
    """One kernel. Used by one thread of a test at a time."""

    def __init__(self, pid: int, info: dict[str, Any], log: Path) -> None:
        self.pid = pid
        self._info, self._log = info, log
        self._death = os.pidfd_open(pid)
        self._session = Session(key=info["key"].encode(), signature_scheme=info["signature_scheme"])
        self._context = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._shell.setsockopt(zmq.LINGER, 0)
        self._shell.setsockopt(zmq.RECONNECT_IVL, 10)
        self._shell.connect(f"ipc://{info['ip']}-{info['shell_port']}")
        self._pending: list[str] = []

    # -- its process ----------------------------------------------------------------------

    def dead(self) -> bool:
        return bool(select.select([self._death], [], [], 0)[0])

    def await_death(self, seconds: float = PATIENCE) -> None:
        assert select.select([self._death], [], [], seconds)[0], f"kernel {self.pid} lives"

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.await_death()

    def freeze(self) -> None:
        """Stop it; returns when it has."""
        self._signal(signal.SIGSTOP)
        end = time.monotonic() + PATIENCE
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < end, f"kernel {self.pid} does not stop"
            time.sleep(0.005)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._death, number)

    def close(self) -> None:
        """Kill it, if need be, and let go of what it needed here."""
        if not self.dead():
            self.kill()
        self._shell.close()
        self._context.term()
        os.close(self._death)

    # -- its cells ------------------------------------------------------------------------

    def send(self, code: str, value: str = "None") -> str:
        """Have it run a cell; returns at once."""
        expression = f"__import__('json').dumps({value})"
        content = {
            "code": code,
            "silent": True,
            "store_history": False,
            "user_expressions": {"value": expression},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self._session.send(self._shell, "execute_request", content)
        assert message is not None
        self._pending.append(message["header"]["msg_id"])
        return self._pending[-1]

    def run(self, code: str, value: str = "None", *, timeout: float = PATIENCE) -> Any:
        """Have it run a cell and wait; what an expression is then, by way of JSON."""
        return self.reply(self.send(code, value), timeout=timeout)

    def ask(self, value: str, *, timeout: float = PATIENCE) -> Any:
        return self.run("", value, timeout=timeout)

    def reply(self, sent: str, *, timeout: float = PATIENCE) -> Any:
        """The value of a cell that was sent; replies to earlier ones are dropped, errors are not."""
        end = time.monotonic() + timeout
        while True:
            content, to = self._receive(end)
            self._pending.remove(to)
            if content["status"] != "ok":
                raise AssertionError("\n".join(content.get("traceback", [str(content)])))
            value = content["user_expressions"].get("value", {"status": "ok", "data": {"text/plain": "'null'"}})
            if value["status"] != "ok":
                raise AssertionError("\n".join(value["traceback"]))
            if to == sent:
                return json.loads(ast.literal_eval(value["data"]["text/plain"]))

    def _receive(self, end: float) -> tuple[dict[str, Any], str]:
        poller = zmq.Poller()
        poller.register(self._shell, zmq.POLLIN)
        poller.register(self._death, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(max(0, int((end - time.monotonic()) * 1000))))
            if self._shell in ready:
                _, message = self._session.recv(self._shell, zmq.NOBLOCK)
                assert message is not None
                if message["parent_header"].get("msg_id") in self._pending:
                    return message["content"], message["parent_header"]["msg_id"]
            elif self._death in ready:
                raise KernelDied(f"kernel {self.pid}: {self.log()[-2000:]}")
            elif not ready:
                raise AssertionError(f"kernel {self.pid} does not answer: {self.log()[-2000:]}")

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
