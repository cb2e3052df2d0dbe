"""A real SkyPilot API server on a real Slurm, all on loopback, below one folder: `python -m tests.sky.stack up`.

Decides the order in which the parts start and stop. Refuses to know how each
of them works. `up` continues whatever is there, also what a killed run left
halfway; `down` ends every process and removes every file but the site, which
is slow to make. A stack that was down starts with no job and no request.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sky.layout import DEFAULT_ROOT, Layout
from tests.sky.processes import StackError
from tests.sky.server import Server, fixed_port
from tests.sky.site import Site
from tests.sky.slurm import DAEMONS, Slurm


class Stack:
    """The parts of one folder; any process may hold one."""

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self.layout = Layout(root.resolve())
        self.slurm = Slurm(self.layout)
        self.site = Site(self.layout)
        self.server = Server(self.layout)

    @property
    def endpoint(self) -> str:
        return self.layout.endpoint

    @property
    def home(self) -> Path:
        """The HOME of a client: it is known to the server by what it finds there."""
        return self.layout.home

    @property
    def logs(self) -> Path:
        return self.layout.logs

    def env(self, user: str | None = None) -> dict[str, str]:
        """The whole environment of a client process, which may be another user than the one who runs the server."""
        someone = {} if user is None else {"SKYPILOT_USER_ID": user, "SKYPILOT_USER": user}
        return self.layout.client() | someone

    def up(self) -> None:
        self.layout.make(fixed_port())
        self.server.configure()
        self.slurm.start()
        self.site.make()
        self.server.start()

    def down(self) -> None:
        self.server.stop()
        self.slurm.stop()
        for folder in (one for one in self.layout.root.glob("*") if one not in (self.layout.site, self.lock_file)):
            shutil.rmtree(folder)

    def start_server(self) -> None:
        self.server.start()

    def kill_server(self, *, controllers: bool = False) -> None:
        """As if it had crashed; with its controllers, as if its machine had lost its power."""
        self.server.kill(controllers=controllers)

    @property
    def lock_file(self) -> Path:
        return self.layout.root / "lock"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Meanwhile it is this process's own; another one that asks is told whose."""
        self.layout.root.mkdir(parents=True, exist_ok=True)
        with self.lock_file.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise StackError(
                    f"process {lock.read()} uses the stack in {self.layout.root}; "
                    "for a second one, set SKYDECK_STACK to another folder"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def status(self) -> str:
        if not self.layout.port_file.exists():
            return f"nothing runs below {self.layout.root}"
        parts = {name: self.slurm.running(name) for name in DAEMONS} | {"server": self.server.healthy()}
        words = ", ".join(f"{name} {'runs' if runs else 'does not run'}" for name, runs in parts.items())
        return f"{words}, at {self.endpoint} below {self.layout.root}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sky.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "env"])
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    arguments = parser.parse_args()
    stack = Stack(arguments.root)
    begun = time.monotonic()
    match arguments.command:
        case "up":
            stack.up()
        case "down":
            stack.down()
        case "env":
            wanted = stack.env() | {"SKYDECK_STACK": str(stack.layout.root)}
            own = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
            print(*[f"export {name}={shlex.quote(value)}" for name, value in own.items()], sep="\n")  # noqa: T201
            return
    print(f"{stack.status()} ({time.monotonic() - begun:.1f} s)")  # noqa: T201


if __name__ == "__main__":
    main()
