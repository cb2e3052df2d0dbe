"""What an open deck keeps running: its file, its backend, its loop, who listens.

Decides the order in which these begin and end, and what is said of them: role,
health, why, what next. Refuses to know experiments' words (requests) and frames.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from skydeck_nb import background, config, frames
from skydeck_nb.backends.skypilot import task
from skydeck_nb.callbacks import Callbacks
from skydeck_nb.control import orders
from skydeck_nb.control.runner import LoopStatus, Runner
from skydeck_nb.desk import Desk
from skydeck_nb.errors import BackendUnavailable, InvalidSetting, SkydeckError
from skydeck_nb.experiment import shown
from skydeck_nb.flags.command import argv
from skydeck_nb.models import ExperimentRow
from skydeck_nb.notebook import Why, headline, health_frame, role
from skydeck_nb.notices import Notices
from skydeck_nb.plan import Plan
from skydeck_nb.requests import leaderless
from skydeck_nb.waiting import wait

if TYPE_CHECKING:
    from skydeck_nb.backends.base import Backend
    from skydeck_nb.deck import Deck
    from skydeck_nb.store.mirror import Touched
    from skydeck_nb.store.records import Stored
    from skydeck_nb.store.store import Store
    from skydeck_nb.widget.grid import DeckGrid

LOGS_DEADLINE: Final = 60.0
"""Seconds for a backend to give a job's log."""


class Loop:
    """One deck's machinery in this process."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        settings: config.Settings,
        *,
        folder: TemporaryDirectory[str] | None,
        owns_backend: bool,
    ) -> None:
        self.store = store
        self.backend = backend
        self.settings = settings
        self.notices = Notices()
        self.callbacks = Callbacks(self.notices)
        self.closed = False
        self._folder = folder
        self._owns_backend = owns_backend
        self._user = _user()
        self._after: list[Callable[[], None]] = []
        self.runner = Runner(
            store,
            backend,
            background.loop_settings(settings),
            tell=self.notices.put,
        )
        self.desk = Desk(store, self.runner)
        for sentence in (*store.notices, *settings.notes):
            self.notices.put(sentence)
        if settings.max_cost is not None and not backend.prices:
            self.notices.put(
                f"The setting max_cost ({settings['max_cost'].source}) holds nothing here: the {backend.kind} backend "
                "lists no prices; max_gpu_hours can hold the deck."
            )
        self._unsubscribe = [self.runner.subscribe(self._hear), store.subscribe(self._overhear)]
        self.runner.start()

    # -- listening -----------------------------------------------------------------------

    def _hear(self, touched: Touched) -> None:
        """On the loop's thread: what was recorded, by anybody."""
        self.notices.hear(touched)
        for line in touched.events:
            if self.callbacks.wants(line.type) and (event := line.event) is not None:
                self.callbacks.offer(event)

    def _overhear(self, stored: Sequence[Stored]) -> None:
        """What is published and never recorded is heard in this process alone."""
        for each in stored:
            if not each.event.recorded:
                self.callbacks.offer(each.event)

    # -- saying --------------------------------------------------------------------------

    def status(self) -> LoopStatus:
        return self.runner.status()

    @property
    def place(self) -> str:
        return str(self.backend.identity)

    def headline(self) -> str:
        name = self.store.path.name
        if self.closed:
            return f"Deck {name} ({self.place}), closed."
        with contextlib.suppress(SkydeckError):  # what is known is shown, whatever becomes of the file
            self.runner.caught_up()
        status = self.runner.status()
        states = self.runner.view(lambda mirror: [shown(row) for row in mirror.experiments.values() if not row.deleted])
        return headline(name, self.place, self._role(status), states, status.listed_at)

    def _role(self, status: LoopStatus) -> str:
        return role(status, read_only=self.store.read_only)

    def run_name(self, row: ExperimentRow) -> str:
        """What ``{name}`` is in a row's command and paths: frozen at its first launch."""
        return row.run_name or self.settings.run_name.format(name=row.name, user=self._user)

    def task_yaml(self, row: ExperimentRow) -> str:
        """A row as the SkyPilot task that is sent."""
        run_name = self.run_name(row)
        spec = orders.rendered(row, run_name)
        seconds = None if row.max_hours is None else row.max_hours * 3600
        arguments = argv(row.spec, name=run_name)
        made = task.config(
            spec, arguments, name=row.name, run_name=run_name, priority=row.priority, max_seconds=seconds
        )
        return task.text(made)

    def plan(self) -> Plan:
        """What the next pass would do."""
        self.runner.caught_up()
        rows = self.runner.view(lambda mirror: list(mirror.experiments.values()))
        steps = self.runner.preview(rows)
        notices = [leaderless(self.runner.status())]
        return Plan.of([(s.name, s.action, s.reason, s.gpus) for s in steps], None, [n for n in notices if n])

    def explain(self, row: ExperimentRow) -> Why:
        """The rule that decided about one experiment."""
        self.runner.caught_up()
        known = self.runner.view(lambda mirror: row.id in mirror.experiments)
        status = self.runner.status()
        leader = leaderless(status) or ("" if status.leading or not status.holder else f"{status.holder} leads.")
        if known:
            why = Why.of(self.runner.explain(row.id), leader)
            if status.leading:
                return why
            return replace(why, seen_at=status.listed_at, next_look_at=status.next_look_at)
        return Why(
            experiment=row.name,
            state=shown(row),
            reason="Deleted",
            message=f"It was deleted and nothing of it is alive; deck.undelete({row.name!r}) brings it back.",
            rule="What is deleted is hidden once nothing of it is alive.",
            attention=False,
            next=(),
            inputs={"desired": row.desired_state, "run": row.run, "deleted": True},
            seen_at=status.listed_at,
            next_look_at=None,
            leader=leader,
        )

    def health(self) -> pd.DataFrame:
        """Whether database, loop and backend are well, and what needs a person."""
        status = self.runner.status()
        loop = leaderless(status) or f"This process is {self._role(status)}."
        journal = "WAL" if self.store.journal == "wal" else "rollback journal"
        file = " ".join(
            [f"{self.store.path} ({journal}{', read-only' if self.store.read_only else ''}).", *self.store.notices]
        )
        seen = f"Seen at {status.listed_at:%H:%M:%S} UTC." if status.listed_at is not None else "Not seen yet."
        waiting = self.runner.view(
            lambda mirror: [row.message for row in mirror.experiments.values() if row.attention and not row.deleted]
        )
        told = {key: value for key, value in self.backend.describe().items() if value and str(value) != self.place}
        facts = ", ".join(f"{key} {value}" for key, value in told.items())
        parts = [
            ("database", not self.store.notices, file),
            ("loop", status.alive and not leaderless(status), loop),
            ("backend", not status.error, f"{self.place}: {status.error or seen} {facts}".strip()),
            ("experiments", not waiting, waiting[0] if waiting else "None needs you."),
        ]
        if len(waiting) > 1:
            parts[-1] = ("experiments", False, f"{len(waiting)} need you. {waiting[0]}")
        return health_frame(parts)

    def settings_frame(self) -> pd.DataFrame:
        rows = [(row["setting"], row["value"], row["source"]) for row in config.frame_rows(self.settings)]
        return frames.settings(rows)

    def sign_in(self) -> str:
        """Sign in where the backend asks for it, and look again."""
        sign_in = getattr(self.backend, "sign_in", None)
        if sign_in is None:
            return f"The {self.backend.kind} backend needs no sign-in."
        sign_in(print)
        with contextlib.suppress(BackendUnavailable):
            self.runner.refresh()
        return f"Signed in to {self.place}."

    def logs(self, job_id: int, tail: int | None) -> str:
        return self.backend.logs(job_id, tail=tail, deadline=LOGS_DEADLINE)

    def wait(self, ids: Sequence[int], *, timeout: float | None, check: bool) -> None:
        wait(self.runner, ids, timeout=timeout, check=check)

    # -- the grid, from above this layer -------------------------------------------------

    def make_grid(self, deck: Deck) -> DeckGrid:
        """The widget is imported when a grid is first shown, and by name: it lies a layer above the deck."""
        adapter: Any = importlib.import_module("skydeck_nb.widget.adapter")
        grid: DeckGrid = adapter.make_grid(deck, self)
        return grid

    # -- its end -------------------------------------------------------------------------

    def detach(self) -> str:
        """Start the background loop on this database and hand it the lease; this deck follows it."""
        if self._folder is not None or self.backend.kind == "fake":
            raise InvalidSetting("This deck lives in this process alone, so nothing else can lead it.")
        return background.detach(self.store, self.settings, self.runner)

    def on_close(self, function: Callable[[], None]) -> None:
        self._after.append(function)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self.runner.close()
        self.callbacks.close()
        if self._owns_backend:
            self.backend.close()
        self.store.close()
        if self._folder is not None:
            self._folder.cleanup()
        for function in self._after:
            function()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"
