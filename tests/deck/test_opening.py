"""Which database is opened with which backend, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skydeck_nb as sd
from skydeck_nb import background, opening
from tests.deck.conftest import until


def test_the_same_arguments_give_the_same_deck(tmp_path: Path) -> None:
    backend = sd.FakeBackend()
    with sd.open(tmp_path / "a.db", backend=backend) as deck:
        assert sd.open(tmp_path / "a.db", backend=backend) is deck
        assert sd.open(os.fspath(tmp_path / "x" / ".." / "a.db"), backend=backend) is deck
        assert opening.latest() is deck
        with pytest.raises(sd.DeckOpen, match="backend"):
            sd.open(tmp_path / "a.db", backend=sd.FakeBackend())
        with pytest.raises(sd.DeckOpen, match="read_only"):
            sd.open(tmp_path / "a.db", backend=backend, read_only=True)
        with pytest.raises(sd.DeckOpen, match="max_gpus"):
            sd.open(tmp_path / "a.db", backend=backend, max_gpus=3)
    assert deck._loop.closed
    assert "closed" in repr(deck)
    with sd.open(tmp_path / "a.db", backend=backend, max_gpus=3) as other:
        assert other is not deck
        assert other.settings.to_dict("index")["max_gpus"] == {"value": 3, "source": "argument"}


def test_a_database_belongs_to_one_backend(tmp_path: Path) -> None:
    with sd.open(tmp_path / "a.db", backend=sd.FakeBackend(seed=1)):
        pass
    with pytest.raises(sd.WrongBackend, match=r"seed-1.*seed-2"):
        sd.open(tmp_path / "a.db", backend=sd.FakeBackend(seed=2))
    with pytest.raises(sd.WrongBackend, match="local"):
        sd.open(tmp_path / "a.db", local_root=tmp_path / "local")


def test_a_fake_backend_without_a_path_leaves_nothing_behind() -> None:
    backend = sd.FakeBackend()
    deck = sd.open(backend=backend)
    path = deck._loop.store.path
    assert path.exists()
    assert sd.open(backend=backend) is deck
    deck.close()
    deck.close()
    assert not path.parent.exists()


def test_what_cannot_be_opened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SKYPILOT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(sd.InvalidSetting, match="is a folder"):
        sd.open(tmp_path, backend=sd.FakeBackend())
    with pytest.raises(sd.InvalidSetting, match="backend"):
        sd.open(tmp_path / "a.db", backend="slurm")
    with pytest.raises(sd.InvalidSetting, match=r"No SkyPilot API server is named: run `sky api login"):
        sd.open(tmp_path / "a.db", backend="skypilot")
    with pytest.raises(sd.InvalidSetting, match="max_gpu"):
        sd.open(tmp_path / "a.db", max_gpu=3)
    assert not (tmp_path / "a.db").exists()


def test_the_default_is_the_embedded_backend_in_the_home_folder(tmp_path: Path) -> None:
    with sd.open() as deck:
        assert deck._loop.store.path == Path("~/.skydeck/local.db").expanduser()
        assert deck.health()["ok"].tolist()[0]
        assert "no sign-in" in deck.sign_in()


def test_a_second_deck_follows_and_sees_and_asks(tmp_path: Path, deck: sd.Deck) -> None:
    deck.create("a", "train")
    code = f"""if True:
        import skydeck_nb as sd
        from skydeck_nb.backends.fake import FakeBackend
        with sd.open({str(tmp_path / "deck.db")!r}, backend=FakeBackend(seed=1)) as deck:
            print(repr(deck)); deck.start("a")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "following" in done.stdout or "taking the lead" in done.stdout
    until(lambda: deck["a"].state == "RUNNING")


def test_read_only_shows_and_writes_nothing(tmp_path: Path) -> None:
    backend = sd.FakeBackend()
    with sd.open(tmp_path / "a.db", backend=backend) as deck:
        deck.create("a", "train")
    with sd.open(tmp_path / "a.db", backend=backend, read_only=True) as deck:
        assert list(deck) == ["a"]
        with pytest.raises(sd.DatabaseError, match="read_only"):
            deck.start("a")


def test_the_demo_is_a_sweep_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "TRAIN", "missing.py")
    deck = sd.demo()
    try:
        assert len(deck) == 12
        assert sd.demo() is deck
        deck.stop("*")
        until(lambda: set(deck.experiments()["state"]) <= {"STOPPED", "FAILED"})
    finally:
        deck.close()


def test_a_detached_deck_follows_the_background_loop(tmp_path: Path) -> None:
    with sd.open(tmp_path / "d.db", local_root=tmp_path / "local", slots=2) as deck:
        deck.create("a", "sleep 0.1")
        try:
            assert "leads from now on" in deck.detach()
            until(lambda: "following" in repr(deck))
            deck.start("a")
            assert deck["a"].wait(timeout=30)["state"].tolist() == ["SUCCEEDED"]
            assert deck.explain("a").leader.endswith("leads.")
        finally:
            background.stop(background.Place.of(deck._loop.settings))
    with (
        sd.open(backend=sd.FakeBackend()) as fake,
        pytest.raises(sd.InvalidSetting, match="this process alone"),
    ):
        fake.detach()
