"""Rows to columns, snapshots and deltas."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from skydeck_nb.widget import view as views
from skydeck_nb.widget.messages import Columns, Delta, encode
from skydeck_nb.widget.source import GridRow
from skydeck_nb.widget.view import View, changes, snapshot, view
from tests.widget.worlds import NOON, browser, decks, row, table


def shown(rows: list[GridRow]) -> list[str]:
    return [column.key for column in view(rows).columns if column.shown]


ALWAYS = ["name", "action", "state", "age", "jobs"]


@pytest.mark.parametrize(
    ("rows", "more"),
    [
        ([row(1)], []),
        ([row(1, epoch=0)], ["epoch"]),
        ([row(1, gpus=0)], ["gpus"]),
        ([row(1, nodes=2)], ["nodes"]),
        ([row(1), row(2, restarts=1)], ["restarts"]),
        ([row(1, accelerators="H100:8", recoveries=1)], ["recoveries", "accelerators"]),
        ([row(1, started_at=NOON)], ["runtime"]),
        ([row(1), row(2, sweep="other")], ["sweep"]),
        ([row(1), row(2, groups=("g",))], ["groups"]),
        ([row(1, flags={"b": 1, "a": 2})], ["flags.b", "flags.a"]),
        ([row(1, flags={"net.a": 1, "lr": 1, "net.b": 1})], ["flags.net.a", "flags.net.b", "flags.lr"]),
        (
            [row(1, flags={"same": 1, "lr": 1}, metrics={"loss": 1.0}), row(2, flags={"same": 1, "lr": 2})],
            ["flags.lr", "metrics.loss", "flags.same"],
        ),
        ([row(1, flags={"lr": 1}), row(2, flags={"lr": True})], ["flags.lr"]),
    ],
)
def test_columns_are_found_by_themselves(rows: list[GridRow], more: list[str]) -> None:
    found = shown(rows)
    assert [key for key in found if key not in ALWAYS] == more
    assert set(ALWAYS) <= set(found)


def test_a_flag_that_is_the_same_in_every_row_is_common() -> None:
    columns = view([row(1, flags={"a": 1, "b": 1}), row(2, flags={"a": 1, "b": True})]).columns
    assert {c.key: c.common for c in columns if c.key.startswith("flags.")} == {"flags.a": True, "flags.b": False}


def test_a_column_keeps_its_number_for_life() -> None:
    first = view([row(1, flags={"a": 1})])
    second = view([row(1, flags={"b": 1})], first)
    third = view([row(1, flags={"a": 1, "b": 2, "c": 3})], second)
    number = {c.key: c.n for c in first.columns} | {c.key: c.n for c in second.columns}
    assert all(number.get(c.key, c.n) == c.n for c in third.columns)
    assert len({c.n for c in third.columns}) == len(third.columns)


@pytest.mark.parametrize(
    ("before", "after", "delta"),
    [
        ([row(1)], [row(1)], None),
        ([row(1)], [replace(row(1), state="FAILED")], {"changed": [[1, 2, "FAILED"]]}),
        ([row(1), row(2)], [row(2)], {"removed": [1]}),
        ([row(1), row(2)], [row(2), row(1)], {"order": [2, 1]}),
        ([row(1)], [row(1, ended_at=NOON + timedelta(seconds=1))], {"changed": [[1, 7, 1795348801000]]}),
    ],
)
def test_only_what_changed_travels(before: list[GridRow], after: list[GridRow], delta: dict[str, Any] | None) -> None:
    old = view(before)
    messages = changes(old, view(after, old))
    if delta is None:
        assert messages == []
    else:
        empty: dict[str, Any] = {"added": [], "changed": [], "removed": [], "order": None}
        assert messages == [Delta(**(empty | delta))]


def test_a_new_flag_brings_columns_before_cells() -> None:
    old = view([row(1)])
    messages = changes(old, view([row(1, flags={"lr": 0.5})], old))
    assert messages is not None
    assert [type(message) for message in messages] == [Columns, Delta]


def test_many_new_rows_are_a_snapshot() -> None:
    old = view([row(1)])
    assert changes(old, view([row(i) for i in range(1, 1_000)], old)) is None


def test_rows_that_did_not_change_are_not_encoded_again() -> None:
    old = view([row(1), row(2)])
    new = view([row(1), row(2, state="FAILED")], old)
    assert new.cells[1] is old.cells[1]
    assert new.columns is old.columns


def test_a_big_snapshot_comes_in_blocks_fixed_columns_first() -> None:
    rows = [row(i, flags={f"f{k}": i for k in range(100)}) for i in range(1, 3_001)]
    parts = list(snapshot(view(rows), {}))
    assert len(parts) > 1
    first = {key for key in (c[1] for c in parts[0].columns or []) if not key.startswith("flags.")}
    assert len(parts[0].values) == len(first)
    assert all(len(part.values) * len(rows) <= views.BLOCK_CELLS for part in parts[1:])
    assert browser([encode(part, 1, i) for i, part in enumerate(parts)]) == table(view(rows))


def test_a_changed_row_costs_less_than_200_bytes() -> None:
    rows = [row(i, flags={"lr": 0.1}, metrics={"loss": 0.123456789, "accuracy": 0.5}) for i in range(10_001, 10_101)]
    old = view(rows)
    moved = [
        replace(r, state="FAILED", action="retry", reason="NonZeroExit", metrics={"loss": 0.987654321, "accuracy": 1.0})
        for r in rows
    ]
    messages = changes(old, view(moved, old)) or []
    size = sum(len(buffer) for message in messages for buffer in encode(message, 1, 1)[1])
    assert size / 100 <= 200


def _strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _safe(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _safe(item)
    elif isinstance(value, list):
        for item in value:
            _safe(item)
    elif isinstance(value, str):
        value.encode()
        assert "\0" not in value
        assert len(value) < 1_100
    elif isinstance(value, int):
        assert abs(value) < 2**53
    elif isinstance(value, float):
        assert math.isfinite(value)


@settings(deadline=None, max_examples=60)
@given(decks(), decks(), decks())
def test_deltas_lead_where_a_snapshot_would(a: list[GridRow], b: list[GridRow], c: list[GridRow]) -> None:
    now = View.empty()
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    for rows in (a, b, c):
        before, now = now, view(rows, now)
        messages = changes(before, now) if sent else None
        for message in snapshot(now, {}) if messages is None else messages:
            sent.append(encode(message, 1, len(sent) + 1))
        assert browser(sent) == table(now)
        assert list(browser(sent)) == [r.id for r in rows]
    for _, buffers in sent:
        for buffer in buffers:
            _safe(_strict(buffer.decode()))


@settings(deadline=None, max_examples=60)
@given(decks(), decks())
def test_a_view_does_not_depend_on_what_was_before(a: list[GridRow], b: list[GridRow]) -> None:
    after, fresh = view(b, view(a)), view(b)
    assert table(after) == table(fresh)
    assert [c.key for c in after.columns] == [c.key for c in fresh.columns]
    assert changes(after, view(b, after)) == []
