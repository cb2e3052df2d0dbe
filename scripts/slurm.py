"""Finds the daemons of the tests' Slurm, and on Debian, as root, installs them: `python scripts/slurm.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sinfo": "slurm-client",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "runuser": "util-linux",
    "useradd": "passwd",
}
POLICY = Path("/usr/sbin/policy-rc.d")


def lacking() -> dict[str, str]:
    """The programs that are not there, and the Debian package of each."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {program: package for program, package in PACKAGES.items() if not shutil.which(program, path=path)}


def missing() -> str | None:
    """Why the real Slurm cannot run here, and what to do about it."""
    if programs := lacking():
        packages = " ".join(sorted(set(programs.values())))
        return f"no {', '.join(programs)}: on Debian, `apt-get install --no-install-recommends {packages}`"
    if os.geteuid() != 0:
        return (
            "not root: Slurm's daemons and sshd start jobs as a user of their own; run the tests as root in a container"
        )
    return None


@contextmanager
def unstarted() -> Iterator[None]:
    """No package starts its service: the tests start them with a configuration of their own."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install() -> None:
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    packages = sorted(set(lacking().values()))
    with unstarted():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-qq", *command], env=environ, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    if lacking() and os.geteuid() == 0 and shutil.which("apt-get"):
        print("==> installing Slurm, munge and sshd for the tests on a real SkyPilot server", flush=True)
        install()
    print(f"==> Slurm: {missing() or 'here'}", flush=True)


if __name__ == "__main__":
    main()
