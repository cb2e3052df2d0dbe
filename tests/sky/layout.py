"""Where one stack keeps its files, on which ports it listens, and in which environment its programs run.

Decides names and places. Refuses to know which programs there are. Two stacks
in two folders share nothing: no port, no user, no file outside their folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from tests.sky.processes import StackError

PROJECT = Path(__file__).resolve().parents[2]
# Read when this is imported, before a test hides the developer's settings.
DEFAULT_ROOT = Path(os.environ.get("SKYDECK_STACK", Path(tempfile.gettempdir()) / "skydeck-stack"))
FOREIGN = ("SKYDECK_", "SKYPILOT_", "SKY_", "SLURM_", "PYTHON", "PIP_FIND_LINKS", "VIRTUAL_ENV", "XDG_")


USUAL_PORT = 46_580
"""Where SkyPilot's local server listens if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Ports:
    server: int
    slurmctld: int
    slurmd: int
    sshd: int

    @property
    def queue(self) -> int:
        """Where the API server's request queue listens; SkyPilot derives it."""
        return 50_000 + (11 + self.server - USUAL_PORT) % 10_000


def free_ports(server: int | None) -> Ports:
    """Ports that nobody listens on, below those from which connections start: a restarted server gets its own again.

    Where the server's is given, as it cannot have another, it must be free.
    """

    def free(port: int) -> bool:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return probe.connect_ex(("127.0.0.1", port)) != 0

    while True:
        ports = Ports(*random.sample(range(20_000, 32_000), len(fields(Ports))))
        if server is not None:
            ports = replace(ports, server=server)
        if taken := [port for port in (ports.server, ports.queue) if not free(port)]:
            if server is None:
                continue
            raise StackError(f"another SkyPilot listens on port {taken[0]}, and this version can use no other: stop it")
        if all(map(free, asdict(ports).values())):
            return ports


class Layout:
    """The names below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.caller = dict(os.environ)
        """As it was when the stack was named: a test may have another HOME by the time it is used."""
        self.home = root / "home"
        """The HOME of the server and of its clients."""
        self.cwd = root / "cwd"
        """Where the server and all its children run, by which they are known; nobody else has a reason to be there."""
        self.etc = root / "etc"
        self.logs = root / "logs"
        self.run = root / "run"
        self.slurm = root / "slurm"
        self.tmp = root / "tmp"
        self.site = root / "site"
        """What outlives the stack, as it is slow to make: what a cluster's nodes have installed."""
        self.jobs = root / "jobs"
        """The home of the user whom jobs run as."""
        self.port_file = self.run / "ports.json"
        self.slurm_conf = self.etc / "slurm.conf"
        self.key = self.etc / "id"

    @property
    def user(self) -> str:
        return f"sd{hashlib.sha256(str(self.root).encode()).hexdigest()[:8]}"

    @property
    def ports(self) -> Ports:
        """The same from the first `up` until `down`, whichever process asks."""
        return Ports(**json.loads(self.port_file.read_text()))

    @property
    def endpoint(self) -> str:
        # At its usual port, a client takes 127.0.0.1 for a server that is its own to start, and 127.1 for another's.
        host = "127.1" if self.ports.server == USUAL_PORT else "127.0.0.1"
        return f"http://{host}:{self.ports.server}"

    def make(self, server_port: int | None) -> None:
        """The folders, which the jobs' user may walk through, and the ports."""
        for folder in (
            *(self.root, self.home, self.cwd, self.etc, self.logs),
            *(self.run, self.slurm, self.tmp, self.site),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        if not self.port_file.exists():
            self.port_file.write_text(json.dumps(asdict(free_ports(server_port))))

    def tools(self) -> dict[str, str]:
        """The environment of the daemons and of Slurm's commands: ours, without what is the caller's own."""
        environ = {name: value for name, value in self.caller.items() if not name.startswith(FOREIGN)}
        path = f"{Path(sys.executable).parent}:{environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        return environ | {"PATH": path, "TMPDIR": str(self.tmp), "SLURM_CONF": str(self.slurm_conf)}

    def client(self) -> dict[str, str]:
        """The environment of a SkyPilot client of this stack."""
        return self.tools() | {
            "HOME": str(self.home),
            "SKYPILOT_API_SERVER_ENDPOINT": self.endpoint,
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        }
