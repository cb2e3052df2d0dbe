"""The grid in the notebook: an anywidget between one deck and any number of views of it.

Decides which thread does what: callbacks only look at a message, queue it and
acknowledge it; one worker carries it out; the feed sends. Sets no trait after
it is made and prints nothing. Refuses to know what a deck is: it talks to a
:class:`~skydeck_nb.widget.source.GridSource`. The only importer of anywidget.
"""

from __future__ import annotations

import atexit
import logging
import pathlib
import queue
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, cast

import anywidget

from skydeck_nb.errors import SkydeckError
from skydeck_nb.widget import cells
from skydeck_nb.widget.feed import Feed, Gone, Send
from skydeck_nb.widget.messages import (
    Ack,
    Act,
    Command,
    Detail,
    Done,
    Error,
    Notice,
    Open,
    Resync,
    Select,
    Selected,
    WireError,
    parse,
)
from skydeck_nb.widget.source import GridDetail, GridSource, Level
from skydeck_nb.widget.still import picture

log = logging.getLogger(__name__)

STATIC: Final = pathlib.Path(__file__).parent / "static"

KERNEL: Final = random.SystemRandom().randrange(1, 2**48)
"""A number of this kernel's life: what another one sent is not mixed with it."""

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life; a browser that misses three calls the kernel silent."""

WAITING: Final = 1_000
"""Requests that may wait for the worker; a person cannot click more."""


class DeckGrid(anywidget.AnyWidget):
    """The live table of a deck. Displayed in several cells, it is one grid with several views."""

    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"

    def __init__(self, source: GridSource, *, heartbeat: float = HEARTBEAT) -> None:
        self._source = source
        self._selected: tuple[int, ...] = ()
        self._requests: queue.Queue[Command | None] = queue.Queue(WAITING)
        self._worker: threading.Thread | None = None
        self._starting = threading.Lock()
        self._unsubscribe: Callable[[], None] = _nothing
        self._goodbye: Callable[[], None] = _nothing
        self._feed = Feed(source, _sender(weakref.ref(self)), kernel=KERNEL, heartbeat=heartbeat)
        super().__init__()
        self.on_msg(self._receive)
        self._feed.open()
        self._unsubscribe = source.subscribe(self._feed.wake)
        self._feed.wake()  # what changed between the first look and the subscription
        self._goodbye = _goodbye(weakref.ref(self._feed))
        atexit.register(self._goodbye)

    @property
    def selected(self) -> tuple[int, ...]:
        """The ids of the rows that are ticked and still there."""
        there = self._feed.view.cells
        return tuple(id for id in self._selected if id in there)

    def select(self, ids: Iterable[int]) -> None:
        """Tick these rows and no others."""
        self._selected = tuple(dict.fromkeys(ids))
        self._feed.put(Selected(self._selected))

    def notify(self, text: str, remedy: str = "", level: Level = "info") -> None:
        """A passing word above the rows."""
        self._feed.put(Notice(level=level, text=cells.text(text), remedy=cells.text(remedy)))

    def open(self) -> None:
        super().open()
        _keep_subshell(self.comm)

    def close(self) -> None:
        """Turn the grid into a still picture in every view."""
        if cast("Any", self.comm) is None:
            return
        self._unsubscribe()
        atexit.unregister(self._goodbye)
        self._feed.close()
        self._requests_stop()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle: Any = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        still = picture(self._feed.view, self._feed.line, datetime.now(UTC))
        return {**data, "text/plain": repr(self), "text/html": still}, metadata

    def __repr__(self) -> str:
        return f"<DeckGrid of {len(self._feed.view.ids):,} experiments>"

    def _receive(self, _widget: object, content: object, _buffers: object) -> None:
        """A message from a browser, on whichever thread the kernel chose. Never raises, never waits."""
        try:
            self._accept(content)
        except WireError as error:
            self._answer(Error(req=error.req, text=str(error)))
        except Exception:
            log.exception("the grid could not take a message from the browser")

    def _accept(self, content: object) -> None:
        command = parse(content)
        main = threading.current_thread() is threading.main_thread()
        if isinstance(command, Resync):
            self._answer(Ack(req=command.req, main=main))
            self._feed.resync()
            return
        there = self._feed.view.cells
        wanted = command.ids if isinstance(command, Act) else (command.row,) if isinstance(command, Open) else ()
        if missing := [id for id in wanted if id not in there]:
            raise WireError(f"row {missing[0]} is not in this deck any more", command.req)
        if isinstance(command, Select):
            self._selected = tuple(id for id in command.selection if id in there)
            self._answer(Ack(req=command.req, main=main))
            self._answer(Done(req=command.req, text=""))
            return
        self._start_worker()
        try:
            self._requests.put_nowait(command)
        except queue.Full:
            raise WireError(f"{WAITING:,} requests are waiting already; try again in a moment", command.req) from None
        self._answer(Ack(req=command.req, main=main))

    def _answer(self, message: Ack | Done | Error) -> None:
        try:
            self._feed.post(message)
        except Gone:
            log.debug("nobody is left to answer")

    def _start_worker(self) -> None:
        with self._starting:
            if self._worker is None:
                work = _Work(self._source, self._feed, self._requests)
                self._worker = threading.Thread(target=work.run, name="skydeck-grid-worker", daemon=True)
                self._worker.start()

    def _requests_stop(self) -> None:
        while True:
            try:
                self._requests.put_nowait(None)
                return
            except queue.Full:
                self._requests.get_nowait()


class _Work:
    """The worker: carries requests out one after the other. Holds no widget, so that a dropped one can go."""

    def __init__(self, source: GridSource, feed: Feed, requests: queue.Queue[Command | None]) -> None:
        self._source, self._feed, self._requests = source, feed, requests

    def run(self) -> None:
        while (command := self._requests.get()) is not None:
            try:
                text = self._carry_out(command)
            except SkydeckError as error:
                self._feed.put(Error(req=command.req, text=cells.text(str(error))))
            except Exception as error:
                log.exception("`%s` from the grid failed", command.type)
                words = f"{command.type} failed: {type(error).__name__}: {error}"
                self._feed.put(Error(req=command.req, text=cells.text(words)))
            else:
                self._feed.wake()
                self._feed.put(Done(req=command.req, text=cells.text(text)))

    def _carry_out(self, command: Command) -> str:
        if isinstance(command, Act):
            return self._source.act(command.type, command.ids, {})
        if isinstance(command, Open):
            self._feed.put(Detail(row=command.row, detail=_encoded(self._source.detail(command.row))))
            return ""
        raise WireError(f"nothing carries out `{command.type}`", command.req)


def _encoded(detail: GridDetail) -> Mapping[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return cells.moment(value)
        return cells.text(value) if isinstance(value, str) else value

    return {
        "why": [cells.text(sentence) for sentence in detail.why],
        "command": cells.text(detail.command, 20_000),
        "jobs": [{key: plain(value) for key, value in asdict(job).items()} for job in detail.jobs[:20]],
    }


def _sender(ref: weakref.ref[DeckGrid]) -> Send:
    def send(content: dict[str, Any], buffers: list[bytes]) -> None:
        grid = ref()
        if grid is None or cast("Any", grid.comm) is None:
            raise Gone
        try:
            grid.send(content, buffers)
        except AttributeError:  # closed by another thread between the question and the send
            if cast("Any", grid.comm) is None:
                raise Gone from None
            raise

    return send


def _nothing() -> None:
    pass


def _goodbye(ref: weakref.ref[Feed]) -> Callable[[], None]:
    def goodbye() -> None:
        feed = ref()
        if feed is not None:
            feed.close()

    return goodbye


def _keep_subshell(comm: Any) -> None:
    """Let the browser choose the subshell of its messages.

    ipykernel 7.4 sends what arrives on a comm to where the comm was last used from;
    after any push from a thread that is the main shell, and a click waits for the
    running cell (measured: 4,900 ms against 88).
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = cast("Any", lambda data, default: default)
