"""What is new in a log's window, whatever was cut from its front."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.following import appended, last_lines

LINES = st.lists(st.integers().map(lambda number: f"line {number}\n"), unique=True, max_size=30)


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "a\n", "a\n"),
        ("a\n", "a\n", ""),
        ("a\n", "a\nb\n", "b\n"),
        ("a\nb\n", "b\nc\n", "c\n"),
        ("a\nb", "b and more\nc\n", " and more\nc\n"),
        ("a\na\n", "a\na\na\n", "a\n"),
        ("a\nb\n", "c\nd\n", None),
        ("a\nb\n", "", None),
    ],
)
def test_what_is_appended_begins_where_the_text_before_ends(before: str, now: str, new: str | None) -> None:
    assert appended(before, now) == new


@given(LINES, st.integers(0, 30), st.integers(1, 30))
def test_every_line_is_passed_on_once_while_the_windows_overlap(lines: list[str], seen: int, window: int) -> None:
    before = "".join(lines[:seen][-window:])
    now = "".join(lines[-window:])
    new = appended(before, now)
    if len(lines) - seen < window and before:
        assert new == "".join(lines[seen:])
    elif new is not None and before:
        assert "".join(lines).endswith(new)


@given(LINES, st.integers(0, 40))
def test_the_last_lines_are_the_text_s_end(lines: list[str], count: int) -> None:
    assert last_lines("".join(lines), count) == "".join(lines[len(lines) - min(count, len(lines)) :])
