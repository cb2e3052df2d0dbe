"""Supervisors, commands and hosts that die: nothing is taken for dead that lives, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.local import processes, queue
from skydeck_nb.backends.local.spool import Spool, read_json, write
from tests.backends.local.host import DEADLINE, Host, count, gone, opened, order, until


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(map(gone, pids)), f"the end of {pids}")


def test_both_killed_frees_everything_and_is_failed(host: Host) -> None:
    job_id, pid = host.stay(experiment_id=7)
    kill(host.supervisor(job_id), pid)
    assert host.held() == []
    job = host.see(job_id)
    assert (job.status, job.reason, job.exit_code) == ("FAILED", "SupervisorLost", None)
    assert job.ended_at is not None
    assert host.wait(host.run("true", experiment_id=7)).status == "SUCCEEDED", "the experiment's lock is free"


def test_a_command_whose_supervisor_was_killed_runs_on(host: Host, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job_id = host.run("sh", "-c", f"until test -e {go}; do sleep 0.02; done; echo done", experiment_id=7)
    pid = host.command(job_id)
    kill(host.supervisor(job_id))
    job = host.see(job_id)
    assert (job.status, job.reason) == ("RUNNING", "SupervisorLost")
    assert host.wait(host.run("true", experiment_id=7)).reason == "ExperimentLocked", "it is alive: no second one"
    go.touch()
    job = host.wait(job_id)
    assert (job.status, job.reason, job.exit_code) == ("FAILED", "SupervisorLost", None)
    assert gone(pid)
    assert host.log(job_id) == "done\n"


def test_a_command_whose_supervisor_was_killed_is_cancelled(host: Host) -> None:
    job_id, pid = host.stay()
    kill(host.supervisor(job_id))
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"
    assert gone(pid)


def test_a_frozen_command_whose_supervisor_was_killed_is_cancelled(host: Host) -> None:
    job_id, pid = host.stay()
    os.kill(pid, signal.SIGSTOP)
    kill(host.supervisor(job_id))
    assert host.see(job_id).status == "RUNNING"
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"
    assert gone(pid)


def test_what_ignores_term_is_killed_by_who_takes_the_supervisor_s_place(make_host: Callable[..., Host]) -> None:
    host = make_host(grace=0.3)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"
    job_id = host.launch(host.python(program))
    until(lambda: "ready" in host.log(job_id), "the command")
    kill(host.supervisor(job_id))
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"


def test_a_limit_holds_without_the_supervisor(host: Host) -> None:
    job_id, pid = host.stay(max_seconds=2.0)
    kill(host.supervisor(job_id))
    job = host.wait(job_id)
    assert (job.status, job.reason) == ("FAILED", "LimitReached")
    assert gone(pid)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        if sys.argv[2] == "bare":
            os.execve(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)"], {})
        if sys.argv[2] == "closed":
            os.closerange(3, 100)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["marked", "bare", "closed"])
@pytest.mark.parametrize("dies", ["supervisor", "both"])
def test_a_lost_job_leaves_no_daemon(host: Host, kind: str, dies: str) -> None:
    """Known by its environment or, where it has none, by the lock that it shares."""
    path = host.pid_file()
    job_id = host.launch(host.python(DAEMON, str(path), kind))
    daemon = int(until(lambda: path.exists() and path.read_text(), "the PID"))
    command = host.command(job_id)
    kill(host.supervisor(job_id), *([command] if dies == "both" else []))
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"
    assert gone(daemon)
    assert gone(command)


def test_a_lost_job_with_a_daemon_that_shares_no_lock_is_not_over_before_it_is_gone(host: Host) -> None:
    path = host.pid_file()
    job_id = host.launch(host.python(DAEMON, str(path), "closed"))
    daemon = int(until(lambda: path.exists() and path.read_text(), "the PID"))
    kill(host.supervisor(job_id), host.command(job_id))
    job = host.wait(job_id)
    assert (job.status, job.reason) == ("FAILED", "SupervisorLost")
    assert gone(daemon)


def test_the_queue_goes_on_after_a_death(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    first, pid = host.stay()
    second = host.run("true")
    kill(host.supervisor(first), pid)
    assert host.wait(second).status == "SUCCEEDED"
    assert host.see(first).reason == "SupervisorLost"


# PIDs and boots.


def test_a_later_process_of_the_same_pid_gets_no_signal(host: Host) -> None:
    """The record names PIDs that are somebody else's by now."""
    job_id, pid = host.stay()
    kill(host.supervisor(job_id), pid)
    bystander = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    path = host.spool.job(job_id, "start.json")
    state = host.state(job_id)
    for who in ("supervisor", "command"):
        state[who]["pid"] = bystander
    write(path, json.dumps(state))
    host.cancel(job_id)
    assert host.wait(job_id).status == "CANCELLED"
    assert os.waitpid(bystander, os.WNOHANG) == (0, 0), "it lives"
    os.kill(bystander, signal.SIGKILL)
    os.waitpid(bystander, 0)


def test_a_zombie_and_a_pid_of_another_start_get_no_signal() -> None:
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    process = processes.look(pid)
    assert process is not None
    assert not processes.send(process._replace(start=process.start - 1), signal.SIGKILL)
    assert processes.send(process, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert processes.look(pid) is None, "a zombie is nobody"
    assert not processes.send(process, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not processes.send(process, signal.SIGKILL)


def test_after_a_reboot_no_job_runs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks are gone with the kernel that had them; the PIDs of the record belong to somebody else."""
    job_id, pid = host.stay()
    kill(host.supervisor(job_id), pid)
    monkeypatch.setattr(processes, "boot", lambda: "another-boot")
    job = host.see(job_id)
    assert (job.status, job.reason, job.exit_code) == ("FAILED", "HostRestarted", None)
    assert host.observe(discovery=True).jobs == (job,)


def test_what_waited_before_a_reboot_starts_after_it(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    first, pid = host.stay()
    second = host.run("true")
    kill(host.supervisor(first), pid)
    again = Host(host.folder, **host.settings)
    assert again.wait(second).status == "SUCCEEDED"
    again.backend.close()


# A supervisor killed at every one of its steps.

DYING = """
import os, runpy, sys
root = sys.argv[2]
if os.path.exists(root + "/die-at"):
    step = int(open(root + "/die-at").read())
    os.rename(root + "/die-at", root + "/died-at")
    import atexit, importlib.util
    spec = importlib.util.spec_from_file_location("steps", {steps!r})
    steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(steps)
    entered = steps.Steps(steps.die_at(step))
    real_fork = os.fork
    def fork():
        pid = real_fork()
        if not pid:
            entered.__enter__()
        return pid
    os.fork = fork
    atexit.register(lambda: open(root + "/lived", "w").close())
sys.argv[0] = {main!r}
runpy.run_path({main!r}, run_name="__main__")
"""


@pytest.mark.kill
def test_a_supervisor_killed_at_every_step_never_runs_a_job_twice_and_never_stalls_the_queue(
    make_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(slots=1, grace=1.0)
    main = tmp_path / "dying.py"
    steps = str(Path(__file__).with_name("steps.py"))
    main.write_text(DYING.format(steps=steps, main=queue._MAIN))
    monkeypatch.setattr(queue, "_MAIN", str(main))
    told, lived = host.root / "die-at", host.root / "lived"
    statuses: list[tuple[str, str]] = []
    step = 0
    while not lived.exists():
        step += 1
        assert step < 1000
        told.write_text(str(step))
        ran = tmp_path / f"ran-{step}"
        job_id = host.run("sh", "-c", f"echo x >> {ran}", experiment_id=1)
        job = host.wait(job_id)
        assert not told.exists(), "the supervisor was the one that dies"
        statuses.append((job.status, job.reason))
        (times,) = count([ran])
        assert times == 1 or (times == 0 and job.reason == "SupervisorLost"), (step, job)
        until(lambda: not host.running(), "the end of its processes")
        assert host.held() == []
        assert not (host.root / "jobs" / str(job_id) / "environ.json").exists()
    assert step > 50
    assert set(statuses) == {("SUCCEEDED", ""), ("FAILED", "SupervisorLost")}
    assert statuses[-1] == ("SUCCEEDED", "")


MEDDLING = """
import importlib.util, os, runpy, sys
spec = importlib.util.spec_from_file_location("steps", {steps!r})
steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(steps)
def meddle(count):
    if not hasattr(sys.modules.get("skydeck_nb.backends.local.supervisor"), "main"):
        return
    from skydeck_nb.backends.local import queue, spool
    meddler = spool.Spool(sys.argv[2])
    queue.dispatch(meddler, [], patience=0)
    for job_id in meddler.live():
        meddler.counts(job_id)
    open(sys.argv[2] + "/meddled", "a").write("x")
def setsid(real=os.setsid):
    real()
    steps.Steps(meddle).__enter__()
os.setsid = setsid
sys.argv[0] = {main!r}
runpy.run_path({main!r}, run_name="__main__")
"""


def test_others_that_dispatch_at_every_step_of_a_start_do_no_harm(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path / "meddling.py"
    main.write_text(MEDDLING.format(steps=str(Path(__file__).with_name("steps.py")), main=queue._MAIN))
    monkeypatch.setattr(queue, "_MAIN", str(main))
    job_id = host.run("sh", "-c", "echo $SKYDECK_ATTEMPT $TEXT", env={"TEXT": "told"})
    job = host.wait(job_id)
    assert job.status == "SUCCEEDED"
    assert host.log(job_id).split() == [job.metadata["attempt_id"], "told"]
    assert len((host.root / "meddled").read_text()) > 20


def test_a_supervisor_that_can_never_start_is_given_up(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path / "broken.py"
    main.write_text("raise SystemExit('no such library')")
    monkeypatch.setattr(queue, "_MAIN", str(main))
    job = host.wait(host.run("true"))
    assert (job.status, job.reason) == ("FAILED_PRECHECKS", "SupervisorFailed")
    assert job.message.endswith("no such library")


def test_an_interpreter_that_is_gone_is_the_reason_of_those_that_wait(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/no/such/python")
        job_id = host.run("true")
        job = host.see(job_id)
        assert (job.status, job.reason) == ("PENDING", "CannotStart")
        assert "/no/such/python" in job.message
        assert host.held() == []
    assert host.wait(job_id).status == "SUCCEEDED"


def test_a_supervisor_that_fails_leaves_nothing_and_says_so(host: Host) -> None:
    """Its run folder cannot be made: somebody put a file there."""
    (host.root / "runs").rmdir()
    (host.root / "runs").write_text("")
    job = host.wait(host.run("true"))
    assert (job.status, job.reason) == ("FAILED", "SupervisorFailed")
    assert "runs" in job.message
    (host.root / "runs").unlink()


def test_a_record_that_cannot_be_read_is_shown_and_the_others_go_on(host: Host) -> None:
    job_id, _ = host.stay()
    path = host.root / "jobs" / str(job_id) / "start.json"
    good = path.read_text()
    path.write_text("{")
    other = host.run("true")
    jobs = {job.id: job for job in host.observe(other, discovery=True).jobs}
    assert (jobs[job_id].status, jobs[job_id].reason) == ("UNKNOWN", "Damaged")
    assert str(path.parent) in jobs[job_id].message
    assert host.wait(other).status == "SUCCEEDED"
    path.write_text(good)
    assert host.see(job_id).status == "RUNNING"


# Verdicts.


def _verdict(spool: Spool, job_id: int) -> Any:
    return (read_json(spool.job(job_id, "verdict")) or {}).get("word")


def test_a_cancel_at_any_moment_of_the_start_ends_it(host: Host) -> None:
    """The canceller and the supervisor race for the verdict; either way nothing runs in the end."""
    words = set()
    for wait in range(12):
        wanted = order("sleep", "600")
        job_id = host.backend.launch(wanted, opened, deadline=DEADLINE).job_id
        assert job_id is not None
        if wait > 5:
            until(partial(_verdict, host.spool, job_id), "the verdict")
        host.cancel(job_id)
        assert host.wait(job_id).status == "CANCELLED"
        words.add(_verdict(host.spool, job_id))
    assert words == {"cancelled", "started"}
    until(lambda: not host.running(), "the end of their processes")
