"""The wire: fixtures shared with js/tests, and strangers' input."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from skydeck_nb.widget.messages import COMMANDS as KINDS
from skydeck_nb.widget.messages import MAX_IDS, Outgoing, Stop, WireError, encode, parse
from skydeck_nb.widget.view import View, changes, snapshot, summary, view
from tests.widget import worlds

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "wire"


def load(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def encoded(message: Any, seq: int) -> dict[str, Any]:
    content, buffers = encode(message, 7, seq)
    return {"content": content, "buffer": json.loads(buffers[0]) if buffers else None}


def outgoing() -> dict[str, Any]:
    return {name: encoded(message, i + 1) for i, (name, message) in enumerate(worlds.OUTGOING.items())}


def commands() -> dict[str, Any]:
    sent: dict[str, Any] = {}
    for name, command in worlds.COMMANDS.items():
        fields = {key: getattr(command, key) for key in ("ids", "selection", "row", "have") if hasattr(command, key)}
        content = {"v": 1, "t": name, "req": command.req} | fields
        sent[name] = json.loads(json.dumps(content))
    return sent


def story() -> list[dict[str, Any]]:
    """Each moment: the messages that lead to it, and the table that a browser then has."""
    now = View.empty()
    seq = 0
    moments: list[dict[str, Any]] = []
    for rows in worlds.STORY:
        before, now = now, view(rows, now)
        moved = changes(before, now) if moments else None
        whole = snapshot(now, summary(worlds.Source().line))
        messages: list[Outgoing] = [*whole] if moved is None else [*moved]
        sent = []
        for message in messages:
            seq += 1
            sent.append(encoded(message, seq))
        ids = list(now.ids)
        moments.append({"messages": sent, "ids": ids, "table": {str(id): worlds.table(now)[id] for id in ids}})
    return moments


def test_every_message_is_encoded_as_both_sides_agreed() -> None:
    assert outgoing() == load("outgoing")


def test_every_command_is_parsed_as_both_sides_agreed() -> None:
    sent = load("commands")
    assert sent == commands()
    assert {name: parse(content) for name, content in sent.items()} == dict(worlds.COMMANDS)
    assert set(sent) == set(KINDS)


def test_the_story_is_told_as_both_sides_agreed() -> None:
    assert json.loads(json.dumps(story())) == load("story")


GOOD = {"v": 1, "t": "stop", "req": "a-1", "ids": [1]}

REFUSED: list[Any] = [
    None,
    "stop",
    [],
    {},
    GOOD | {"v": 2},
    GOOD | {"v": True},
    GOOD | {"t": "purge"},
    GOOD | {"t": None},
    GOOD | {"t": ["stop"]},
    GOOD | {"req": ""},
    GOOD | {"req": 1},
    GOOD | {"req": "x" * 65},
    GOOD | {"req": "a\nb"},
    GOOD | {"ids": []},
    GOOD | {"ids": [True]},
    GOOD | {"ids": [1.0]},
    GOOD | {"ids": ["1"]},
    GOOD | {"ids": [-1]},
    GOOD | {"ids": [2**53]},
    GOOD | {"ids": {"0": 1}},
    GOOD | {"ids": [1] * (MAX_IDS + 1)},
    GOOD | {"ids": [float("nan")]},
    GOOD | {"also": 1},
    {"v": 1, "t": "stop", "req": "a"},
    {"v": 1, "t": "open", "req": "a", "row": None},
    {"v": 1, "t": "resync", "req": "a", "have": "1"},
    {"v": 1, "t": "select", "req": "a", "selection": None},
]


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: str(content)[:60])
def test_what_is_not_a_message_is_refused(content: Any) -> None:
    with pytest.raises(WireError) as refused:
        parse(content)
    assert str(refused.value)
    if isinstance(content, dict) and content.get("req") in ("a", "a-1"):
        assert refused.value.req == content["req"]


def test_an_id_named_twice_counts_once() -> None:
    assert parse(GOOD | {"ids": [1, 1, 2]}) == Stop(req="a-1", ids=(1, 2))


if __name__ == "__main__":  # python -m tests.widget.test_messages writes the fixtures anew
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name, content in {"outgoing": outgoing(), "commands": commands(), "story": story()}.items():
        (FIXTURES / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
