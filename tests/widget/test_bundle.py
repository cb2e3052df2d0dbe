"""What travels once per widget: small, whole, and without a way out of the page."""

from __future__ import annotations

import gzip

import pytest

from skydeck_nb.widget.grid import STATIC

SCRIPT, STYLE = STATIC / "widget.js", STATIC / "widget.css"


def test_the_bundle_keeps_its_budget() -> None:
    raw = SCRIPT.read_bytes() + STYLE.read_bytes()
    assert len(raw) <= 120_000
    assert len(gzip.compress(raw, 9)) <= 40_000


@pytest.mark.parametrize("name", ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "import(", "fetch("])
def test_the_page_is_never_given_text_as_code(name: str) -> None:
    script = SCRIPT.read_text().replace("dangerouslySetInnerHTML", "")
    uses = script.count(name)
    # Preact holds two uses of innerHTML for a property that we never give it.
    assert uses == 0 or name == "innerHTML"
