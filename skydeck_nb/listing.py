"""What a look at a backend asks and what it shows.

Decides when a listing is evidence about a job or a claim. Refuses to know how a
backend is asked, and what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What the loop wants to see.

    ``job_ids``: these jobs, whatever became of them. ``claims``: the names of
    unanswered launches. ``discovery``: besides, every job that carries this
    deck's claim, alive or not, and orphans of the own user. ``everyone``: with a
    discovery, the live jobs of all other users as well, to be shown only.
    """

    deck_id: str
    job_ids: frozenset[int] = frozenset()
    claims: frozenset[str] = frozenset()
    discovery: bool = False
    everyone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenJob:
    """One job as the backend shows it. ``None`` is: it did not say."""

    id: int
    name: str
    status: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the launch order's ``metadata`` said: deck_id, experiment_id, attempt_id, run, generation, …"""
    reason: str = ""
    """One CamelCase word for why it waits, was preempted or failed; empty where nothing is to say."""
    message: str = ""
    """The sentence to that reason."""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    recoveries: int = 0
    infra: str | None = None
    cluster_name: str | None = None
    nodes: int | None = None
    gpus: int | None = None
    accelerators: str | None = None
    command: str | None = None
    logs_path: str | None = None
    run_dir: str | None = None
    user: str | None = None
    mine: bool = True
    """Whether it belongs to the user who looks."""
    workspace: str | None = None
    url: str | None = None
    hourly_cost: float | None = None
    """US dollars an hour for the whole job, all nodes, by the backend's catalogue: finite, 0 or more, and the same
    at each look while it runs on the same machines. ``None``: no price is known for where it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The answer to one query, with the time at which looking began.

    It is evidence about a job or claim only if it covers it and was begun after
    the last change that we know of.
    """

    query: Query
    begun_at: datetime
    jobs: tuple[SeenJob, ...]
    complete: bool = True
    proves_death: bool = False
    """Whether absence from a complete listing proves that nothing runs (a backend that owns the processes)."""

    def covers(self, job_id: int) -> bool:
        return self.complete and (self.query.discovery or job_id in self.query.job_ids)

    def covers_claim(self, claim: str) -> bool:
        return self.complete and (self.query.discovery or claim in self.query.claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What looking for an unanswered launch found.

    ``job_id`` set: it exists. ``never``: it is certain, now and for ever, that
    it makes no job. ``clean_miss``: looked everywhere, completely, and found
    nothing. ``rejected``: the backend says that the request failed, and why, and
    a complete look begun after that shows no job of the claim, so that this is
    certain too; ``retryable``: the same launch may be taken later. All empty:
    could not look, or it is still under way.
    """

    job_id: int | None = None
    never: bool = False
    clean_miss: bool = False
    rejected: str = ""
    retryable: bool = False
    begun_at: datetime
    message: str = ""
