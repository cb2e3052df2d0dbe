"""The code that a launch takes along: which commit it is, and whether it is that commit alone.

Decides what of a working folder is sent and what is recorded of it. Refuses to
know SkyPilot, and to change anything in the user's repository. ``git`` is asked
without a prompt; a folder that is no repository has nothing to record.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from skydeck_nb.errors import LaunchRejected
from skydeck_nb.models import Spec
from skydeck_nb.taskfile import is_git_url

COMMIT: Final = 40

MOST_DIRTY: Final = 32 << 20
"""Bytes of a diff that are hashed; a larger one is dirty all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is sent. ``metadata`` is recorded with the job."""

    spec: Spec
    commit: str | None = None
    dirty: bool = False
    diff: str | None = None
    """A hash of what differs from the commit."""

    @property
    def metadata(self) -> dict[str, str]:
        if self.commit is None:
            return {}
        told = {"git_commit": self.commit, "git_dirty": "1" if self.dirty else "0"}
        return told if self.diff is None else {**told, "git_diff": self.diff}


@contextmanager
def prepared(spec: Spec, *, until: float) -> Iterator[Source]:
    """The code of a spec, ready to be sent; what was made for that is removed afterwards.

    Raises:
        LaunchRejected: git cannot give the commit (retryable where only the network may be at fault).
    """
    if spec.workdir is None:
        yield Source(spec=spec)
    elif is_git_url(spec.workdir):
        yield _remote(spec, until)
    elif spec.git_commit is not None:
        with _exported(spec, spec.git_commit, until) as folder:
            yield Source(spec=replace(spec, workdir=folder), commit=spec.git_commit)
    else:
        yield _folder(spec, until)


def _remote(spec: Spec, until: float) -> Source:
    """The repository at the commit that its ref means now."""
    ref = spec.git_commit or spec.git_ref or "HEAD"
    if len(ref) == COMMIT and all(char in "0123456789abcdef" for char in ref):
        return Source(spec=replace(spec, git_commit=ref), commit=ref)
    found = _git(["ls-remote", "--", spec.workdir or "", ref, f"{ref}^{{}}"], until)
    if found is None or found.returncode:
        said = "" if found is None else f": {_said(found.stderr)}"
        raise LaunchRejected(
            f"The repository {spec.workdir} cannot be asked for {ref}{said}", retryable=True, reason="GitUnreachable"
        )
    commit = _meant(ref, found.stdout.decode(errors="replace"))
    if commit is None:
        raise LaunchRejected(
            f"The repository {spec.workdir} has no {ref}: push it, or write another git_ref=.", reason="GitRefMissing"
        )
    return Source(spec=replace(spec, git_commit=commit), commit=commit)


def _meant(ref: str, listed: str) -> str | None:
    """The commit of a ref in what ``git ls-remote`` lists: all names that end like it, where git itself takes one."""
    commits = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    for name in (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}"):
        if name in commits:
            return commits.get(f"{name}^{{}}", commits[name])  # what a tag points to
    return None


@contextmanager
def _exported(spec: Spec, commit: str, until: float) -> Iterator[str]:
    """A folder's repository at one commit, in a folder of its own: what is uncommitted stays at home."""
    folder = tempfile.mkdtemp(prefix="skydeck-")
    try:
        archive = Path(folder, "tree.tar")
        tree = Path(folder, "tree")
        arguments = ["archive", "--format=tar", f"--output={archive}", commit]
        found = _git(["-C", spec.workdir or "", *arguments], until)
        if found is None or found.returncode:
            said = "git is missing or slow." if found is None else _said(found.stderr)
            raise LaunchRejected(f"{spec.workdir} has no commit {commit[:12]}: {said}", reason="GitRefMissing")
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="data")
        archive.unlink()
        yield str(tree)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(spec: Spec, until: float) -> Source:
    """A folder as it is, with the commit that it is at and whether it is that commit alone."""
    inside = ["-C", spec.workdir or ""]
    head = _git([*inside, "rev-parse", "--verify", "--quiet", "HEAD"], until)
    if head is None or head.returncode:
        return Source(spec=spec)
    status = _git([*inside, "status", "--porcelain", "--untracked-files=normal", "--", "."], until)
    if status is None or status.returncode:
        return Source(spec=spec, commit=head.stdout.decode().strip(), dirty=True)
    dirty = bool(status.stdout.strip())
    digest: str | None = None
    if dirty:
        diff = _git([*inside, "diff", "HEAD", "--binary", "--", "."], until)
        if diff is not None and not diff.returncode and len(diff.stdout) <= MOST_DIRTY:
            digest = hashlib.sha256(status.stdout + diff.stdout).hexdigest()[:16]
    return Source(spec=spec, commit=head.stdout.decode().strip(), dirty=dirty, diff=digest)


def _git(arguments: Sequence[str], until: float) -> subprocess.CompletedProcess[bytes] | None:
    """What git answers; ``None`` where there is none, or none in time."""
    left = until - time.monotonic()
    environ = os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(
            ["git", *arguments],
            capture_output=True,
            check=False,
            timeout=max(left, 0.1),
            env=environ,
            stdin=subprocess.DEVNULL,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None


def _said(stderr: bytes) -> str:
    text = " ".join(stderr.decode(errors="replace").split())
    return f"{text[:200] or 'git gives no reason'}."
