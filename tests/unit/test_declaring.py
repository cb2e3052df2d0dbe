"""What a cell says, run again and again: the three-way apply of `api.md`, 'Declare'."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from skydeck_nb import codec
from skydeck_nb.control import declaring, editing, requesting
from skydeck_nb.control.declaring import Call, Declared, World
from skydeck_nb.control.requesting import Work
from skydeck_nb.declaration import BUDGETS, Surroundings
from skydeck_nb.errors import InvalidCommand, InvalidFlag, InvalidName, InvalidSetting, NameTaken, SkydeckError
from skydeck_nb.events import Cell, Event, Key, fold
from skydeck_nb.flags.grid import fixed, zipped
from skydeck_nb.models import ExperimentRow, GroupRow, JobRow, SweepRow

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LOCAL = Surroundings(cwd="/home/me", workdir="/home/me", interpreter="/usr/bin/python", path="/bin")


class Book:
    """A database without one: the log folded to rows."""

    def __init__(self, around: Surroundings = LOCAL) -> None:
        self.tables: dict[str, dict[Key, dict[str, Cell]]] = {}
        self.log: list[Event] = []
        self.around = around
        self.work = Work()

    def put(self, events: list[Event]) -> int:
        for event in events:
            fold(self.tables, event.changes)  # type: ignore[arg-type]
        self.log += events
        return len(events)

    def rows(self, table: str) -> list[Any]:
        return [codec.make(table, key, columns) for key, columns in self.tables.get(table, {}).items()]

    @property
    def experiments(self) -> dict[str, ExperimentRow]:
        return {row.name: row for row in self.rows("experiments") if not row.deleted}

    def world(self, name: str, *, of_sweep: bool) -> World:
        sweep: SweepRow | None = next((s for s in self.rows("sweeps") if of_sweep and s.name == name), None)
        rows: list[ExperimentRow] = self.rows("experiments")
        mine = [
            r for r in rows if (sweep and r.sweep_id == sweep.id if of_sweep else r.name == name and not r.sweep_id)
        ]
        ids = {r.id for r in mine}
        groups: list[GroupRow] = self.rows("experiment_groups")
        members: Any = {key: cells["member_order"] for key, cells in self.tables.get(codec.MEMBERS, {}).items()}
        return World(
            rows=mine,
            taken={r.name: "another" for r in rows if not r.deleted and r.id not in ids},
            sweep=sweep,
            groups=groups,
            members=members,
            work=self.work,
            next_experiment=max((r.id for r in rows), default=0) + 1,
            next_group=len(groups) + 1,
        )

    def create(self, name: str, command: Any = "python train.py", *, flags: Any = None, **said: Any) -> Declared:
        return self._declare(declaring.create, name, command, flags or {}, said, of_sweep=False)

    def sweep(self, name: str, command: Any = "python train.py", *, flags: Any, **said: Any) -> Declared:
        return self._declare(declaring.sweep, name, command, flags, said, of_sweep=True)

    def _declare(
        self, how: Callable[..., Declared], name: str, command: Any, flags: Any, said: dict[str, Any], *, of_sweep: bool
    ) -> Declared:
        own = {k: said.pop(k) for k in [*said] if k in Call.__dataclass_fields__ and (of_sweep or k not in BUDGETS)}
        call = Call(name=name, keywords={"command": command, **said}, flags=flags, **own)
        declared = how(call, self.world(name, of_sweep=of_sweep), self.around, NOW)
        self.put(declared.events)
        return declared

    def update(self, name: str, unset: Any = (), **keywords: Any) -> str:
        row = self.experiments[name]
        events, (edited,) = editing.update([row], editing.Edit(keywords, unset), self.work, self.around, NOW)
        self.put(events)
        return edited.applies or edited.outcome.action

    def request(self, how: Callable[..., Any], name: str) -> None:
        self.put(how([self.experiments[name]], self.work, NOW).events)


@pytest.fixture
def book() -> Book:
    return Book()


def reasons(declared: Declared) -> dict[str, str]:
    return {outcome.name: f"{outcome.action}: {outcome.reason}" for outcome in declared.outcomes}


LRS: Mapping[str, Any] = {"lr": [0.1, 0.2], "layers": 3}


# -- One experiment ---------------------------------------------------------------------


def test_declaring_costs_nothing_and_says_everything(book: Book) -> None:
    book.create("a", ["python", "train.py"], flags={"lr": 0.1}, gpus=2, tags=["x"], max_hours=3, workdir="code")
    a = book.experiments["a"]
    assert (a.desired_state, a.run, a.generation) == ("STOPPED", 0, 1)
    assert (a.spec.command, a.spec.flags, a.spec.gpus) == (("python", "train.py"), {"lr": 0.1}, 2)
    assert (a.spec.workdir, a.spec.interpreter, a.spec.path) == ("/home/me/code", "/usr/bin/python", "/bin")
    assert (a.tags, a.max_hours) == (("x",), 3.0)


def test_running_the_cell_again_writes_nothing(book: Book) -> None:
    def cell() -> Declared:
        return book.create(
            "a", flags={"lr": float("nan"), "n": 1}, gpus=1, groups=["b", "a"], env={"A": "1"}, tags=["t"]
        )

    cell()
    for _ in range(3):
        assert cell().events == []


def test_only_what_changed_in_the_cell_is_applied(book: Book) -> None:
    book.create("a", flags={"lr": 0.1, "layers": 3}, priority=1)
    book.update("a", flags={"layers": 9}, priority=5)
    declared = book.create("a", flags={"lr": 0.2, "layers": 3}, priority=1)
    a = book.experiments["a"]
    assert a.spec.flags == {"lr": 0.2, "layers": 9}
    assert (a.priority, a.generation) == (5, 3)
    assert [outcome.action for outcome in declared.outcomes] == ["changed", "kept"]
    kept = declared.outcomes[1].reason
    assert "layers is 9, the cell says 3" in kept
    assert "priority is 5, the cell says 1" in kept
    assert book.create("a", flags={"lr": 0.2, "layers": 3}, priority=1).events == []


def test_overwrite_takes_the_cells_word(book: Book) -> None:
    book.create("a", flags={"lr": 0.1})
    book.update("a", flags={"lr": 0.5, "extra": 1})
    book.create("a", flags={"lr": 0.1}, overwrite=True)
    assert book.experiments["a"].spec.flags == {"lr": 0.1}


def test_what_the_cell_leaves_out_now_goes_back_to_its_default(book: Book) -> None:
    book.create("a", flags={"lr": 0.1, "n": 1}, gpus=2, env={"A": "1", "B": "2"})
    book.create("a", flags={"lr": 0.1}, env={"A": "1"})
    a = book.experiments["a"]
    assert (a.spec.flags, a.spec.gpus, a.spec.env) == ({"lr": 0.1}, None, {"A": "1"})


def test_one_that_came_into_being_otherwise_gets_what_the_cell_says_and_keeps_the_rest(book: Book) -> None:
    book.create("a", flags={"lr": 0.1, "n": 1}, gpus=2)
    events, _ = editing.duplicate(book.experiments["a"], "b", {"n": 2}, {"a": 1}, 2, LOCAL, NOW)
    book.put(events)
    book.create("b", flags={"lr": 0.3})
    b = book.experiments["b"]
    assert (b.spec.flags, b.spec.gpus) == ({"lr": 0.3, "n": 2}, 2)


def test_another_folder_or_environment_of_the_kernel_changes_nothing(book: Book) -> None:
    book.create("a")
    book.around = Surroundings(cwd="/tmp", workdir="/tmp", interpreter="/other/python", path="/other")
    assert book.create("a").events == []
    book.create("a", overwrite=True)
    assert book.experiments["a"].spec.workdir == "/tmp"
    book.create("a", workdir="/data")
    assert book.experiments["a"].spec.workdir == "/data"


@pytest.mark.parametrize("loose", ["description", "tags", "priority", "max_hours", "max_restarts", "groups"])
def test_what_is_not_executed_makes_no_generation(book: Book, loose: str) -> None:
    value = {"description": "x", "tags": ["x"], "groups": ["x"]}.get(loose, 2)
    book.create("a")
    declared = book.create("a", **{loose: value})
    assert book.experiments["a"].generation == 1
    when = "at launch" if loose == "max_hours" else "at once"  # a job carries its wall time itself
    assert declared.outcomes[0].reason.endswith(f"applies {when}")


def test_a_change_under_a_live_run_says_when_it_applies(book: Book) -> None:
    book.create("a", start=True)
    book.work = Work({1: [JobRow(id=7, experiment_id=1, run=1, status="RUNNING", created_at=NOW, changed_at=NOW)]})
    declared = book.create("a", flags={"lr": 1})
    assert declared.outcomes[0].reason == "lr unset → 1; applies after restart"
    assert book.update("a", flags={"lr": 2}) == "after restart"
    assert book.update("a", description="x") == "at once"
    assert book.update("a", unset="lr") == "after restart"
    assert book.experiments["a"].spec.flags == {}


def test_start_concerns_only_what_this_call_creates(book: Book) -> None:
    assert book.create("a", start=True).started == 1
    assert (book.experiments["a"].run, book.experiments["a"].desired_state) == (1, "RUNNING")
    book.request(requesting.stop, "a")
    declared = book.create("a", start=True)
    assert (declared.started, declared.events) == (0, [])
    assert reasons(declared) == {"a": "left: stopped: start runs it again"}


def test_a_deleted_one_stays_deleted(book: Book) -> None:
    book.create("a")
    book.request(requesting.delete, "a")
    declared = book.create("a", flags={"lr": 2}, start=True)
    assert declared.events == []
    assert "deck.undelete('a')" in reasons(declared)["a"]


def test_groups_are_made_filled_and_left(book: Book) -> None:
    book.create("a", groups=["g", "h"])
    book.create("b", groups="g")
    assert set(book.tables[codec.MEMBERS]) == {(1, 1), (2, 1), (1, 2)}
    book.create("a", groups=["h"])
    assert set(book.tables[codec.MEMBERS]) == {(2, 1), (1, 2)}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"gpus": 2, "accelerators": "H100:4"}, "leave one out"),
        ({"accelerators": "H100:x"}, "H100:4"),
        ({"nodes": 0}, "nodes=0"),
        ({"nodes": "many"}, "nodes='many'"),
        ({"gpus": True}, "gpus=True"),
        ({"spot": "yes"}, "True, False or None"),
        ({"max_hours": -1}, "above 0"),
        ({"env": {"A": 1}}, "write it as text"),
        ({"script": "x"}, "keep one"),
        ({"command": None}, "nothing to run"),
        ({"command": "a && b"}, "script"),
        ({"task": 3}, "task=3"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_remedy(book: Book, said: dict[str, Any], message: str) -> None:
    command = said.pop("command", "python train.py") if "command" in said else "python train.py"
    with pytest.raises(InvalidCommand, match=message):
        book.create("a", command, **said)
    assert book.log == []


def test_accelerators_say_the_gpus_too(book: Book) -> None:
    book.create("a", accelerators={"H100": 4})
    assert (book.experiments["a"].spec.accelerators, book.experiments["a"].spec.gpus) == ("H100:4", 4)
    book.update("a", accelerators="A100:8")
    assert book.experiments["a"].spec.gpus == 8
    book.update("a", gpus=2)
    assert book.experiments["a"].spec.accelerators == "A100:2"


def test_a_git_ref_is_pinned_when_it_is_declared(book: Book) -> None:
    tips = {"main": "1" * 40}
    book.around = replace(LOCAL, commit=lambda ref, workdir: tips[ref])
    book.create("a", git_ref="main")
    tips["main"] = "2" * 40
    assert book.create("a", git_ref="main").events == []
    assert book.experiments["a"].spec.git_commit == "1" * 40
    book.create("a", git_ref="main", overwrite=True)
    assert book.experiments["a"].spec.git_commit == "2" * 40


# -- Sweeps -----------------------------------------------------------------------------


def test_a_sweep_declares_its_points_in_order(book: Book) -> None:
    declared = book.sweep("s", flags=LRS, gpus=[1, 4], max_live=2)
    assert [row.name for row in declared.rows] == ["s-lr0.1-gpus1", "s-lr0.1-gpus4", "s-lr0.2-gpus1", "s-lr0.2-gpus4"]
    row = book.experiments["s-lr0.2-gpus4"]
    assert row.coordinates == {"lr": 0.2, "gpus": 4}
    assert row.spec.flags == {"lr": 0.2, "layers": 3}
    (sweep,) = book.rows("sweeps")
    assert (sweep.max_live, sweep.definition["axes"]) == (2, {"lr": [0.1, 0.2], "gpus": [1, 4]})


def test_running_the_sweep_three_times_changes_nothing(book: Book) -> None:
    book.sweep("s", flags=LRS)
    for _ in range(2):
        assert book.sweep("s", flags=LRS).events == []


def test_one_more_value_makes_exactly_the_new_points(book: Book) -> None:
    book.sweep("s", flags=LRS, start=True)
    declared = book.sweep("s", flags={"lr": [0.1, 0.15, 0.2], "layers": 3}, start=True)
    assert (declared.created, declared.started, declared.changed) == (1, 1, 0)
    assert declared.named("created") == ["s-lr0.15"]
    assert [row.name for row in declared.rows] == ["s-lr0.1", "s-lr0.15", "s-lr0.2"]


def test_edited_stopped_and_deleted_points_are_left_and_named(book: Book) -> None:
    lrs = {"lr": [0.1, 0.2, 0.3, 0.4]}
    book.sweep("s", flags=lrs, start=True)
    book.update("s-lr0.1", flags={"lr": 0.11})
    book.request(requesting.stop, "s-lr0.2")
    book.request(requesting.delete, "s-lr0.3")
    before = dict(book.experiments)
    declared = book.sweep("s", flags=lrs, start=True)
    assert declared.events == []
    assert book.experiments == before
    said = reasons(declared)
    assert said["s-lr0.1"].startswith("kept: edited elsewhere: lr is 0.11, the cell says 0.1")
    assert said["s-lr0.2"].startswith("left: stopped")
    assert said["s-lr0.3"].startswith("deleted: stays deleted")
    assert "s-lr0.4" not in said


def test_a_changed_common_flag_changes_the_points_that_exist(book: Book) -> None:
    book.sweep("s", flags=LRS)
    declared = book.sweep("s", flags={**LRS, "layers": 4})
    assert (declared.created, declared.changed) == (0, 2)
    assert {row.generation for row in book.experiments.values()} == {2}
    assert {row.spec.flags["layers"] for row in book.experiments.values()} == {4}


def test_a_common_flag_that_becomes_an_axis_keeps_its_points(book: Book) -> None:
    book.sweep("s", flags=LRS)
    declared = book.sweep("s", flags={"lr": [0.1, 0.2], "layers": [3, 6]})
    assert declared.created == 2
    kept = book.experiments["s-lr0.1"]
    assert (kept.id, kept.generation, kept.coordinates) == (1, 1, {"lr": 0.1, "layers": 3})
    assert book.sweep("s", flags={"lr": [0.1, 0.2], "layers": [3, 6]}).events == []


def test_values_taken_away_leave_their_experiments_and_say_so(book: Book) -> None:
    book.sweep("s", flags=LRS)
    declared = book.sweep("s", flags={"lr": [0.1], "layers": 3})
    assert declared.named("left over") == ["s-lr0.2"]
    assert "s-lr0.2" in book.experiments
    declared = book.sweep("s", flags={"lr": [0.1], "layers": 3}, prune=True)
    assert declared.named("pruned") == ["s-lr0.2"]
    assert [*book.experiments] == ["s-lr0.1"]
    assert book.sweep("s", flags={"lr": [0.1], "layers": 3}, prune=True).events == []


def test_another_template_renames_the_points_except_those_renamed_elsewhere(book: Book) -> None:
    book.sweep("s", flags=LRS, names="a-{lr}")
    row = book.experiments["a-0.2"]
    book.put(requesting.rename(row, "best", {}, NOW).events)
    book.sweep("s", flags=LRS, names="b-{lr}")
    assert [*book.experiments] == ["b-0.1", "best"]
    assert book.sweep("s", flags=LRS, names="b-{lr}").events == []


def test_a_name_that_another_owns_is_refused_and_nothing_is_written(book: Book) -> None:
    book.create("s-lr0.2")
    written = len(book.log)
    with pytest.raises(NameTaken, match=r"'s-lr0\.2'"):
        book.sweep("s", flags=LRS)
    assert len(book.log) == written
    book.sweep("t", flags=LRS)
    with pytest.raises(NameTaken, match=r"'t-lr0\.1'"):
        book.create("t-lr0.1")


def test_the_limit_of_a_sweep_follows_its_cell(book: Book) -> None:
    book.sweep("s", flags=LRS, max_live=2)
    book.sweep("s", flags=LRS, max_live=3)
    (sweep,) = book.rows("sweeps")
    assert sweep.max_live == 3
    with pytest.raises(InvalidSetting, match="max_live=0"):
        book.sweep("s", flags=LRS, max_live=0)


def test_zipped_and_fixed_and_where(book: Book) -> None:
    declared = book.sweep(
        "s",
        flags={"sizes": fixed([64, 64]), **zipped(a=[1, 2], b=[10, 20]), "c": [0, 1]},
        where=lambda p: not (p["a"] == 1 and p["c"] == 1),
        names="s-{a}-{c}",
    )
    assert [row.name for row in declared.rows] == ["s-1-0", "s-2-0", "s-2-1"]
    assert declared.rows[2].spec.flags == {"sizes": [64, 64], "a": 2, "b": 20, "c": 1}


def test_the_budget_of_a_sweep_is_the_sweeps_and_follows_its_cell(book: Book) -> None:
    def swept() -> tuple[float | None, float | None]:
        (sweep,) = book.rows("sweeps")
        return sweep.max_gpu_hours, sweep.max_cost

    book.sweep("s", flags=LRS, max_gpu_hours=100)
    assert swept() == (100.0, None)
    assert {row.max_gpu_hours for row in book.experiments.values()} == {None}
    assert book.sweep("s", flags=LRS, max_gpu_hours=100.0).events == []
    declared = book.sweep("s", flags=LRS, max_gpu_hours=200, max_cost=50)
    assert (swept(), declared.limited, declared.changed) == ((200.0, 50.0), True, 0)
    book.update("s-lr0.1", max_gpu_hours=3)
    book.sweep("s", flags=LRS)
    assert swept() == (None, None)
    assert book.experiments["s-lr0.1"].max_gpu_hours == 3.0, "one point's own limit is not the cell's"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"max_gpu_hours": [1, 2]},
            r"=\[1, 2\]: one number is the whole sweep's budget; deck.update\(sel, max_gpu_hours",
        ),
        ({"max_cost": zipped(a=[1])}, "max_cost=.*one number is the whole sweep's budget"),
        ({"max_cost": fixed([1])}, "max_cost=.*one number is the whole sweep's budget"),
        ({"max_cost": 0}, "max_cost=0: write a number above 0, or None for no limit"),
        ({"max_cost": "much"}, "max_cost='much': write a number above 0"),
        ({"max_gpu_hours": True}, "max_gpu_hours=True: write a number above 0"),
    ],
)
def test_what_is_no_budget_of_a_sweep_is_refused(book: Book, said: dict[str, Any], message: str) -> None:
    with pytest.raises(SkydeckError, match=message):
        book.sweep("s", flags=LRS, **said)
    assert book.log == []


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"flags": {"lr": []}}, InvalidFlag),
        ({"flags": LRS, "names": "x"}, InvalidName),
        ({"flags": LRS, "names": "x-{nope}"}, InvalidName),
        ({"flags": LRS, "nodes": [1, 0]}, InvalidCommand),
        ({"flags": LRS, "command": "python {nope}"}, InvalidCommand),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_whole(book: Book, said: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        book.sweep("s", **said)
    assert book.log == []


def test_ten_thousand_points_are_declared_and_declared_again_in_a_few_seconds(book: Book) -> None:
    flags = {"seed": list(range(100)), "lr": [number / 1000 for number in range(1, 101)], "trainer.layers": 4}
    began = time.process_time()
    declared = book.sweep("s", flags=flags)
    first = time.process_time() - began
    assert declared.created == 10_000
    world = book.world("s", of_sweep=True)
    began = time.process_time()
    call = Call(name="s", keywords={"command": "python train.py"}, flags=flags)
    assert declaring.sweep(call, world, LOCAL, NOW).events == []
    again = time.process_time() - began
    assert first < 10, f"{first:.1f} s"
    assert again < 10, f"{again:.1f} s"
    print(f"declared in {first:.2f} s, again in {again:.2f} s")  # noqa: T201
