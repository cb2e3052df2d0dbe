"""``skydeck lab``: JupyterLab, on the quick start where there is one.

Decides what JupyterLab is started with on a desktop, on a machine without a
screen and as root. Refuses to be there afterwards: the process becomes JupyterLab's,
so that keys, signals and the exit code are its own.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import skydeck_nb
from skydeck_nb.cli.printing import note
from skydeck_nb.errors import SkydeckError

QUICKSTART = Path("notebooks") / "01_quickstart.ipynb"


def lab(port: int | None, *, browser: bool | None, more: Sequence[str] = ()) -> None:
    """Become JupyterLab."""
    if find_spec("jupyterlab") is None:
        raise SkydeckError(
            f"JupyterLab is not installed beside {sys.executable}: pip install 'skydeck-nb[lab]' installs it. "
            "Everything else works without."
        )
    if port is not None and not free(port):
        raise SkydeckError(f"Port {port} is taken: choose another, or leave --port out and take a free one.")
    root = quickstart_root(Path.cwd(), Path(skydeck_nb.__file__).parents[1])
    if root is None:
        note("In a notebook:  import skydeck_nb as sd; sd.demo()")
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", "jupyterlab", *arguments(root, port, browser, os.environ, os.geteuid()), *more]
    os.execv(sys.executable, command)


def quickstart_root(*folders: Path) -> Path | None:
    """The first of these folders that has the quick start: the present one, or the checkout of the package."""
    return next((folder for folder in folders if (folder / QUICKSTART).is_file()), None)


def arguments(
    root: Path | None, port: int | None, browser: bool | None, environ: Mapping[str, str], uid: int
) -> list[str]:
    """What JupyterLab is told. Without a port it looks for a free one itself, from 8888 on."""
    told = []
    if root is not None:
        told += [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{QUICKSTART.as_posix()}"]
    if port is not None:
        told += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if uid == 0:
        told.append("--allow-root")
    screen = sys.platform == "darwin" or any(environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not (screen if browser is None else browser):
        told.append("--no-browser")
    return told


def free(port: int) -> bool:
    """Whether this machine lets somebody listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
