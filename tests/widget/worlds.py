"""Rows, sources and comms for the tests of the widget."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from skydeck_nb.errors import SkydeckError
from skydeck_nb.states import STATES
from skydeck_nb.widget import messages
from skydeck_nb.widget.source import GridDetail, GridJob, GridRow, GridSummary
from skydeck_nb.widget.view import View

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def row(id: int = 1, **fields: Any) -> GridRow:
    base = GridRow(
        id=id, name=f"exp-{id}", state="RUNNING", desired="RUNNING", created_at=NOON, action="stop", sweep="ppo"
    )
    return replace(base, **fields)


STORY: list[list[GridRow]] = [
    [row(1, flags={"lr": 0.1, "net.width": 4}), row(2, flags={"lr": 0.2, "net.width": 4}, state="QUEUED")],
    [
        row(1, flags={"lr": 0.1, "net.width": 4}, started_at=NOON + timedelta(seconds=5), metrics={"loss": 2.5}),
        row(2, flags={"lr": 0.2, "net.width": 4}, state="QUEUED"),
    ],
    [
        row(3, flags={"lr": float("nan"), "net.width": 2**60, "on": True}, state="FAILED", action="retry", reason="E"),
        row(1, flags={"lr": 0.1, "net.width": 4}, started_at=NOON + timedelta(seconds=5), metrics={"loss": 0.5}),
    ],
]
"""Three moments of one deck; ``tests/fixtures/wire/story.json`` is what they send."""

OUTGOING: Mapping[str, messages.Outgoing] = {
    "delta": messages.Delta(added=[[3, ["a", None]]], changed=[[1, 2, "RUNNING", 5, 0.5]], removed=[2], order=[3, 1]),
    "columns": messages.Columns([[0, "name", "text", True, True, False]]),
    "heartbeat": messages.Summary(now=1_000, every=5.0, seen=900),
    "summary": messages.Summary(
        now=1_000,
        every=5.0,
        seen=900,
        summary={
            "backend": "local",
            "role": "leading",
            "seen": 900,
            "health": "",
            "remedy": "",
            "notices": [["warning", "wide modes", "chmod 600"]],
            "terminal": "skydeck stop {name}",
        },
    ),
    "detail": messages.Detail(row=1, detail={"why": ["Running: as wanted"], "command": "python t.py", "jobs": []}),
    "notice": messages.Notice(level="info", text="hello"),
    "selected": messages.Selected([1, 2]),
    "ack": messages.Ack(req="a-1", main=False),
    "done": messages.Done(req="a-1", text="1 stopped"),
    "error": messages.Error(req=None, text="a message is an object"),
    "bye": messages.Bye(2_000),
}

COMMANDS: Mapping[str, messages.Command] = {
    "start": messages.Start(req="a-1", ids=(1,)),
    "stop": messages.Stop(req="a-2", ids=(1, 2)),
    "retry": messages.Retry(req="a-3", ids=(3,)),
    "restart": messages.Restart(req="a-4", ids=(4,)),
    "terminate": messages.Terminate(req="a-5", ids=(5,)),
    "select": messages.Select(req="a-6", selection=()),
    "open": messages.Open(req="a-7", row=1),
    "resync": messages.Resync(req="a-8", have=17),
}


def browser(sent: list[tuple[dict[str, Any], list[bytes]]]) -> dict[int, dict[str, Any]]:
    """What a browser has after these messages: the rows by id, in order. A mirror of ``js/src/store.ts``."""
    columns: list[Any] = []
    ids: list[int] = []
    rows: dict[int, dict[int, Any]] = {}
    for content, buffers in sent:
        bulk = json.loads(bytes(buffers[0])) if buffers else {}
        match content["t"]:
            case "snapshot":
                if content["part"] == 0:
                    columns, ids = bulk["columns"], bulk["ids"]
                    rows = {id: {} for id in ids}
                for n, values in bulk["values"]:
                    for id, value in zip(ids, values, strict=True):
                        rows[id][n] = value
            case "columns":
                columns = bulk["columns"]
                kept = {column[0] for column in columns}
                rows = {id: {n: value for n, value in cells.items() if n in kept} for id, cells in rows.items()}
            case "delta":
                for id, *pairs in bulk["changed"]:
                    rows[id].update(zip(pairs[::2], pairs[1::2], strict=True))
                for id, values in bulk["added"]:
                    rows[id] = {column[0]: value for column, value in zip(columns, values, strict=True)}
                for id in bulk["removed"]:
                    del rows[id]
                if (order := bulk.get("order")) is not None:
                    ids = order
                else:
                    ids = [id for id in ids if id in rows] + [id for id, _ in bulk["added"]]
    return {id: {column[1]: rows[id].get(column[0]) for column in columns} for id in ids}


def table(view: View) -> dict[int, dict[str, Any]]:
    """The same of a view."""
    return {id: {c.key: v for c, v in zip(view.columns, view.cells[id], strict=True)} for id in view.ids}


@dataclass
class Source:
    """A deck of made-up rows that remembers what it was asked."""

    data: list[GridRow] = field(default_factory=lambda: [row(1), row(2, state="FAILED", action="retry")])
    acts: list[tuple[str, tuple[int, ...], str]] = field(default_factory=list)
    wakes: list[Callable[[], None]] = field(default_factory=list)
    line: GridSummary = field(default_factory=lambda: GridSummary(backend="local", seen_at=NOON))
    fails: Exception | None = None
    gate: threading.Event | None = None

    def rows(self) -> list[GridRow]:
        if self.fails:
            raise self.fails
        return list(self.data)

    def summary(self) -> GridSummary:
        return self.line

    def detail(self, id: int) -> GridDetail:
        return GridDetail(why=("as wanted",), command="python t.py", jobs=(GridJob(id=7, status="RUNNING"),))

    def act(self, kind: str, ids: tuple[int, ...], params: Mapping[str, Any]) -> str:
        if self.gate:
            assert self.gate.wait(10)
        self.acts.append((kind, ids, threading.current_thread().name))
        if kind == "terminate":
            raise SkydeckError("nothing to terminate here")
        if kind == "restart":
            raise RuntimeError("a fault of ours")
        state = "STOPPING" if kind == "stop" else "LAUNCHING"
        self.data = [replace(r, state=state, action=None) if r.id in ids else r for r in self.data]
        return f"{kind} of {len(ids)}"

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.append(wake)
        return lambda: self.wakes.remove(wake)


HOSTILE = ["\ud800", "a\0b", "<img src=x onerror=alert(1)>", "\u202egnp.exe"]
any_text = st.text(st.characters(), max_size=20) | st.sampled_from(HOSTILE)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | any_text | st.just("x" * 5_000)
values = scalars | st.lists(scalars, max_size=3)
keys = st.sampled_from(["lr", "net.width", "net.depth", "seed", "a.b.c"])


@st.composite
def decks(draw: st.DrawFn) -> list[GridRow]:
    """The rows of one moment; of two moments, many are equal."""
    ids = draw(st.lists(st.integers(1, 8), unique=True, max_size=8))
    return [
        row(
            id,
            name=draw(st.sampled_from([f"exp-{id}", "renamed"])),
            state=draw(st.sampled_from(STATES)),
            message=draw(any_text),
            epoch=draw(st.none() | st.integers(0, 3)),
            gpus=draw(st.none() | st.integers(0, 2)),
            sweep=draw(st.sampled_from([None, "ppo"])),
            groups=draw(st.sampled_from([(), ("a", "b")])),
            flags=draw(st.dictionaries(keys, values, max_size=3)),
            metrics=draw(st.dictionaries(keys, st.floats(), max_size=2)),
        )
        for id in ids
    ]
