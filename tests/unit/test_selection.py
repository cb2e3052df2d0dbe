"""What may stand for experiments in a call."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from skydeck_nb.errors import InvalidSetting, UnknownExperiment
from skydeck_nb.models import ExperimentRow, Spec
from skydeck_nb.selection import Roster, shortened

NOW = datetime(2026, 11, 23, tzinfo=UTC)
ROWS = [
    ExperimentRow(id=number, name=name, spec=Spec(flags={"lr": number}), spec_hash="", created_at=NOW, updated_at=NOW)
    for number, name in enumerate(["ppo-1", "ppo-2", "PPO-3", "sac.a", "sac-a"], 1)
]


class Handle:
    def __init__(self, *ids: int) -> None:
        self.ids = ids

    def __skydeck_ids__(self) -> tuple[int, ...]:
        return self.ids


ROSTER = Roster(
    ROWS, lambda row: row, sweeps={"ppo"}, groups={"mine"}, elsewhere={"old": "is deleted: deck.undelete('old')."}
)


def names(selection: Any) -> str:
    return " ".join(row.name for row in ROSTER.pick(selection).rows)


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ("ppo-1", "ppo-1"),
        (["ppo-2", "ppo-1"], "ppo-2 ppo-1"),
        (("ppo-1", "ppo-1"), "ppo-1"),
        ("ppo-*", "ppo-1 ppo-2"),
        ("PPO-*", "PPO-3"),
        ("ppo-?", "ppo-1 ppo-2"),
        ("sac.*", "sac.a"),
        ("*", "ppo-1 ppo-2 PPO-3 sac.a sac-a"),
        (["sac-a", "ppo-*"], "sac-a ppo-1 ppo-2"),
        (lambda e: e.spec.flags["lr"] > 3, "sac.a sac-a"),
        (Handle(3), "PPO-3"),
        ([Handle(3, 1), "ppo-1"], "PPO-3 ppo-1"),
        (pd.DataFrame({"experiment": ["ppo-2", "ppo-2", None, "sac-a"]}), "ppo-2 sac-a"),
        (pd.DataFrame({"x": [1]}, index=pd.Index(["ppo-1"], name="experiment")), "ppo-1"),
        (pd.Series([1.0], index=pd.Index(["ppo-1"], name="experiment")), "ppo-1"),
        (
            pd.DataFrame({"m": [1]}, index=pd.MultiIndex.from_tuples([("ppo-1", 3)], names=["experiment", "epoch"])),
            "ppo-1",
        ),
        (pd.Series(["sac-a"], name="experiment"), "sac-a"),
        ([], ""),
    ],
)
def test_what_is_selected(selection: Any, selected: str) -> None:
    assert names(selection) == selected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("ppo-11", "There is no experiment 'ppo-11'. Did you mean 'ppo-1' or 'ppo-2'?"),
        ("zzz", "There is no experiment 'zzz'. deck.experiments() lists them."),
        ("ppo", "'ppo' is a sweep: write deck.sweeps['ppo']."),
        ("old", "'old' is deleted: deck.undelete('old')."),
        (["ppo-1", "nope-9"], "There is no experiment 'nope-9'. deck.experiments() lists them."),
    ],
)
def test_a_literal_name_that_does_not_exist_is_an_error_with_a_remedy(selection: Any, message: str) -> None:
    with pytest.raises(UnknownExperiment) as caught:
        ROSTER.pick(selection)
    assert str(caught.value) == message
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (17, r"deck\.by_id\(17\)"),
        ([17], r"deck\.by_id\(17\)"),
        (None, "Nothing is selected"),
        ({"a": 1}, "selects no experiment"),
        (pd.DataFrame({"name": ["ppo-1"]}), "called 'experiment'. Its index has no name"),
        (pd.DataFrame({"x": [1]}, index=pd.Index([3], name="id")), "Its index is id"),
        (pd.Series(["ppo-1"]), "Series"),
        ([["ppo-1"]], "in a list"),
    ],
)
def test_what_selects_nothing_by_itself_is_refused_with_the_remedy(selection: Any, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        ROSTER.pick(selection)


@pytest.mark.parametrize(
    "selection",
    ["none-*", lambda e: False, pd.DataFrame({"experiment": []}), pd.DataFrame({"experiment": ["gone"]})],
)
def test_what_matches_nothing_gives_nothing_and_says_so(selection: Any) -> None:
    picked = ROSTER.pick(selection)
    assert picked.rows == ()
    assert picked.notices


def test_long_lists_of_names_are_shortened() -> None:
    assert shortened(["a", "b"]) == "a, b"
    assert shortened([*"abcdefgh"]) == "a, b, c, d, e and 3 more"
