"""``skydeck logs``: the background loop's log, or an experiment's.

Decides how much of a log is shown and when one that is followed has ended.
Refuses to interpret lines: they are passed on as they were written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from skydeck_nb import background
from skydeck_nb.cli.asking import pick
from skydeck_nb.cli.place import Deck
from skydeck_nb.cli.printing import note
from skydeck_nb.cli.reading import shown
from skydeck_nb.errors import SkydeckError
from skydeck_nb.following import followed

if TYPE_CHECKING:
    from skydeck_nb.backends.base import Backend
    from skydeck_nb.store import Store

FOLLOW: Final = 0.2
"""Seconds between two looks at a log that is followed."""
DEADLINE: Final = 60.0
"""Seconds for a backend to give a log."""
BLOCK: Final = 1 << 16
BUSY: Final = frozenset({"QUEUED", "LAUNCHING", "PENDING", "STARTING", "RUNNING", "RECOVERING", "STOPPING", "UNKNOWN"})
"""Shown states in which more may come."""


# -- of the loop ------------------------------------------------------------------------


def of_loop(deck: Deck, lines: int, *, follow: bool) -> None:
    """The background loop's log, over its last rotation."""
    place = background.Place.of(deck.settings)
    if not place.log.exists():
        raise SkydeckError(f"The background loop of {deck.path} has never run here: {deck.command('start')} starts it.")
    older = Path(f"{place.log}.1")
    with place.log.open("rb") as file:
        text = last_lines(file.read(), lines)
        missing = lines - text.count(b"\n")
        if missing > 0 and older.exists():
            text = last_lines(older.read_bytes(), missing) + text
        _out(text)
        if follow:
            for more in grown(place.log, file.fileno()):
                _out(more)


def last_lines(data: bytes, lines: int) -> bytes:
    """The last lines of a text, one that has no end yet among them."""
    end = len(data) - data.endswith(b"\n")
    start = end
    for _ in range(lines):
        start = data.rfind(b"\n", 0, start)
        if start < 0:
            return data
    return data[start + 1 :] if lines > 0 else b""


def grown(path: Path, fd: int) -> Generator[bytes, None, None]:
    """What is appended to a file from now on, also when it is rotated; ends with Ctrl-C."""
    own: int | None = None
    try:
        while True:
            while data := os.read(fd, BLOCK):
                yield data
            try:
                there, here = path.stat(), os.fstat(fd)
            except FileNotFoundError:  # between two steps of a rotation
                there = here = os.fstat(fd)
            if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                while data := os.read(fd, BLOCK):  # what came before the file was put away
                    yield data
                fresh = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if own is not None:
                    os.close(own)
                fd = own = fresh
                continue
            time.sleep(FOLLOW)
    finally:
        if own is not None:
            os.close(own)


# -- of experiments ---------------------------------------------------------------------


def of_experiments(deck: Deck, names: Sequence[str], lines: int, *, follow: bool) -> None:
    """The output of the newest job of each experiment; one alone can be followed until it ends."""
    from skydeck_nb.opening import make_backend

    with deck.store() as store:
        with store.read() as tx:
            rows = pick(tx, names)
        if follow and len(rows) != 1:
            raise click.UsageError(f"--follow takes one experiment, and {len(rows)} are named.")
        with closing(make_backend(deck.settings)) as backend:
            for row in rows:
                if len(rows) > 1:
                    click.echo(f"==> {row.name} <==")
                job_id = _newest(store, row.id)
                if job_id is None and not follow:
                    note(f"{row.name} has not run yet.")
                elif follow:
                    _follow(store, backend, row.id, lines)
                elif job_id is not None:
                    _out_text(backend.logs(job_id, tail=lines, deadline=DEADLINE))


def _follow(store: Store, backend: Backend, experiment_id: int, lines: int) -> None:
    """Print what comes until nothing more can: over restarts, each job from its start."""
    for text in followed(
        newest=lambda: _newest(store, experiment_id),
        busy=lambda: _state(store, experiment_id) in BUSY,
        read=lambda job_id, tail: backend.logs(job_id, tail=tail, deadline=DEADLINE),
        pause=lambda: time.sleep(backend.cadence.follow),
        tail=lines,
    ):
        _out(text.encode(errors="replace"))


def _newest(store: Store, experiment_id: int) -> int | None:
    with store.read() as tx:
        jobs = tx.jobs(experiment_ids=[experiment_id])
    return max(jobs, key=lambda job: (job.created_at, job.id)).id if jobs else None


def _state(store: Store, experiment_id: int) -> str:
    with store.read() as tx:
        rows = tx.experiments([experiment_id], deleted=None)
    return shown(rows[0]) if rows else ""


def _out_text(text: str) -> None:
    _out(text.encode(errors="replace") + (b"" if text.endswith("\n") or not text else b"\n"))


def _out(data: bytes) -> None:
    stream = click.get_binary_stream("stdout")
    stream.write(data)
    stream.flush()
