"""The table of the control loop's design, row by row: what is wanted and seen, and what follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skydeck_nb.control.planning import (
    CANCEL_AGAIN,
    SEND_WITHIN,
    Abandon,
    Cancel,
    Evidence,
    Keep,
    Launch,
    Resolve,
    under_way,
)
from skydeck_nb.models import AttemptRow
from tests.control.rows import SEEN, T, ago, attempt, budget, experiment, failed, job, planned

LAUNCH = (Launch(run=1, generation=1),)
STOPPED = {"desired_state": "STOPPED"}

Case = tuple[str, dict[str, Any], tuple[Any, ...], dict[str, Any], tuple[Any, ...], str, str | None]

TABLE: list[Case] = [
    # what, experiment, jobs, surroundings, actions, reason, state
    ("never started stays", {"run": 0, **STOPPED}, (), {}, (), "NeverStarted", "STOPPED"),
    (
        "listing failed: nothing",
        {},
        (job(),),
        {"evidence": Evidence(term=3, failed="It is down.")},
        (),
        "ListingFailed",
        None,
    ),
    (
        "listing failed: no cancel either",
        STOPPED,
        (job(),),
        {"evidence": Evidence(term=3, failed="It is down.")},
        (),
        "ListingFailed",
        None,
    ),
    (
        "a sign-in is missing: nothing, and the row does not repeat the command",
        {},
        (),
        {"evidence": Evidence(term=3, failed="Run sky api login.", needs_sign_in=True)},
        (),
        "NeedsSignIn",
        None,
    ),
    ("wanted and nothing alive: launch", {}, (), {}, LAUNCH, "Launching", "LAUNCHING"),
    ("not before one complete listing", {}, (), {"evidence": Evidence(term=3)}, (), "NotYetSeen", "QUEUED"),
    (
        "older run alive: cancelled first",
        {"run": 2},
        (job(),),
        {},
        (Cancel(job_id=1, reason="OlderRun"),),
        "OlderRun",
        "STOPPING",
    ),
    (
        "older run being cancelled: waited for",
        {"run": 2},
        (job(cancel_sent_at=T),),
        {},
        (),
        "OlderRun",
        "STOPPING",
    ),
    (
        "older run ended: launch",
        {"run": 2},
        (job(1, "CANCELLED"),),
        {},
        (Launch(run=2, generation=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "older run lost: needs a person",
        {"run": 2},
        (job(lost=True),),
        {},
        (),
        "JobLost",
        "LOST",
    ),
    (
        "older launch unanswered: refused, looked for, no other launch",
        {"run": 2},
        (),
        {"attempts": (attempt(),)},
        (Resolve(attempt_id="attempt1", refuse=True),),
        "LaunchUnknown",
        "STOPPING",
    ),
    ("one alive of this run: nothing", {"current_job_id": 1}, (job(),), {}, (), "Running", "RUNNING"),
    ("pending is alive", {"current_job_id": 1}, (job(1, "PENDING"),), {}, (), "Pending", "PENDING"),
    (
        "the backend's own word for a wait is the reason",
        {"current_job_id": 1},
        (job(1, "PENDING", reason="WaitingForSlot"),),
        {},
        (),
        "WaitingForSlot",
        "PENDING",
    ),
    ("recovering is alive", {"current_job_id": 1}, (job(1, "RECOVERING"),), {}, (), "Recovering", "RECOVERING"),
    ("an unknown status is alive", {"current_job_id": 1}, (job(1, "HIBERNATING"),), {}, (), "UnknownStatus", "UNKNOWN"),
    (
        "cancelling by somebody else is not fought",
        {"current_job_id": 1},
        (job(1, "CANCELLING"),),
        {},
        (),
        "BeingCancelled",
        "STOPPING",
    ),
    (
        "a new generation alone never launches",
        {"current_job_id": 1, "generation": 2},
        (job(),),
        {},
        (),
        "RestartToApply",
        "RUNNING",
    ),
    (
        "several alive: the recorded one stays",
        {"current_job_id": 2},
        (job(1), job(2, "PENDING")),
        {},
        (Keep(job_id=2, duplicates=(1,)), Cancel(job_id=1, reason="DuplicateFound")),
        "DuplicateFound",
        "PENDING",
    ),
    (
        "several alive, none recorded: the furthest along stays",
        {},
        (job(1, "PENDING"), job(2, "RUNNING"), job(3, "STARTING")),
        {},
        (
            Keep(job_id=2, duplicates=(1, 3)),
            Cancel(job_id=1, reason="DuplicateFound"),
            Cancel(job_id=3, reason="DuplicateFound"),
        ),
        "DuplicateFound",
        "RUNNING",
    ),
    (
        "several alive, equally far: the lowest id stays",
        {},
        (job(4), job(7)),
        {},
        (Keep(job_id=4, duplicates=(7,)), Cancel(job_id=7, reason="DuplicateFound")),
        "DuplicateFound",
        "RUNNING",
    ),
    (
        "several alive: never the one being cancelled",
        {"current_job_id": 1},
        (job(1, "CANCELLING"), job(2, "PENDING")),
        {},
        (Keep(job_id=2, duplicates=()),),
        "DuplicateFound",
        "PENDING",
    ),
    (
        "a late twin of a run that has ended is cancelled",
        {"current_job_id": 1},
        (job(1, "SUCCEEDED"), job(9, "PENDING")),
        {"attempts": (attempt("attempt1", "SUBMITTED", job_id=1), attempt("attempt9", "NOT_LAUNCHED", ended_at=T))},
        (Keep(job_id=1, duplicates=(9,)), Cancel(job_id=9, reason="DuplicateFound")),
        "LateTwin",
        "STOPPING",
    ),
    (
        "a restart of a run that has failed is no twin",
        {"current_job_id": 9},
        (failed(1), job(9, "PENDING")),
        {"attempts": (attempt("attempt1", "SUBMITTED", job_id=1), attempt("attempt9", "SUBMITTED", job_id=9))},
        (),
        "Pending",
        "PENDING",
    ),
    (
        "launch given up, its job appears and nothing else runs: it is the job",
        {},
        (job(9, "PENDING"),),
        {"attempts": (attempt("attempt9", "NOT_LAUNCHED", ended_at=T),)},
        (Keep(job_id=9, duplicates=()),),
        "Pending",
        "PENDING",
    ),
    (
        "a job that a person named is cancelled though wanted",
        {"current_job_id": 1},
        (job(cancel_asked=True),),
        {},
        (Cancel(job_id=1, reason="DuplicateFound"),),
        "Stopping",
        "STOPPING",
    ),
    (
        "prepared by this term: waited for",
        {},
        (),
        {"attempts": (attempt(state="PREPARED"),)},
        (),
        "Launching",
        "LAUNCHING",
    ),
    (
        "prepared by a term that is over: nothing was sent",
        {},
        (),
        {"attempts": (attempt(state="PREPARED", term=2),)},
        (Abandon(attempt_id="attempt1", reason="LeaderGone"),),
        "Launching",
        "QUEUED",
    ),
    (
        "sent by this term and in time: waited for",
        {},
        (),
        {"attempts": (attempt(state="SENDING", send_before=T + timedelta(seconds=40)),)},
        (),
        "Launching",
        "LAUNCHING",
    ),
    (
        "sent by this term and overdue: looked for",
        {},
        (),
        {"attempts": (attempt(state="SENDING"),)},
        (Resolve(attempt_id="attempt1"),),
        "LaunchUnknown",
        "LAUNCHING",
    ),
    (
        "sent by a term that is over: looked for at once",
        {},
        (),
        {"attempts": (attempt(state="SENDING", term=2, send_before=T + timedelta(seconds=40)),)},
        (Resolve(attempt_id="attempt1"),),
        "LaunchUnknown",
        "LAUNCHING",
    ),
    (
        "unanswered: looked for, no other launch meanwhile",
        {},
        (),
        {"attempts": (attempt(),)},
        (Resolve(attempt_id="attempt1"),),
        "LaunchUnknown",
        "LAUNCHING",
    ),
    (
        "taken by the server and not named yet: looked for by its request",
        {},
        (),
        {"attempts": (attempt(request_id="r-1", send_before=ago(299)),)},
        (Resolve(attempt_id="attempt1"),),
        "LaunchAccepted",
        "LAUNCHING",
    ),
    (
        "taken by the server, which names no job for five minutes: unknown",
        {},
        (),
        {"attempts": (attempt(request_id="r-1", send_before=ago(300)),)},
        (Resolve(attempt_id="attempt1"),),
        "LaunchUnknown",
        "LAUNCHING",
    ),
    (
        "taken by the server, which knows nothing of it any more: unknown",
        {},
        (),
        {"attempts": (attempt(request_id="r-1", misses=1, missed_at=ago(5)),)},
        (Resolve(attempt_id="attempt1"),),
        "LaunchUnknown",
        "LAUNCHING",
    ),
    (
        "found certain not to be launched: a new attempt follows",
        {},
        (),
        {"attempts": (attempt(state="NOT_LAUNCHED", ended_at=T),)},
        LAUNCH,
        "Launching",
        "LAUNCHING",
    ),
    (
        "refused for now: again after a back-off",
        {},
        (),
        {"attempts": (attempt(state="REJECTED", ended_at=ago(4), error="Retry: no room"),)},
        (),
        "LaunchRetry",
        "QUEUED",
    ),
    (
        "refused for now and waited: launch",
        {},
        (),
        {"attempts": (attempt(state="REJECTED", ended_at=ago(10), error="Retry: no room"),)},
        LAUNCH,
        "Launching",
        "LAUNCHING",
    ),
    (
        "refused for good: a person mends it",
        {},
        (),
        {"attempts": (attempt(state="REJECTED", ended_at=ago(999), error="No such image."),)},
        (),
        "LaunchRejected",
        "FAILED",
    ),
    ("last job succeeded: done", {"current_job_id": 1}, (job(1, "SUCCEEDED"),), {}, (), "Succeeded", "SUCCEEDED"),
    (
        "succeeded and changed since: outdated, not run again",
        {"current_job_id": 1, "generation": 2},
        (job(1, "SUCCEEDED"),),
        {},
        (),
        "Outdated",
        "SUCCEEDED",
    ),
    ("failed: stays down by default", {"current_job_id": 1}, (failed(ended=999),), {}, (), "Failed", "FAILED"),
    ("failed: backs off", {"max_restarts": 2}, (failed(ended=4),), {}, (), "BackOff", "QUEUED"),
    (
        "failed: again after the back-off",
        {"max_restarts": 2},
        (failed(ended=10),),
        {},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "failed: the back-off doubles",
        {"max_restarts": 2},
        (failed(1, ended=60), failed(2, ended=19)),
        {},
        (),
        "BackOff",
        "QUEUED",
    ),
    (
        "failed: restarts used up",
        {"max_restarts": 2},
        (failed(1, ended=900), failed(2, ended=800), failed(3, ended=700)),
        {},
        (),
        "RestartLimit",
        "FAILED",
    ),
    (
        "health resets the back-off",
        {"max_restarts": 9},
        (*(failed(i, ended=5000 - i) for i in range(1, 5)), failed(5, ended=10, up=600)),
        {},
        (Launch(run=1, generation=1, replacing=5),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "health does not reset the count",
        {"max_restarts": 1},
        (failed(1, ended=5000), failed(2, ended=500, up=3600)),
        {},
        (),
        "RestartLimit",
        "FAILED",
    ),
    (
        "a new run forgets the old one's failures",
        {"max_restarts": 0, "run": 2},
        (failed(1),),
        {},
        (Launch(run=2, generation=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "setup failed: permanent",
        {"max_restarts": 5},
        (failed(1, "FAILED_SETUP", ended=999),),
        {},
        (),
        "FailedSetup",
        "FAILED",
    ),
    (
        "prechecks failed: permanent",
        {"max_restarts": 5},
        (failed(1, "FAILED_PRECHECKS", ended=999),),
        {},
        (),
        "FailedSetup",
        "FAILED",
    ),
    (
        "no machine: waits five minutes",
        {},
        (failed(1, "FAILED_NO_RESOURCE", ended=299),),
        {},
        (),
        "NoResource",
        "QUEUED",
    ),
    (
        "no machine: tried again, and it does not count",
        {},
        (failed(1, "FAILED_NO_RESOURCE", ended=300),),
        {},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "controller failed: a person decides",
        {"max_restarts": 5},
        (failed(1, "FAILED_CONTROLLER", ended=999),),
        {},
        (),
        "NeedsPerson",
        "FAILED",
    ),
    (
        "cancelled elsewhere: not fought",
        {"max_restarts": 5},
        (job(1, "CANCELLED"),),
        {},
        (),
        "CancelledElsewhere",
        "CANCELLED",
    ),
    (
        "cancelled by us for a limit that was raised since: launched again",
        {"max_hours": 2.0},
        (job(1, "CANCELLED", started_at=ago(3700), ended_at=ago(100), cancel_sent_at=ago(110), cancel_count=1),),
        {},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    ("lost: counts as alive", {"current_job_id": 1}, (job(lost=True),), {}, (), "JobLost", "LOST"),
    (
        "lost and forgotten: launched again",
        {"current_job_id": 1},
        (job(lost=True, forgotten=True),),
        {},
        LAUNCH,
        "Launching",
        "LAUNCHING",
    ),
    ("the sweep's brake holds what has not started", {}, (), {"held": "broken."}, (), "SweepHeld", "QUEUED"),
    (
        "the sweep's brake lets go what was asked for again",
        {"run": 2},
        (failed(1, ended=99),),
        {"held": "broken."},
        (Launch(run=2, generation=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "the sweep's brake leaves what runs alone",
        {"current_job_id": 1},
        (job(),),
        {"held": "broken."},
        (),
        "Running",
        "RUNNING",
    ),
    (
        "an unclaimed job of the own user holds the launch",
        {},
        (),
        {"unclaimed": (job(5, experiment_id=None),)},
        (),
        "UnclaimedJobAlive",
        "QUEUED",
    ),
    (
        "a missing secret holds the launch",
        {},
        (),
        {"missing": ("SecretMissing", "X is not set.")},
        (),
        "SecretMissing",
        "QUEUED",
    ),
    ("not admitted: waits", {}, (), {"waits": "this deck runs 8 at once"}, (), "Queued", "QUEUED"),
    (
        "stop cancels all that is alive",
        STOPPED,
        (job(1), job(2, "PENDING"), job(3, "RECOVERING")),
        {},
        tuple(Cancel(job_id=i, reason="Stopped") for i in (1, 2, 3)),
        "Stopping",
        "STOPPING",
    ),
    (
        "stop refuses and looks for an unanswered launch",
        STOPPED,
        (),
        {"attempts": (attempt(),)},
        (Resolve(attempt_id="attempt1", refuse=True),),
        "Stopping",
        "STOPPING",
    ),
    (
        "stop closes what was only prepared",
        STOPPED,
        (),
        {"attempts": (attempt(state="PREPARED"),)},
        (Abandon(attempt_id="attempt1", reason="Stopped"),),
        "Stopping",
        "STOPPING",
    ),
    ("a cancel is said once", STOPPED, (job(cancel_sent_at=T),), {}, (), "Stopping", "STOPPING"),
    (
        "a cancel is repeated when a listing 60 s later shows no change",
        STOPPED,
        (job(cancel_sent_at=ago(60), cancel_count=1),),
        {},
        (Cancel(job_id=1, reason="Stopped"),),
        "Stopping",
        "STOPPING",
    ),
    (
        "a cancel without effect three times needs a person",
        STOPPED,
        (job(cancel_sent_at=ago(60), cancel_count=3),),
        {},
        (),
        "CancelHadNoEffect",
        "STOPPING",
    ),
    ("a lost job is not cancelled blindly", STOPPED, (job(lost=True),), {}, (), "JobLost", "LOST"),
    ("stopped: stays", STOPPED, (job(1, "CANCELLED"),), {}, (), "Stopped", "STOPPED"),
    ("stopped after it had succeeded: done", STOPPED, (job(1, "SUCCEEDED"),), {}, (), "Succeeded", "SUCCEEDED"),
    ("terminated", {"desired_state": "TERMINATED"}, (job(1, "CANCELLED"),), {}, (), "Terminated", "STOPPED"),
    (
        "terminate cancels",
        {"desired_state": "TERMINATED"},
        (job(),),
        {},
        (Cancel(job_id=1, reason="Stopped"),),
        "Stopping",
        "STOPPING",
    ),
    (
        "deleted: as stopped",
        {"deleted": True},
        (job(),),
        {},
        (Cancel(job_id=1, reason="Stopped"),),
        "Stopping",
        "STOPPING",
    ),
    ("deleted: hidden", {"deleted": True}, (), {}, (), "Deleted", "STOPPED"),
    (
        "over wall time: cancelled",
        {"max_hours": 1.0, "current_job_id": 1},
        (job(started_at=ago(3600)),),
        {},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "over wall time: counted over all attempts of the run",
        {"max_hours": 1.0, "max_restarts": 9},
        (failed(1, ended=1800, up=1800), failed(2, ended=0, up=1700)),
        {},
        (),
        "LimitReached",
        "FAILED",
    ),
    (
        "over wall time: a raised limit lets it go on",
        {"max_hours": 2.0, "max_restarts": 9, "current_job_id": 2},
        (failed(1, ended=1800, up=1800), failed(2, ended=30, up=1600)),
        {},
        (Launch(run=1, generation=1, replacing=2),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "over its GPU hours: a job that a person called gone uses nothing",
        {"max_gpu_hours": 4.0, "current_job_id": 2},
        (job(1, lost=True, forgotten=True, started_at=ago(7200)), job(2, started_at=ago(1))),
        {"attempts": (attempt("attempt2", "SUBMITTED", job_id=2),)},
        (),
        "Running",
        "RUNNING",
    ),
    (
        "over its GPU hours: cancelled",
        {"max_gpu_hours": 4.0, "current_job_id": 1},
        (job(started_at=ago(3600)),),
        {},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "over its cost: cancelled",
        {"max_cost": 20.0, "current_job_id": 1},
        (job(started_at=ago(7200), hourly_cost=10.0),),
        {},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "over its cost: counted over all attempts of the run",
        {"max_cost": 20.0, "max_restarts": 9},
        (failed(1, ended=4000, up=3600, hourly_cost=10.0), failed(2, ended=100, up=3600, hourly_cost=10.0)),
        {},
        (),
        "LimitReached",
        "FAILED",
    ),
    (
        "the cost of an older run does not count",
        {"run": 2, "max_cost": 20.0},
        (failed(1, ended=10, up=36000, hourly_cost=10.0),),
        {},
        (Launch(run=2, generation=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "under its cost: left running",
        {"max_cost": 20.0, "current_job_id": 1},
        (job(started_at=ago(7199), hourly_cost=10.0),),
        {},
        (),
        "Running",
        "RUNNING",
    ),
    (
        "no price where it runs: its cost cannot be held, and it is left running",
        {"max_cost": 20.0, "current_job_id": 1},
        (job(started_at=ago(99999)),),
        {},
        (),
        "CostUnknown",
        "RUNNING",
    ),
    (
        "no price where it runs: nor can that of its sweep",
        {"current_job_id": 1},
        (job(started_at=ago(60)),),
        {"budgets": (budget(max_cost=20.0),)},
        (),
        "CostUnknown",
        "RUNNING",
    ),
    (
        "no price where it runs, and no budget in dollars: nothing to say",
        {"max_gpu_hours": 400.0, "current_job_id": 1},
        (job(started_at=ago(60)),),
        {"budgets": (budget(max_gpu_hours=20.0),)},
        (),
        "Running",
        "RUNNING",
    ),
    (
        "no price before it has machines: that is no news",
        {"max_cost": 20.0, "current_job_id": 1},
        (job(1, "PENDING"),),
        {},
        (),
        "Pending",
        "PENDING",
    ),
    (
        "no price, and other limits used up: cancelled all the same",
        {"max_cost": 20.0, "max_gpu_hours": 4.0, "current_job_id": 1},
        (job(started_at=ago(3600)),),
        {},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "a sweep's budget used up: what is alive is cancelled",
        {"current_job_id": 1},
        (job(started_at=ago(1)),),
        {"budgets": (budget(max_gpu_hours=100.0, gpu_hours=100.0),)},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "a sweep's budget used up: also what has not begun to use it",
        {"current_job_id": 1},
        (job(1, "PENDING"),),
        {"budgets": (budget(max_cost=100.0, cost=100.0),)},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "a sweep's budget used up: what never ran waits",
        {},
        (),
        {"budgets": (budget(max_cost=100.0, cost=120.0),)},
        (),
        "LimitReached",
        "QUEUED",
    ),
    (
        "a sweep's budget used up: what it cancelled is not launched again",
        {},
        (job(1, "CANCELLED", cancel_sent_at=ago(9)),),
        {"budgets": (budget(max_cost=100.0, cost=120.0),)},
        (),
        "LimitReached",
        "CANCELLED",
    ),
    (
        "a sweep's budget raised: what it cancelled goes on",
        {},
        (job(1, "CANCELLED", cancel_sent_at=ago(9)),),
        {"budgets": (budget(max_cost=200.0, cost=120.0),)},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "a sweep's budget used up: a failure that may be repeated is not",
        {"max_restarts": 9},
        (failed(ended=300),),
        {"budgets": (budget(max_cost=100.0, cost=120.0),)},
        (),
        "LimitReached",
        "FAILED",
    ),
    (
        "a sweep's budget used up: what failed for good says so",
        {},
        (failed(ended=300),),
        {"budgets": (budget(max_cost=100.0, cost=120.0),)},
        (),
        "Failed",
        "FAILED",
    ),
    (
        "a sweep's budget used up: what is done is done",
        {},
        (job(1, "SUCCEEDED"),),
        {"budgets": (budget(max_cost=100.0, cost=120.0),)},
        (),
        "Succeeded",
        "SUCCEEDED",
    ),
    (
        "a sweep's budget used up: what is stopped stays so",
        STOPPED,
        (),
        {"budgets": (budget(max_cost=100.0, cost=120.0),)},
        (),
        "Stopped",
        "STOPPED",
    ),
    (
        "a budget used up beside a brake: starting the sweep would not help",
        {},
        (),
        {"budgets": (budget(max_cost=100.0, cost=120.0),), "held": "its first 3 runs failed.", "sweep": "s"},
        (),
        "LimitReached",
        "QUEUED",
    ),
    (
        "the deck's budget used up, the sweep's not",
        {"current_job_id": 1},
        (job(started_at=ago(1)),),
        {"budgets": (budget(max_cost=9.0, cost=1.0), budget("this deck's", max_gpu_hours=9.0, gpu_hours=9.5))},
        (Cancel(job_id=1, reason="LimitReached"),),
        "LimitReached",
        "STOPPING",
    ),
    (
        "a cancel that has begun to work is not repeated",
        STOPPED,
        (job(1, "CANCELLING", cancel_sent_at=ago(600), cancel_count=1),),
        {},
        (),
        "Stopping",
        "STOPPING",
    ),
    (
        "older run alive and its next launch unanswered: both are ended",
        {"run": 2},
        (job(),),
        {"attempts": (attempt("attempt2"),)},
        (Resolve(attempt_id="attempt2", refuse=True), Cancel(job_id=1, reason="OlderRun")),
        "OlderRun",
        "STOPPING",
    ),
    (
        "sent by this term and just overdue: its sender still has a moment to report",
        {},
        (),
        {"attempts": (attempt(state="SENDING", send_before=ago(14)),)},
        (),
        "Launching",
        "LAUNCHING",
    ),
    (
        "a job that a person adopted is no twin of what has ended",
        {"current_job_id": 9},
        (failed(1), job(9, "PENDING", adopted=True, attempt_id=None)),
        {},
        (),
        "Pending",
        "PENDING",
    ),
    (
        "the sweep's brake leaves restarts alone",
        {"max_restarts": 2},
        (failed(ended=10),),
        {"held": "broken."},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "refused for now twice: the back-off doubles",
        {},
        (),
        {
            "attempts": tuple(
                attempt(f"attempt{i}", "REJECTED", ended_at=ago(15), error="Retry: no room") for i in (1, 2)
            )
        },
        (),
        "LaunchRetry",
        "QUEUED",
    ),
    (
        "refused for good, but in an older run: launch",
        {"run": 2},
        (),
        {"attempts": (attempt(state="REJECTED", ended_at=ago(9), error="No such image."),)},
        (Launch(run=2, generation=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "refused for good before the last attempt: launch",
        {},
        (),
        {
            "attempts": (
                attempt("attempt1", "REJECTED", created_at=ago(90), ended_at=ago(80), error="No such image."),
                attempt("attempt2", "NOT_LAUNCHED", created_at=ago(50), ended_at=ago(9)),
            )
        },
        LAUNCH,
        "Launching",
        "LAUNCHING",
    ),
    (
        "failures of older runs use up no restart",
        {"run": 2, "max_restarts": 1},
        (failed(1), failed(2), failed(3, run=2, ended=10)),
        {},
        (Launch(run=2, generation=1, replacing=3),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "a forgotten job uses up no budget",
        {"max_gpu_hours": 4.0},
        (job(lost=True, forgotten=True, started_at=ago(7200)),),
        {},
        LAUNCH,
        "Launching",
        "LAUNCHING",
    ),
    (
        "the recorded job decides, not a twin that ended later",
        {"current_job_id": 1},
        (job(1, "SUCCEEDED"), job(2, "CANCELLED")),
        {},
        (),
        "Succeeded",
        "SUCCEEDED",
    ),
    (
        "one alive and a launch of the same run unanswered: it is refused and looked for",
        {"current_job_id": 1},
        (job(),),
        {"attempts": (attempt("attempt2"),)},
        (Resolve(attempt_id="attempt2", refuse=True),),
        "Running",
        "RUNNING",
    ),
    (
        "stop: a lost job does not hide an unanswered launch",
        STOPPED,
        (job(lost=True),),
        {"attempts": (attempt("attempt2"),)},
        (Resolve(attempt_id="attempt2", refuse=True),),
        "Stopping",
        "STOPPING",
    ),
    (
        "stop: a lost job does not hide a live one",
        STOPPED,
        (job(1, lost=True), job(2)),
        {},
        (Cancel(job_id=2, reason="Stopped"),),
        "Stopping",
        "STOPPING",
    ),
    (
        "a launch carries the present generation",
        {"generation": 3},
        (),
        {},
        (Launch(run=1, generation=3),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "wall time of an older run does not count",
        {"run": 2, "max_hours": 1.0},
        (failed(1, ended=10, up=7200),),
        {},
        (Launch(run=2, generation=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "wall time of an older run does not end the present one",
        {"run": 2, "max_hours": 1.0, "current_job_id": 2},
        (failed(1, ended=700, up=7200), job(2, run=2, started_at=ago(600))),
        {},
        (),
        "Running",
        "RUNNING",
    ),
    (
        "wall time stands still while nothing runs",
        {"max_hours": 1.0, "max_restarts": 9},
        (failed(ended=7200, up=1800),),
        {},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "GPU hours stand still while nothing runs",
        {"max_gpu_hours": 4.0, "max_restarts": 9},
        (failed(ended=7200, up=1800),),
        {},
        (Launch(run=1, generation=1, replacing=1),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "the back-off has an end",
        {"max_restarts": 9},
        tuple(failed(i, ended=300) for i in range(1, 8)),
        {},
        (Launch(run=1, generation=1, replacing=7),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "no machine earlier: it still does not count",
        {"max_restarts": 1},
        (failed(1, "FAILED_NO_RESOURCE", ended=500), failed(2, ended=10)),
        {},
        (Launch(run=1, generation=1, replacing=2),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "no machine again, but not in a row: five minutes",
        {"max_restarts": 9},
        (failed(1, "FAILED_NO_RESOURCE"), failed(2), failed(3, "FAILED_NO_RESOURCE", ended=300)),
        {},
        (Launch(run=1, generation=1, replacing=3),),
        "Launching",
        "LAUNCHING",
    ),
    (
        "a failure after health waits as a first one does",
        {"max_restarts": 9},
        (failed(ended=9, up=600),),
        {},
        (),
        "BackOff",
        "QUEUED",
    ),
]


@pytest.mark.parametrize(
    ("columns", "jobs", "seen", "actions", "reason", "state"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE]
)
def test_table(
    columns: dict[str, Any],
    jobs: tuple[Any, ...],
    seen: dict[str, Any],
    actions: tuple[Any, ...],
    reason: str,
    state: str | None,
) -> None:
    plan = planned(experiment(**columns), *jobs, **seen)
    assert (plan.actions, plan.reason, plan.state) == (actions, reason, state)
    assert plan.message
    assert plan.rule


@pytest.mark.parametrize(
    ("request_id", "since", "wait"),
    [("r-1", 0, 2), ("r-1", 29, 2), ("r-1", 30, 5), ("r-1", 179, 5), ("r-1", 180, 20), (None, 0, 5), (None, 179, 5)],
)
def test_a_launch_that_was_taken_is_looked_for_every_other_second_at_first(
    request_id: str | None, since: int, wait: int
) -> None:
    tried = attempt(request_id=request_id, send_before=T - timedelta(seconds=since) + SEND_WITHIN)
    plan = planned(experiment(), attempts=(tried,))
    assert plan.requeue_after == timedelta(seconds=wait)


def test_a_launch_that_was_taken_is_said_with_its_request() -> None:
    plan = planned(experiment(), attempts=(attempt(request_id="r-1"),))
    assert plan.message == "The server has taken the launch of exp (request r-1) and names its job soon."
    assert not plan.attention


UNDER_WAY = [
    ("prepared, however long it takes", attempt(state="PREPARED", created_at=ago(900)), True),
    ("being sent", attempt(state="SENDING", send_before=T + timedelta(seconds=40)), True),
    ("taken", attempt(request_id="r-1"), True),
    ("its answer lost just now", attempt(send_before=ago(299)), True),
    ("its answer lost long ago", attempt(send_before=ago(300)), False),
    ("its sender hangs", attempt(state="SENDING", send_before=ago(300)), False),
    ("missed once", attempt(misses=1, missed_at=ago(5)), False),
    ("answered", attempt(state="SUBMITTED"), False),
    ("refused", attempt(state="REJECTED"), False),
]


@pytest.mark.parametrize(("tried", "busy"), [row[1:] for row in UNDER_WAY], ids=[row[0] for row in UNDER_WAY])
def test_a_launch_keeps_the_server_busy(tried: AttemptRow, busy: bool) -> None:
    assert under_way(tried, T) == busy


def test_twins_beside_an_older_run_are_cancelled_at_first_sight() -> None:
    plan = planned(experiment(run=2, current_job_id=2), job(1), job(2, run=2), job(3, run=2))
    assert {a.job_id for a in plan.actions if isinstance(a, Cancel)} == {1, 3}


def test_a_plan_is_a_function_of_its_arguments_alone() -> None:
    row = experiment(max_restarts=3)
    assert planned(row, failed()) == planned(row, failed())


@pytest.mark.parametrize("age", [0, 59, 61])
def test_a_listing_from_before_the_cancel_is_no_reason_to_repeat_it(age: int) -> None:
    row = experiment(**STOPPED)
    late = replace(SEEN, listed_at=T + timedelta(seconds=age))
    again = planned(row, job(cancel_sent_at=T, cancel_count=1), evidence=late).actions
    assert bool(again) == (timedelta(seconds=age) >= CANCEL_AGAIN)


def test_a_wall_time_limit_is_looked_at_again_when_it_will_be_reached() -> None:
    plan = planned(experiment(max_hours=1.0, current_job_id=1), job(started_at=ago(3000)))
    assert plan.requeue_after == timedelta(seconds=600)


def test_a_back_off_is_looked_at_again_when_it_is_over() -> None:
    plan = planned(experiment(max_restarts=5), failed(ended=4))
    assert plan.requeue_after == timedelta(seconds=6)


def test_a_budget_is_looked_at_again_when_it_will_be_used_up() -> None:
    plan = planned(experiment(max_gpu_hours=8.0, current_job_id=1), job(started_at=ago(3600)))
    assert plan.requeue_after == timedelta(hours=1)


def test_a_shared_budget_is_looked_at_again_when_all_who_use_it_will_have_used_it_up() -> None:
    shared = budget(max_cost=100.0, cost=90.0, hourly_cost=20.0), budget(max_gpu_hours=9.0, gpu_hours=1.0, gpus=4)
    plan = planned(experiment(current_job_id=1), job(started_at=ago(60), hourly_cost=2.0), budgets=shared)
    assert plan.requeue_after == timedelta(minutes=30)


def test_a_budget_says_whose_it_is_how_much_and_what_lets_it_go_on() -> None:
    shared = (budget("sweep ppo's", max_gpu_hours=100.0, gpu_hours=100.0),)
    assert planned(experiment(), budgets=shared).message == (
        "exp may not run: sweep ppo's budget of 100 GPU hours is used up; a larger one lets it go on."
    )
    own = planned(experiment(max_cost=12.5), failed(up=7200, hourly_cost=12.5))
    assert own.message == (
        "exp may not run: its budget of $12.50 is used up; raise the limit, or deck.restart('exp') begins a new run."
    )
    assert own.attention


def test_a_cost_that_cannot_be_held_says_what_can() -> None:
    plan = planned(experiment(current_job_id=1), job(started_at=ago(1)), budgets=(budget("this deck's", max_cost=5.0),))
    assert plan.message == (
        "Job 1 of exp runs where the backend lists no price, so this deck's max_cost cannot be held; max_gpu_hours or "
        "max_hours can hold it."
    )
    assert plan.attention
    assert [c.status for c in plan.conditions] == ["True"], "it runs"


def test_the_wall_time_of_an_older_run_brings_no_look_forward() -> None:
    row = experiment(run=2, max_hours=1.0, current_job_id=2)
    plan = planned(row, failed(1, ended=3000, up=100), job(2, run=2, started_at=ago(600)))
    assert plan.requeue_after == timedelta(seconds=3000)


def test_a_cancel_is_looked_at_again_when_it_may_be_repeated() -> None:
    assert planned(experiment(**STOPPED), job(cancel_sent_at=T)).requeue_after == CANCEL_AGAIN


def test_messages_hold_no_running_clock() -> None:
    for what, columns, jobs, seen, *_ in TABLE:
        first = planned(experiment(**columns), *jobs, **seen)
        later = planned(experiment(**columns), *jobs, **seen, now=T + timedelta(milliseconds=1))
        assert first.message == later.message, what
