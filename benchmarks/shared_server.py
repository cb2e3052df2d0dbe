"""(h) What a look at a shared SkyPilot server takes, beside ``sky jobs queue``, and its client of the kernel.

On a real server (``tests/sky/stack.py``) on which a team has 12,500 jobs, 200 of them alive,
and this deck 20. Needs root on Debian, as the stack does, and is measured only when it is
asked for by its letter.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.report import Line, milliseconds
from benchmarks.timing import Spent, Versus
from benchmarks.world import Worlds
from skydeck_nb.backends.base import Order, Query
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.models import Spec
from tests.sky.bigserver import strangers
from tests.sky.stack import Stack

JOBS, ALIVE = 12_500, 200
DEADLINE = 300.0

SKY = """
import json, requests, sky, time
from sky.server import rest
received = 0
send = rest._session.send
def counted(request, **how):
    global received
    answer = send(request, **how)
    received += len(answer.content)
    return answer
rest._session.send = counted
began = time.perf_counter()
jobs = sky.get(sky.jobs.queue_v2(refresh=False, all_users=True))[0]
print("QUEUE" + json.dumps([time.perf_counter() - began, received, len(jobs)]))
"""
"""What ``sky jobs queue --all-users`` asks, without its table."""

MEMORY = """
import json, sys, psutil
import skydeck_nb as sd
from skydeck_nb.backends.base import Order
from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.models import Spec
rss = lambda: psutil.Process().memory_info().rss
deck = sd.open(sys.argv[1], backend=(backend := SkyPilotBackend()))
deck.refresh()
before, modules = rss(), len(sys.modules)
spec = Spec(command=("true",), infra="slurm", resources={"cpus": 1})
order = Order(deck_id="bench0", attempt_id="x", experiment_id=1, experiment="x", claim="x-sdbench0-aaaaaaaaaa",
              run_name="x", spec=spec, argv=("true",), metadata={})
backend.launch(order, lambda: None, deadline=300)
grown = [rss() - before, len(sys.modules) - modules]
print("MEMORY" + json.dumps([before, *grown, backend.describe()["client_process_bytes"]]))
deck.close()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedServer:
    """Bytes exactly, seconds as they were."""

    looks: Spent
    discoveries: Spent
    queues: Spent
    look_bytes: int
    discovery_bytes: int
    queue_bytes: int
    queue_rows: int
    kernel_bytes: int
    kernel_grown: int
    kernel_modules: int
    client_bytes: int

    def lines(self) -> list[Line]:
        look, discovery = Versus(self.looks, self.queues), Versus(self.discoveries, self.queues)
        return [
            Line(f"sky jobs queue, {self.queue_rows:,} jobs", f"{self.queue_bytes / 1e3:,.0f} kB, "
                 f"{milliseconds(self.queues.wall_median)}"),
            Line("a steady look at our 20 live jobs",
                 f"{self.look_bytes / 1e3:,.1f} kB, {look.ratio_of_walls:.2f} of its time",
                 "grows with ours", self.look_bytes < 1_000 * 20),
            Line("a discovery", f"{self.discovery_bytes / 1e3:,.1f} kB, {discovery.ratio_of_walls:.2f} of its time",
                 "grows with ours", self.discovery_bytes < 3_000 * 20),
            Line("the kernel before the first launch", f"{self.kernel_bytes / 2**20:,.0f} MiB"),
            Line("  what the first launch adds to it",
                 f"{self.kernel_grown / 2**20:,.1f} MiB, {self.kernel_modules} modules", "at most 8 MiB",
                 self.kernel_grown < 8 * 2**20),
            Line("  SkyPilot's client in its own process", f"{self.client_bytes / 2**20:,.0f} MiB, gone when idle"),
        ]  # fmt: skip


def run(worlds: Worlds, *, quick: bool = False) -> SharedServer:
    """On a stack of its own, or the one that SKYDECK_STACK names."""
    stack = Stack()
    with stack.claimed():
        stack.up()
        with strangers(stack, jobs=1_000 if quick else JOBS, alive=ALIVE):
            return _measured(stack, worlds, 2 if quick else 5)


def _measured(stack: Stack, worlds: Worlds, repeats: int) -> SharedServer:
    deck_id = "".join(secrets.choice("abcdefgh") for _ in range(6))
    backend = SkyPilotBackend(stack.env())
    try:
        claims = [_launch(backend, deck_id, number) for number in range(20)]
        discovery = Query(deck_id=deck_id, discovery=True)
        while len(ids := _ids(backend, discovery, claims)) < len(claims):
            threading.Event().wait(2)
        steady = Query(deck_id=deck_id, job_ids=ids)
        found: dict[str, list[tuple[float, float]]] = {"look": [], "discovery": [], "queue": []}
        sizes = {"look": 0, "discovery": 0}
        rows = queue_bytes = 0
        for _ in range(repeats):
            for name, query in (("look", steady), ("discovery", discovery)):
                took, sizes[name] = _look(backend, query)
                found[name].append((took, took))
            took, queue_bytes, rows = _sky(stack)
            found["queue"].append((took, took))
        backend.cancel(sorted(ids), deadline=DEADLINE)
        kernel, grown, modules, client = _memory(stack, worlds)
    finally:
        backend.close()
    return SharedServer(
        looks=Spent.of(found["look"]),
        discoveries=Spent.of(found["discovery"]),
        queues=Spent.of(found["queue"]),
        look_bytes=sizes["look"],
        discovery_bytes=sizes["discovery"],
        queue_bytes=queue_bytes,
        queue_rows=rows,
        kernel_bytes=kernel,
        kernel_grown=grown,
        kernel_modules=modules,
        client_bytes=client,
    )


def _launch(backend: SkyPilotBackend, deck_id: str, number: int) -> str:
    claim = f"bench-sd{deck_id}-{number:010}".translate(str.maketrans("0123456789", "abcdefghij"))
    words = ("sleep", "3600")
    spec = Spec(command=words, infra="slurm", resources={"cpus": 1})
    metadata = {"deck_id": deck_id, "experiment_id": str(number), "attempt_id": claim[-10:]}
    order = Order(deck_id=deck_id, attempt_id=claim[-10:], experiment_id=number, experiment="bench", claim=claim,
                  run_name="bench", spec=spec, argv=words, metadata=metadata)  # fmt: skip
    backend.launch(order, lambda: None, deadline=DEADLINE)
    return claim


def _ids(backend: SkyPilotBackend, query: Query, claims: list[str]) -> frozenset[int]:
    return frozenset(job.id for job in backend.observe(query, deadline=DEADLINE).jobs if job.name in claims)


def _look(backend: SkyPilotBackend, query: Query) -> tuple[float, int]:
    before, began = backend.describe()["received_bytes"], time.perf_counter()
    backend.observe(query, deadline=DEADLINE)
    return time.perf_counter() - began, backend.describe()["received_bytes"] - before


def _sky(stack: Stack) -> tuple[float, int, int]:
    took, size, rows = _said(stack, "QUEUE", SKY)
    return float(took), int(size), int(rows)


def _memory(stack: Stack, worlds: Worlds) -> tuple[int, int, int, int]:
    before, grown, modules, client = _said(stack, "MEMORY", MEMORY, str(worlds.fresh() / "memory.db"))
    return int(before), int(grown), int(modules), int(client)


def _said(stack: Stack, word: str, program: str, *arguments: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=stack.env(), capture_output=True, text=True, check=True
    )
    said: list[Any] = json.loads(done.stdout.partition(word)[2])
    return said
