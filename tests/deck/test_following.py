"""``logs(follow=True)`` prints each line once, the last one too."""

from __future__ import annotations

import pytest

import skydeck_nb as sd
from skydeck_nb.experiment import Experiment


@pytest.fixture
def growing(deck: sd.Deck, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment whose log grows with every look, and whose job ends right after the last line was written."""
    deck.create("a", "train", start=True)
    written = iter(["1\n2\n3\n", "1\n2\n3\n4\n", "1\n2\n3\n4\n5\n6\n"])
    last = {"text": "", "state": "RUNNING"}

    def logs(self: object, job_id: int, tail: int | None = None) -> str:
        last["text"] = next(written, last["text"])
        if last["text"].endswith("6\n"):
            last["state"] = "SUCCEEDED"
        return last["text"]

    monkeypatch.setattr(type(deck), "logs", logs)
    monkeypatch.setattr(type(deck), "_newest_job", lambda self, experiment_id: 1)
    monkeypatch.setattr("skydeck_nb.experiment.shown", lambda row: last["state"])
    monkeypatch.setattr(type(deck), "_follow_pause", 0)
    return deck["a"]


@pytest.mark.parametrize(("tail", "printed"), [(2, "2\n3\n4\n5\n6\n"), (None, "1\n2\n3\n4\n5\n6\n"), (0, "4\n5\n6\n")])
def test_nothing_is_printed_twice_or_left_out(
    growing: Experiment, capsys: pytest.CaptureFixture[str], tail: int | None, printed: str
) -> None:
    growing.logs(tail=tail, follow=True)
    assert capsys.readouterr().out == printed
