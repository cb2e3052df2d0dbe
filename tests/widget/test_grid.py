"""The widget over a comm that is not there: which thread does what, and what the browser hears."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm

from skydeck_nb.widget.grid import DeckGrid
from skydeck_nb.widget.messages import COMMANDS
from tests.widget.worlds import NOON, Source, browser, row

BEAT = 0.5


class Wire(BaseComm):
    """Records what is sent; ``hear`` plays the browser, on a thread of its own like a subshell."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        self.opened: list[str] = []
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        self.opened.append(msg_type)
        if msg_type == "comm_msg" and data and data.get("method") == "custom":
            self.sent.append((data["content"], list(buffers or [])))

    def hear(self, content: Any, *, main: bool = False) -> None:
        def deliver() -> None:
            self.handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

        if main:
            deliver()
        else:
            thread = threading.Thread(target=deliver, name="subshell")
            thread.start()
            thread.join()

    def kinds(self) -> list[str]:
        return [content["t"] for content, _ in list(self.sent)]

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [content for content, _ in list(self.sent) if content["t"] == kind]


@pytest.fixture(autouse=True)
def wires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", Wire)


@pytest.fixture
def grids() -> Iterator[Callable[..., DeckGrid]]:
    made: list[DeckGrid] = []

    def make(source: Source | None = None, heartbeat: float = 30.0) -> DeckGrid:
        made.append(DeckGrid(source or Source(), heartbeat=heartbeat))
        return made[-1]

    yield make
    for grid in made:
        grid.close()


def until(ready: Callable[[], Any], seconds: float = 5.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
    return found


def wire(grid: DeckGrid) -> Wire:
    assert isinstance(grid.comm, Wire)
    return grid.comm


def request(kind: str, **fields: Any) -> dict[str, Any]:
    return {"v": 1, "t": kind, "req": f"t-{random.randrange(10**9)}", **fields}


def test_the_first_snapshot_leaves_before_the_constructor_returns(grids: Any) -> None:
    line = wire(grids())
    assert line.opened[:2] == ["comm_open", "comm_msg"]
    assert line.kinds()[:2] == ["snapshot", "summary"]
    assert list(browser(line.sent)) == [1, 2]


def test_every_message_has_its_number_and_the_kernels(grids: Any) -> None:
    source = Source()
    grid = grids(source, heartbeat=0.05)
    for i in range(5):
        source.data = [row(1, epoch=i)]
        source.wakes[0]()
        time.sleep(0.05)
    sent = list(wire(grid).sent)
    assert [content["seq"] for content, _ in sent] == list(range(1, len(sent) + 1))
    assert len({content["kernel"] for content, _ in sent}) == 1


def test_a_click_is_acknowledged_at_once_and_done_after_its_rows(grids: Any) -> None:
    source = Source(gate=threading.Event())
    line = wire(grids(source))
    ask = request("stop", ids=[1])
    line.hear(ask)
    assert line.said("ack") == [line.said("ack")[0]]
    assert line.said("ack")[0] | {"kernel": 0, "seq": 0} == {
        "v": 1, "t": "ack", "kernel": 0, "seq": 0, "req": ask["req"], "main": False,
    }  # fmt: skip
    assert source.acts == []
    assert source.gate is not None
    source.gate.set()
    until(lambda: line.said("done"))
    assert source.acts == [("stop", (1,), "skydeck-grid-worker")]
    kinds = line.kinds()
    assert kinds.index("ack") < kinds.index("delta") < kinds.index("done")
    assert browser(line.sent)[1]["state"] == "STOPPING"


def test_the_ack_says_that_a_busy_cell_would_have_held_it_up(grids: Any) -> None:
    line = wire(grids())
    line.hear(request("resync", have=0), main=True)
    assert line.said("ack")[0]["main"] is True


@pytest.mark.parametrize(
    ("kind", "text", "logged"),
    [("terminate", "nothing to terminate here", False), ("restart", "RuntimeError: a fault of ours", True)],
)
def test_a_refusal_reads_as_it_is_and_a_fault_of_ours_is_logged(
    grids: Any, caplog: pytest.LogCaptureFixture, kind: str, text: str, logged: bool
) -> None:
    line = wire(grids())
    line.hear(request(kind, ids=[1]))
    assert text in until(lambda: line.said("error"))[0]["text"]
    assert bool([r for r in caplog.records if r.levelno >= logging.ERROR]) is logged
    line.hear(request("stop", ids=[1]))
    until(lambda: line.said("done"))


def test_a_row_that_is_gone_is_named(grids: Any) -> None:
    source = Source()
    line = wire(grids(source))
    line.hear(request("stop", ids=[1, 99]))
    assert "row 99" in line.said("error")[0]["text"]
    assert source.acts == []
    assert line.said("ack") == []


def test_detail_opens(grids: Any) -> None:
    line = wire(grids())
    line.hear(request("open", row=1))
    until(lambda: line.said("done"))
    assert line.kinds().index("detail") < line.kinds().index("done")


def test_ticks_are_kept_for_rows_that_are_there(grids: Any) -> None:
    source = Source()
    grid = grids(source)
    wire(grid).hear(request("select", selection=[2, 1, 99]))
    assert grid.selected == (2, 1)
    source.data = source.data[:1]
    source.wakes[0]()
    until(lambda: grid.selected == (1,))
    grid.select([1])
    until(lambda: wire(grid).said("selected"))


def test_resync_sends_everything_again(grids: Any) -> None:
    source = Source()
    line = wire(grids(source))
    source.data = [row(5)]
    until(lambda: line.kinds().count("snapshot") == 1)
    line.hear(request("resync", have=0))
    until(lambda: line.kinds().count("snapshot") == 2)
    assert list(browser(line.sent)) == [5]


def test_at_most_ten_deltas_a_second(grids: Any) -> None:
    source = Source()
    line = wire(grids(source))
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        source.data = [row(1, epoch=random.randrange(10**9))]
        source.wakes[0]()
        time.sleep(0.001)
    assert 1 <= line.kinds().count("delta") <= (time.monotonic() - began) * 10 + 1


def test_nothing_changed_nothing_is_sent_but_a_heartbeat(grids: Any) -> None:
    source = Source()
    line = wire(grids(source, heartbeat=0.2))
    time.sleep(0.3)
    before, began = len(line.sent), time.monotonic()
    for _ in range(5):
        source.wakes[0]()
        time.sleep(0.12)
    since = line.sent[before:]
    assert {content["t"] for content, _ in since} == {"summary"}
    assert 1 <= len(since) <= (time.monotonic() - began) / 0.2 + 2
    assert all("summary" not in content and not buffers for content, buffers in since)


def test_a_deck_that_cannot_be_read_says_so_once_and_comes_back(grids: Any, caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    line = wire(grids(source))
    source.fails = OSError("disk I/O error")
    for _ in range(3):
        source.wakes[0]()
        time.sleep(0.12)
    until(lambda: line.said("notice"))
    assert len(line.said("notice")) == 1
    assert list(browser(line.sent)) == [1, 2]
    source.fails, source.data = None, [row(3)]
    source.wakes[0]()
    until(lambda: list(browser(line.sent)) == [3])
    assert len(caplog.records) == 1


def test_close_says_bye_and_ends_every_thread(grids: Any) -> None:
    source = Source()
    grid = grids(source)
    line = wire(grid)
    line.hear(request("stop", ids=[1]))
    until(lambda: line.said("done"))
    grid.close()
    grid.close()
    assert line.kinds()[-1] == "bye"
    assert line.opened[-1] == "comm_close"
    assert source.wakes == []
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("skydeck-grid")])


def test_a_comm_that_vanished_ends_the_feed_quietly(grids: Any, caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    grid = grids(source)
    grid.comm = None
    source.data = []
    source.wakes[0]()
    until(lambda: not grid._feed.alive)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_bye_is_said_when_the_interpreter_ends() -> None:
    code = (
        "import comm; from tests.widget.test_grid import Wire, Source; comm.create_comm = Wire\n"
        "from skydeck_nb.widget.grid import DeckGrid\n"
        "import skydeck_nb.widget.feed as f; g = DeckGrid(Source()); send = g._feed._send\n"
        "g._feed._send = lambda c, b: (print(c['t'], flush=True), send(c, b))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[-1:] == ["bye"]
    assert done.stderr == ""


def test_shown_again_it_is_the_same_model(grids: Any) -> None:
    grid = grids()
    before = len(wire(grid).sent)
    first, second = grid._repr_mimebundle_(), grid._repr_mimebundle_()
    views = [b[0]["application/vnd.jupyter.widget-view+json"] for b in (first, second)]
    assert views[0]["model_id"] == views[1]["model_id"] == grid.model_id
    assert "<table>" in first[0]["text/html"]
    assert len(wire(grid).sent) == before


def test_the_subshell_that_the_browser_chose_is_kept(grids: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Routing(Wire):
        def _reply_subshell_for(self, data: Any, default: Any) -> Any:
            return None  # ipykernel 7.4 after a push from a thread: the main shell

    monkeypatch.setattr(comm, "create_comm", Routing)
    pinned: Any = grids().comm
    assert pinned._reply_subshell_for({"content": {}}, "subshell-1") == "subshell-1"
    monkeypatch.setattr(comm, "create_comm", Wire)
    assert not hasattr(grids().comm, "_reply_subshell_for")


def test_the_pin_is_for_a_method_that_this_ipykernel_has() -> None:
    from ipykernel.comm.comm import BaseComm as Kernels

    assert hasattr(Kernels, "_reply_subshell_for"), "ipykernel moved on: see whether the pin is still needed"


def test_no_trait_holds_a_row(grids: Any) -> None:
    source = Source(data=[row(1, name="visible-name")])
    grid = grids(source)
    state = {key: str(value) for key, value in grid.get_state().items() if key not in ("_esm", "_css")}
    assert "visible-name" not in str(state)


CHARACTERS = ["a", "é", "\ud800", "\0", "<img>", "__class__", "\u202e", "1"]


def junk(chance: random.Random, depth: int = 3) -> Any:
    kinds = ["none", "bool", "int", "float", "text", *(["list", "dict"] if depth else [])]
    match chance.choice(kinds):
        case "none":
            return None
        case "bool":
            return chance.random() < 0.5
        case "int":
            return chance.choice([0, -1, 99, 2**53, 10**400])
        case "float":
            return chance.choice([0.5, 1e308, float("nan"), float("inf")])
        case "text":
            return "".join(chance.choices(CHARACTERS, k=chance.choice([0, 1, 5, 500])))
        case "list":
            return [junk(chance, depth - 1) for _ in range(chance.randrange(4))]
        case _:
            return {str(junk(chance, 0)): junk(chance, depth - 1) for _ in range(chance.randrange(4))}


def hostile(chance: random.Random) -> Any:
    """From garbage to messages that are right but for one thing; the row 1 they never name."""
    if chance.random() < 0.3:
        return junk(chance)
    kind = chance.choice([*COMMANDS, "purge", "__init__"])
    message: dict[str, Any] = {"v": 1, "t": kind, "req": "h-1"}
    field = chance.choice(["ids", "row", "selection", "have", "x"])
    message[field] = junk(chance) if chance.random() < 0.6 else [chance.randrange(50, 10**18)]
    if chance.random() < 0.6:
        message[chance.choice(["v", "t", "req", "ids"])] = junk(chance)
    return message


def test_no_stranger_raises_out_of_the_callback_or_changes_anything(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    grid = DeckGrid(source, heartbeat=1_000)
    line = wire(grid)
    before, chance = list(source.data), random.Random(7)
    for _ in range(2_000):
        grid._receive(grid, hostile(chance), [])
    assert source.data == before
    assert source.acts == []
    assert grid.selected == ()
    assert line.kinds().count("error") > 1_000
    assert set(line.kinds()) <= {"error", "ack", "done", "snapshot", "summary"}
    line.hear(request("stop", ids=[1]))
    until(lambda: [said for said in line.said("done") if said["text"]])
    grid.close()
    assert source.line.seen_at == NOON
    assert not caplog.records
