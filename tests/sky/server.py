"""A real SkyPilot API server, with its jobs controllers in consolidation mode.

Decides its settings, and what of it dies when it is killed. Refuses to know
how the cluster is made.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil

from tests.sky import processes
from tests.sky.layout import PROJECT, USUAL_PORT, Layout
from tests.sky.processes import until
from tests.sky.slurm import HOST

# SkyPilot sizes itself by memory: 9 GB is three controllers and eleven short workers. With fewer, what the server does
# for itself holds them all, and each request starts a process; with more, starting them is all that two CPUs do.
MEMORY_GB = 9
PORT_VARIABLE = "SKYPILOT_API_SERVER_LOCAL_PORT"
CONFIG = """\
allowed_clouds: [slurm]
jobs:
  controller:
    consolidation_mode: true
slurm:
  provision_timeout: 120
"""
PLUGINS = """\
plugins:
  - class: tests.sky.loopback.Loopback
    parameters:
      probe: http://127.0.0.1:{port}/api/health
"""
SSH_CONFIG = """\
Host {host}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {key}
    IdentitiesOnly yes
"""
# Found, they are used as they are; otherwise `accelerators:` would fetch them from the internet.
CATALOG = {
    "accelerators.csv": "AcceleratorName,Clouds\nH100,Slurm\n",
    "metadata.csv": "GPU,MemoryGB,Manufacturer\nH100,80,NVIDIA\n",
}


class Server:
    """The server of one layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.log = layout.logs / "server.log"
        self.pid_file = layout.run / "server.pid"
        self._child: subprocess.Popen[bytes] | None = None

    def configure(self) -> None:
        """The files of its home; those that are there stay, as a test may have changed them."""
        sky = self.layout.home / ".sky"
        ssh = SSH_CONFIG.format(host=HOST, port=self.layout.ports.sshd, user=self.layout.user, key=self.layout.key)
        catalog = sky / "catalogs" / catalog_version() / "common"
        files = {
            self.layout.home / ".slurm" / "config": ssh,
            sky / "config.yaml": CONFIG,
            sky / "plugins.yaml": PLUGINS.format(port=self.layout.ports.server),
            # One of its own: by it SkyPilot names a folder for ssh's sockets outside its home.
            sky / "user_hash": secrets.token_hex(4),
            **{catalog / name: text for name, text in CATALOG.items()},
        }
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_text(text)

    def start(self) -> None:
        """Start it unless it answers, and wait until it does."""
        if self.healthy():
            return
        self.kill()
        environ = self.layout.client() | {
            "IS_SKYPILOT_SERVER": "true",
            "PYTHONPATH": str(PROJECT),
            PORT_VARIABLE: str(self.layout.ports.server),
            "SKYPILOT_POD_MEMORY_GB_LIMIT": str(MEMORY_GB),
        }
        # To itself and to its controllers it is the local server.
        del environ["SKYPILOT_API_SERVER_ENDPOINT"]
        command = [sys.executable, "-m", "sky.server.server", "--host=127.0.0.1", f"--port={self.layout.ports.server}"]
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                env=environ,
                cwd=self.layout.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid_file.write_text(str(self._child.pid))
        until(lambda: self.healthy() or self._child_died(), "an API server that answers", 120, logs=[self.log])
        if self._child_died():
            raise processes.StackError(f"the API server ended\n{processes.tails([self.log])}")

    def kill(self, *, controllers: bool = False) -> None:
        """As `kill -9` does, and then what it leaves behind: executors, and a queue that holds the port.

        The jobs controllers live on, as they do in SkyPilot, unless they are to die as well: then it is as if
        the machine had lost its power.
        """
        session = int(self.pid_file.read_text()) if self.pid_file.exists() else None

        def dies(process: psutil.Process) -> bool:
            ours = processes.inside(self.layout.cwd)(process)
            return ours and (controllers or os.getsid(process.pid) == session)

        if self._child is not None:
            self._child.kill()
            self._child.wait()
        # What is about to die may start another; a round that finds nobody is the last.
        while victims := list(processes.matching(dies)):
            processes.kill(victims)
        self.pid_file.unlink(missing_ok=True)
        self._child = None

    def stop(self) -> None:
        """All of it, with the connections that it keeps to the login node."""
        self.kill(controllers=True)
        kept = self.layout.home / ".sky" / "user_hash"
        if kept.exists():
            sockets = Path(f"/tmp/sky_ssh_{kept.read_text()}")
            processes.kill(processes.matching(processes.titled(f"{sockets}/")))
            shutil.rmtree(sockets, ignore_errors=True)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.layout.endpoint}/api/health", timeout=5) as answer:
                return bool(json.load(answer)["status"] == "healthy")
        except OSError:
            return False

    def _child_died(self) -> bool:
        return self._child is not None and self._child.poll() is not None


def catalog_version() -> str:
    found = re.search(r"^CATALOG_SCHEMA_VERSION = '(.+)'$", sky_constants(), re.MULTILINE)
    assert found is not None
    return found[1]


def fixed_port() -> int | None:
    """Where a server before 0.14 listens, as its controllers know of no other port."""
    return None if PORT_VARIABLE in sky_constants() else USUAL_PORT


def sky_constants() -> str:
    """Read, not imported: importing SkyPilot takes seconds and changes the process."""
    spec = importlib.util.find_spec("sky")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "skylet", "constants.py").read_text()
