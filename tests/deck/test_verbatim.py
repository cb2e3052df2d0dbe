"""Nothing goes through a shell: what a cell says arrives in argv as it is, or is refused (must-show 7)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import skydeck_nb as sd

WRITE = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
TEXTS = ["it's", '"q"', "$(touch /tmp/x)", "a\nb", "ünï → ☃", "`id`", "$HOME", " lead", "{x}", "\\n", "", "x" * 100_000]


def test_flags_and_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "argv.json"
    flags = {f"f{number}": text for number, text in enumerate(TEXTS)}
    with sd.open(tmp_path / "deck.db", local_root=tmp_path / "local", slots=2) as deck:
        escaped = [text.replace("{", "{{").replace("}", "}}") for text in TEXTS]
        deck.create("a", [sys.executable, "-c", WRITE, out, *escaped, "{flags:json}"], flags=flags, start=True)
        deck["a"].wait(timeout=60, check=True)
        *arguments, rendered = json.loads(out.read_text())
        assert arguments == TEXTS
        assert json.loads(rendered) == flags


def test_what_no_process_could_be_given_is_refused(tmp_path: Path) -> None:
    with sd.open(backend=sd.FakeBackend()) as deck:
        for flags in ({"x": "a\0b"}, {"x": "\ud800"}, {"x": "y" * 200_000}):
            with pytest.raises((sd.InvalidFlag, sd.InvalidCommand)):
                deck.create("a", "train", flags=flags)
        with pytest.raises(sd.InvalidName):
            deck.create("$(id)", "train")
        with pytest.raises(sd.InvalidCommand, match="script="):
            deck.create("a", "train && rm -rf $HOME")
        assert len(deck) == 0
