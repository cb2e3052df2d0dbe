"""Locks that live as long as a process that has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skydeck_nb.backends.local import locks
from tests.backends.local.host import until

pytestmark = pytest.mark.parametrize("kind", ["ofd", "flock"])


@pytest.fixture
def path(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if kind == "flock":
        monkeypatch.setattr(locks, "_OFD", False)
    elif sys.platform != "linux":
        pytest.skip("Linux only")
    return str(tmp_path / "lock")


def test_one_has_it_and_the_others_see_it(path: str) -> None:
    assert not locks.held(path)
    first, second = locks.opened(path), locks.opened(path)
    assert locks.take(first)
    assert locks.held(path)
    assert not locks.take(second)
    assert not locks.take_within(second, 0.02)
    locks.close(second)
    assert locks.held(path), "closing another descriptor frees nothing"
    locks.release(first)
    assert not locks.held(path)


def test_an_heir_keeps_it_until_it_dies(path: str) -> None:
    fd = locks.opened(path)
    assert locks.take(fd)
    heir = subprocess.Popen(["sleep", "600"], pass_fds=[fd])
    locks.close(fd)
    assert locks.held(path)
    heir.send_signal(signal.SIGKILL)
    heir.wait()
    assert not locks.held(path)


def test_a_release_frees_it_for_all_heirs(path: str) -> None:
    fd = locks.opened(path)
    assert locks.take(fd)
    with subprocess.Popen(["sleep", "600"], pass_fds=[fd]) as heir:
        locks.release(fd)
        assert not locks.held(path)
        heir.kill()


def test_a_forked_child_of_a_user_s_is_no_heir(path: str) -> None:
    fd = locks.opened(path)
    assert locks.take(fd)
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, b"x")
        signal.pause()
        os._exit(0)
    os.read(read, 1)
    locks.close(fd)
    assert not locks.held(path), "though the child, a copy of us, lives"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


def test_looking_is_not_taking(path: str) -> None:
    fd = locks.opened(path)
    locks.close(fd)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from skydeck_nb.backends.local import locks\n"
        "locks._OFD = sys.argv[3] == 'True'\n"
        "print(flush=True)\n"
        "while True: locks.held(sys.argv[2])"
    )
    repository = str(Path(__file__).parents[3])
    looker = subprocess.Popen(
        [sys.executable, "-c", program, repository, path, str(locks._OFD)], stdout=subprocess.PIPE
    )
    assert looker.stdout is not None
    looker.stdout.readline()
    for _ in range(300):
        fd = locks.opened(path)
        assert locks.take(fd), "a look stood in the way"
        locks.release(fd)
    looker.kill()
    looker.communicate()
    until(lambda: not locks.held(path))
