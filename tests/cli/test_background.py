"""The background loop as a process: one of it, believed by its lock, that outlives who started it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from skydeck_nb import background, config
from skydeck_nb.background import PidFile, Place, client, pidfile
from skydeck_nb.errors import BackendUnavailable, InvalidSetting
from tests.cli.conftest import Home, until
from tests.cli.rows import declare, experiments

ROOT = Path(__file__).resolve().parents[2]


# -- the PID file -------------------------------------------------------------------------


def write_pid_file(place: Place, pid: int, **more: Any) -> None:
    said = {"pid": pid, "born": pidfile.born_at(pid), "host": socket.gethostname(), "ready": True}
    place.pid_file.write_text(json.dumps({**said, "since": "2026-01-01T00:00:00+00:00", **more}))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that has nothing to do with us."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        assert process.poll() is None, "it was signalled"
        process.kill()


def test_a_pid_file_that_nobody_locks_is_litter(home: Home, stranger: int) -> None:
    write_pid_file(home.place, stranger)
    assert home.loop() is None
    assert background.stop(home.place) is None
    home.place.pid_file.write_text("no JSON")
    assert home.loop() is None


def test_a_number_is_not_believed_where_another_process_has_it_now(home: Home, stranger: int) -> None:
    write_pid_file(home.place, stranger, born=1.0)
    with locked(home.place.pid_file):
        found = home.loop()
        assert found is not None
        assert found.pid is None
        with pytest.raises(BackendUnavailable, match="Nothing was stopped"):
            background.stop(home.place)


def test_a_loop_on_another_host_is_left_alone(home: Home, stranger: int) -> None:
    write_pid_file(home.place, stranger, host="elsewhere")
    with locked(home.place.pid_file), pytest.raises(BackendUnavailable, match="runs on elsewhere: stop it there"):
        background.stop(home.place)


def test_those_who_ask_do_not_hinder_who_takes(home: Home) -> None:
    file = PidFile(home.place.pid_file)
    asking = os.open(home.place.pid_file, os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(asking, fcntl.LOCK_SH)
    assert not file.take(), "somebody asks for half a second"
    os.close(asking)
    assert file.take()
    assert not PidFile(home.place.pid_file).take()
    found = home.loop()
    assert found is not None
    assert found.pid == os.getpid()
    assert not found.ready
    file.leave()
    assert home.loop() is None
    assert home.place.pid_file.exists()


def test_a_pid_file_that_was_removed_is_taken_again_or_given_up(home: Home) -> None:
    file, other = PidFile(home.place.pid_file), PidFile(home.place.pid_file)
    assert file.take()
    assert file.kept()
    home.place.pid_file.unlink()
    assert file.kept()
    assert home.loop() is not None
    home.place.pid_file.unlink()
    assert other.take()
    assert not file.kept()
    file.leave()
    other.leave()


def test_the_fake_backend_has_no_background() -> None:
    with pytest.raises(InvalidSetting, match="--backend local"):
        Place.of(config.load({"backend": "fake"}))


def test_one_database_is_one_place_by_whatever_path(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.folder)
    through = Place.of(config.load({"db_path": tmp_path / "link" / "local.db"}))
    assert through == home.place
    assert Place.of(config.load({"db_path": home.folder / "local.sqlite"})).pid_file != home.place.pid_file


# -- the log --------------------------------------------------------------------------------

NOISY = """
import logging, os, subprocess, sys
from pathlib import Path
from skydeck_nb.background import LoopLog
logging.basicConfig(handlers=[LoopLog(Path(sys.argv[1]), size=4000, copies=2)], level=logging.INFO)
for i in range(300):
    logging.getLogger("x").info("line %d", i)
    os.write(2, f"raw {i}\\n".encode())
print("printed", flush=True)
subprocess.run(["echo", "by a child"])
"""


def test_the_log_rotates_and_takes_raw_output_along(tmp_path: Path) -> None:
    path = tmp_path / "loop.log"
    done = subprocess.run([sys.executable, "-c", NOISY, str(path)], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""
    files = sorted(tmp_path.glob("loop.log*"))
    assert [file.name for file in files] == ["loop.log", "loop.log.1", "loop.log.2"]
    assert all(file.stat().st_size < 4200 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    last = path.read_text()
    assert last.endswith("printed\nby a child\n")
    assert "line 299" in last
    assert "raw 299" in last


# -- the process ----------------------------------------------------------------------------


@pytest.mark.kill
def test_it_starts_once_leads_and_ends_when_asked(home: Home) -> None:
    declare(home.database, ["a", "b"], "sleep", "600")
    said = home.skydeck("start")
    loop = home.loop()
    assert loop is not None
    assert f"The background loop started (pid {loop.pid}); it leads {home.database}." in said
    assert f"runs already (pid {loop.pid}); it leads" in home.skydeck("start")
    status = home.status()
    assert status["leader"].endswith(f"pid {loop.pid}")
    assert status["loop"] == {
        "running": True, "pid": loop.pid, "host": socket.gethostname(), "leads": True, "log": str(home.place.log),
        "since": status["loop"]["since"],
    }  # fmt: skip
    for file in (home.place.log, home.place.pid_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    home.skydeck("start", "a", "b")
    until(lambda: {e.current_state for e in experiments(home.database).values()} == {"RUNNING"}, "both run")
    process = psutil.Process(loop.pid)
    process.send_signal(signal.SIGHUP)
    begun = time.monotonic()
    process.terminate()
    until(lambda: home.loop() is None, "its end")
    assert time.monotonic() - begun < 3
    assert "as it was asked to" in home.place.log.read_text()

    said = home.skydeck("stop")
    assert said == (
        f"No background loop runs for {home.database}. "
        "2 runs stay alive; until a deck opens nothing restarts, queues or limits them.\n"
    )
    assert {e.current_state for e in experiments(home.database).values()} == {"RUNNING"}


@pytest.mark.kill
def test_starts_at_once_make_one_loop(home: Home) -> None:
    declare(home.database, ["a"])
    processes = [home.popen("start") for _ in range(4)]
    said = []
    for process in processes:
        with process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        said.append(out)
    loop = home.loop()
    assert loop is not None
    assert all(f"(pid {loop.pid}); it leads" in each for each in said)
    assert sum("loop started" in each for each in said) == 1
    assert home.place.log.read_text().count(" is up, pid ") == 1
    assert home.skydeck("stop") == (
        f"The background loop (pid {loop.pid}) has ended. No run is alive; until a deck opens nothing is launched.\n"
    )


@pytest.mark.kill
def test_one_that_was_killed_is_not_believed_and_another_starts(home: Home) -> None:
    declare(home.database, ["a"])
    home.skydeck("start")
    first = home.loop()
    assert first is not None
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: home.loop() is None, "its end")
    assert f'"pid": {first.pid}' in home.place.pid_file.read_text(), "stale, and harmless"
    status = home.status()
    assert status["loop"]["running"] is False
    assert status["leader"] is None
    said = home.skydeck("start")
    second = home.loop()
    assert second is not None
    assert second.pid != first.pid
    assert f"(pid {second.pid}); it leads" in said
    said = home.skydeck("restart")
    third = home.loop()
    assert third is not None
    assert third.pid != second.pid
    assert f"started (pid {third.pid}); it leads" in said


@pytest.mark.kill
def test_it_survives_the_group_that_started_it(home: Home) -> None:
    declare(home.database, ["a"])
    with home.popen("start", start_new_session=True) as process:
        process.communicate(timeout=120)
        with suppress(ProcessLookupError):  # nobody but the command was in it
            os.killpg(process.pid, signal.SIGKILL)
    loop = home.loop()
    assert loop is not None
    assert loop.pid is not None
    process_ = psutil.Process(loop.pid)
    assert process_.terminal() is None
    assert os.getsid(loop.pid) != os.getsid(0)
    assert {file.path for file in process_.open_files()} >= {str(home.place.log), str(home.place.pid_file)}
    assert Path(f"/proc/{loop.pid}/fd/0").readlink() == Path(os.devnull)
    assert Path(f"/proc/{loop.pid}/fd/2").readlink() == home.place.log


@pytest.mark.kill
def test_it_ends_when_its_database_is_deleted(home: Home) -> None:
    declare(home.database, ["a"])
    home.skydeck("start")
    for file in home.folder.glob("local.db*"):
        file.unlink()
    until(lambda: home.loop() is None, "its end")
    assert f"The background loop ends: {home.database} was deleted or replaced" in home.place.log.read_text()
    assert "has ended" not in (said := home.skydeck("stop"))
    assert said == f"No background loop runs for {home.database}.\n"


@pytest.mark.kill
def test_why_it_cannot_start_is_said(home: Home) -> None:
    home.database.write_text("this is no database" * 100)
    said = home.skydeck("start", code=1)
    assert said.startswith("Error: ")
    assert str(home.database) in said
    assert home.loop() is None
    assert "The background loop ends" in home.place.log.read_text()


def test_a_starter_says_what_became_of_a_process_that_dies(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BackendUnavailable, match="it ended without a word"):
        background.start(config.load())


# -- with notebooks -------------------------------------------------------------------------


class Kernel:
    """``kernel.py`` in a process of its own."""

    def __init__(self, database: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.kernel", str(database)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.pid: int = self.hear()["pid"]

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ask(self, word: str = "") -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self, *, kill: bool = False) -> None:
        if kill:
            os.killpg(self.pid, signal.SIGKILL)
        with self.process:
            pass


@pytest.mark.kill
def test_a_deck_hands_over_and_its_kernel_may_die(home: Home) -> None:
    declare(home.database, ["a"], "sleep", "600")
    kernel = Kernel(home.database)
    until(lambda: kernel.ask()["leading"], "the kernel leads")
    home.skydeck("start", "a")
    until(lambda: experiments(home.database)["a"].current_state == "RUNNING", "a runs")
    said = kernel.ask("detach")["said"]
    loop = home.loop()
    assert loop is not None
    assert said == (
        f"The background loop (pid {loop.pid}) leads from now on: this notebook may be closed, and the runs go on."
    )
    assert kernel.hear()["leading"] is False
    assert kernel.ask("detach")["said"] == said, "again, when it leads already"
    kernel.hear()
    kernel.end(kill=True)
    assert home.status()["loop"]["leads"] is True
    home.skydeck("restart", "a")
    until(lambda: experiments(home.database)["a"].run == experiments(home.database)["a"].observed_run == 2, "run 2")
    until(lambda: experiments(home.database)["a"].current_state == "RUNNING", "a runs again")


@pytest.mark.kill
def test_a_notebook_that_opens_meanwhile_follows_and_takes_over(home: Home) -> None:
    declare(home.database, ["a"], "sleep", "600")
    home.skydeck("start")
    home.skydeck("start", "a")
    until(lambda: experiments(home.database)["a"].current_state == "RUNNING", "a runs")
    loop = home.loop()
    assert loop is not None
    kernel = Kernel(home.database)
    assert until(lambda: (s := kernel.ask())["holder"] and s) == {"leading": False, "holder": home.status()["leader"]}
    said = home.skydeck("stop")
    assert said.startswith(f"The background loop (pid {loop.pid}) has ended. ")
    assert said.endswith(f"pid {kernel.pid} leads now; 1 run stays alive.\n")
    assert kernel.ask()["leading"] is True
    said = home.skydeck("start")
    assert f"it follows {home.status()['leader']}, and leads {home.database} when that one ends" in said
    kernel.end()
    until(lambda: home.status()["loop"]["leads"], "the loop leads")


def test_the_loop_takes_the_settings_of_who_started_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(client, "_hear", lambda fd, until: b'{"failed": "enough"}')
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: _Process(sent))
    settings = config.load({"db_path": tmp_path / "x.db", "max_gpus": 8, "links": {"w": "https://x.org/{name}"}})
    with pytest.raises(Exception, match="enough"):
        background.start(settings)
    again = config.load(sent[0])
    assert {one.name: one.value for one in again} == {one.name: one.value for one in settings}


class _Process:
    """Stands for a process that listens."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.stdin = self.stdout = self
        self._sent = sent

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *exc_info: object) -> None: ...
    def write(self, data: bytes) -> None:
        self._sent.append(json.loads(data))

    def close(self) -> None: ...
    def fileno(self) -> int:
        return -1


def test_logging_of_this_process_is_as_it_was() -> None:
    assert not any(isinstance(handler, background.LoopLog) for handler in logging.getLogger().handlers)
