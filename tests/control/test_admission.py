"""Who may be launched now: the queue's order, each limit, and a sweep's brake."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.control.admission import Candidate, Ended, Scope, admit, brake
from tests.control.rows import T


def candidate(id: int, *, priority: int = 0, gpus: int = 0, age: float = 0) -> Candidate:
    return Candidate(experiment_id=id, priority=priority, gpus=gpus, since=T - timedelta(seconds=age))


def test_without_limits_everyone_is_admitted() -> None:
    assert admit([candidate(1), candidate(2)], {}, [Scope(name="this deck")]).admitted == {1, 2}


def test_priority_comes_before_age_and_age_before_id() -> None:
    queue = [candidate(1), candidate(2, age=5), candidate(3, age=9), candidate(4, priority=1)]
    deck = [Scope(name="this deck", max_live=2)]
    assert admit(queue, {}, deck).admitted == {4, 3}


def test_what_is_alive_counts() -> None:
    admission = admit([candidate(1)], {7: 0, 8: 0}, [Scope(name="this deck", max_live=2)])
    assert admission.admitted == set()
    assert admission.waits == {1: "this deck runs 2 at once"}


@pytest.mark.parametrize(("most", "said"), [(3, "3 launches"), (1, "one launch")])
def test_launches_under_way_count_against_what_the_server_takes(most: int, said: str) -> None:
    server = [Scope(name="the server", max_launches=most)]
    queue = [candidate(i, age=9 - i) for i in range(1, 5)]
    admission = admit(queue, dict.fromkeys(range(50, 60), 0), server, launching={50})
    assert admission.admitted == set(range(1, most))
    assert admission.waits == dict.fromkeys(range(most, 5), f"the server takes {said} at once")


def test_who_waits_for_another_limit_takes_no_launch_from_those_behind_it() -> None:
    scopes = [Scope(name="sweep a", max_live=1, members=frozenset({1, 2})), Scope(name="the server", max_launches=1)]
    queue = [candidate(1, age=9), candidate(2, age=5), candidate(3)]
    admission = admit(queue, {2: 0}, scopes)
    assert admission.admitted == {3}
    assert admission.waits == {1: "sweep a runs 1 at once", 2: "sweep a runs 1 at once"}


def test_gpus_are_counted_over_all_nodes_that_run() -> None:
    deck = [Scope(name="this deck", max_gpus=8)]
    assert admit([candidate(1, gpus=4), candidate(2, gpus=1, age=1)], {9: 4}, deck).admitted == {2}


def test_one_that_does_not_fit_is_not_overtaken_in_the_limit_it_waits_for() -> None:
    deck = [Scope(name="this deck", max_gpus=8)]
    admission = admit([candidate(1, gpus=8, age=9), candidate(2, gpus=1)], {9: 4}, deck)
    assert admission.admitted == set()
    assert set(admission.waits) == {1, 2}


def test_a_full_sweep_does_not_hold_back_others() -> None:
    scopes = [Scope(name="this deck", max_live=5), Scope(name="sweep a", max_live=1, members=frozenset({1, 2}))]
    admission = admit([candidate(1, age=3), candidate(2, age=2), candidate(3)], {}, scopes)
    assert admission.admitted == {1, 3}
    assert admission.waits == {2: "sweep a runs 1 at once"}


def test_the_last_gpu_may_be_used() -> None:
    assert admit([candidate(1, gpus=4)], {9: 4}, [Scope(name="this deck", max_gpus=8)]).admitted == {1}


def test_what_is_alive_elsewhere_does_not_count_in_a_group() -> None:
    inside = frozenset({1})
    scopes = [Scope(name="group a", max_live=1, members=inside), Scope(name="group a", max_gpus=4, members=inside)]
    assert admit([candidate(1, gpus=4)], {7: 4}, scopes).admitted == {1}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 9)), max_size=12),
    st.dictionaries(st.integers(100, 104), st.integers(0, 3), max_size=4),
    st.integers(0, 6),
    st.integers(0, 12),
)
def test_no_limit_is_ever_passed(queue: list[tuple[int, int, int]], live: dict[int, int], most: int, gpus: int) -> None:
    candidates = [candidate(i, priority=p, gpus=g, age=a) for i, (p, g, a) in enumerate(queue)]
    admission = admit(candidates, live, [Scope(name="d", max_live=most), Scope(name="d", max_gpus=gpus)])
    admitted = [c for c in candidates if c.experiment_id in admission.admitted]
    assert not admitted or len(live) + len(admitted) <= most
    heavy = [c for c in admitted if c.gpus]
    assert not heavy or sum(live.values()) + sum(c.gpus for c in heavy) <= gpus
    sorted_out = [admission.admitted, set(admission.waits), set(admission.hopeless)]
    assert set.union(*map(set, sorted_out)) == {c.experiment_id for c in candidates}
    assert sum(map(len, sorted_out)) == len(candidates)


def test_one_that_can_never_fit_says_so_and_holds_nobody_back() -> None:
    deck = [Scope(name="this deck", max_gpus=4)]
    admission = admit([candidate(1, gpus=6, age=9), candidate(2, gpus=1), candidate(3)], {}, deck)
    assert admission.admitted == {2, 3}
    assert admission.hopeless == {1: "it needs 6 GPUs, and this deck may use 4 at once"}


def test_a_full_gpu_limit_does_not_hold_back_who_needs_none() -> None:
    admission = admit([candidate(1, gpus=2, age=9), candidate(2)], {9: 4}, [Scope(name="this deck", max_gpus=4)])
    assert admission.admitted == {2}


def ended(id: int, failed: bool = True) -> Ended:
    return Ended(ended_at=T + timedelta(seconds=id), experiment_id=id, failed=failed, error="boom")


def test_the_brake_holds_when_the_first_three_runs_have_failed() -> None:
    assert brake([ended(3), ended(1), ended(2)]) == ("HELD", "its first 3 runs to end have all failed (boom).")


def test_the_brake_waits_for_three() -> None:
    assert brake([ended(1), ended(2)]) is None


def test_one_success_among_the_first_three_lets_the_sweep_pass() -> None:
    assert brake([ended(1), ended(2, failed=False)]) == ("PASSED", "")


def test_only_the_first_three_count() -> None:
    assert brake([ended(1), ended(2), ended(3), ended(4, failed=False)]) == (
        "HELD",
        "its first 3 runs to end have all failed (boom).",
    )


def test_the_first_three_are_those_that_ended_first() -> None:
    verdict = brake([ended(4, failed=False), ended(1), ended(2), ended(3)])
    assert verdict is not None
    assert verdict[0] == "HELD"
