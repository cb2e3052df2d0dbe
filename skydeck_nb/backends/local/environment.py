"""What a command finds around it: its environment and its folders.

Decides which of the leader's variables a command inherits and which names a run
is told. Refuses to know when it starts.

The whole environment is written to one file of the job's folder (0600, on this
host's own disk), because a job that waits is started by a supervisor and not by
us; that supervisor reads the file and removes it before the command starts, a
cancel removes it too. ``order.json`` holds none of it.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from skydeck_nb.backends.base import Order
from skydeck_nb.backends.local.processes import ATTEMPT, SUPERVISES

RUN: Final = ("SKYDECK_EXPERIMENT", ATTEMPT, "SKYDECK_RUN_DIR", "SKYDECK_CHECKPOINT_DIR")

_JUPYTER: Final = ("JPY_", "JUPYTER_", "JUPYTERHUB_")
"""The kernel's own, tokens among them."""

_KERNEL: Final = frozenset(
    {"CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "PAGER", "GIT_PAGER", "PYDEVD_USE_FRAME_EVAL", "COLUMNS", "LINES"}
    | {"_", "OLDPWD", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", SUPERVISES, *RUN}
)
"""What a kernel sets for its cells, a shell for itself, and we ourselves: none of it is the user's wish."""


def inherited(leader: Mapping[str, str]) -> dict[str, str]:
    """The leader's variables, as a terminal on this host would have them."""
    kept = {name: text for name, text in leader.items() if name not in _KERNEL and not name.startswith(_JUPYTER)}
    if "inline" in kept.get("MPLBACKEND", ""):
        del kept["MPLBACKEND"]  # the kernel's; a script without a notebook fails on it
    account = pwd.getpwuid(os.getuid())
    return {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "PATH": os.defpath, **kept}


def composed(order: Order, folders: Folders, leader: Mapping[str, str], *, gpus_here: bool) -> dict[str, str]:
    """The environment of a command; the secrets that the spec names must be in the leader's."""
    spec = order.spec
    made = {"PYTHONUNBUFFERED": "1", **inherited(leader)}  # or a log would stay empty until the end
    if spec.path is not None:
        made["PATH"] = spec.path
    if spec.interpreter is not None:  # `python` is the notebook's, also where its environment was never activated
        tools = Path(spec.interpreter).parent
        if (tools.parent / "pyvenv.cfg").exists():
            made["VIRTUAL_ENV"] = str(tools.parent)
        if not made["PATH"].startswith(f"{tools}{os.pathsep}"):
            made["PATH"] = f"{tools}{os.pathsep}{made['PATH']}"
    if gpus_here:
        made["CUDA_VISIBLE_DEVICES"] = ""  # exclusive GPUs are not for those who asked for none
    made["PWD"] = folders.cwd
    made |= spec.env
    made |= {name: leader[name] for name in spec.secrets}
    told = (order.run_name, order.attempt_id, folders.run_dir, folders.checkpoint_dir)
    return {**made, **dict(zip(RUN, told, strict=True))}


class Folders:
    """Where a run works, writes, and keeps what a later attempt of its experiment resumes from."""

    def __init__(self, order: Order, root: str) -> None:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", order.run_name).strip(".-")[:60]
        experiment = Path(root, "runs", order.deck_id, f"{order.experiment_id}-{slug}")
        self.cwd = order.spec.workdir or str(Path.home())
        self.run_dir = str(experiment / order.attempt_id)
        self.checkpoint_dir = str(experiment / "checkpoints")
