"""What the nodes of the cluster have installed already, so that no job fetches anything.

Decides which of SkyPilot's own skips apply. Refuses to change SkyPilot. On
every new cluster it would install uv from the internet, let uv download a
Python, and build an environment of about seventy distributions. It leaves out
each where it finds it: a working ``uv`` in the cluster's home, the runtime's
environment, and the hash of the server's own wheel. Slurm's TaskProlog puts
these there before SkyPilot's first step, as the admin of a cluster would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import uv

from tests.sky.layout import Layout
from tests.sky.processes import StackError
from tests.sky.slurm import run

PROLOG = """\
#!/bin/bash
# Before every task, as the job's user; acts once per allocation.
runtime=/tmp/$SLURM_JOB_NAME
home={jobs}/.sky_clusters/$SLURM_JOB_NAME
[ -e "$runtime/.site" ] && exit 0
mkdir -p "$home/.local/bin" "$home/.sky/wheels" "$runtime/.sky"
: > "$runtime/.site"
ln -sfn {site}/uv "$home/.local/bin/uv"
[ -e "$runtime/skypilot-runtime" ] || ln -s {site}/runtime "$runtime/skypilot-runtime"
[ -e "$home/sky-user-env" ] || cp -a {site}/user-env "$home/sky-user-env"
cp {site}/wheel.hash "$home/.sky/wheels/current_sky_wheel_hash"
exit 0
"""
BUILD_WHEEL = "from sky.backends import wheel_utils; print(*wheel_utils.build_sky_wheel())"
NEVER_OUTDATED = 2**32
# Each job starts a dozen Pythons that import all of SkyPilot; a sixth of that is the collector finding nothing.
FEWER_COLLECTIONS = "import gc; gc.set_threshold(50_000)\n"
# What runs on a node imports these; importing them once as the owner leaves the bytecode that a job may not write.
WARM = "import sky, sky.skylet.skylet, sky.skylet.job_lib, sky.skylet.log_lib, sky.utils.message_utils"


class Site:
    """The installation below one layout; it outlives the stack, and is made anew for another SkyPilot."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.stamp = layout.site / "made-for"
        self.runtime = layout.site / "runtime"
        self.log = layout.logs / "site.log"

    def make(self) -> None:
        wheels = self.layout.home / ".sky" / "wheels"
        wheels.parent.mkdir(parents=True, exist_ok=True)
        if not wheels.is_symlink():
            (self.layout.site / "wheels").mkdir(exist_ok=True)
            wheels.symlink_to(self.layout.site / "wheels")
        if not self.stamp.exists() or self.stamp.read_text() != self.identity():
            self.stamp.unlink(missing_ok=True)
            self.build()
            self.stamp.write_text(self.identity())

    def identity(self) -> str:
        """Which installation of SkyPilot it was made for."""
        sky = metadata.distribution("skypilot")
        record = Path(str(sky.locate_file(f"skypilot-{sky.version}.dist-info"))) / "RECORD"
        return f"{sky.version} {record} {record.stat().st_mtime_ns}"

    def build(self) -> None:
        site = self.layout.site
        for made in (self.runtime, site / "user-env", *site.glob("wheels/*")):
            shutil.rmtree(made, ignore_errors=True)
        shutil.copy2(uv.find_uv_bin(), site / "uv")
        wheel, digest = self.build_wheel()
        (site / "wheel.hash").write_text(digest)
        prolog = site / "prolog.sh"
        prolog.write_text(PROLOG.format(site=site, jobs=self.layout.jobs))
        prolog.chmod(0o755)
        python = self.public_python()
        self.uv("venv", "--seed", "--relocatable", "--python", python, str(self.runtime))
        pins = site / "pins.txt"
        pins.write_text("\n".join(self.pins()))
        target = ["--python", str(self.runtime / "bin" / "python"), "--constraints", str(pins)]
        self.uv("pip", "install", *target, f"{wheel}[slurm,remote]")
        (packages,) = self.runtime.glob("lib/python3*/site-packages")
        (packages / "fewer_collections.pth").write_text(FEWER_COLLECTIONS)
        run([str(self.runtime / "bin" / "python"), "-c", WARM], self.layout.client(), self.log, self.layout.cwd)
        env = ["--seed", "--relocatable", "--system-site-packages", "--python", python]
        self.uv("venv", *env, str(site / "user-env"))
        subprocess.run(["chmod", "-R", "a+rX", str(site)], check=True)

    def build_wheel(self) -> tuple[Path, str]:
        """The wheel that the server will want on every node: what it builds itself, from what is installed."""
        with self.log.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-c", BUILD_WHEEL],
                env=self.layout.client(),
                cwd=self.layout.cwd,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
            )
        if done.returncode:
            raise StackError(f"SkyPilot could not build its own wheel; see {self.log}")
        folder, digest = done.stdout.split()[-2:]
        (wheel,) = (self.layout.site / "wheels" / digest).glob("*.whl")
        shutil.rmtree(folder)
        # The server takes it for outdated when a folder of bytecode appears beside its sources, and builds it anew at
        # every launch from then on: the same wheel, which keeps its time.
        os.utime(wheel, (NEVER_OUTDATED, NEVER_OUTDATED))
        return wheel, digest

    def pins(self) -> Iterator[str]:
        """The versions beside this SkyPilot here: a release of tomorrow does not change the nodes of today."""
        for one in metadata.distributions():
            if one.name.lower() not in ("skypilot", "skydeck-nb"):
                yield f"{one.name}=={one.version}"

    def public_python(self) -> str:
        """One that the jobs' user may run: ours may be in somebody's home."""
        candidates = [os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"]
        for python in filter(os.path.exists, candidates):
            words = ["runuser", "-u", self.layout.user, "--", python, "-c", ""]
            if subprocess.run(words, env=self.layout.tools(), capture_output=True, check=False).returncode == 0:
                return python
        raise StackError(f"{self.layout.user}, whom jobs run as, may run none of {', '.join(candidates)}")

    def uv(self, *words: str) -> None:
        environ = self.layout.tools() | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        run([str(self.layout.site / "uv"), *words], environ, self.log)
