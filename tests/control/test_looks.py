"""The timetable of looks: often while something is alive, rarely while nothing moves, never faster than a server."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from skydeck_nb.control.looks import EVERYONE, SIGN_IN, STRETCH, TROUBLE, Looks
from tests.control.rows import T


def later(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


@pytest.fixture
def looks() -> Looks:
    made = Looks(10, 60, random.Random(1))
    made.restart()
    return made


def look(looks: Looks, at: float, *, took: float = 0.1, discovery: bool = True, failed: bool = False) -> None:
    looks.begin()
    looks.end(later(at), timedelta(seconds=took), discovery=discovery, failed=failed)


def test_the_first_look_is_a_discovery_and_is_now(looks: Looks) -> None:
    assert looks.due(T, False) == (True, True)
    assert looks.next(False) is None


def test_one_look_at_a_time(looks: Looks) -> None:
    looks.begin()
    assert looks.due(later(999), True) == (False, False)


def test_while_nothing_is_alive_only_discoveries_are_made(looks: Looks) -> None:
    look(looks, 0)
    assert looks.due(later(50), False) == (False, False)
    assert looks.due(later(67), False) == (True, True)


def test_what_is_alive_is_looked_at_more_often(looks: Looks) -> None:
    look(looks, 0)
    assert looks.due(later(8), True) == (False, False)
    assert looks.due(later(11.1), True) == (True, False)


def test_a_look_that_failed_after_long_is_repeated_within_the_longest_pause(looks: Looks) -> None:
    look(looks, 0, took=80, failed=True)
    assert looks.due(later(TROUBLE.total_seconds() - 1), True) == (False, False)
    assert looks.due(later(TROUBLE.total_seconds()), True) == (True, True)


def test_a_slow_server_is_not_made_slower(looks: Looks) -> None:
    look(looks, 0, took=30)
    assert looks.due(later(30 * STRETCH - 1), True) == (False, False)
    assert looks.due(later(30 * STRETCH), True) == (True, True)


def test_what_was_just_changed_is_looked_at_soon(looks: Looks) -> None:
    look(looks, 0)
    looks.soon(later(1))
    assert looks.due(later(1), True) == (True, False)


def test_many_changes_at_once_make_one_look(looks: Looks) -> None:
    look(looks, 0, took=1)
    looks.soon(later(0.5))
    assert looks.due(later(0.6), True) == (False, False)
    assert looks.due(later(STRETCH), True) == (True, False)


def test_failures_back_off_and_a_success_ends_that(looks: Looks) -> None:
    for _ in range(12):
        look(looks, 0, failed=True)
    assert looks.due(later(TROUBLE.total_seconds() - 1), True) == (False, False)
    assert looks.due(later(TROUBLE.total_seconds()), True) == (True, True)
    look(looks, 100)
    assert looks.due(later(111.1), True) == (True, False)


def test_while_a_sign_in_is_missing_one_asks_often(looks: Looks) -> None:
    for _ in range(12):
        looks.begin()
        looks.end(T, timedelta(seconds=0.1), discovery=True, failed=True, needs_sign_in=True)
    assert looks.due(T + SIGN_IN, True) == (True, True)


def test_one_who_asks_during_a_look_gets_another_one(looks: Looks) -> None:
    looks.begin()
    looks.ask()
    looks.end(later(1), timedelta(seconds=1), discovery=True, failed=False)
    assert looks.due(later(1), False) == (True, True)
    look(looks, 2)
    assert looks.due(later(3), False) == (False, False)


def test_who_asks_for_everyone_has_a_look_now_and_later_ones_bring_everyone_too(looks: Looks) -> None:
    look(looks, 0)
    assert not looks.everyone(later(1))
    looks.ask_for_everyone(later(1))
    assert looks.due(later(1), False) == (True, True)
    look(looks, 2)
    assert looks.everyone(later(2))
    end = 1 + EVERYONE.total_seconds()
    assert looks.everyone(later(end - 0.1))
    assert not looks.everyone(later(end))


def test_asking_for_everyone_again_and_again_makes_no_look_more(looks: Looks) -> None:
    looks.ask_for_everyone(later(0))
    look(looks, 1)
    looks.ask_for_everyone(later(2))
    assert looks.due(later(3), False) == (False, False)
    assert looks.everyone(later(1 + EVERYONE.total_seconds()))
