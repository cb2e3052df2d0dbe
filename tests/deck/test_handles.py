"""Handles, waits, callbacks, notices and how they read."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import traceback
from typing import Any

import pytest

import skydeck_nb as sd
from tests.deck.conftest import until


def test_a_handle_reads_the_present_row(deck: sd.Deck) -> None:
    a = deck.create("a", ["train", "{name}"], flags={"lr": 0.1}, gpus=2)
    assert (a.id, a.name, a.state, a.desired, a.attention, a.groups) == (1, "a", "STOPPED", "STOPPED", False, ())
    assert a.argv == ("train", "a", "lr=0.1")
    assert a.command_line == "train a lr=0.1"
    assert a.task_yaml.splitlines()[-1] == "  train a lr=0.1"
    assert a == deck["a"] == deck.by_id(1)
    assert len({a, deck["a"]}) == 1
    a.rename("b")
    assert a.name == "b"
    assert deck.diff("b", a.duplicate("c", flags={"lr": 0.2})).index.tolist() == ["flags.lr"]


def test_what_a_handle_says_is_escaped(deck: sd.Deck) -> None:
    a = deck.create("a", ["train", "<script>alert(1)</script>"])
    assert "<script>" not in a._repr_html_()
    assert "<script>" in repr(a)


def test_wait_returns_at_once_for_what_is_over(deck: sd.Deck) -> None:
    a = deck.create("a", "train")
    assert a.wait(timeout=0)["state"].tolist() == ["STOPPED"]
    deck.create("x-bad", "train", start=True)
    assert deck["x-bad"].wait(timeout=20)["state"].tolist() == ["FAILED"]
    with pytest.raises(sd.SkydeckError, match="1 of 1 failed: x-bad"):
        deck["x-bad"].wait(check=True)


def test_wait_gives_up_when_its_time_is_over(deck: sd.Deck, capsys: pytest.CaptureFixture[str]) -> None:
    a = deck.create("a", "train", start=True)
    with pytest.raises(TimeoutError, match=r"1 not over after 0\.6 s: a"):
        a.wait(timeout=0.6)
    assert a.desired == "RUNNING"


def test_a_sweep_is_waited_for_together(deck: sd.Deck) -> None:
    sweep = deck.sweep("s", "train", names="{n}-ok".replace("{n}", "n{n}"), flags={"n": [1, 2, 3]}, start=True)
    assert sweep.wait(timeout=30)["state"].tolist() == ["SUCCEEDED"] * 3
    assert sweep.progress().sum() == 3
    assert [each.name for each in sweep] == ["n1-ok", "n2-ok", "n3-ok"]
    assert list(deck.sweeps) == ["s"]
    assert deck.sweeps.frame()["succeeded"].tolist() == [3]


def test_logs_are_text_and_followed_by_printing(deck: sd.Deck, capsys: pytest.CaptureFixture[str]) -> None:
    a = deck.create("a-ok", "train")
    assert a.logs() == ""
    a.start()
    a.wait(timeout=20)
    assert isinstance(a.logs(), str)
    assert a.logs(follow=True) is None
    assert str(a.logs()) in capsys.readouterr().out


def test_a_callback_is_called_once_per_event_on_a_thread_of_its_own(
    deck: sd.Deck, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def make(tag: str) -> Any:
        def on_finish(event: sd.JobFinished) -> None:
            sys.stdout.write(f"heard {event.status}\n")
            seen.append((tag, event.status, threading.current_thread().name))

        return on_finish

    caplog.set_level(logging.INFO, logger="skydeck_nb.callbacks")
    deck.on(sd.JobFinished, make("old"))
    deck.on(sd.JobFinished, make("new"))
    deck.create("a-ok", "train", start=True)
    until(lambda: seen)
    assert seen == [("new", "SUCCEEDED", "skydeck-callbacks")]
    until(lambda: "heard SUCCEEDED" in caplog.text)
    assert "heard" not in capsys.readouterr().out
    assert not type(sys.stdout).__module__.startswith("skydeck_nb")


def test_a_callback_that_fails_becomes_a_notice(deck: sd.Deck) -> None:
    def fails(event: Any) -> None:
        raise RuntimeError("boom")

    deck.on(sd.JobFinished, fails)
    with pytest.raises(sd.InvalidSetting, match="kind of event"):
        deck.on(print, fails)
    deck.create("a-ok", "train", start=True)
    until(deck._loop.notices.waiting)
    result: Any = deck.star("a-ok")
    assert any("boom" in notice for notice in result.notices)
    result = deck.star("a-ok", on=False)
    assert result.notices == []


def test_what_needs_a_person_is_said_once(deck: sd.Deck, backend: sd.FakeBackend) -> None:
    backend.withhold("TOKEN")
    deck.create("a", "train", secrets=["TOKEN"], start=True)
    until(lambda: deck["a"].reason == "SecretMissing")
    until(deck._loop.notices.waiting)
    result: Any = deck.star("a")
    assert any("TOKEN" in notice for notice in result.notices)
    assert not deck.health().loc["experiments", "ok"]
    assert deck["a"].wait(timeout=0)["attention"].tolist() == [True]


def test_a_traceback_keeps_the_users_frames_and_drops_ours(deck: sd.Deck) -> None:
    with pytest.raises(sd.UnknownExperiment) as caught:
        deck.start("nope")
    frames = [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert frames == ["test_a_traceback_keeps_the_users_frames_and_drops_ours", "call"]


def test_the_grid_shows_the_rows_and_acts(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"n": [1, 2]})
    grid = deck.grid()
    assert deck.grid() is grid
    deck.select("s-n2")
    assert deck.selected.index.tolist() == ["s-n2"]
    source = grid._source
    until(lambda: len(source.rows()) == 2)
    assert source.act("start", (1,), {}) == "s-n1 started: its first run."
    until(lambda: source.rows()[0].state == "RUNNING")
    assert [row.action for row in source.rows()] == ["stop", "start"]
    assert source.summary().role == "leading"
    detail = source.detail(1)
    assert detail.command == "train n=1"
    assert detail.jobs[0].status == "RUNNING"
    assert "2 skipped" in source.act("retry", (1, 2), {})
    data = deck._repr_mimebundle_()[0]
    assert "s-n1" in data["text/html"]
    assert data["text/plain"].startswith("Deck deck.db")


def test_frames_are_there_also_when_empty(deck: sd.Deck) -> None:
    for frame in (
        deck.experiments(metrics=True),
        deck.jobs(),
        deck.metrics(),
        deck.checkpoints(),
        deck.groups(),
        deck.clusters(),
        deck.orphans(),
        deck.attempts(),
        deck.sweeps.frame(),
        deck.settings,
        deck.health(),
    ):
        assert len(frame.columns)
    assert len(deck.events(since="1h")) == len(deck.events())
    assert len(deck.events(since="2099-01-01")) == 0
    with pytest.raises(sd.InvalidSetting, match="since"):
        deck.events(since="whenever")


def test_ipython_shows_the_users_frames_alone() -> None:
    code = """if True:
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.run_line_magic("colors", "nocolor")
        shell.run_cell("import skydeck_nb as sd; deck = sd.open(backend=sd.FakeBackend())")
        shell.run_cell("deck.start('nope')")
        shell.run_cell("deck.close()")
    """
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "----> 1 deck.start('nope')" in shown
    assert "There is no experiment 'nope'" in shown
    assert "skydeck_nb/" not in shown
