"""One job from its start to its end, under a supervisor that lives."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skydeck_nb.backends.local.resources import set_capacity
from tests.backends.local.host import Host, gone, order, until

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        if sys.argv[2] == "bare":
            os.execve(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)"], {})
        time.sleep(600)
    os._exit(0)
while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):
    time.sleep(0.001)
"""
"""Leaves its group, its session and its parent, as a daemon does."""


def pid_of(path: Path) -> int:
    return int(until(lambda: path.exists() and path.read_text(), "the PID"))


def test_success_is_recorded_with_times_and_exit_code(host: Host) -> None:
    before = datetime.now(UTC)
    job = host.wait(host.run("true"))
    assert (job.status, job.exit_code, job.reason, job.message) == ("SUCCEEDED", 0, "", "")
    assert job.submitted_at is not None
    assert job.started_at is not None
    assert job.ended_at is not None
    assert before <= job.submitted_at <= job.started_at <= job.ended_at <= datetime.now(UTC)


def test_failure_carries_the_last_line_of_the_log(host: Host) -> None:
    program = "import sys; print('step 1'); print('ValueError: no such data', file=sys.stderr); print(' '); sys.exit(3)"
    job = host.wait(host.launch(host.python(program)))
    assert (job.status, job.exit_code, job.reason) == ("FAILED", 3, "CommandFailed")
    assert job.message == "ValueError: no such data"


def test_a_failure_without_a_word_says_the_exit_code(host: Host) -> None:
    assert host.wait(host.run("false")).message == "It ended with exit code 1 and wrote nothing."


def test_a_killed_command_is_named_by_its_signal(host: Host) -> None:
    job_id, pid = host.stay()
    os.kill(pid, signal.SIGKILL)
    job = host.wait(job_id)
    assert (job.status, job.exit_code, job.reason) == ("FAILED", 137, "KilledBySignal")
    assert "SIGKILL" in job.message


def test_an_exit_code_that_looks_like_a_signal_is_none(host: Host) -> None:
    assert host.wait(host.run("sh", "-c", "exit 137")).reason == "CommandFailed"


def test_stdout_and_stderr_share_one_log_in_order(host: Host) -> None:
    program = "import sys\nfor n in range(50):\n    print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True)"
    job_id = host.launch(host.python(program))
    host.wait(job_id)
    assert host.log(job_id).split() == [str(number) for number in range(50)]
    assert host.log(job_id, tail=3) == "47\n48\n49\n"
    assert host.log(job_id, tail=0) == ""


def test_a_log_is_there_while_the_command_runs(host: Host) -> None:
    job_id = host.run(sys.executable, "-S", "-c", "print('first words'); import time; time.sleep(600)")
    until(lambda: host.log(job_id) == "first words\n", "the log")


def test_a_log_that_is_no_text_is_shown_as_far_as_it_is(host: Host) -> None:
    job_id = host.run("printf", r"ok\n\377\376\n")
    host.wait(job_id)
    assert host.log(job_id) == "ok\n\ufffd\ufffd\n"


def test_a_run_is_told_what_it_needs(host: Host) -> None:
    wanted = order("env", "-0", run_name="me.exp", env={"TEXT": "a\nb $HOME 'x'"})
    job_id = host.launch(wanted)
    host.wait(job_id)
    told = dict(item.split("=", 1) for item in host.log(job_id).split("\0") if item)
    run_dir = host.backend.run_dir(job_id)
    assert run_dir is not None
    assert told["SKYDECK_EXPERIMENT"] == "me.exp"
    assert told["SKYDECK_ATTEMPT"] == wanted.attempt_id
    assert told["SKYDECK_RUN_DIR"] == str(run_dir)
    assert told["SKYDECK_CHECKPOINT_DIR"] == str(run_dir.parent / "checkpoints")
    assert told["TEXT"] == "a\nb $HOME 'x'"
    assert told["PWD"] == "/tmp"
    assert told["PATH"] == os.environ["PATH"]
    assert "SKYDECK_SUPERVISES" not in told


def test_checkpoints_outlive_an_attempt_and_run_folders_do_not(host: Host) -> None:
    first = host.run("sh", "-c", "echo 7 > $SKYDECK_CHECKPOINT_DIR/epoch; touch $SKYDECK_RUN_DIR/own", experiment_id=7)
    host.wait(first)
    second = host.run("sh", "-c", "cat $SKYDECK_CHECKPOINT_DIR/epoch; ls $SKYDECK_RUN_DIR", experiment_id=7)
    host.wait(second)
    assert host.log(second) == "7\noutput.log\n"
    assert host.backend.run_dir(first) != host.backend.run_dir(second)


def test_what_we_make_is_for_the_user_alone(host: Host) -> None:
    job_id = host.run("sh", "-c", "umask > $SKYDECK_RUN_DIR/umask; touch $SKYDECK_RUN_DIR/own")
    host.wait(job_id)
    for path in [host.root, *host.root.rglob("*")]:
        if path.name in ("umask", "own"):
            continue  # the command's, by the user's own umask
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    run_dir = host.backend.run_dir(job_id)
    assert run_dir is not None
    mine = os.umask(0o77)
    os.umask(mine)
    assert int((run_dir / "umask").read_text(), 8) == mine


def test_a_command_reads_nothing_and_shares_no_session(host: Host) -> None:
    job_id = host.launch(host.python("import os,sys; print(sys.stdin.read() == '', os.getsid(0) == os.getpid())"))
    host.wait(job_id)
    assert host.log(job_id) == "True True\n"


def test_a_command_starts_with_default_signals_and_an_empty_mask(host: Host) -> None:
    program = (
        "import signal\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "print([n for n in range(1, 32) if n not in (9, 19) and signal.getsignal(n) is signal.SIG_IGN])"
    )
    job_id = host.launch(host.python(program))
    host.wait(job_id)
    assert host.log(job_id) == "set()\n[<Signals.SIGPIPE: 13>, <Signals.SIGXFSZ: 25>]\n".replace(
        "[<Signals.SIGPIPE: 13>, <Signals.SIGXFSZ: 25>]", "[13, 25]"
    ), "which Python ignores by itself"


# Setup, and what cannot start.


def test_setup_runs_before_the_command_in_bash(host: Host) -> None:
    setup = "shopt -s extglob; X=$(echo made) && echo $X > $SKYDECK_RUN_DIR/file; echo setting up"
    job_id = host.run("sh", "-c", "cat $SKYDECK_RUN_DIR/file", setup=setup)
    assert host.wait(job_id).status == "SUCCEEDED"
    assert host.log(job_id) == "setting up\nmade\n"


def test_a_failed_setup_is_said_and_the_command_never_runs(host: Host) -> None:
    job_id = host.run("echo", "ran", setup="echo no such package; exit 5")
    job = host.wait(job_id)
    assert (job.status, job.exit_code, job.reason) == ("FAILED_SETUP", 5, "SetupFailed")
    assert job.message == "no such package"
    assert job.started_at is None
    assert "ran" not in host.log(job_id)


def test_a_setup_is_cancelled_like_a_command(host: Host) -> None:
    job_id = host.run("echo", "ran", setup="echo begun; sleep 600")
    until(lambda: host.see(job_id).reason == "SettingUp", "the setup")
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"
    assert "ran" not in host.log(job_id)


def test_a_command_that_is_not_there(host: Host) -> None:
    job = host.wait(host.run("no-such-program", "--flag"))
    assert (job.status, job.exit_code, job.message) == ("FAILED", 127, "command not found: no-such-program")


def test_a_command_that_is_no_program(host: Host, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo")
    job = host.wait(host.run(str(script)))
    assert (job.status, job.exit_code, job.reason) == ("FAILED", 126, "CommandNotExecutable")


def test_the_working_folder_and_the_path_are_the_spec_s(host: Host, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "python"
    tool.write_text('#!/bin/sh\necho "mine in $PWD with $0 $1"\n')
    tool.chmod(0o755)
    job_id = host.run("python", "a b", workdir=str(tmp_path), path=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert host.wait(job_id).status == "SUCCEEDED", host.see(job_id)
    assert host.log(job_id) == f"mine in {tmp_path} with {tool} a b\n"


def test_a_working_folder_that_vanishes_before_the_start(make_host: Callable[..., Host], tmp_path: Path) -> None:
    host = make_host(slots=1)
    first, _ = host.stay()
    folder = tmp_path / "work"
    folder.mkdir()
    second = host.run("true", workdir=str(folder))
    folder.rmdir()
    host.cancel(first)
    job = host.wait(second)
    assert (job.status, job.reason) == ("FAILED_PRECHECKS", "WorkdirMissing")


# Limits.


def test_a_limit_ends_a_job_with_no_deck_open(host: Host) -> None:
    job_id = host.run("sleep", "600", max_seconds=0.3)
    job = host.wait(job_id)
    assert (job.status, job.reason) == ("FAILED", "LimitReached")
    assert "0.3 s" in job.message
    assert job.started_at is not None
    assert job.ended_at is not None
    assert (job.ended_at - job.started_at).total_seconds() >= 0.3


# Cancelling.


def test_cancel_ends_with_term(host: Host) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))\n"
        "print('ready')\ntime.sleep(600)"
    )
    job_id = host.launch(host.python(program))
    until(lambda: "ready" in host.log(job_id), "the command")
    host.cancel(job_id)
    job = host.wait(job_id)
    assert (job.status, job.exit_code) == ("CANCELLED", 0), "cancelled, though it ended well"
    assert host.log(job_id) == "ready\nsaved\n"


def test_cancel_is_seen_at_once(host: Host) -> None:
    job_id, pid = host.stay()
    began = time.monotonic()
    host.cancel(job_id)
    assert time.monotonic() - began < 0.5, "it does not wait"
    assert host.see(job_id).status in ("CANCELLING", "CANCELLED")
    host.wait(job_id)
    assert gone(pid)


def test_what_ignores_term_is_killed_after_the_grace(make_host: Callable[..., Host]) -> None:
    host = make_host(grace=0.4)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"
    job_id = host.launch(host.python(program))
    until(lambda: "ready" in host.log(job_id), "the command")
    began = time.monotonic()
    host.cancel(job_id)
    job = host.wait(job_id)
    assert time.monotonic() - began >= 0.4
    assert (job.status, job.exit_code) == ("CANCELLED", 137)


def test_a_frozen_command_is_cancelled(host: Host) -> None:
    job_id, pid = host.stay()
    os.kill(pid, signal.SIGSTOP)
    host.cancel(job_id)
    assert host.wait(job_id).exit_code == 143, "it thawed, and heard TERM"


def test_a_lost_signal_costs_time_and_nothing_else(host: Host) -> None:
    job_id, _ = host.stay()
    host.spool.ask_cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"


def test_a_cancel_after_the_end_changes_nothing(host: Host) -> None:
    job_id = host.run("true")
    host.wait(job_id)
    host.cancel(job_id)
    assert host.see(job_id).status == "SUCCEEDED"
    again = Host(host.folder, **host.settings)
    assert again.see(job_id).status == "SUCCEEDED"


def test_a_supervisor_that_is_told_to_end_ends_its_job(host: Host) -> None:
    job_id, pid = host.stay()
    os.kill(host.supervisor(job_id), signal.SIGTERM)
    job = host.wait(job_id)
    assert (job.status, job.reason) == ("FAILED", "SupervisorTerminated")
    assert gone(pid)


# What leaves its group.


@pytest.mark.parametrize("kind", ["marked", "bare"])
def test_daemons_are_gone_after_the_end(host: Host, kind: str) -> None:
    path = host.pid_file()
    job_id = host.launch(host.python(DAEMON, str(path), kind))
    assert host.wait(job_id).status == "SUCCEEDED"
    assert gone(pid_of(path))


@pytest.mark.parametrize("kind", ["marked", "bare"])
def test_daemons_are_gone_after_a_cancel(host: Host, kind: str) -> None:
    path = host.pid_file()
    job_id = host.launch(host.python(DAEMON + "time.sleep(600)", str(path), kind))
    pid = pid_of(path)
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"
    assert gone(pid)


def test_children_have_the_grace_too(host: Host) -> None:
    program = 'trap "sleep 0.3; echo child saved; exit" TERM; echo ready; while :; do sleep 0.05; done'
    job_id = host.run("sh", "-c", f"sh -c '{program}' & wait")
    until(lambda: "ready" in host.log(job_id), "the child")
    host.cancel(job_id)
    host.wait(job_id)
    assert host.log(job_id).endswith("child saved\n")


def test_a_job_inside_a_job_is_not_its_own(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """A deck inside a job dispatches for everybody: what it started outlives that job."""
    host = make_host(slots=1)
    program = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from skydeck_nb.backends.local import queue, spool\n"
        "while not os.path.exists(sys.argv[3]): time.sleep(0.01)\n"
        "queue.dispatch(spool.Spool(sys.argv[2]), [], patience=5); time.sleep(600)\n"
    )
    repository, go = str(Path(__file__).resolve().parents[3]), tmp_path / "go"
    outer = host.run(sys.executable, "-c", program, repository, host.spool.root, str(go))
    host.command(outer)
    inner = host.run("sleep", "600")
    assert host.see(inner).status == "PENDING"
    set_capacity(host.spool, 2, 0)
    go.touch()
    host.command(inner)
    host.cancel(outer)
    assert host.wait(outer).status == "CANCELLED"
    assert host.see(inner).status == "RUNNING"
