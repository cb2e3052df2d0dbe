"""`api.md`, 'Act', on a real store with the loop running."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
import pytest

import skydeck_nb as sd
from skydeck_nb.results import Result
from tests.deck.conftest import until


def states(deck: sd.Deck, *names: str) -> list[str]:
    return [deck[name].state for name in names]


def outcome(result: Any) -> dict[str, str]:
    assert isinstance(result, Result)
    return dict(zip(result.index, result["action"], strict=True))


def test_start_runs_and_stop_ends(deck: sd.Deck) -> None:
    deck.create("a", "train")
    assert outcome(deck.start("a")) == {"a": "started"}
    until(lambda: deck["a"].state == "RUNNING")
    assert outcome(deck.start("a")) == {"a": "skipped"}
    assert outcome(deck.stop("a")) == {"a": "stopped"}
    until(lambda: deck["a"].state == "STOPPED")
    assert deck.jobs()["state"].tolist() == ["CANCELLED"]
    assert outcome(deck.start("a")) == {"a": "started"}
    until(lambda: deck["a"].state == "RUNNING")
    assert len(deck.jobs("a")) == 2


def test_the_table_of_words(deck: sd.Deck) -> None:
    for name in ("new", "x-ok", "x-bad"):
        deck.create(name, "train")
    deck.start(["x-ok", "x-bad"])
    until(lambda: states(deck, "x-ok", "x-bad") == ["SUCCEEDED", "FAILED"])
    assert outcome(deck.start(["x-ok", "x-bad"])) == {"x-ok": "skipped", "x-bad": "skipped"}
    assert outcome(deck.retry("*")) == {"new": "skipped", "x-ok": "skipped", "x-bad": "retried"}
    until(lambda: len(deck.jobs("x-bad")) == 2)
    assert outcome(deck.restart("x-ok")) == {"x-ok": "restarted"}
    until(lambda: len(deck.jobs("x-ok")) == 2)


def test_stop_beats_start(deck: sd.Deck, backend: sd.FakeBackend) -> None:
    deck.sweep("s", "train", flags={"n": list(range(60))})
    deck.start("*")
    deck.stop("*")
    until(lambda: set(deck.experiments()["state"]) == {"STOPPED"})
    assert all(job.status == "CANCELLED" for job in backend.truth())


def test_a_bulk_call_is_all_or_nothing(deck: sd.Deck) -> None:
    deck.create("a", "train")
    before = len(deck.events())
    with pytest.raises(sd.UnknownExperiment, match="nope"):
        deck.start(["a", "nope"])
    with pytest.raises(sd.InvalidCommand):
        deck.update(["a"], nodes=0)
    changes = deck.events()["type"].tolist()[before:]
    assert "start.requested" not in changes
    assert "spec.changed" not in changes


def test_what_matches_nothing_answers_with_an_empty_frame_that_says_so(deck: sd.Deck) -> None:
    result = deck.stop("none-*")
    assert isinstance(result, Result)
    assert len(result) == 0
    assert result.columns.tolist() == ["action", "reason"]
    assert result.notices == ["'none-*' matches none of 0 experiments."]
    assert "matches none" in repr(result)
    assert "matches none" in result._repr_html_()


def test_a_dry_run_writes_nothing_and_its_plan_can_be_applied_once(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"n": [1, 2, 3]}, gpus=2, max_live=2)
    plan = deck.sweeps["s"].start(dry_run=True)
    assert isinstance(plan, sd.Plan)
    assert plan.columns.tolist() == ["experiment", "action", "reason", "gpus"]
    assert plan["action"].tolist() == ["start", "start", "start", "launch", "launch", "queue"]
    assert plan["gpus"].tolist() == [2] * 6
    assert deck["s-n1"].state == "STOPPED"
    applied = plan.apply()
    assert outcome(applied) == {"s-n1": "started", "s-n2": "started", "s-n3": "started"}
    with pytest.raises(sd.StalePlan):
        plan.apply()


def test_a_plan_is_stale_when_what_it_read_has_moved(deck: sd.Deck) -> None:
    deck.create("a", "train")
    deck.create("b", "train")
    plan = deck.start("a", dry_run=True)
    other = deck.start("b", dry_run=True)
    deck.update("a", flags={"x": 1})
    assert isinstance(plan, sd.Plan)
    with pytest.raises(sd.StalePlan):
        plan.apply()
    assert isinstance(other, sd.Plan)
    other.apply()
    declared: Any = deck.create("c", "train", dry_run=True)
    assert declared["action"].tolist() == ["create"]
    deck.create("c", "other")
    with pytest.raises(sd.StalePlan):
        declared.apply()


def test_the_plan_of_the_loop_is_empty_when_all_has_settled(deck: sd.Deck) -> None:
    deck.create("a", "train", start=True)
    until(lambda: deck["a"].state == "RUNNING")
    until(lambda: len(deck.plan()) == 0)
    with pytest.raises(sd.StalePlan):
        deck.plan().apply()


def test_update_merges_flags_and_says_when_it_applies(deck: sd.Deck) -> None:
    deck.create("a", "train", flags={"x": 1, "y": 2})
    result = deck.update("a", flags={"x": 3}, unset="y", gpus=4)
    assert isinstance(result, Result)
    assert result["applies"].tolist() == ["at launch"]
    assert dict(deck["a"].flags) == {"x": 3}
    deck.start("a")
    until(lambda: deck["a"].state == "RUNNING")
    changed = deck["a"].update(flags={"x": 4})
    assert isinstance(changed, Result)
    assert changed["applies"].tolist() == ["after restart"]
    until(lambda: deck["a"].reason == "RestartToApply")
    with pytest.raises(TypeError):
        deck["a"].flags["x"] = 5  # type: ignore[index]
    with pytest.raises(sd.InvalidSetting, match="nodez"):
        deck.update("a", nodez=2)
    with pytest.raises(sd.InvalidFlag, match="no flag 'z'"):
        deck.update("a", unset=["z"])


def test_delete_undelete_and_purge(deck: sd.Deck) -> None:
    deck.create("a", "train", start=True)
    until(lambda: deck["a"].state == "RUNNING")
    a = deck["a"]
    deck.delete("a")
    assert "a" not in deck
    assert len(deck) == 0
    with pytest.raises(sd.UnknownExperiment, match=r"deck\.undelete\('a'\)"):
        deck.start("a")
    until(lambda: not len(deck.jobs(live=True)))
    deck.create("b", "train")
    deck.rename("b", "a")
    assert outcome(deck.undelete(a)) == {"a-2": "undeleted"}
    assert (a.name, a.desired) == ("a-2", "STOPPED")
    assert outcome(a.purge()) == {"a-2": "skipped"}
    a.delete()
    until(lambda: outcome(deck.purge(a)) == {"a-2": "purged"})
    with pytest.raises(sd.UnknownExperiment, match="id 1"):
        deck.by_id(1)
    assert len(deck.jobs()) == 0
    assert deck._desk.read(lambda tx: tx.folded() == tx.tables())


def test_duplicate_star_and_names(deck: sd.Deck) -> None:
    deck.create("a", "train", flags={"x": 1}, gpus=2)
    copy: Any = deck.duplicate("a", "b", flags={"x": 2})
    assert dict(copy.flags) == {"x": 2}
    assert list(deck) == ["a", "b"]
    with pytest.raises(sd.NameTaken):
        deck.duplicate("a", "b")
    with pytest.raises(sd.NameTaken):
        deck.rename("a", "b")
    with pytest.raises(sd.InvalidName):
        deck.rename("a", "no spaces")
    deck.star("a")
    assert deck.experiments()["starred"].tolist() == [True, False]
    assert deck._ipython_key_completions_() == ["a", "b"]


def test_an_own_job_without_a_claim_waits_for_a_person(deck: sd.Deck, backend: sd.FakeBackend) -> None:
    own = backend.add_foreign_job("a", user="you", status="RUNNING")
    until(lambda: own in deck.orphans().index)  # the next look for what is not known of; a launch may be before it
    deck.create("a", "train", start=True)
    until(lambda: deck["a"].reason == "UnclaimedJobAlive")
    assert deck["a"].attention
    assert own in deck.orphans().index
    with pytest.raises(sd.NotYours, match="no claim of this deck"):
        deck.cancel(own)
    deck.adopt(own, "a")
    until(lambda: deck["a"].state == "RUNNING")
    assert deck.jobs("a").index.tolist() == [own]
    deck.stop("a")
    until(lambda: deck["a"].state == "STOPPED")
    with pytest.raises(sd.UnknownExperiment, match="no job 999"):
        deck.cancel(999)


def test_cancelling_a_job_stops_its_experiment(deck: sd.Deck) -> None:
    deck.create("a", "train", start=True)
    until(lambda: deck["a"].state == "RUNNING")
    deck.cancel(int(deck.jobs().index[0]))
    until(lambda: deck["a"].state == "STOPPED")


def test_the_brake_holds_a_sweep_until_it_is_started_again(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"n": [1, 2, 3, 4, 5]}, names="s{n}-bad", max_live=1, start=True)
    sweep = deck.sweeps["s"]
    until(lambda: deck["s5-bad"].reason == "SweepHeld")
    with pytest.raises(sd.InvalidSetting, match="held by its brake"):
        sweep.start(first=1)
    assert deck["s5-bad"].reason == "SweepHeld"
    assert "sweep.start() goes on" in repr(sweep)
    sweep.start()
    until(lambda: sweep.progress()["FAILED"] == 5)


def test_start_first_takes_the_next_ones(deck: sd.Deck) -> None:
    sweep = deck.sweep("s", "train", flags={"n": [1, 2, 3]})
    assert outcome(sweep.start(first=2)) == {"s-n1": "started", "s-n2": "started"}
    assert outcome(sweep.start(first=2)) == {"s-n3": "started"}
    with pytest.raises(sd.InvalidSetting, match="first=0"):
        sweep.start(first=0)


def test_selections_by_frame_function_and_handle(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"n": [1, 2, 3]})
    frame = deck.experiments()
    assert outcome(deck.star(frame[frame["flags.n"] > 1])) == {"s-n2": "starred", "s-n3": "starred"}
    assert outcome(deck.star(lambda e: e.flags["n"] == 1 and not e.groups)) == {"s-n1": "starred"}
    assert len(deck.experiments(deck.sweeps["s"])) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas 3 would have it called `suffixes`
        joined = deck.jobs().join(deck.experiments(), on="experiment", rsuffix="_exp")
    assert isinstance(joined, pd.DataFrame)
    assert {"state", "state_exp"} <= set(joined.columns)
    with pytest.raises(sd.InvalidSetting, match=r"deck\.by_id\(1\)"):
        deck.start(1)


def test_explain_always_has_an_answer(deck: sd.Deck) -> None:
    deck.create("a", "train")
    why = deck.explain("a")
    assert (why.reason, why.state) == ("NeverStarted", "STOPPED")
    assert "deck.start('a')" in repr(why)
    a = deck["a"]
    deck.delete("a")
    until(lambda: "a" not in deck)
    assert a.explain().message
    assert "a" in a.explain()._repr_html_()
