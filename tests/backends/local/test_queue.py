"""Slots, GPUs, and who is next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skydeck_nb.backends.base import Query
from skydeck_nb.backends.local import LocalBackend, locks, resources
from skydeck_nb.models import Spec
from tests.backends.local.host import DEADLINE, Host, opened, order, until


def test_what_finds_no_slot_waits_with_the_reason_and_no_process(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=2)
    ids = [host.run("sleep", "600") for _ in range(5)]
    waiting = [host.see(job_id) for job_id in ids[2:]]
    assert {(job.status, job.reason) for job in waiting} == {("PENDING", "WaitingForSlot")}
    assert [job.message for job in waiting] == [
        "Waits for one of 2 slots; it is the next.",
        "Waits for one of 2 slots; 1 job is ahead of it.",
        "Waits for one of 2 slots; 2 jobs are ahead of it.",
    ]
    capacity = host.backend.capacity()
    assert (capacity.slots, capacity.slots_free, capacity.gpus, capacity.gpus_free) == (2, 0, 0, 0)
    assert not any((host.root / "jobs" / str(job_id) / "spawned").exists() for job_id in ids[2:])
    host.cancel(ids[0])
    host.wait(ids[2], "RUNNING")
    assert host.see(ids[3]).message == "Waits for one of 2 slots; it is the next."


def test_the_order_is_priority_then_age(make_host: Callable[..., Host], tmp_path: Path) -> None:
    host = make_host(slots=1)
    first, _ = host.stay()
    log = tmp_path / "order"
    jobs = {name: host.run("sh", "-c", f"echo {name} >> {log}", priority=priority) for name, priority in RANKED}
    host.cancel(first)
    for job_id in jobs.values():
        host.wait(job_id)
    assert log.read_text().split() == ["urgent", "high", "a", "b", "low", "least"]


RANKED = (("low", -5), ("a", 0), ("least", -(10**12)), ("high", 5), ("b", 0), ("urgent", 10**12))


def test_a_pending_job_is_cancelled_at_once_and_never_starts(make_host: Callable[..., Host], tmp_path: Path) -> None:
    host = make_host(slots=1)
    first, _ = host.stay()
    ran = tmp_path / "ran"
    second = host.run("touch", str(ran))
    host.cancel(second)
    job = host.see(second)
    assert (job.status, job.exit_code, job.started_at) == ("CANCELLED", None, None)
    assert job.ended_at is not None
    host.cancel(first)
    host.wait(first)
    assert host.wait(host.run("true")).status == "SUCCEEDED"
    assert not ran.exists()


@pytest.mark.kill
def test_200_jobs_on_2_slots_end_with_nobody_but_supervisors_alive(
    make_host: Callable[..., Host], tmp_path: Path
) -> None:
    """A kernel launches them and is killed; nobody looks until the last has ended."""
    host = make_host(slots=2)
    program = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from skydeck_nb.backends.local import LocalBackend\n"
        "from tests.backends.local.host import order, opened\n"
        "backend = LocalBackend(Path(sys.argv[2]), slots=2, gpus=0)\n"
        "for n in range(200):\n"
        "    backend.launch(order('sh', '-c', 'echo $$ >> ' + sys.argv[3]), opened, deadline=10)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    repository, done = str(Path(__file__).resolve().parents[3]), tmp_path / "done"
    killed = subprocess.run([sys.executable, "-c", program, repository, str(host.root), str(done)], check=False)
    assert killed.returncode == -signal.SIGKILL
    until(lambda: not host.spool.live(), "the end of 200 jobs", patience=100)
    assert len(done.read_text().split()) == 200
    jobs = host.observe(*range(1, 201)).jobs
    assert [job.status for job in jobs] == ["SUCCEEDED"] * 200
    spans = [(job.started_at, job.ended_at) for job in jobs if job.started_at and job.ended_at]
    assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) <= 2


def test_500_starts_and_stops_at_once_leave_nothing_alive(make_host: Callable[..., Host], tmp_path: Path) -> None:
    host = make_host(slots=2)
    began = time.monotonic()
    ids = [host.run("sleep", "600") for _ in range(500)]
    host.cancel(*ids)
    assert time.monotonic() - began < 30
    listing = host.observe(*ids)
    assert [job.status for job in listing.jobs].count("CANCELLED") >= 498
    for job_id in ids[:10]:
        assert host.wait(job_id).status == "CANCELLED"
    until(lambda: not host.spool.live(), "an empty index")


def test_several_decks_share_slots_and_see_their_own(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=1)
    mine, _ = host.stay()
    other = LocalBackend(host.root, slots=1, gpus=0)
    wanted = order("sleep", "600", deck_id="zz9zz9")
    theirs = other.launch(wanted, opened, deadline=DEADLINE).job_id
    assert theirs is not None
    query = Query(deck_id="zz9zz9", discovery=True)
    (job,) = other.observe(query, deadline=DEADLINE).jobs
    assert (job.id, job.status, job.metadata["deck_id"]) == (theirs, "PENDING", "zz9zz9")
    assert [job.id for job in host.observe(discovery=True).jobs] == [mine]
    assert [job.id for job in host.observe(mine, theirs).jobs] == [mine, theirs], (
        "asked by its id, it is shown as theirs"
    )
    host.cancel(mine)
    until(lambda: other.observe(query, deadline=DEADLINE).jobs[0].status == "RUNNING", "their turn")
    other.close()


def test_one_live_job_an_experiment(host: Host, tmp_path: Path) -> None:
    first, _ = host.stay(experiment_id=7)
    ran = tmp_path / "ran"
    second = host.wait(host.run("touch", str(ran), experiment_id=7))
    assert (second.status, second.reason, second.exit_code) == ("FAILED_PRECHECKS", "ExperimentLocked", None)
    assert not ran.exists()
    elsewhere = order("true", experiment_id=7, deck_id="zz9zz9")
    assert host.wait(host.launch(elsewhere)).status == "SUCCEEDED", "another deck's experiment 7 is another one"
    host.cancel(first)
    host.wait(first)
    assert host.wait(host.run("true", experiment_id=7)).status == "SUCCEEDED", "at once: what looks ended is"


def test_an_end_that_is_seen_has_freed_the_experiment(host: Host) -> None:
    for _ in range(10):
        assert host.wait(host.run("true", experiment_id=7)).status == "SUCCEEDED"


# GPUs.


def cuda(host: Host, job_id: int) -> str:
    return str(until(lambda: host.log(job_id), "the log")).strip()


SHOW = ("sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]; sleep 600")


def test_gpus_are_exclusive_and_told(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=8, gpus=4)
    ids = [host.run(*SHOW, gpus=number) for number in (1, 2, 1)]
    told = [cuda(host, job_id).strip("[]").split(",") for job_id in ids]
    assert [len(gpus) for gpus in told] == [1, 2, 1]
    assert sorted(gpu for gpus in told for gpu in gpus) == ["0", "1", "2", "3"]
    late = host.run(*SHOW, gpus=2)
    job = host.see(late)
    assert (job.status, job.reason, job.gpus) == ("PENDING", "WaitingForGpu", 2)
    assert job.message == "Waits for 2 of 4 GPUs, of which 0 are free; it is the next."
    assert host.backend.capacity().gpus_free == 0
    host.cancel(ids[1])
    host.wait(late, "RUNNING")
    assert sorted(cuda(host, late).strip("[]").split(",")) == sorted(told[1])


def test_who_asks_for_no_gpu_sees_none(make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    host = make_host(gpus=1)
    assert cuda(host, host.run(*SHOW)) == "[]"
    assert cuda(host, host.run(*SHOW, env={"CUDA_VISIBLE_DEVICES": "0"})) == "[0]", "unless the spec says so itself"


def test_nobody_passes_a_big_job(make_host: Callable[..., Host], tmp_path: Path) -> None:
    host = make_host(slots=8, gpus=2)
    small, _ = host.stay(gpus=1)
    big = host.run("sleep", "600", gpus=2)
    later = host.run("true", gpus=1)
    for job_id in (big, later):
        assert host.see(job_id).reason == "WaitingForGpu"
    host.cancel(small)
    host.wait(big, "RUNNING")
    host.cancel(big)
    assert host.wait(later).status == "SUCCEEDED"


def test_a_host_that_lost_gpus_lets_the_others_pass(make_host: Callable[..., Host]) -> None:
    host = make_host(slots=2, gpus=4)
    holder, _ = host.stay(gpus=3)
    big = host.run("true", gpus=4)
    resources.set_capacity(host.spool, 2, 1)
    host.cancel(holder)
    assert host.wait(host.run("true", gpus=1)).status == "SUCCEEDED"
    job = host.see(big)
    assert (job.status, job.reason) == ("PENDING", "WaitingForGpu")
    assert "this host has 1 now" in job.message


def test_gpus_are_what_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'\n"
        "echo 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    backend = LocalBackend(tmp_path / "a")
    assert backend.capacity().gpus == 2
    assert backend.capacity().slots == os.cpu_count()
    backend.check(Spec(command=("true",), accelerators="H100:2"))
    with pytest.raises(Exception, match="this host has NVIDIA H100 80GB HBM3; use gpus=1"):
        backend.check(Spec(command=("true",), accelerators="A100"))
    with pytest.raises(Exception, match="ask for at most 2"):
        backend.check(Spec(command=("true",), gpus=3))
    tool.unlink()
    assert LocalBackend(tmp_path / "a").capacity().gpus == 2, "asked once a boot"
    assert LocalBackend(tmp_path / "b").capacity().gpus == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert list(resources.found_gpus()) == []
    tool.write_text("#!/bin/sh\necho 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    assert resources.found_gpus() == {"1": "NVIDIA H100 80GB HBM3", "3": ""}


# Dispatchers that freeze.


def test_a_frozen_dispatcher_stops_nobody(host: Host) -> None:
    turn = locks.opened(host.spool.path("dispatch.lock"))
    assert locks.take(turn)
    assert host.wait(host.run("true")).status == "SUCCEEDED"
    locks.release(turn)


def test_a_stamp_moves_with_every_change_and_rests_otherwise(host: Host) -> None:
    stamps = [host.backend.stamp()]
    job_id, _ = host.stay()
    stamps.append(host.backend.stamp())
    host.observe(job_id, discovery=True)
    assert host.backend.stamp() == stamps[-1]
    host.cancel(job_id)
    stamps.append(host.backend.stamp())
    host.wait(job_id)
    stamps.append(host.backend.stamp())
    assert sorted(set(stamps)) == stamps


def test_what_ended_long_ago_is_shown_by_id_and_claim_and_not_discovered(host: Host) -> None:
    wanted = order("true")
    job_id = host.launch(wanted)
    host.wait(job_id)
    assert [job.id for job in host.observe(discovery=True).jobs] == [job_id]
    (period,) = (host.root / "ended" / wanted.deck_id).iterdir()
    period.rename(period.with_name("17"))
    again = Host(host.folder, **host.settings)
    assert again.observe(discovery=True).jobs == ()
    assert list((host.root / "ended" / wanted.deck_id).iterdir()) == [], "swept"
    assert [job.id for job in again.observe(job_id).jobs] == [job_id]
    assert [job.id for job in again.observe(claims=frozenset({wanted.claim})).jobs] == [job_id]
