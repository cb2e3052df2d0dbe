"""Why an experiment is as it is, in words.

Decides every reason there is: its sentence, the rule of the design that it
stands for, and whether a person must act. Refuses to know how a reason was
arrived at. Sentences hold no running clock, so that an unchanged world makes
no event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One reason: ``sentence`` is a format string, ``rule`` what the loop follows, ``attention``: a person must act."""

    sentence: str
    rule: str
    attention: bool = False


REASONS: Final[Mapping[str, Text]] = {
    # -- nothing wanted
    "NeverStarted": Text(
        sentence="{name} was declared and never started; start it with deck.start({name!r}).",
        rule="Declaring starts nothing.",
    ),
    "Stopped": Text(sentence="{name} was stopped{why}.", rule="STOPPED wanted and nothing is alive."),
    "Terminated": Text(
        sentence="{name} was terminated: no job and no cluster.", rule="TERMINATED wanted and nothing is alive."
    ),
    "Deleted": Text(
        sentence="{name} was deleted; deck.undelete({name!r}) brings it back.",
        rule="Deleted: as STOPPED, hidden once nothing is alive.",
    ),
    "Stopping": Text(
        sentence="{name} is being stopped: {what}.",
        rule="STOPPED wanted: cancel everything alive that is ours, unanswered launches included.",
    ),
    "CancelHadNoEffect": Text(
        sentence=(
            "{name} was told to stop {count} times and job {job} still runs; look at it on the backend, or "
            "deck.forget({job}) if it is gone."
        ),
        rule="A cancel is repeated when a listing begun 60 s later shows the job unchanged, three times.",
        attention=True,
    ),
    # -- wanted, something is alive
    "Running": Text(sentence="{name} runs as job {job}.", rule="One job of this run is alive: leave it."),
    "Pending": Text(sentence="{name} is job {job}, which waits{why}.", rule="One job of this run is alive: leave it."),
    "Starting": Text(
        sentence="{name} is job {job}, which is starting{why}.", rule="One job of this run is alive: leave it."
    ),
    "Recovering": Text(
        sentence="{name} lost its machines and the backend recovers job {job}{why}.",
        rule="The backend's own recoveries are left to the backend.",
    ),
    "UnknownStatus": Text(
        sentence="Job {job} of {name} has the status {status}, which this build does not know; it counts as alive.",
        rule="A status this build has never heard of is alive.",
    ),
    "BeingCancelled": Text(
        sentence="Job {job} of {name} is being cancelled, and not by this deck.",
        rule="A cancel by somebody else is not fought.",
    ),
    "RestartToApply": Text(
        sentence="{name} was changed since job {job} was launched; deck.restart({name!r}) applies it.",
        rule="A new generation alone never launches.",
    ),
    "Applied": Text(sentence="What runs is what {name} says.", rule="The job carries the present generation."),
    "DuplicateFound": Text(
        sentence="{name} had {count} live jobs; job {kept} stays and the others are cancelled.",
        rule="Several alive with our claim: keep the recorded one, else the furthest along, else the lowest id.",
    ),
    "LateTwin": Text(
        sentence="Job {job} of {name} appeared after its run had ended: it is a late twin and is being cancelled.",
        rule="A claim that was given up is watched for ever, and a late twin is cancelled at first sight.",
    ),
    "OlderRun": Text(
        sentence="{name} starts again when job {job} of the run before has ended.",
        rule="Something alive of an older run: cancel it; launch when it has ended.",
    ),
    "JobLost": Text(
        sentence=(
            "Job {job} of {name} vanished from the backend's listings and may still run; look there, then "
            "deck.forget({job}) if it is gone."
        ),
        rule="A job that vanished is lost, not finished: it counts as alive until a person decides.",
        attention=True,
    ),
    "LimitReached": Text(
        sentence="{name} may not run: {limit} is used up; {remedy}.",
        rule="Over wall time or budget: cancelled, and not restarted until the limit or the run changes.",
        attention=True,
    ),
    "CostUnknown": Text(
        sentence=(
            "Job {job} of {name} runs where the backend lists no price, so {whose} max_cost cannot be held; "
            "max_gpu_hours or max_hours can hold it."
        ),
        rule="A budget in dollars holds what has a price: what has none is left running, and a person decides.",
        attention=True,
    ),
    # -- wanted, a launch is under way
    "Launching": Text(sentence="{name} is being launched.", rule="An attempt is open: no other launch meanwhile."),
    "LaunchAccepted": Text(
        sentence="The server has taken the launch of {name} (request {request}) and names its job soon.",
        rule="A launch that was taken is looked for by its request until its job is named.",
    ),
    "LaunchUnknown": Text(
        sentence=(
            "The launch of {name} got no answer: its claim {claim} is looked for, and nothing else is launched "
            "until that is certain."
        ),
        rule="A launch whose outcome is unknown is looked for, never repeated blindly.",
    ),
    "LaunchLost": Text(
        sentence=(
            "The launch of {name} got no answer and can be neither found nor ruled out: look for {claim} on the "
            "backend, then deck.adopt its job, or deck.forget({attempt!r}) where there is none."
        ),
        rule="A launch whose outcome stays unknown is looked for, and a person may say that it made no job.",
        attention=True,
    ),
    # -- wanted, nothing is alive
    "Queued": Text(sentence="{name} waits: {why}.", rule="Not admitted: waits by priority, then age."),
    "NotYetSeen": Text(
        sentence="{name} waits until the backend's jobs have been listed once.",
        rule="No launch before one complete listing, begun after the lease was taken.",
    ),
    "BackOff": Text(
        sentence=(
            "{name} failed {failures} in a row ({last}) and is started again after {delay}; restart {used} of {limit}."
        ),
        rule="Failed, restarts left: launch after the back-off of 10 s, 20 s, 40 s … 5 min.",
    ),
    "NoResource": Text(
        sentence="No machine was to be had for {name}; it is tried again after {delay}.",
        rule="FAILED_NO_RESOURCE: back-off from 5 min, does not count.",
    ),
    "LaunchRetry": Text(
        sentence="The launch of {name} was not taken ({error}); it is tried again after {delay}.",
        rule="A refused launch that may be taken later is tried again after a back-off.",
    ),
    "LaunchRejected": Text(
        sentence="The launch of {name} was refused: {error} Mend it, then deck.retry({name!r}).",
        rule="A refused launch is not repeated by itself.",
        attention=True,
    ),
    "SweepHeld": Text(
        sentence="{sweep} is held: {why} sweep.start() goes on.",
        rule="The first three runs of a sweep to end have all failed: what has not started waits.",
        attention=True,
    ),
    "UnclaimedJobAlive": Text(
        sentence=(
            "Job {job} of your own has the name of {name} and no claim of this deck; "
            "deck.adopt({job}, {name!r}) takes it over, or rename the experiment."
        ),
        rule="A live job of the own user with the experiment's name and no claim: not launched.",
        attention=True,
    ),
    "Succeeded": Text(
        sentence="Job {job} of {name} succeeded; only deck.restart({name!r}) runs it again.",
        rule="Last job SUCCEEDED: done.",
    ),
    "Outdated": Text(
        sentence="{name} was changed since job {job} succeeded; deck.restart({name!r}) runs it as it is now.",
        rule="Last job SUCCEEDED and the generation changed since.",
    ),
    "CancelledElsewhere": Text(
        sentence="Job {job} of {name} was cancelled, not by its Stop; deck.start({name!r}) runs it again.",
        rule="Cancelled by somebody else: not fought.",
    ),
    "Failed": Text(
        sentence="Job {job} of {name} failed ({last}); deck.retry({name!r}) runs it again.",
        rule="Last job failed and max_restarts is 0.",
    ),
    "RestartLimit": Text(
        sentence="{name} failed {failures} and its {limit} used up ({last}); deck.retry({name!r}) runs it again.",
        rule="max_restarts is used up: a person decides.",
        attention=True,
    ),
    "FailedSetup": Text(
        sentence="The setup of {name} failed in job {job} ({last}); mend it, then deck.retry({name!r}).",
        rule="FAILED_SETUP and FAILED_PRECHECKS are permanent: not retried.",
        attention=True,
    ),
    "NeedsPerson": Text(
        sentence=(
            "The controller of job {job} of {name} failed and its cluster may still run; look at it on the backend, "
            "then deck.retry({name!r})."
        ),
        rule="FAILED_CONTROLLER: not relaunched by itself.",
        attention=True,
    ),
    # -- not known
    "NeedsSignIn": Text(
        sentence="Nothing is done about {name} until somebody has signed in: deck.sign_in().",
        rule="A failed, partial or late listing changes nothing but its own age.",
    ),
    "ListingFailed": Text(
        sentence="The backend could not be looked at, so nothing is done about {name}: {error}",
        rule="A failed, partial or late listing changes nothing but its own age.",
    ),
}

DYNAMIC: Final = "What {name} needs is missing where the loop runs."
"""The rule of reasons that a backend names itself, such as SecretMissing or WorkdirMissing."""


def sentence(reason: str, **facts: object) -> str:
    """The message of one reason (raises ``KeyError`` for a reason or a fact that is not in the table)."""
    return REASONS[reason].sentence.format_map(facts)


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def money(dollars: float) -> str:
    """US dollars as people write them: ``$20``, ``$1,250.50``."""
    return f"${dollars:,.2f}".removesuffix(".00")


def seconds(value: float) -> str:
    """A duration as people write it: ``10 s``, ``5 min``, ``1.5 h``."""
    if value < 60:
        return f"{value:g} s"
    if value < 3600:
        return f"{value / 60:g} min"
    return f"{value / 3600:g} h"
