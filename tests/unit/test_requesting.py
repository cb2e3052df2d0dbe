"""What a person's word means for the rows: the table of `api.md`, 'Act', and its neighbours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skydeck_nb.control import requesting
from skydeck_nb.control.requesting import How, Prepared, Work
from skydeck_nb.errors import InvalidName, InvalidSetting, NameTaken, NotYours
from skydeck_nb.events import CancelRequested, Event, Key, StartRequested, StopRequested
from skydeck_nb.models import ExperimentRow, JobRow, Spec, SweepRow

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def experiment(name: str = "a", id: int = 1, **columns: Any) -> ExperimentRow:
    return ExperimentRow(id=id, name=name, spec=Spec(), spec_hash="h", created_at=NOW, updated_at=NOW, **columns)


def job(id: int = 7, status: str = "RUNNING", run: int = 1, experiment_id: int | None = 1, **columns: Any) -> JobRow:
    return JobRow(id=id, experiment_id=experiment_id, run=run, status=status, created_at=NOW, changed_at=NOW, **columns)


def columns(event: Event, table: str = "experiments") -> dict[str, Any]:
    (change,) = [change for change in event.changes if change.table == table]
    assert change.columns is not None
    return dict(change.columns)


SITUATIONS: dict[str, tuple[ExperimentRow, Work]] = {
    "never run": (experiment(), Work()),
    "stopped": (experiment(run=1), Work({1: [job(status="CANCELLED")]})),
    "stopped before its launch": (experiment(run=1), Work()),
    "stopped in back-off": (experiment(run=1), Work({1: [job(status="FAILED")]})),
    "cancelled elsewhere": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(status="CANCELLED")]})),
    "being stopped": (experiment(run=1), Work({1: [job(status="CANCELLING")]})),
    "alive": (experiment(run=1, desired_state="RUNNING"), Work({1: [job()]})),
    "unknown status": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(status="DREAMING")]})),
    "launch unanswered": (experiment(run=1, desired_state="RUNNING"), Work(unanswered={1})),
    "waiting": (experiment(run=1, desired_state="RUNNING"), Work()),
    "lost": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(lost=True)]})),
    "forgotten": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(lost=True, forgotten=True)]})),
    "succeeded": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(status="SUCCEEDED")]})),
    "succeeded as it was stopped": (experiment(run=1), Work({1: [job(status="SUCCEEDED")]})),
    "failed": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(status="FAILED", exit_code=3)]})),
    "failed in set-up": (experiment(run=1, desired_state="RUNNING"), Work({1: [job(status="FAILED_SETUP")]})),
    "launch refused": (
        experiment(run=1, desired_state="RUNNING", observed_run=1, current_state="FAILED"),
        Work(),
    ),
    "deleted": (experiment(deleted=True), Work()),
}


@pytest.mark.parametrize(
    ("situation", "runs_after"),
    [
        ("never run", "start restart"),
        ("stopped", "start restart"),
        ("stopped before its launch", "start restart"),
        ("stopped in back-off", "start restart"),
        ("cancelled elsewhere", "start restart"),
        ("being stopped", "start restart"),
        ("alive", "restart"),
        ("unknown status", "restart"),
        ("launch unanswered", "restart"),
        ("waiting", "restart"),
        ("lost", "restart"),
        ("forgotten", "restart"),
        ("succeeded", "restart"),
        ("succeeded as it was stopped", "restart"),
        ("failed", "retry restart"),
        ("failed in set-up", "retry restart"),
        ("launch refused", "retry restart"),
        ("deleted", ""),
    ],
)
@pytest.mark.parametrize("how", ["start", "retry", "restart"])
def test_which_word_makes_it_run(situation: str, runs_after: str, how: How) -> None:
    row, work = SITUATIONS[situation]
    events, (outcome,) = requesting.start([row], work, NOW, how=how)
    if how in runs_after.split():
        (event,) = events
        assert isinstance(event, StartRequested)
        assert event.run == row.run + 1
        assert columns(event)["run"] == row.run + 1
        assert columns(event).get("desired_state", row.desired_state) == "RUNNING"
        assert columns(event)["wanted_at"] == columns(event)["updated_at"]
        assert outcome.action in ("started", "retried", "restarted")
    else:
        assert (events, outcome.action) == ([], "skipped")
    assert outcome.reason


def test_every_situation_is_in_the_table() -> None:
    assert len(SITUATIONS) == 18


def test_what_is_skipped_says_why_and_what_to_do() -> None:
    def why(situation: str, how: How = "start") -> str:
        row, work = SITUATIONS[situation]
        return requesting.start([row], work, NOW, how=how).outcomes[0].reason

    assert why("succeeded") == "done: job 7 succeeded; restart runs it again"
    assert why("failed") == "failed: job 7 ended FAILED with exit code 3; retry runs it again"
    assert why("alive") == "alive already: job 7 is RUNNING"
    assert "deck.forget(7)" in why("lost")
    assert why("never run", "retry") == "never run: start runs it"


@pytest.mark.parametrize(
    ("situation", "stops"),
    [
        ("never run", False),
        ("stopped", False),
        ("being stopped", False),
        ("alive", True),
        ("launch unanswered", True),
        ("waiting", True),
        ("lost", True),
        ("failed", True),
        ("succeeded", False),
    ],
)
def test_stop_is_asked_of_all_that_could_still_run(situation: str, stops: bool) -> None:
    row, work = SITUATIONS[situation]
    events, (outcome,) = requesting.stop([row], work, NOW)
    assert outcome.action == ("stopped" if stops else "skipped")
    assert [columns(event)["desired_state"] for event in events] == ["STOPPED"] * stops
    assert outcome.reason


def test_stop_reaches_a_deleted_experiment_too() -> None:
    row = experiment(run=1, desired_state="RUNNING", deleted=True)
    (event,) = requesting.stop([row], Work({1: [job()]}), NOW).events
    assert isinstance(event, StopRequested)


def test_terminate_follows_stop_and_is_kept_by_it() -> None:
    row, work = SITUATIONS["stopped"]
    (event,) = requesting.terminate([row], work, NOW).events
    assert columns(event)["desired_state"] == "TERMINATED"
    gone = replace(row, desired_state="TERMINATED")
    assert requesting.stop([gone], work, NOW).events == []
    assert requesting.terminate([gone], work, NOW).outcomes[0].action == "skipped"
    assert len(requesting.start([gone], work, NOW).events) == 1


def test_a_bulk_call_answers_for_each_in_order() -> None:
    rows = [replace(row, id=number, name=name) for number, (name, (row, _)) in enumerate(SITUATIONS.items(), 1)]
    outcomes = requesting.start(rows, Work(), NOW).outcomes
    assert [outcome.name for outcome in outcomes] == list(SITUATIONS)


def test_deleting_stops_and_undeleting_comes_back_stopped() -> None:
    row, work = SITUATIONS["alive"]
    (event,), (outcome,) = requesting.delete([row], work, NOW)
    assert columns(event)["desired_state"] == "STOPPED"
    assert columns(event)["deleted"] == 1
    assert outcome.reason == "hidden when it has ended: job 7 was RUNNING"
    gone = replace(row, deleted=True, desired_state="STOPPED")
    assert requesting.delete([gone], work, NOW).outcomes[0].action == "skipped"
    (event,), _ = requesting.undelete([gone], [], NOW)
    assert columns(event)["deleted"] == 0
    assert columns(event)["desired_state"] == "STOPPED"
    assert "name" not in columns(event)


def test_undelete_takes_a_free_name_where_its_own_is_taken() -> None:
    gone = [experiment("a", id=1, deleted=True), experiment("a", id=2, deleted=True)]
    events, outcomes = requesting.undelete(gone, {"a", "a-2"}, NOW)
    assert [columns(event)["name"] for event in events] == ["a-3", "a-4"]
    assert outcomes[0].reason == "as a-3: another has its name"
    long = "x" * 100
    assert requesting.free_name(long, {long}) == "x" * 98 + "-2"


def test_purge_takes_only_what_is_deleted_and_dead() -> None:
    dead = experiment(deleted=True, run=1)
    owned: dict[int, list[tuple[str, Key]]] = {
        1: [("jobs", 7), ("attempts", "abc"), ("experiment_group_members", (3, 1))]
    }
    (event,), (outcome,) = requesting.purge([dead], Work(), owned, NOW)
    assert [(change.table, change.columns) for change in event.changes] == [
        ("jobs", None),
        ("attempts", None),
        ("experiment_group_members", None),
        ("experiments", None),
    ]
    assert outcome.action == "purged"
    for row, work in [(experiment(), Work()), (dead, Work({1: [job()]})), (dead, Work(unanswered={1}))]:
        assert requesting.purge([row], work, owned, NOW).events == []


def test_star_and_rename_change_no_generation_and_move_nothing() -> None:
    row = experiment(run_name="a", generation=4)
    (event,), _ = requesting.star([row], NOW)
    assert columns(event)["starred"] == 1
    assert requesting.star([row], NOW, on=False).events == []
    (event,), (outcome,) = requesting.rename(row, "b", {"a": 1}, NOW)
    assert {*columns(event)} == {"name", "updated_at"}
    assert outcome.reason == "was a; its runs go on as a"
    with pytest.raises(NameTaken, match="'c'"):
        requesting.rename(row, "c", {"a": 1, "c": 2}, NOW)
    with pytest.raises(InvalidName, match="'1c'"):
        requesting.rename(row, "1c", {}, NOW)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a/b", "ä", "a" * 101, "a\n", "-a", "$(rm)"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidName):
        requesting.check_name(name)


def test_cancelling_the_job_that_is_wanted_stops_its_experiment() -> None:
    row, work = SITUATIONS["alive"]
    events, (outcome,) = requesting.cancel(work.jobs[1][0], row, work, NOW)
    assert [type(event) for event in events] == [StopRequested, CancelRequested]
    assert outcome.action == "cancelled"
    older = job(id=3, run=0)
    events, _ = requesting.cancel(older, row, work, NOW)
    assert [type(event) for event in events] == [CancelRequested]
    ended = requesting.cancel(job(status="SUCCEEDED"), row, work, NOW)
    assert (ended.events, ended.outcomes[0].action) == ([], "skipped")


@pytest.mark.parametrize(
    ("orphan", "named"),
    [(job(experiment_id=None, mine=False, user="ada"), "ada"), (job(experiment_id=None, name="x"), "no claim")],
)
def test_what_is_not_ours_is_cancelled_only_when_one_insists(orphan: JobRow, named: str) -> None:
    with pytest.raises(NotYours, match=named):
        requesting.cancel(orphan, None, Work(), NOW)
    assert len(requesting.cancel(orphan, None, Work(), NOW, others=True).events) == 1


def test_an_adopted_job_is_the_job_of_a_new_run_that_is_wanted() -> None:
    row = experiment(run=2, generation=5)
    (event,), (outcome,) = requesting.adopt(job(experiment_id=None, run=0), row, Work(), None, NOW)
    assert columns(event, "jobs") == {"experiment_id": 1, "run": 3, "generation": 5, "adopted": 1}
    assert columns(event)["run"] == 3
    assert columns(event)["desired_state"] == "RUNNING"
    assert outcome.action == "adopted"


def test_adoption_refuses_what_would_make_two() -> None:
    row, work = SITUATIONS["alive"]
    orphan = job(id=9, experiment_id=None)
    with pytest.raises(NameTaken, match="stop it first"):
        requesting.adopt(orphan, row, work, None, NOW)
    with pytest.raises(NameTaken, match="belongs to b"):
        requesting.adopt(job(experiment_id=2), experiment(), Work(), experiment("b", id=2), NOW)
    with pytest.raises(NotYours, match="ada"):
        requesting.adopt(job(experiment_id=None, mine=False, user="ada"), experiment(), Work(), None, NOW)
    own = requesting.adopt(job(), experiment(), Work(), experiment(), NOW)
    assert own == Prepared([], own.outcomes)


def test_only_a_lost_job_is_forgotten() -> None:
    (event,), _ = requesting.forget(job(lost=True), experiment(), NOW)
    assert columns(event, "jobs")["forgotten"] == 1
    with pytest.raises(InvalidSetting, match=r"deck\.cancel\(7\)"):
        requesting.forget(job(), experiment(), NOW)
    assert requesting.forget(job(status="FAILED"), experiment(), NOW).events == []


def test_a_sweep_is_released_only_when_its_brake_holds_it() -> None:
    sweep = SweepRow(id=1, name="s", definition={}, created_at=NOW, updated_at=NOW)
    assert requesting.release(sweep, NOW) == []
    (event,) = requesting.release(replace(sweep, brake="HELD", brake_message="boom"), NOW + timedelta(1))
    assert columns(event, "sweeps")["brake"] == "RELEASED"
