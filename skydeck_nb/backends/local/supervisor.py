"""What looks after one job from its start to its end.

Decides whether the job starts, what of it is written down, when it is told to
end, and that nothing of it is left. Refuses to know decks and how a job is
shown. Standard library only; run by ``__main__``, detached.

*supervise* starts the command. The experiment's lock comes first, then the
verdict, then the command, which inherits the locks: held is alive. As a child
subreaper it is the parent of whatever leaves the command's group. *watch* takes
the place of a supervisor that was killed: it starts nothing and cannot know an
exit code, but it hears a cancel, holds the time limit, and tidies up.

An exit by a signal is recorded as a shell shows it: 128 + its number. A SIGTERM
to a supervisor without a cancel request (a shutdown of the host) ends its job
as FAILED.
"""

# A supervisor does without pathlib, to start sooner.
# ruff: noqa: PTH112

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from skydeck_nb.backends.local import locks, processes
from skydeck_nb.backends.local.queue import dispatch
from skydeck_nb.backends.local.spool import Spool, last_line, read_json, write

_GLANCE = 0.5
"""Seconds between looks for a cancel whose signal was lost: a tenth of a human's patience, two wakes a second."""

_BEAT, _SLOWEST = 0.02, 0.25
"""Seconds between looks at what is being ended: the first is short as most end at once, the last spares the CPU."""

_PATIENCE = 1.0
"""Seconds for the experiment's lock: the kernel frees the locks of a process that was killed one after the other."""

_ORDERLY = 5.0
"""Seconds for another dispatcher's turn, which takes milliseconds."""

_SUBREAPER = 36
"""``PR_SET_CHILD_SUBREAPER``."""


def _become_subreaper() -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Supervisor:
    """One job, once."""

    def __init__(self, spool: Spool, job_id: int, assigned: dict[str, Any], handed: list[int]) -> None:
        self.spool = spool
        self.id = job_id
        self.order: dict[str, Any] = read_json(spool.job(job_id, "order.json"))
        self.attempt: str = self.order["attempt_id"]
        self.log = spool.output(self.order)
        self.handed = handed
        self.state: dict[str, Any] = {"supervisor": processes.mark(os.getpid()), "command": None, "started_at": None}
        self.state |= {"phase": "starting", **assigned}
        self.main: int | None = None
        self.result: int | None = None
        self.signal: int | None = None
        self.ended_at: float | None = None
        self.stop: tuple[str, str] | None = None
        self.asked = False
        self.terminated = False
        self.started: float | None = None
        self.ear, mouth = os.pipe()
        os.set_blocking(self.ear, False)
        os.set_blocking(mouth, False)
        signal.set_wakeup_fd(mouth)
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)  # only wakes; a handler, unlike SIG_IGN, is not inherited
        signal.signal(signal.SIGTERM, self._told_to_end)

    def _told_to_end(self, *_: object) -> None:
        self.terminated = True

    def wait(self, seconds: float) -> None:
        """Until a signal comes, or so long."""
        if select.select([self.ear], [], [], max(seconds, 0))[0]:
            os.read(self.ear, 4096)

    # -- From the start ... -------------------------------------------------------

    def run(self) -> None:
        path = self.spool.path("experiments", f"{self.order['deck_id']}-{self.order['experiment_id']}")
        mine = locks.opened(path)
        alone = locks.take_within(mine, _PATIENCE)
        environment: dict[str, str] | None = read_json(self.spool.job(self.id, "environ.json"))
        if not self.spool.decide(self.id, "started" if alone else "refused"):
            self.handed.append(mine)
            self.free()  # cancelled before it began: whoever did that tidies up the rest
            return
        assert environment is not None, "it goes with the verdict"
        self.spool.begun(self.id, self.order["priority"])
        if alone:
            self.handed.append(mine)
            self.execute(environment)
        else:
            locks.close(mine)
            self.finish("FAILED_PRECHECKS", "ExperimentLocked", "Another job of this experiment is still alive here.")

    def execute(self, environment: dict[str, str]) -> None:
        """Set up, then the command; each to its end."""
        _become_subreaper()
        if self.state["gpus"]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.state["gpus"])
        self.spool.folder(self.order["run_dir"])
        self.spool.folder(self.order["checkpoint_dir"])
        self.record()
        if (setup := self.order["setup"]) is not None:
            self.record(phase="setup")
            if not self.start(["bash", "-c", setup], environment, "FAILED_SETUP"):
                return
            self.look_after()
            if self.stop is not None or self.result != 0:
                self.conclude("FAILED_SETUP", "SetupFailed")
                return
        if self.must_stop():
            self.result = self.signal = self.ended_at = None
            self.conclude("FAILED", "")
            return
        if self.start(self.order["argv"], environment, "FAILED"):
            self.look_after()
            self.conclude("FAILED", "CommandFailed")

    def start(self, argv: list[str], environment: dict[str, str], failed: str) -> bool:
        """Start a command in a session of its own; false when it cannot be, which ends the job."""
        self.main = self.result = self.signal = self.ended_at = None
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.order["cwd"],
                env=environment,
                start_new_session=True,
                pass_fds=self.handed,
            )
        except (OSError, ValueError) as error:
            self.finish(*self.why_not(argv[0], failed, error))
            return False
        finally:
            os.close(log)
        child.returncode = 0  # reaped here, like all that become our children
        self.main = child.pid
        if failed == "FAILED":
            self.started = time.monotonic()
            self.record(phase="running", command=processes.mark(child.pid), started_at=time.time())
        else:
            self.record(command=processes.mark(child.pid))
        return True

    def why_not(self, command: str, failed: str, error: OSError | ValueError) -> tuple[str, str, str, int | None]:
        cwd = self.order["cwd"]
        if not os.path.isdir(cwd):
            return "FAILED_PRECHECKS", "WorkdirMissing", f"The working folder {cwd} is gone.", None
        if isinstance(error, FileNotFoundError):
            return failed, "CommandNotFound", f"command not found: {command}", 127
        if isinstance(error, PermissionError):
            return failed, "CommandNotExecutable", f"not executable: {command}", 126
        if isinstance(error, OSError) and error.errno == errno.E2BIG:
            return "FAILED_PRECHECKS", "CommandTooLong", "Command and environment are too long for this host.", None
        return "FAILED_PRECHECKS", "CommandNotStarted", f"The command cannot be started: {error}", None

    # -- ... through its life ... -------------------------------------------------

    def record(self, **news: Any) -> None:
        self.state |= news
        write(self.spool.job(self.id, "start.json"), json.dumps(self.state), sync=False)
        self.spool.touch()

    def must_stop(self) -> bool:
        """Whether somebody or something wants the job to end; remembers the first reason."""
        if self.spool.cancel_asked(self.id):
            self.asked = True
            self.stop = self.stop or ("", "")
        if self.stop is None and self.left() <= 0:
            limit = self.order["max_seconds"]
            self.stop = ("LimitReached", f"Stopped after its limit of {limit:g} s.")
        if self.stop is None and self.terminated:
            self.stop = ("SupervisorTerminated", "Its supervisor was told to end, as at a shutdown of the host.")
        return self.stop is not None

    def left(self) -> float:
        """Seconds until the time limit."""
        limit = self.order["max_seconds"]
        return float("inf") if limit is None or self.started is None else self.started + limit - time.monotonic()

    def reap(self) -> bool:
        """Take in who has ended; whether a child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.main:
                self.main, self.ended_at = None, time.time()
                code = os.waitstatus_to_exitcode(status)
                self.result, self.signal = (code, None) if code >= 0 else (128 - code, -code)
                if self.spool.cancel_asked(self.id):
                    self.asked = True

    def look_after(self) -> None:
        """Until nothing of the command is left: it, what it started, and what left its group."""
        while self.reap() and self.main is not None and not self.must_stop():
            self.wait(min(_GLANCE, self.left()))
        self.end_all(self.order["grace"])

    def end_all(self, grace: float) -> None:
        """Until no child is left, or, twice running, none but other supervisors that a deck inside the job began."""
        ending, only_others = Ending(grace), 0
        while self.reap() and only_others < 2:
            ours, others = processes.below(os.getpid(), self.attempt, self.main)
            only_others = only_others + 1 if others and not ours and self.main is None else 0
            ending.press(ours, self.main)
            self.wait(ending.beat())

    # -- ... to its end -----------------------------------------------------------

    def conclude(self, failed: str, reason: str) -> None:
        """Give the status: cancelled only where that was asked before the end."""
        code = self.result
        if self.asked:
            self.finish("CANCELLED", "", "", code)
        elif self.stop is not None:
            self.finish("FAILED", *self.stop, code)
        elif code == 0:
            self.finish("SUCCEEDED", "", "", 0)
        else:
            self.finish(failed, *explain(reason, code, self.signal, self.log), code)

    def finish(self, status: str, reason: str, message: str, code: int | None = None) -> None:
        """Record the end, then free the locks: who sees them free finds the record."""
        record: dict[str, Any] = {"status": status, "reason": reason, "message": message, "exit_code": code}
        record["signal"] = self.signal
        self.spool.end(self.id, {**record, "at": self.ended_at or time.time()})
        self.free()
        self.spool.ended(self.id, self.order["deck_id"])

    def free(self) -> None:
        """The job's own lock last: a job that looks ended has freed all that another may need."""
        while self.handed:
            locks.release(self.handed.pop())

    def give_up(self, error: BaseException) -> None:
        """After an error of ours: leave nothing running, and say so."""
        self.end_all(0.0)
        message = f"Its supervisor failed: {type(error).__name__}: {error}"
        self.finish("FAILED", "SupervisorFailed", message, self.result)


class Ending:
    """TERM once to each, and CONT so that a stopped one hears it; KILL to all when the grace is over."""

    def __init__(self, grace: float) -> None:
        self.kill_at = time.monotonic() + grace
        self.told: set[tuple[int, int]] = set()
        self.pause = _BEAT

    def press(self, ours: list[processes.Process], main: int | None) -> None:
        """``main`` is the command while it is our child and not reaped: its group's number is nobody else's."""
        last = time.monotonic() >= self.kill_at
        if sys.platform != "linux" and main is not None and (last or not self.told):
            self.told.add((main, 0))
            os.killpg(main, signal.SIGKILL if last else signal.SIGTERM)
        for process in ours:
            key = (process.pid, process.start)
            if last:
                processes.send(process, signal.SIGKILL)
            elif key not in self.told:
                self.told.add(key)
                processes.send(process, signal.SIGTERM)
                processes.send(process, signal.SIGCONT)

    def beat(self) -> float:
        """Seconds until the next look; it never sleeps over the end of the grace."""
        pause, self.pause = self.pause, min(self.pause * 1.5, _SLOWEST)
        left = self.kill_at - time.monotonic()
        return min(pause, left) if left > 0 else pause


def explain(reason: str, code: int | None, number: int | None, log: str) -> tuple[str, str]:
    """The reason and the sentence for a command that failed: the last line that it wrote."""
    line = last_line(log)
    if number is not None:
        name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
        hint = "; the host may have run out of memory" if number == signal.SIGKILL else ""
        return "KilledBySignal", f"Killed by {name}{hint}." + (f" Its last line: {line}" if line else "")
    return reason, line or f"It ended with exit code {code} and wrote nothing."


def watch(spool: Spool, job_id: int) -> None:
    """Take the place of a killed supervisor until the command, and all it started, has ended."""
    order = read_json(spool.job(job_id, "order.json"))
    state = read_json(spool.job(job_id, "start.json")) or {}
    command = state.get("command")
    same_boot = state.get("supervisor", {}).get("boot") == processes.boot()
    limit = order["max_seconds"] if state.get("started_at") else None
    until = float("inf") if limit is None else state["started_at"] + limit
    reason, message = lost(same_boot)
    asked = False
    while locks.held(spool.job(job_id, "lock")) and time.time() < until and not asked:
        asked = spool.cancel_asked(job_id)
        if not asked:
            time.sleep(_BEAT if time.time() + _GLANCE > until else _GLANCE / 2)
    asked = asked or spool.cancel_asked(job_id)
    if not asked and time.time() >= until:
        reason, message = "LimitReached", f"Stopped after its limit of {limit:g} s."
    ending = Ending(order["grace"])
    while (ours := left(spool, job_id, order, command)) or locks.held(spool.job(job_id, "lock")):
        ending.press(ours, None)
        time.sleep(ending.beat())
    if asked:
        reason, message = "", ""
    record = {"status": "CANCELLED" if asked else "FAILED", "reason": reason, "message": message, "exit_code": None}
    spool.end(job_id, {**record, "at": time.time()})
    spool.begun(job_id, order["priority"])
    spool.ended(job_id, order["deck_id"])


def left(
    spool: Spool, job_id: int, order: dict[str, Any], command: dict[str, int | str] | None
) -> list[processes.Process]:
    """What still runs of a job whose supervisor was killed."""
    return processes.left_of(order["attempt_id"], command, spool.job(job_id, "lock"), spool.path("dispatch.lock"))


def lost(same_boot: bool) -> tuple[str, str]:
    """What is said of a job whose supervisor is gone and left no record of the end."""
    if same_boot:
        return "SupervisorLost", "Its supervisor was killed; whether the command finished is not known."
    return "HostRestarted", "The host was restarted while it ran."


def main(arguments: list[str]) -> None:
    mode, root, job, slot, gpus, *handed = arguments
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    spool, job_id = Spool(root), int(job)
    post = locks.opened(spool.job(job_id, "supervisor.lock"))
    if not locks.take(post):
        return  # somebody looks after it already
    if mode == "watch":
        if spool.verdict(job_id) is not None and read_json(spool.job(job_id, "end.json")) is None:
            watch(spool, job_id)
    else:
        fds = [int(fd) for fd in handed]
        supervisor = Supervisor(spool, job_id, {"slot": int(slot), "gpus": gpus.split(",") if gpus else []}, fds)
        try:
            supervisor.run()
        except BaseException as error:  # noqa: BLE001 - nothing may be left running
            sys.excepthook(*sys.exc_info())
            supervisor.give_up(error)
    locks.release(post)
    launchers: list[subprocess.Popen[bytes]] = []
    dispatch(spool, launchers, patience=_ORDERLY)
    for launcher in launchers:
        launcher.wait()
