"""The picture that needs no kernel."""

from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser

from hypothesis import given, settings

from skydeck_nb.widget.source import GridRow, GridSummary
from skydeck_nb.widget.still import MAX_BYTES, MAX_ROWS, picture
from skydeck_nb.widget.view import view
from tests.widget.worlds import NOON, decks, row

LINE = GridSummary(backend="local <b>")


def drawn(rows: list[GridRow]) -> str:
    return picture(view(rows), LINE, NOON + timedelta(seconds=5))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += len(attrs)


def test_it_says_its_time_and_what_to_do() -> None:
    html = drawn([row(1)])
    assert "2026-11-22 12:00:05 UTC" in html
    assert "run the cell again" in html


def test_the_first_rows_and_how_many_more() -> None:
    html = drawn([row(i) for i in range(1, 1_001)])
    assert html.count("<tr>") == MAX_ROWS + 1
    assert "950 more" in html


def test_it_is_capped() -> None:
    rows = [row(i, flags={f"flag-{k}": "ü" * 5_000 for k in range(200)}) for i in range(1, 60)]
    assert len(drawn(rows).encode()) <= MAX_BYTES


def test_what_must_not_be_saved_is_not() -> None:
    html = drawn(
        [
            row(
                1,
                state="FAILED",
                reason="NonZeroExit",
                message="Traceback: the last line of a log",
                flags={"wandb.api_key": "abc123", "HF_TOKEN": "hf_xyz", "data": "https://b.s3/x?X-Amz-Signature=1"},
            )
        ]
    )
    assert "NonZeroExit" in html
    for kept in ("Traceback", "abc123", "hf_xyz", "Signature", "https"):
        assert kept not in html


@settings(deadline=None, max_examples=50)
@given(decks())
def test_whatever_the_rows_hold_is_text(rows: list[GridRow]) -> None:
    html = drawn(rows)
    html.encode()
    tags = Tags()
    tags.feed(html)
    assert tags.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert tags.attributes == 0


def test_a_name_that_would_be_a_tag_is_escaped() -> None:
    html = drawn([row(1, name="<img src=x onerror=alert(1)>")])
    assert "<img" not in html
    assert "&lt;img" in html
