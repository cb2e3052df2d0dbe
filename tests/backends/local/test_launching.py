"""A launch makes one job or none, whoever dies or decides in between."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.base import Order, Query
from skydeck_nb.backends.local import LocalBackend, resources
from skydeck_nb.errors import BackendError, InvalidCommand, InvalidSetting, LaunchRejected
from skydeck_nb.models import Spec
from tests.backends.local.host import DEADLINE, Host, count, opened, order, until
from tests.backends.local.steps import Steps, die_at


def launched(backend: LocalBackend, wanted: Order) -> int | None:
    """The job of a launch, or ``None`` where it was refused."""
    with contextlib.suppress(LaunchRejected):
        return backend.launch(wanted, opened, deadline=DEADLINE).job_id
    return None


def test_an_attempt_launched_again_is_the_same_job(host: Host) -> None:
    wanted = order("true")
    first = host.launch(wanted)
    assert host.launch(wanted) == first
    host.wait(first)
    assert host.launch(wanted) == first
    assert len(list((host.root / "jobs").iterdir())) == 1


def test_an_attempt_of_another_claim_is_told_so(host: Host) -> None:
    wanted = order("true")
    host.launch(wanted)
    with pytest.raises(LaunchRejected, match="which is exp-") as caught:
        host.launch(order("true", attempt_id=wanted.attempt_id))
    assert caught.value.reason == "AttemptTaken"


def test_ids_grow_and_are_never_given_twice(host: Host) -> None:
    ids = [host.run("true") for _ in range(3)]

    def gate() -> None:
        if (host.root / "jobs" / str(max(ids) + 1)).exists():
            raise TimeoutError

    with pytest.raises(TimeoutError):
        host.backend.launch(order("true"), gate, deadline=DEADLINE)
    again = Host(host.folder, **host.settings)
    ids.append(again.run("true"))
    assert ids == [1, 2, 3, 5]
    again.empty()


def test_a_gate_that_closes_halfway_leaves_nothing(host: Host) -> None:
    calls = 0

    def gate() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise TimeoutError

    wanted = order("true")
    with pytest.raises(TimeoutError):
        host.backend.launch(wanted, gate, deadline=DEADLINE)
    assert calls == 2
    assert host.spool.live() == host.spool.pending() == []
    assert list((host.root / "jobs" / "1").iterdir()) == []
    assert host.backend.resolve(wanted.claim, wanted.attempt_id, None, deadline=DEADLINE).never


def test_a_given_up_attempt_makes_no_job_for_ever(host: Host) -> None:
    wanted = order("true")
    assert host.backend.resolve(wanted.claim, wanted.attempt_id, None, deadline=DEADLINE).never
    with pytest.raises(LaunchRejected):
        host.launch(wanted)
    again = Host(host.folder, **host.settings)
    assert again.backend.resolve(wanted.claim, wanted.attempt_id, None, deadline=DEADLINE).never
    assert again.observe(claims=frozenset({wanted.claim})).jobs == ()


def test_a_disk_that_takes_nothing_is_said_and_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(LaunchRejected, match="No space left on device") as caught:
            host.run("true")
    assert caught.value.retryable
    assert host.spool.live() == []


# Interleavings: at every step of a launch, somebody else does something.


def every_step(host: Host, act: Callable[[Order], None], check: Callable[[Order, int | None], None]) -> int:
    """Launch again and again, ``act`` before the first, second, … call; how many there are."""
    step = 0
    while True:
        step += 1
        wanted = order("true")
        reached = False

        def before(number: int, wanted: Order = wanted, at: int = step) -> None:
            nonlocal reached
            if number == at:
                reached = True
                act(wanted)

        with Steps(before):
            job_id = launched(host.backend, wanted)
        if not reached:
            return step
        check(wanted, job_id)


def test_resolve_and_launch_agree_at_every_step(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    host.stay()
    other = LocalBackend(host.root, slots=1, gpus=0)
    said: dict[str, int | None] = {}

    def act(wanted: Order) -> None:
        found = other.resolve(wanted.claim, wanted.attempt_id, None, deadline=DEADLINE)
        assert found.never == (found.job_id is None)
        said[wanted.attempt_id] = found.job_id

    def check(wanted: Order, job_id: int | None) -> None:
        assert said[wanted.attempt_id] == job_id
        assert len(host.observe(claims=frozenset({wanted.claim})).jobs) == (job_id is not None)

    assert every_step(host, act, check) > 20
    assert None in said.values()
    assert set(said.values()) > {None}
    other.close()


def test_the_same_attempt_launched_within_its_launch_is_one_job(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    host.stay()
    other = LocalBackend(host.root, slots=1, gpus=0)
    said: dict[str, int | None] = {}

    def act(wanted: Order) -> None:
        said[wanted.attempt_id] = launched(other, wanted)

    def check(wanted: Order, job_id: int | None) -> None:
        assert job_id is not None
        assert said[wanted.attempt_id] == job_id

    every_step(host, act, check)
    listing = host.observe(discovery=True)
    assert len({job.name for job in listing.jobs}) == len(listing.jobs)
    other.close()


def test_a_look_at_every_step_shows_the_job_or_nothing_and_harms_it_never(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    host.stay()
    other = LocalBackend(host.root, slots=1, gpus=0)

    def act(wanted: Order) -> None:
        other.observe(Query(deck_id=wanted.deck_id, discovery=True), deadline=DEADLINE)

    def check(wanted: Order, job_id: int | None) -> None:
        (job,) = host.observe(claims=frozenset({wanted.claim})).jobs
        assert (job.id, job.status) == (job_id, "PENDING")

    every_step(host, act, check)
    other.close()


# Deaths.


def _launch_and_die(root: str, wanted: Order, step: int) -> None:
    backend = LocalBackend(Path(root), slots=2, gpus=0, grace=1.0)
    with Steps(die_at(step)):
        backend.launch(wanted, opened, deadline=DEADLINE)
    os._exit(7)


@pytest.mark.kill
def test_killed_at_every_step_a_launch_is_one_job_or_none(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """Whoever comes after settles it, and each experiment runs exactly once in the end."""
    host = make_host(slots=2)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ran: list[Path] = []
    ends: list[int] = []
    settled: dict[int, int] = {}
    waits: list[int] = []
    while True:
        ran.append(tmp_path / f"ran-{len(ran)}")
        wanted = order("sh", "-c", f"echo x >> {ran[-1]}", experiment_id=len(ran))
        child = context.Process(target=_launch_and_die, args=(str(host.root), wanted, len(ran)))
        child.start()
        child.join(60)
        code = child.exitcode
        child.close()
        assert code in (-9, 7), code
        ends.append(code)
        found = host.backend.resolve(wanted.claim, wanted.attempt_id, None, deadline=DEADLINE)
        assert found.never == (found.job_id is None)
        if found.job_id is None:
            with pytest.raises(LaunchRejected):
                host.launch(wanted)
            job_id = host.run(*wanted.argv, experiment_id=wanted.experiment_id)
        else:
            job_id = host.launch(wanted)
            assert job_id == found.job_id
        settled[len(ran)] = job_id
        waits.append(job_id)
        if code == 7:
            break
    assert ends.count(-9) > 20
    for job_id in waits:
        assert host.wait(job_id).status == "SUCCEEDED", host.see(job_id)
    assert count(ran) == [1] * len(ran)
    assert len(set(waits)) == len(waits)
    until(lambda: host.observe(discovery=True).complete and not host.spool.live(), "an index without leftovers")


def _launch_when_told(root: str, wanted: Order, barrier: object, answers: object) -> None:
    backend = LocalBackend(Path(root), slots=4, gpus=0, grace=1.0)
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(backend.launch(wanted, opened, deadline=DEADLINE).job_id)  # type: ignore[attr-defined]


def test_two_processes_that_launch_the_same_attempt_make_one_job(
    make_host: Callable[..., Host], tmp_path: Path
) -> None:
    host = make_host(slots=4)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ran = tmp_path / "ran"
    for _ in range(5):
        ran.unlink(missing_ok=True)
        wanted = order("sh", "-c", f"echo x >> {ran}")
        barrier, answers = context.Barrier(3), context.Queue()
        children = [
            context.Process(target=_launch_when_told, args=(str(host.root), wanted, barrier, answers)) for _ in range(3)
        ]
        for child in children:
            child.start()
        told = {answers.get(timeout=60) for _ in children}
        for child in children:
            child.join(60)
            child.close()
        answers.close()
        answers.join_thread()
        (job_id,) = told
        assert host.wait(job_id).status == "SUCCEEDED"
        assert count([ran]) == [1]


# What arrives, and what is refused.


HOSTILE = (
    "",
    'it\'s "q"',
    "$(touch /tmp/no) `id` $HOME",
    "a\nb\tc\r",
    "*?[!]{x,y}~#%\\;&&|<>",
    "世界 🚀",
    "\udcff",
    "x" * 100_000,
)


def test_hostile_arguments_and_variables_arrive_as_they_are(host: Host) -> None:
    program = "import sys, os, json; print(json.dumps([sys.argv[1:], os.environ['T']]))"
    job_id = host.launch(host.python(program, *HOSTILE, env={"T": "".join(HOSTILE)}))
    assert host.wait(job_id).status == "SUCCEEDED"
    assert json.loads(host.log(job_id)) == [list(HOSTILE), "".join(HOSTILE)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"argv": ("echo", "a\0b")}, "NUL"),
        ({"argv": ("echo", "\ud800")}, "half of a character pair"),
        ({"argv": ("echo", "x" * 200_000)}, "too long"),
        ({"argv": ("echo", *["x" * 100_000] * 40)}, "too long"),
        ({"argv": ("echo",), "env": {"A=B": "c"}}, "'A=B'"),
        ({"argv": ("echo",), "env": {"A": "x" * 200_000}}, "the variable A"),
        ({"argv": ("echo",), "nodes": 2}, "nodes=2"),
        ({"argv": ("echo",), "gpus": 1}, "this host has no GPU"),
        ({"argv": ("echo",), "spot": True}, "spot=True"),
        ({"argv": ("echo",), "infra": "aws"}, "infra='aws'"),
        ({"argv": ("echo",), "pool": "p"}, "pool='p'"),
        ({"argv": ("echo",), "resources": {"cpus": 8}}, "resources="),
        ({"argv": ("echo",), "file_mounts": {"/a": "s3://b"}}, "file_mounts="),
        ({"argv": ("echo",), "git_ref": "main"}, "git_ref='main'"),
    ],
)
def test_what_cannot_run_here_is_refused_by_name(host: Host, changes: dict[str, Any], words: str) -> None:
    argv = changes.pop("argv")
    wanted = order(*argv, **changes)
    with pytest.raises(InvalidCommand, match=words):
        host.backend.check(wanted.spec)
    with pytest.raises(LaunchRejected, match=words) as caught:
        host.launch(wanted)
    assert not caught.value.retryable
    assert host.spool.live() == []


def test_what_is_missing_now_holds_the_launch(host: Host, tmp_path: Path) -> None:
    def missing(**spec: object) -> str:
        found = host.backend.missing(Spec(command=("true",), **spec))  # type: ignore[arg-type]
        assert found is not None
        with pytest.raises(LaunchRejected) as caught:
            host.run("true", **spec)
        assert (caught.value.reason, str(caught.value), caught.value.retryable) == (*found, True)
        return found[0]

    assert missing(secrets=("NO_SUCH_SECRET",)) == "SecretMissing"
    assert missing(workdir=str(tmp_path / "nowhere")) == "WorkdirMissing"
    assert missing(interpreter=str(tmp_path / "python")) == "InterpreterMissing"
    assert host.backend.missing(Spec(command=("true",), interpreter=sys.executable, workdir="/tmp")) is None


def test_a_secret_reaches_the_command_and_stays_nowhere(
    make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(slots=1)
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-token")
    first, _ = host.stay()
    second = host.run("sh", "-c", 'test "$(echo $MY_TOKEN | wc -c)" = 13', secrets=("MY_TOKEN",))
    third = host.run("true", secrets=("MY_TOKEN",))
    told = {path.name for path in host.root.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()}
    assert told == {"environ.json"}, "while it waits: one file, removed at the start and at a cancel"
    host.cancel(third)
    host.cancel(first)
    assert host.wait(second).status == "SUCCEEDED"
    assert not [path for path in host.root.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def test_ids_that_no_folder_can_carry_are_refused(host: Host) -> None:
    with pytest.raises(LaunchRejected, match="no id"):
        host.run("true", attempt_id="../../etc")
    with pytest.raises(LaunchRejected, match="no id"):
        host.run("true", deck_id="a/b")
    assert host.observe(claims=frozenset({"x-../../etc", "", "-"})).jobs == ()


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    place = str(tmp_path / "a b").replace(" ", r"\040")
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:50 / {place} rw shared:1 - nfs4 server:/home rw\n")
    assert resources.network_file_system(tmp_path / "a b" / "c", mounts) == "nfs4"
    assert resources.network_file_system(tmp_path / "a", mounts) is None
    monkeypatch.setattr(resources, "network_file_system", lambda path: "nfs4")
    with pytest.raises(InvalidSetting, match="network file system"):
        LocalBackend(tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_a_folder_of_another_host_is_refused(host: Host) -> None:
    told = json.loads((host.root / "host.json").read_text())
    if not told["machine"]:
        pytest.skip("this host has no machine id")
    (host.root / "host.json").write_text(json.dumps({**told, "machine": "00000000", "host": "other"}))
    with pytest.raises(InvalidSetting, match="was made on the host other"):
        LocalBackend(host.root)


def test_the_identity_is_the_folder_s_and_stays(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert LocalBackend(host.root, slots=8, gpus=0).identity == host.backend.identity
    assert LocalBackend(tmp_path / "other").identity != host.backend.identity


def test_questions_about_nobody(host: Host) -> None:
    for ask in (lambda: host.log(99), lambda: host.backend.run_dir(99)):
        with pytest.raises(BackendError, match="no job 99"):
            ask()


@pytest.mark.parametrize("settings", [{"slots": 0}, {"gpus": -1}, {"grace": -1.0}])
def test_settings_without_a_meaning(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        LocalBackend(tmp_path / "local", **settings)  # type: ignore[arg-type]


def test_a_folder_open_to_others_is_reported_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    folder.chmod(0o755)
    assert "755" in LocalBackend(folder).describe()["warnings"][0]
    assert folder.stat().st_mode & 0o777 == 0o755
