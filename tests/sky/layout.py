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
from dataclasses import asdict, dataclass, fields
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
# Read when this is imported, before a test hides the developer's settings.
DEFAULT_ROOT = Path(os.environ.get("SKYDECK_STACK", Path(tempfile.gettempdir()) / "skydeck-stack"))
FOREIGN = ("SKYDECK_", "SKYPILOT_", "SKY_", "SLURM_", "PYTHON", "PIP_FIND_LINKS", "VIRTUAL_ENV", "XDG_")


@dataclass(frozen=True, slots=True)
class Ports:
    server: int
    slurmctld: int
    slurmd: int
    sshd: int

    @property
    def queue(self) -> int:
        """Where the API server's request queue listens; SkyPilot derives it."""
        return 50_000 + (11 + self.server - 46_580) % 10_000


def free_ports() -> Ports:
    """Ports that nobody listens on, below those from which connections start: a restarted server gets its own again."""

    def free(port: int) -> bool:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return probe.connect_ex(("127.0.0.1", port)) != 0

    while True:
        ports = Ports(*random.sample(range(20_000, 32_000), len(fields(Ports))))
        if all(map(free, (*asdict(ports).values(), ports.queue))):
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
        return f"http://127.0.0.1:{self.ports.server}"

    def make(self) -> None:
        """The folders, which the jobs' user may walk through, and the ports."""
        for folder in (
            *(self.root, self.home, self.cwd, self.etc, self.logs),
            *(self.run, self.slurm, self.tmp, self.site),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        if not self.port_file.exists():
            self.port_file.write_text(json.dumps(asdict(free_ports())))

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
