"""Jobs of other users: shown to who asks, and never touched."""

from __future__ import annotations

from datetime import timedelta

import pytest

import skydeck_nb as sd
from skydeck_nb.control import looks
from tests.deck.conftest import until


@pytest.fixture
def theirs(backend: sd.FakeBackend) -> int:
    """A live job of another user, with the very name of an experiment."""
    backend.add_foreign_job("done", user="zoe", status="SUCCEEDED")
    return backend.add_foreign_job("a", user="zoe")


def test_the_first_call_asks_and_a_refresh_brings_them(deck: sd.Deck, theirs: int) -> None:
    deck.refresh()
    assert len(deck._desk.read(lambda tx: tx.jobs())) == 0, "nobody asked"
    deck.jobs(all_users=True)
    deck.refresh()
    shown = deck.jobs(all_users=True)
    assert shown.index.tolist() == [theirs]
    assert shown["user"].tolist() == ["zoe"]
    assert shown["experiment"].isna().all()
    assert deck.orphans(all_users=True).index.tolist() == [theirs]
    assert not deck.orphans(all_users=True)["mine"].any()
    assert len(deck.jobs()) == len(deck.orphans()) == len(deck.clusters()) == 0


def test_they_come_by_themselves_too_without_a_word_more(deck: sd.Deck, theirs: int) -> None:
    deck.orphans(all_users=True)
    until(lambda: len(deck._desk.read(lambda tx: tx.jobs(alive=True))) == 1)


def test_they_hold_no_launch_and_count_for_nothing(deck: sd.Deck, theirs: int, backend: sd.FakeBackend) -> None:
    deck.jobs(all_users=True)
    deck.refresh()
    deck.create("a", "train", start=True)
    until(lambda: deck["a"].state == "RUNNING")
    deck.stop("*")
    until(lambda: deck["a"].state == "STOPPED")
    assert {job.id: job.status for job in backend.truth()}[theirs] == "RUNNING"
    assert deck.orphans(all_users=True).index.tolist() == [theirs]


def test_one_that_has_ended_is_hidden_and_not_lost(deck: sd.Deck, theirs: int, backend: sd.FakeBackend) -> None:
    deck.jobs(all_users=True)
    deck.refresh()
    backend.finish(theirs)
    until(lambda: len(deck.jobs(all_users=True)) == 0)
    assert len(deck.orphans(all_users=True)) == 0
    assert "job.lost" not in deck.events()["type"].tolist()


def test_they_are_hidden_when_nobody_asks_any_more_and_shown_again_when_somebody_does(
    deck: sd.Deck, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def visible() -> int:
        return len(deck._desk.read(lambda tx: tx.orphan_cells(all_users=True)))

    monkeypatch.setattr(looks, "EVERYONE", timedelta(seconds=0.5))
    deck.jobs(all_users=True)
    until(lambda: visible() == 1)
    until(lambda: visible() == 0)
    deck.jobs(all_users=True)
    until(lambda: visible() == 1)
    assert "job.found" not in deck.events()["type"].tolist()


def test_they_are_touched_only_when_one_insists(deck: sd.Deck, theirs: int, backend: sd.FakeBackend) -> None:
    deck.create("a", "train")
    deck.jobs(all_users=True)
    deck.refresh()
    with pytest.raises(sd.NotYours, match=r"belongs to zoe; deck\.cancel\(2, others=True\) insists"):
        deck.cancel(theirs)
    with pytest.raises(sd.NotYours, match=r"belongs to zoe; deck\.adopt\(2, 'a', others=True\) insists"):
        deck.adopt(theirs, "a")
    assert [call.method for call in backend.calls if call.method == "cancel"] == []
    deck.cancel(theirs, others=True)
    until(lambda: {job.id: job.status for job in backend.truth()}[theirs] == "CANCELLED")
    until(lambda: deck.jobs(all_users=True)["status"].tolist() == ["CANCELLED"])


def test_one_that_a_person_adopts_is_the_experiments(deck: sd.Deck, theirs: int) -> None:
    deck.create("a", "train")
    deck.jobs(all_users=True)
    deck.refresh()
    deck.adopt(theirs, "a", others=True)
    until(lambda: deck["a"].state == "RUNNING")
    assert deck.jobs().index.tolist() == [theirs]
