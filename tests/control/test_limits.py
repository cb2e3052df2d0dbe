"""When a limit is used up, and when it will be: the two agree."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.control.limits import FAR, spent, unpriced, until, used_up
from skydeck_nb.models import JobRow
from skydeck_nb.usage import Usage, of_job
from tests.control.rows import T, ago, budget, experiment, failed, job

HOUR = 3600


RAN = {"started_at": ago(HOUR), "hourly_cost": 3.0}


@pytest.mark.parametrize(
    ("columns", "used"),
    [
        ({**RAN, "nodes": 2, "gpus": 4}, Usage(gpu_hours=8.0, cost=3.0, gpus=8, hourly_cost=3.0)),
        ({**RAN, "nodes": None, "gpus": 1}, Usage(gpu_hours=1.0, cost=3.0, gpus=1, hourly_cost=3.0)),
        ({**RAN, "gpus": None}, Usage(cost=3.0, hourly_cost=3.0)),
        ({**RAN, "hourly_cost": None}, Usage(gpu_hours=4.0, gpus=4)),
        ({"status": "PENDING", "hourly_cost": 3.0}, Usage()),
        ({**RAN, "ended_at": ago(0), "status": "FAILED"}, Usage(gpu_hours=4.0, cost=3.0)),
        ({**RAN, "status": "FAILED"}, Usage()),
        ({**RAN, "lost": True, "forgotten": True}, Usage()),
        ({**RAN, "lost": True}, Usage(gpu_hours=4.0, cost=3.0, gpus=4, hourly_cost=3.0)),
        ({**RAN, "started_at": T + timedelta(hours=1)}, Usage(gpus=4, hourly_cost=3.0)),
    ],
)
def test_what_a_job_has_used_and_goes_on_using(columns: dict[str, Any], used: Usage) -> None:
    """Ended without an end, or called gone: nobody knows until when, and it uses nothing."""
    assert of_job(job(**columns), T) == used


@pytest.mark.parametrize(
    ("limits", "jobs", "what"),
    [
        ({}, (job(started_at=ago(99 * HOUR), hourly_cost=99.0),), None),
        ({"max_hours": 2.0}, (job(started_at=ago(2 * HOUR)),), "its wall time of 2 h"),
        ({"max_hours": 2.0}, (job(started_at=ago(2 * HOUR - 1)),), None),
        ({"max_gpu_hours": 1000.0}, (job(started_at=ago(250 * HOUR)),), "its budget of 1,000 GPU hours"),
        ({"max_cost": 1250.5}, (job(started_at=ago(HOUR), hourly_cost=1250.5),), "its budget of $1,250.50"),
        ({"max_cost": 1.0}, (job(started_at=ago(HOUR)),), None),
        ({"max_cost": 0.3}, tuple(failed(i, up=HOUR, hourly_cost=0.1) for i in (1, 2, 3)), "its budget of $0.30"),
        ({"max_cost": 1.0}, (failed(up=HOUR, hourly_cost=9.0, run=0),), None),
    ],
)
def test_which_limit_of_a_run_is_used_up(limits: dict[str, Any], jobs: tuple[JobRow, ...], what: str | None) -> None:
    over = used_up(experiment(**limits), jobs, T)
    assert (over and over.what) == what


def test_of_several_budgets_the_first_that_is_used_up_is_named() -> None:
    some = [budget(f"{name}'s", max_cost=9.0, cost=cost) for name, cost in (("a", 8.0), ("b", 9.0), ("c", 10.0))]
    over = spent(some)
    assert over is not None
    assert over.what == "b's budget of $9"
    assert spent(some[:1]) is None


def test_whose_cost_cannot_be_held() -> None:
    running, priced = job(started_at=ago(1)), job(started_at=ago(1), hourly_cost=0.0)
    shared = (budget("sweep s's", max_gpu_hours=1.0), budget("this deck's", max_cost=1.0))
    assert unpriced(experiment(max_cost=1.0), running, shared) == "its"
    assert unpriced(experiment(), running, shared) == "this deck's"
    assert unpriced(experiment(), running, shared[:1]) == ""
    assert unpriced(experiment(max_cost=1.0), priced, shared) == "", "what is free has a price"
    assert unpriced(experiment(max_cost=1.0), job(1, "PENDING"), shared) == ""


def test_what_lasts_for_years_is_looked_at_within_one() -> None:
    assert until(experiment(max_cost=1e9), [job(started_at=ago(1), hourly_cost=1e-6)], T, ()) == FAR


LIMIT = st.none() | st.floats(0.01, 5_000)
JOBS = st.lists(
    st.builds(
        lambda id, up, ended, gpus, price, alive: (
            job(id, started_at=ago(up), gpus=gpus, hourly_cost=price)
            if alive
            else failed(id, up=up, ended=ended, gpus=gpus, hourly_cost=price)
        ),
        st.integers(1, 99),
        st.floats(0, 1e6),
        st.floats(0, 1e6),
        st.none() | st.integers(0, 8),
        st.none() | st.floats(0.01, 500),
        st.booleans(),
    ),
    max_size=4,
)
SHARED = st.lists(
    st.builds(
        lambda hours, dollars, usage: budget(max_gpu_hours=hours, max_cost=dollars, **usage),
        LIMIT,
        LIMIT,
        st.fixed_dictionaries(
            {
                "gpu_hours": st.floats(0, 5_000),
                "cost": st.floats(0, 5_000),
                "gpus": st.integers(0, 64),
                "hourly_cost": st.just(0.0) | st.floats(0.01, 500),
            }
        ),
    ),
    max_size=2,
)


@given(LIMIT, LIMIT, LIMIT, JOBS)
def test_a_limit_is_used_up_when_it_was_said_to_be(
    hours: float | None, gpu_hours: float | None, dollars: float | None, jobs: list[JobRow]
) -> None:
    row = experiment(max_hours=hours, max_gpu_hours=gpu_hours, max_cost=dollars)
    wait = until(row, jobs, T, ())
    if used_up(row, jobs, T):
        assert wait in (timedelta(0), None)
        assert wait == timedelta(0) or not any(j.alive for j in jobs)
    elif wait is None:
        assert used_up(row, jobs, T + timedelta(days=3650)) is None
    else:
        assert wait > timedelta(0)
        assert wait == FAR or used_up(row, jobs, T + wait) is not None
        assert used_up(row, jobs, T + wait * 0.99 - timedelta(milliseconds=1)) is None


@given(SHARED)
def test_a_shared_budget_lasts_as_long_as_it_was_said_to(shared: list[Any]) -> None:
    wait = until(experiment(), [], T, shared)
    if spent(shared):
        assert wait == timedelta(0)
    elif wait is not None and wait != FAR:
        hours = wait / timedelta(hours=1)
        later = [
            budget(
                max_gpu_hours=each.max_gpu_hours,
                max_cost=each.max_cost,
                gpu_hours=each.usage.gpu_hours + hours * each.usage.gpus,
                cost=each.usage.cost + hours * each.usage.hourly_cost,
            )
            for each in shared
        ]
        assert spent(later) is not None
