"""Experiments as the shortest cell that declares them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import skydeck_nb as sd


@pytest.fixture(scope="module")
def decks() -> Iterator[tuple[sd.Deck, sd.Deck]]:
    with sd.open(backend=sd.FakeBackend()) as one, sd.open(backend=sd.FakeBackend()) as other:
        yield one, other


def hashes(deck: sd.Deck, prefix: str = "") -> dict[str, str]:
    rows = deck._desk.read(lambda tx: tx.experiments())
    return {row.name: row.spec_hash for row in rows if row.name.startswith(prefix)}


def executed(code: str, deck: sd.Deck) -> None:
    exec(code, {"deck": deck, "sd": sd})


@pytest.fixture
def deck() -> Iterator[sd.Deck]:
    with sd.open(backend=sd.FakeBackend()) as deck:
        yield deck


def test_one_experiment(deck: sd.Deck) -> None:
    deck.create("a", "python train.py", flags={"lr": 0.1, "layers": [1, 2]}, accelerators="H100:4", tags=["x"])
    assert deck.to_code("a") == (
        'deck.create("a", "python train.py", flags={"lr": 0.1, "layers": [1, 2]}, accelerators="H100:4", tags=["x"])'
    )


def test_a_sweep_is_one_call_with_its_axes(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"lr": [0.1, 0.2], "n": 1, "sizes": sd.fixed([3, 3])}, nodes=[1, 2], max_live=2)
    assert deck.to_code(deck.sweeps["s"]) == (
        'deck.sweep(\n    "s",\n    "train",\n    flags={"lr": [0.1, 0.2], "n": 1, "sizes": sd.fixed([3, 3])},\n'
        "    nodes=[1, 2],\n    max_live=2,\n)"
    )


def test_points_that_are_no_full_grid_are_zipped(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"a": [1, 2], "b": [1, 2]}, where=lambda p: p["a"] <= p["b"])
    assert deck.to_code("s-*") == (
        'axes = sd.zipped({"a": [1, 1, 2], "b": [1, 2, 2]})\n'
        'deck.sweep("s", "train", flags={"a": axes["a"], "b": axes["b"]})'
    )


def test_an_edited_point_is_in_the_code_as_it_is_now(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"a": [1, 2]})
    deck.update("s-a1", flags={"extra": True})
    before = hashes(deck)
    with sd.open(backend=sd.FakeBackend()) as other:
        executed(deck.to_code("*"), other)
        assert hashes(other) == before


def test_budgets_are_in_the_code_the_sweeps_and_those_of_its_points() -> None:
    def priced() -> sd.FakeBackend:
        return sd.FakeBackend(prices={"*": 1.0})

    with sd.open(backend=priced()) as deck, sd.open(backend=priced()) as other:
        deck.create("one", "train", max_cost=2.5)
        deck.sweep("s", "train", flags={"a": [1, 2, 3]}, max_gpu_hours=100, max_cost=50)
        deck.update(["s-a1", "s-a3"], max_gpu_hours=7)
        deck.update("s-a2", max_cost=3)
        code = deck.to_code("*")
        assert code.splitlines() == [
            'deck.create("one", "train", max_cost=2.5)',
            'deck.sweep("s", "train", flags={"a": [1, 2, 3]}, max_gpu_hours=100.0, max_cost=50.0)',
            'deck.update(["s-a1", "s-a3"], max_gpu_hours=7.0)',
            'deck.update(["s-a2"], max_cost=3.0)',
        ]
        executed(code, other)
        assert other.to_code("*") == code
        deck.update("s-*", max_gpu_hours=7, max_cost=None)
        assert deck.to_code("s-*").splitlines()[1:] == ['deck.update(deck.sweeps["s"], max_gpu_hours=7.0)']


def test_names_edited_elsewhere_fall_back_to_single_calls(deck: sd.Deck) -> None:
    deck.sweep("s", "train", flags={"a": [1, 2]})
    deck.rename("s-a1", "best")
    assert deck.to_code("*").splitlines() == [
        'deck.create("best", "train", flags={"a": 1})',
        'deck.create("s-a2", "train", flags={"a": 2})',
    ]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3).map(sd.fixed))
AXES = st.lists(SCALARS, min_size=1, max_size=3, unique_by=repr)
KEYS = st.from_regex(r"[a-z]{1,4}(\.[a-z]{1,3})?", fullmatch=True)
SWEEPS = st.fixed_dictionaries(
    {"flags": st.dictionaries(KEYS, st.one_of(VALUES, AXES), min_size=1, max_size=4)},
    optional={
        "nodes": st.one_of(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True)),
        "gpus": st.one_of(st.none(), st.integers(0, 8)),
        "env": st.dictionaries(
            st.from_regex(r"[A-Z]{1,4}", fullmatch=True), st.text("abc$'\" \n", max_size=6), max_size=2
        ),
        "spot": st.booleans(),
        "tags": st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
        "max_hours": st.floats(0.1, 100),
        "groups": st.lists(st.text("gh", min_size=1, max_size=2), max_size=2),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=SWEEPS, number=st.integers(0, 10**9))
def test_the_code_of_a_sweep_gives_the_same_hashes(
    decks: tuple[sd.Deck, sd.Deck], said: dict[str, Any], number: int
) -> None:
    one, other = decks
    name = f"s{number}"
    assume(name not in one.sweeps)
    try:
        sweep = one.sweep(name, ["train", "it's {{", "$HOME"], **said)
    except sd.SkydeckError:
        assume(False)
    code = sweep.to_code()
    executed(code, other)
    again = other.to_code(lambda e: e.name.startswith(name)) if name in other.sweeps else code
    assert sorted(hashes(other, name).values()) == sorted(hashes(one, name).values()), code
    assert again == code
    one.delete(sweep)
    other.delete(f"{name}*")
