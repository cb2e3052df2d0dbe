"""What this host is and has, and which specs it can never run.

Decides the host's name, its slots and GPUs, and the refusals of a declaration:
what cannot be honoured here is named, never ignored. Refuses to know jobs.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from skydeck_nb.backends.local.processes import boot
from skydeck_nb.backends.local.spool import Spool, read_json, write, write_once
from skydeck_nb.errors import BackendError, InvalidCommand, InvalidSetting
from skydeck_nb.models import Spec

NETWORK: Final = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p afs ceph lustre gpfs beegfs glusterfs orangefs pvfs2 gfs2 ocfs2 panfs wekafs "
    "vboxsf virtiofs davfs acfs".split()
)
"""File systems that another host may see, or that do not keep our locks."""

_NVIDIA_SMI = 30.0
"""Seconds: without its daemon the driver wakes each GPU first, some seconds apiece."""

STRING = 131_072
"""Bytes of one argument or variable, with its NUL, that Linux refuses (``MAX_ARG_STRLEN`` is 32 pages)."""

_GPU = re.compile(r"^GPU (\d+): (.*?)(?: \(UUID: .*\))?$", re.MULTILINE)

_REFUSED: Final[tuple[tuple[str, Callable[[Spec], bool], str], ...]] = (
    ("nodes", lambda spec: spec.nodes != 1, "this host is one node; leave nodes out"),
    ("spot", lambda spec: bool(spec.spot), "there are no spot machines here; leave spot out"),
    ("infra", lambda spec: spec.infra is not None, "everything runs on this host; leave infra out"),
    ("pool", lambda spec: spec.pool is not None, "there are no pools here; leave pool out"),
    ("resources", lambda spec: bool(spec.resources), "only slots and GPUs are counted here; use gpus"),
    ("file_mounts", lambda spec: bool(spec.file_mounts), "nothing is copied here; use the files where they are"),
    ("git_ref", lambda spec: spec.git_ref is not None, "the working folder runs as it is; check the ref out there"),
)
"""Field, whether a spec uses it, and why that is nothing for this host."""


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the network file system that holds a path; ``None`` for this host's own disk."""
    if not mounts.exists():
        return None
    best, kind = "", ""
    for line in mounts.read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    network = kind in NETWORK or (kind.startswith("fuse.") and "overlayfs" not in kind)
    return kind if network else None


def user() -> str:
    return getpass.getuser()


def place(spool: Spool) -> str:
    """``<host>/<folder>``: written once, so that a laptop that is renamed stays the same place."""
    machine = ""
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if path.exists() and (text := path.read_text().strip()):
            machine = hashlib.sha256(text.encode()).hexdigest()[:8]  # the id itself is nobody's business
            break
    made = {"host": socket.gethostname().split(".")[0], "id": secrets.token_hex(4), "machine": machine}
    path = Path(spool.path("host.json"))
    if not path.exists():
        write_once(str(path), json.dumps(made))
    told = read_json(str(path))
    if machine and told["machine"] and told["machine"] != machine:
        raise InvalidSetting(
            f"The folder {spool.root} was made on the host {told['host']}, and this is {made['host']}: "
            "name another folder for jobs of this host, or move that one away."
        )
    return f"{told['host']}/{told['id']}"


def found_gpus() -> dict[str, str]:
    """The GPUs that ``nvidia-smi`` lists and this process may use: id to product name."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{program} -L did not answer ({error}); say how many GPUs to use with gpus=.") from error
    found = dict(_GPU.findall(answer.stdout))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return {item: found.get(item, "") for item in (part.strip() for part in visible.split(",")) if item}


def set_capacity(spool: Spool, slots: int | None, gpus: int | None) -> None:
    """Write what jobs of this host share. The last backend to open a folder decides, for all who use it."""
    if slots is not None and slots < 1:
        raise InvalidSetting(f"slots={slots}: at least one job has to fit.")
    if gpus is not None and gpus < 0:
        raise InvalidSetting(f"gpus={gpus}: a host has none or more.")
    path = spool.path("capacity.json")
    before = read_json(path) or {}
    if gpus is not None:
        names = {str(number): "" for number in range(gpus)}
        found_at = ""
    elif before.get("found_at") == (now := boot()) and now:
        names, found_at = before["gpus"], now  # a driver does not grow GPUs while the host is up
    else:
        names, found_at = found_gpus(), boot()
    after = {"slots": slots or os.cpu_count() or 1, "gpus": names, "found_at": found_at}
    if after != before:
        write(path, json.dumps(after), sync=False)


def asked_gpus(spec: Spec) -> int:
    """GPUs that a spec wants; ``accelerators="H100:4"`` names them too."""
    if spec.gpus is None and spec.accelerators:
        _, _, number = spec.accelerators.partition(":")
        return int(number) if number.isdecimal() else 1
    return spec.gpus or 0


def refusal(spec: Spec, gpus: dict[str, str]) -> str | None:
    """Why this host can never run a spec, with the remedy; ``None`` if it can."""
    for field, used, remedy in _REFUSED:
        if used(spec):
            return f"{field}={getattr(spec, field)!r} cannot be honoured on the local backend: {remedy}."
    wanted = asked_gpus(spec)
    if wanted > len(gpus):
        has = {0: "no GPU", 1: "1 GPU"}.get(len(gpus), f"{len(gpus)} GPUs")
        return f"gpus={wanted} does not fit: this host has {has}; ask for at most {len(gpus)}, or use another backend."
    if spec.accelerators and wanted:
        model = spec.accelerators.partition(":")[0].strip()
        names = sorted({name for name in gpus.values() if name})
        if names and not any(model.lower() in name.lower() for name in names):
            has = ", ".join(names)
            return f"accelerators={spec.accelerators!r} does not fit: this host has {has}; use gpus={wanted}."
    if spec.command is None and spec.script is None:
        return "There is nothing to run: the local backend runs a command or a script."
    return unusable([*(spec.command or ()), spec.script or "", spec.setup or ""], spec.env)


def check(spec: Spec, gpus: dict[str, str]) -> None:
    if (sentence := refusal(spec, gpus)) is not None:
        raise InvalidCommand(sentence)


def unusable(argv: Sequence[str], variables: Mapping[str, str]) -> str | None:
    """Why no process can be started with these arguments and variables."""
    for name in variables:
        if not name or "=" in name:
            return f"The variable {name!r} has no name that a process can be given."
    strings = {f"argument {number}": text for number, text in enumerate(argv)}
    strings |= {f"the variable {name}": f"{name}={value}" for name, value in variables.items()}
    total = 0
    for what, text in strings.items():
        try:
            size = len(os.fsencode(text)) + 1
        except UnicodeEncodeError:
            return f"The text of {what} cannot be given to a process: it holds half of a character pair."
        if "\0" in text:
            return f"The text of {what} cannot be given to a process: it holds a NUL character."
        if size >= STRING:
            fits = f"{size - 1:,} bytes; at most {STRING - 2:,}"
            return f"The text of {what} is too long for a process ({fits}): use a file."
        total += size + 8
    limit = os.sysconf("SC_ARG_MAX")
    if total + 4096 > limit:
        fits = f"{total:,} bytes; at most {limit - 4096:,}"
        return f"Arguments and environment are too long for a process ({fits}): use a file."
    return None


def missing(spec: Spec) -> tuple[str, str] | None:
    """What a spec needs and this process lacks now."""
    for name in spec.secrets:
        if name not in os.environ:
            return (
                "SecretMissing",
                f"The secret {name} is not set where the loop runs; set it in that process's environment.",
            )
    if spec.workdir is not None and not Path(spec.workdir).is_dir():
        sentence = f"The working folder {spec.workdir} does not exist on this host; make it, or name another."
        return "WorkdirMissing", sentence
    if spec.interpreter is not None and not os.access(spec.interpreter, os.X_OK):
        return (
            "InterpreterMissing",
            f"The interpreter {spec.interpreter} does not exist on this host; make it, or declare again.",
        )
    return None
