"""A sweep definition to its points, their names and the experiments they are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.errors import InvalidFlag, InvalidName
from skydeck_nb.flags import grid, values
from skydeck_nb.flags.grid import Existing, Matching, Point, fixed, zipped
from skydeck_nb.models import FlagValue, Spec

PPO: dict[str, Any] = {"layers": [1, 4, 16, 64], "trainer.lr": [3e-4, 1e-3], "trainer.losses.ppo.enabled": True}


def ppo() -> tuple[Point, ...]:
    return grid.points(PPO, {"gpus": 4, "nodes": [1, 4]}, lambda p: not (p["nodes"] == 4 and p["layers"] == 1))


def at(points: tuple[Point, ...]) -> list[tuple[FlagValue, ...]]:
    return [tuple(point.coordinates.values()) for point in points]


# Points


def test_points_come_in_the_order_of_nested_loops_flags_before_resources() -> None:
    points = grid.points({"b": [1, 2], "c": 0, "a": ["x", "y"]}, {"nodes": [1, 4]})
    assert at(points) == list(itertools.product([1, 2], ["x", "y"], [1, 4]))
    assert list(points[0].coordinates) == ["b", "a", "nodes"]


def test_a_point_has_all_flags_all_resources_and_its_place_on_the_axes() -> None:
    point = ppo()[0]
    assert point.flags == {"layers": 1, "trainer.lr": 3e-4, "trainer.losses.ppo.enabled": True}
    assert list(point.flags) == list(PPO)
    assert point.resources == {"gpus": 4, "nodes": 1}
    assert point.coordinates == {"layers": 1, "trainer.lr": 3e-4, "nodes": 1}


def test_where_sees_flags_and_resources_by_key_and_keeps_what_is_true() -> None:
    assert len(ppo()) == 14


def test_where_may_answer_with_a_numpy_bool() -> None:
    assert at(grid.points({"a": [1, 2]}, where=lambda p: np.bool_(p["a"] > 1))) == [(2,)]


def test_where_that_asks_for_an_unknown_key_gets_near_names() -> None:
    with pytest.raises(InvalidFlag, match=r"no 'lr'. Did you mean 'trainer\.lr'"):
        grid.points(PPO, where=lambda p: p["lr"])


def test_where_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InvalidFlag, match="none of the 8 points"):
        grid.points(PPO, where=lambda p: False)


def test_where_that_changes_its_point_changes_nothing() -> None:
    assert at(grid.points({"a": [1, 2]}, where=lambda p: p.update(a=3) or True)) == [(1,), (2,)]  # type: ignore[attr-defined]


def test_without_axes_there_is_one_point() -> None:
    assert grid.points({"a": 1}, {"nodes": 2}) == (Point({"a": 1}, {"nodes": 2}, {}),)


@pytest.mark.parametrize(
    ("axis", "kept"),
    [
        ([1, 2], [1, 2]),
        ((1, 2), [1, 2]),
        (range(1, 3), [1, 2]),
        (np.array([1, 2]), [1, 2]),
        (np.array([0.1, 0.2], dtype="float32"), [0.1, 0.2]),
        (pd.Series([1, 2], index=[7, 8]), [1, 2]),
        (pd.Index([1, 2]), [1, 2]),
        ([1], [1]),
        ([1, 1.0, True, "1"], [1, 1.0, True, "1"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([None, 4], [None, 4]),
    ],
)
def test_what_is_an_axis(axis: Any, kept: list[FlagValue]) -> None:
    for points in (grid.points({"x": axis}), grid.points({}, {"infra": axis})):
        assert repr([value for (value,) in at(points)]) == repr(kept)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("command", ["python", "x"]),
        ("secrets", ("A",)),
        ("tags", ["a"]),
        ("env", {"A": "1"}),
        ("resources", {"cpus": 2}),
    ],
)
def test_a_keyword_that_is_a_list_or_mapping_by_itself_is_no_axis(key: str, value: Any) -> None:
    assert grid.points({}, {key: value})[0].resources == {key: value}


def test_a_fixed_list_is_a_value() -> None:
    points = grid.points({"layers": fixed([64, 64]), "a": [1, 2], "b": [fixed([1]), [2]]})
    assert points[0].flags == {"layers": [64, 64], "a": 1, "b": [1]}
    assert len(points) == 4


def test_nested_mappings_of_axes_become_dotted_keys() -> None:
    assert list(grid.points({"trainer": {"lr": [1, 2]}})[0].coordinates) == ["trainer.lr"]


def test_numpy_resources_become_plain() -> None:
    assert type(grid.points({}, {"nodes": np.int64(4)})[0].resources["nodes"]) is int


@pytest.mark.parametrize(
    ("flags", "resources", "says"),
    [
        ({"lr": []}, {}, "'lr' is empty"),
        ({}, {"nodes": []}, "'nodes' is empty"),
        ({"lr": np.array([])}, {}, "'lr' is empty"),
        ({"lr": [1, 2, 1]}, {}, "'lr' has lr=1 twice"),
        ({"lr": [0.1, np.float32(0.1)]}, {}, "'lr' has lr=0.1 twice"),
        ({"lr": [float("nan"), float("nan")]}, {}, "twice"),
        ({"lr": {1, 2}}, {}, r"sorted\(x\)"),
        ({"lr": (x for x in [1])}, {}, r"list\(x\)"),
        ({"lr": map(int, "12")}, {}, r"list\(x\)"),
        ({"lr": {1: 2}.values()}, {}, r"list\(x\)"),
        ({"lr": {1: 2}.keys()}, {}, r"list\(x\)"),
        ({"lr": np.zeros((2, 2))}, {}, "2 dimensions"),
        ({"lr": [object()]}, {}, "'lr'.*object"),
        ({}, {"nodes": (x for x in [1])}, r"list\(x\)"),
        ({"gpus": [1, 2]}, {"gpus": 4}, "'gpus' is both a flag and a resource"),
        ({"gpus": 1}, {"gpus": [1, 2]}, "'gpus' is both a flag and a resource"),
    ],
)
def test_what_is_no_axis_is_refused_naming_it(flags: Any, resources: Any, says: str) -> None:
    with pytest.raises(InvalidFlag, match=says):
        grid.points(flags, resources)


def test_too_many_points_are_refused_with_their_number_before_they_are_made() -> None:
    with pytest.raises(InvalidFlag, match=r"1,000,000,000,000 points \(a 1,000,000 x b 1,000,000\)"):
        grid.points({"a": range(1_000_000), "b": range(1_000_000)})


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=4, unique=True)))
def test_there_is_one_point_for_every_combination(axes: dict[str, list[int]]) -> None:
    points = grid.points(axes)
    assert at(points) == list(itertools.product(*axes.values()))


# Tied axes


def test_zipped_axes_advance_together_at_the_place_of_the_first() -> None:
    flags = {"a": [1, 2], **zipped({"t.lr": [0.1, 0.2]}, batch=[8, 4]), "c": ["x", "y"]}
    assert at(grid.points(flags)) == [
        (1, 0.1, 8, "x"), (1, 0.1, 8, "y"), (1, 0.2, 4, "x"), (1, 0.2, 4, "y"),
        (2, 0.1, 8, "x"), (2, 0.1, 8, "y"), (2, 0.2, 4, "x"), (2, 0.2, 4, "y"),
    ]  # fmt: skip


def test_zipped_axes_may_be_all_flags_or_stand_under_a_prefix() -> None:
    assert at(grid.points(zipped(a=[1, 2], b=[3, 4]))) == [(1, 3), (2, 4)]
    points = grid.points({"t": zipped(a=[1, 2], b=[3, 4])})
    assert [point.flags for point in points] == [{"t.a": 1, "t.b": 3}, {"t.a": 2, "t.b": 4}]


def test_a_resource_is_tied_to_a_flag() -> None:
    tied = zipped(nodes=[1, 4], batch=[64, 16])
    points = grid.points({"batch": tied["batch"]}, {"nodes": tied["nodes"], "gpus": 8})
    assert [(point.flags, point.resources) for point in points] == [
        ({"batch": 64}, {"nodes": 1, "gpus": 8}),
        ({"batch": 16}, {"nodes": 4, "gpus": 8}),
    ]


def test_two_zips_of_the_same_axes_are_two() -> None:
    assert len(grid.points({**zipped(a=[1, 2], b=[1, 2]), **zipped(c=[1, 2], d=[1, 2])})) == 4


def test_a_value_may_stand_twice_in_a_zipped_axis_but_not_a_row() -> None:
    assert len(grid.points(zipped(a=[1, 1], b=[1, 2]))) == 2
    with pytest.raises(InvalidFlag, match="a=1, b=2 twice"):
        grid.points(zipped(a=[1, 1], b=[2, 2]))


def test_zipped_axes_of_different_lengths_are_refused_naming_them() -> None:
    with pytest.raises(InvalidFlag, match="a has 2, b has 3"):
        zipped(a=[1, 2], b=[1, 2, 3])


@pytest.mark.parametrize("axes", [{}, {"a": 1}, {"a": "xy"}, {"a": {1, 2}}])
def test_what_cannot_be_zipped_is_refused(axes: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidFlag, match="zipped"):
        zipped(axes)


# Names


def test_a_template_takes_flags_and_resources() -> None:
    names = grid.names("ppo-{layers}L-{nodes}n-{trainer.lr}", "ppo", ppo())
    assert names[:2] == ("ppo-1L-1n-0.0003", "ppo-1L-1n-0.001")
    assert "ppo-4L-1n-0.001" in names


def test_the_default_name_has_every_axis_by_its_last_component() -> None:
    assert grid.names(None, "ppo", ppo())[0] == "ppo-layers1-lr0.0003-nodes1"


def test_the_default_name_has_the_whole_key_where_the_last_component_is_ambiguous() -> None:
    points = grid.points({"a.lr": [1], "b.lr": [2], "+c.x": [3], "d/e": [4]})
    assert grid.names(None, "s", points) == ("s-a.lr1-b.lr2-x3-e4",)


def test_without_axes_the_sweeps_name_is_the_name() -> None:
    assert grid.names(None, "one", grid.points({"a": 1})) == ("one",)


def test_a_template_takes_pythons_formats() -> None:
    assert grid.names("a-{lr:.0e}-{n:03d}", "s", grid.points({"lr": [3e-4], "n": [7]})) == ("a-3e-04-007",)


def test_characters_that_no_name_has_become_dashes() -> None:
    points = grid.points({"data": ["s3://b/x y"], "n": [None], "l": [[1, 2]], "on": [True]})
    assert grid.names("r-{data}-{n}-{l}-{on}", "s", points) == ("r-s3---b-x-y-null-1-2-true",)


def test_a_name_depends_on_the_points_own_values_alone() -> None:
    few = dict(zip(at(p := grid.points({"a": [1], "b": [3]})), grid.names(None, "s", p), strict=True))
    many = dict(zip(at(p := grid.points({"a": [2, 1], "b": [3, 4]})), grid.names(None, "s", p), strict=True))
    assert few.items() <= many.items()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("ppo-{layers}-{nodes}", r"leaves out the axis 'trainer\.lr'.*add \{trainer\.lr\}"),
        ("ppo", "leaves out the axis"),
        ("ppo-{lr}", r"\{lr\}, which no point has. Did you mean 'trainer\.lr'"),
        ("{layers}-{nodes}-{trainer.lr}", "begins with a letter"),
        ("ppo {layers}-{nodes}-{trainer.lr}", "is no name"),
        ("ppo-{layers", "no name can have"),
        ("ppo-{{layers}}", "no name can have"),
        ("p{layers:x}-{nodes}-{trainer.lr:q}", "cannot show 0.0003"),
        ("x" * 100 + "{layers}-{nodes}-{trainer.lr}", "at most 100"),
        ("", "is no name"),
    ],
)
def test_a_template_that_makes_no_names_is_refused(template: str, says: str) -> None:
    with pytest.raises(InvalidName, match=says):
        grid.names(template, "ppo", ppo())


def test_a_template_may_leave_out_an_axis_that_is_tied_to_a_named_one() -> None:
    assert grid.names("s-{a}", "s", grid.points(zipped(a=[1, 2], b=[3, 4]))) == ("s-1", "s-2")


def test_two_values_that_make_one_name_are_refused_naming_both_points() -> None:
    with pytest.raises(InvalidName, match=r"\(m='a b'\) and \(m='a/b'\); write names="):
        grid.names(None, "s", grid.points({"m": ["a b", "a/b"]}))


def test_a_format_that_rounds_two_values_to_one_is_refused() -> None:
    with pytest.raises(InvalidName, match=r"\(lr=0.00031\) and \(lr=0.0003\)|\(lr=0.0003\) and \(lr=0.00031\)"):
        grid.names("s-{lr:.0e}", "s", grid.points({"lr": [3e-4, 3.1e-4]}))


# What it would cost


def test_what_a_sweep_asks_for_at_most() -> None:
    points = ppo()  # six with 16 GPUs, eight with 4
    assert grid.summary(points, 8) == grid.Summary(points=14, live=8, largest=16, gpus=6 * 16 + 2 * 4, total=128)
    assert grid.summary(points).gpus == 128
    assert grid.summary(points, 100).live == 14
    assert grid.summary(()) == grid.Summary(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ({}, 0),
        ({"gpus": None, "nodes": None}, 0),
        ({"gpus": 8, "nodes": 2}, 16),
        ({"accelerators": "H100:4", "nodes": 2}, 8),
        ({"accelerators": "H100"}, 1),
        ({"accelerators": {"H100": 4, "A100": 8}}, 8),
        ({"accelerators": "T4:0.5"}, 1),
        ({"accelerators": "tpu:v5"}, 0),
    ],
)
def test_gpus_of_a_point_count_over_its_nodes(resources: Mapping[str, Any], gpus: int) -> None:
    assert grid.summary(grid.points({}, resources)).gpus == gpus


# The experiments that points already are


class Sweep:
    """Declares again and again, as a cell that is edited and run; ids as a store would give them."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Point, str]] = {}

    def hash_of(self, point: Point) -> str:
        return values.spec_hash(Spec(command=("x",), flags=point.flags, **dict(point.resources)))

    def declare(self, flags: Mapping[str, Any], **resources: Any) -> Matching:
        points = grid.points(flags, resources)
        hashes = [self.hash_of(point) for point in points]
        existing = [
            Existing(id, old, point.coordinates, {"nodes": 1, **point.flags, **point.resources})
            for id, (point, old) in self.rows.items()
        ]
        matching = grid.match(points, hashes, existing)
        found = [id for id in matching.ids if id is not None]
        assert sorted(found + list(matching.left)) == sorted(self.rows)  # each row once: none is stolen, none is lost
        for point, old, id in zip(points, hashes, matching.ids, strict=True):
            self.rows[id or len(self.rows) + 1] = (point, old)
        return matching


@pytest.mark.parametrize(
    ("change", "first", "then", "ids", "left"),  # experiments have the ids 1, 2, … in the order of their first points
    [
        ("nothing", {"a": [1, 2]}, {"a": [1, 2]}, (1, 2), ()),
        ("values in another order", {"a": [1, 2]}, {"a": [2, 1]}, (2, 1), ()),
        ("axes in another order", {"a": [1, 2], "b": [3, 4]}, {"b": [3, 4], "a": [1, 2]}, (1, 3, 2, 4), ()),
        ("a new value", {"a": [1, 2]}, {"a": [1, 2, 3]}, (1, 2, None), ()),
        ("a value taken away", {"a": [1, 2]}, {"a": [2]}, (2,), (1,)),
        ("a value replaced", {"a": [1, 2]}, {"a": [1, 3]}, (1, None), (2,)),
        ("a value of another type", {"a": [1, 2]}, {"a": [1.0, 2]}, (None, 2), (1,)),
        ("a common flag changed", {"a": [1, 2], "c": 0}, {"a": [1, 2], "c": 9}, (1, 2), ()),
        ("a common flag added", {"a": [1, 2]}, {"a": [1, 2], "c": 9}, (1, 2), ()),
        ("a common flag changed and a value added", {"a": [1, 2], "c": 0}, {"a": [2, 3], "c": 9}, (2, None), (1,)),
        ("a common flag becomes an axis", {"a": [1, 2], "c": 0}, {"a": [1, 2], "c": [0, 5]}, (1, None, 2, None), ()),
        ("it becomes one while another changes",
         {"a": [1, 2], "c": 0, "d": 0}, {"a": [1, 2], "c": [5, 0], "d": 1}, (None, 1, None, 2), ()),
        ("it becomes an axis without its value",
         {"a": [1, 2], "c": 0}, {"a": [1, 2], "c": [5, 6]}, (None,) * 4, (1, 2)),
        ("an axis becomes common", {"a": [1, 2], "c": [0, 5]}, {"a": [1, 2], "c": 5}, (2, 4), (1, 3)),
        ("it becomes common while another changes",
         {"a": [1, 2], "c": [0, 5], "d": 0}, {"a": [1, 2], "c": 5, "d": 1}, (2, 4), (1, 3)),
        ("an axis becomes common with a new value",
         {"a": [1, 2], "c": [0, 5]}, {"a": [1, 2], "c": 7}, (None, None), (1, 2, 3, 4)),
        ("an axis is renamed", {"a": [1, 2]}, {"b": [1, 2]}, (None, None), (1, 2)),
        ("one axis becomes common as a common one becomes an axis",
         {"a": [1, 2], "c": 0}, {"a": 1, "c": [0, 5]}, (1, None), (2,)),
        ("axes are tied", {"a": [1, 2], "b": [3, 4]}, {**zipped(a=[1, 2], b=[3, 4])}, (1, 4), (2, 3)),
        ("all axes become common", {"a": [1, 2], "c": 0}, {"a": 2, "c": 1}, (2,), (1,)),
    ],
)  # fmt: skip
def test_which_experiments_stay_when_a_sweep_is_declared_again(
    change: str, first: Mapping[str, Any], then: Mapping[str, Any], ids: tuple[int | None, ...], left: tuple[int, ...]
) -> None:
    sweep = Sweep()
    sweep.declare(first)
    assert sweep.declare(then) == Matching(ids, left), change


def test_a_default_that_becomes_an_axis_keeps_its_points() -> None:
    sweep = Sweep()
    sweep.declare({"a": [1, 2]})
    assert sweep.declare({"a": [1, 2]}, nodes=[1, 4]).ids == (1, None, 2, None)
    sweep = Sweep()
    sweep.declare({"a": [1, 2], "c": 0})
    assert sweep.declare({"a": [1, 2], "c": 1}, nodes=[1, 4]).ids == (1, None, 2, None)


def test_values_taken_away_come_back_to_their_experiments() -> None:
    sweep = Sweep()
    sweep.declare({"a": [1, 2, 3]})
    sweep.declare({"a": [1]})
    assert sweep.declare({"a": [3, 2, 1]}).ids == (3, 2, 1)


def test_the_full_spec_comes_before_the_coordinates() -> None:
    """An experiment declared as a=1, c=5 is that also where another one stands at the coordinate a=1."""
    (point,) = grid.points({"a": [1], "c": 5})
    rows = [Existing(1, "other", {"a": 1}), Existing(2, "same", {"c": 5})]
    assert grid.match([point], ["same"], rows) == Matching((2,), (1,))


def test_of_equal_specs_the_one_at_the_same_coordinates_is_taken() -> None:
    (point,) = grid.points({"a": [1]})
    rows = [Existing(1, "same", {"b": 1}), Existing(2, "same", {"a": 1}), Existing(3, "same", {})]
    assert grid.match([point], ["same"], rows) == Matching((2,), (1, 3))


def test_of_several_that_fit_equally_the_oldest_is_taken() -> None:
    (point,) = grid.points({"a": [1]})
    assert grid.match([point], ["x"], [Existing(7, "y", {"a": 1}), Existing(3, "y", {"a": 1})]) == Matching((3,), (7,))


def test_one_experiment_is_at_most_one_point() -> None:
    (point,) = grid.points({"a": [1]})
    assert grid.match([point, point], ["x", "x"], [Existing(1, "x", {"a": 1})]) == Matching((1, None), ())


def test_where_nothing_exists_everything_is_new() -> None:
    points = grid.points({"a": [1, 2]})
    assert grid.match(points, ["x", "y"], []) == Matching((None, None), ())


definitions = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True) | st.integers(0, 3),
    min_size=1,
)


@given(st.lists(definitions, min_size=1, max_size=4))
def test_declaring_anything_twice_in_a_row_changes_nothing(history: list[dict[str, Any]]) -> None:
    sweep = Sweep()
    for definition in history:
        sweep.declare(definition)
        again = sweep.declare(definition)
        assert None not in again.ids


@given(definitions, definitions)
def test_a_point_whose_full_spec_exists_is_never_new(first: dict[str, Any], then: dict[str, Any]) -> None:
    sweep = Sweep()
    sweep.declare(first)
    before = {old for _, old in sweep.rows.values()}
    matching = sweep.declare(then)
    hashes = [sweep.hash_of(point) for point in grid.points(then)]
    assert all(id is not None for id, new in zip(matching.ids, hashes, strict=True) if new in before)


def test_ten_thousand_points_are_made_named_hashed_and_matched_quickly() -> None:
    flags: dict[str, Any] = {f"common.flag{i}": [0.001, True, 64, "adam"][i % 4] for i in range(20)}
    flags |= {"a": range(100), "b.lr": np.linspace(0.1, 1, 25), "c": ["x", "y"]}
    began = time.process_time()
    points = grid.points(flags, {"nodes": [1, 4], "gpus": 8}, where=lambda p: p["a"] >= 0)
    names = grid.names(None, "big", points)
    hashes = [values.spec_hash(Spec(command=("x",), flags=point.flags, **dict(point.resources))) for point in points]
    existing = [
        Existing(i, new, point.coordinates) for i, (new, point) in enumerate(zip(hashes, points, strict=True), 1)
    ]
    matching = grid.match(points, hashes, existing)
    took = time.process_time() - began
    assert len(set(names)) == len(set(hashes)) == len(set(matching.ids)) == 10_000
    assert took < 3  # about 0.7 s on an idle machine; the limit leaves room for a busy one
