"""The handle of one experiment: what is stored as properties, all else as methods.

Decides how an experiment reads in a notebook. Holds nothing but an id: each
access reads the current row. Refuses to decide what a call does: the deck does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from skydeck_nb import states
from skydeck_nb.flags.command import argv, command_line
from skydeck_nb.following import followed
from skydeck_nb.models import ExperimentRow, FlagValue
from skydeck_nb.tracebacks import shorten

if TYPE_CHECKING:
    import pandas as pd

    from skydeck_nb.deck import Deck
    from skydeck_nb.notebook import Why
    from skydeck_nb.plan import Plan
    from skydeck_nb.results import Result


@shorten
class Experiment:
    """One experiment of a deck. Got by ``deck["name"]``; reads the current row at each access."""

    def __init__(self, deck: Deck, id: int, *, row: ExperimentRow | None = None, notices: Sequence[str] = ()) -> None:
        """Internal: ``row`` pins a snapshot, for functions that select."""
        self._deck = deck
        self._id = id
        self._pinned = row
        self._news = News(notices)

    def __skydeck_ids__(self) -> tuple[int, ...]:
        """Internal: what this handle stands for in a selection."""
        return (self._id,)

    def _row(self) -> ExperimentRow:
        return self._pinned or self._deck._row(self._id)

    # -- what is stored ----------------------------------------------------------------

    @property
    def id(self) -> int:
        return self._id

    @property
    def name(self) -> str:
        return self._row().name

    @property
    def state(self) -> str:
        """One word: STOPPED, QUEUED, …, RUNNING, SUCCEEDED, FAILED."""
        return shown(self._row())

    @property
    def reason(self) -> str:
        """Why it is so, one CamelCase word; :meth:`explain` has the sentence."""
        return self._row().reason

    @property
    def desired(self) -> str:
        """RUNNING, STOPPED or TERMINATED."""
        return self._row().desired_state

    @property
    def attention(self) -> bool:
        """Whether a person must decide."""
        return self._row().attention

    @property
    def groups(self) -> tuple[str, ...]:
        return self._deck._groups_of(self._id)

    @property
    def flags(self) -> Mapping[str, FlagValue]:
        """Read-only; :meth:`update` changes them."""
        return MappingProxyType(dict(self._row().spec.flags))

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments that are executed."""
        row = self._row()
        return argv(row.spec, name=self._deck._run_name(row))

    @property
    def command_line(self) -> str:
        """The same as one line for a shell, to read and to copy."""
        return command_line(self.argv)

    @property
    def task_yaml(self) -> str:
        """The same as the SkyPilot task that is sent, but for what belongs to one attempt alone."""
        return self._deck._task_yaml(self._row())

    # -- frames ------------------------------------------------------------------------

    def jobs(self, live: bool | None = None) -> pd.DataFrame:
        return self._deck.jobs(self, live=live)

    def events(self, since: Any = None) -> pd.DataFrame:
        return self._deck.events(self, since=since)

    def metrics(self, keys: Any = None) -> pd.DataFrame:
        return self._deck.metrics(self, keys=keys)

    def checkpoints(
        self,
        epoch: int | None = None,
        latest: bool = False,
        best: str | None = None,
        mode: Literal["max", "min"] = "max",
        flags: bool = False,
    ) -> pd.DataFrame:
        return self._deck.checkpoints(self, epoch, latest, best, mode, flags)

    # -- act ---------------------------------------------------------------------------

    def start(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.start(self, dry_run=dry_run)

    def stop(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.stop(self, dry_run=dry_run)

    def terminate(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.terminate(self, dry_run=dry_run)

    def restart(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.restart(self, dry_run=dry_run)

    def retry(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.retry(self, dry_run=dry_run)

    def update(
        self, *, flags: Mapping[Any, Any] | None = None, unset: Any = (), dry_run: bool = False, **spec: Any
    ) -> Result | Plan:
        return self._deck.update(self, flags=flags, unset=unset, dry_run=dry_run, **spec)

    def rename(self, to: str, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.rename(self, to, dry_run=dry_run)

    def duplicate(self, to: str, *, flags: Mapping[Any, Any] | None = None, dry_run: bool = False) -> Experiment | Plan:
        return self._deck.duplicate(self, to, flags=flags, dry_run=dry_run)

    def delete(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.delete(self, dry_run=dry_run)

    def undelete(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.undelete(self, dry_run=dry_run)

    def purge(self, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.purge(self, dry_run=dry_run)

    def star(self, on: bool = True, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.star(self, on, dry_run=dry_run)

    def adopt(self, job_id: int, others: bool = False, *, dry_run: bool = False) -> Result | Plan:
        return self._deck.adopt(job_id, self, others=others, dry_run=dry_run)

    def explain(self) -> Why:
        return self._deck.explain(self)

    def to_code(self) -> str:
        return self._deck.to_code(self)

    def wait(self, timeout: float | None = None, check: bool = False) -> pd.DataFrame:
        """Wait until it has ended, is stopped, or needs a person; the last frame.

        Raises:
            TimeoutError: it had not after ``timeout`` seconds.
            SkydeckError: it failed, with ``check=True``.
        """
        return self._deck._wait((self._id,), timeout=timeout, check=check)

    def logs(self, tail: int | None = 200, follow: bool = False) -> str | None:
        """The last lines of its newest job; ``follow=True`` prints them, and what comes, until it ends."""
        if not follow:
            job_id = self._deck._newest_job(self._id)
            return self._deck.logs(job_id, tail=tail) if job_id is not None else ""
        for text in self._followed(tail):
            print(text, end="", flush=True)  # noqa: T201  (this is what follow=True asks for)
        return None

    def _followed(self, tail: int | None) -> Iterator[str]:
        return followed(
            newest=lambda: self._deck._newest_job(self._id),
            busy=lambda: shown(self._row()) in BUSY,
            read=lambda job_id, lines: self._deck.logs(job_id, tail=lines),
            pause=lambda: time.sleep(self._deck._follow_pause),
            tail=tail,
        )

    # -- how it reads ------------------------------------------------------------------

    def __repr__(self) -> str:
        row = self._row()
        head = f"Experiment {row.name}: {shown(row)}" + (", deleted" if row.deleted else "")
        return "\n".join([f"{head}. {row.message}".rstrip(), f"$ {self._command()}", *self._news.lines()])

    def _repr_html_(self) -> str:
        row = self._row()
        facts = {
            "state": f"{shown(row)} {row.message}".strip(),
            "command": self._command(),
            "runs on": ", ".join(_resources(row)) or "1 node",
            "run": f"{row.run}, generation {row.generation}",
        }
        lines = "".join(
            f"<tr><th style='text-align:left'>{escape(key)}</th>"
            f"<td style='text-align:left;white-space:pre-wrap'>{escape(value)}</td></tr>"
            for key, value in facts.items()
        )
        notices = "".join(f"<div>{escape(notice)}</div>" for notice in self._news.lines())
        deleted = " (deleted)" if row.deleted else ""
        return f"<div><b>{escape(row.name)}</b>{deleted}</div>{notices}<table>{lines}</table>"

    def _command(self) -> str:
        line = self.command_line
        return line if len(line) <= 400 else f"{line[:399]}…"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and (self._deck, self._id) == (other._deck, other._id)

    def __hash__(self) -> int:
        return hash((id(self._deck), self._id))


class News:
    """What a declaration answers, shown with its handle once: later the handle shows how things stand then."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = tuple(lines)
        self._shown_at: float | None = None

    def lines(self) -> tuple[str, ...]:
        """The sentences, for the displays that one cell makes of one object (text and HTML)."""
        now = time.monotonic()
        self._shown_at = now if self._shown_at is None else self._shown_at
        return self._lines if now - self._shown_at < DISPLAY else ()


DISPLAY: Final = 1.0
"""Seconds within which text and HTML of one display are asked for."""

BUSY: Final = frozenset({"QUEUED", "LAUNCHING", "PENDING", "STARTING", "RUNNING", "RECOVERING", "STOPPING", "UNKNOWN"})
"""Shown states in which something is still to come by itself."""


def shown(row: ExperimentRow) -> str:
    """The state that people see: the loop's, or what was asked since."""
    return states.shown(row.desired_state, row.run, row.observed_run, row.current_state)


def _resources(row: ExperimentRow) -> list[str]:
    spec = row.spec
    gpus = spec.accelerators or (f"{spec.gpus} GPUs" if spec.gpus else "")
    return [
        text
        for text in (
            f"{spec.nodes} nodes" if spec.nodes > 1 else "",
            f"{gpus} a node" if gpus and spec.nodes > 1 else gpus,
            "spot" if spec.spot else "",
            spec.infra or "",
        )
        if text
    ]
