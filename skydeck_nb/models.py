"""The rows of a deck as frozen dataclasses, with properties derived from them.

Decides the shape of an experiment, a job, an attempt, a sweep, a group and a
checkpoint. Refuses to know SQL, backends and clocks. ``None`` means unknown,
``()`` and ``{}`` mean none; times are aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from skydeck_nb.states import Desired, State, is_alive

Scalar = str | int | float | bool | None
FlagValue = Scalar | list[Scalar]
"""One configuration value; lists hold scalars only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is executed. A change here is a new generation.

    Exactly one of ``command`` and ``script`` is set, or neither where ``task``
    brings its own ``run``. ``gpus`` and ``accelerators`` count per node.
    ``interpreter`` and ``path`` belong to the local backend: the process that
    leads is not the one that declared.
    """

    command: tuple[str, ...] | None = None
    script: str | None = None
    task: str | None = None
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    nodes: int = 1
    gpus: int | None = None
    accelerators: str | None = None
    spot: bool | None = None
    infra: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    workdir: str | None = None
    git_ref: str | None = None
    git_commit: str | None = None
    setup: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    file_mounts: Mapping[str, str] = field(default_factory=dict)
    pool: str | None = None
    interpreter: str | None = None
    path: str | None = None

    @property
    def total_gpus(self) -> int:
        """GPUs over all nodes; 0 where none were asked for."""
        return self.nodes * (self.gpus or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Why an experiment is as it is. ``reason`` is one CamelCase word, ``message`` a sentence."""

    type: Literal["Ready", "UpToDate", "Observed", "Admitted"]
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRow:
    """One experiment: first the spec that only users write, then the status that only the loop writes."""

    id: int
    name: str
    spec: Spec
    spec_hash: str
    desired_state: Desired = "STOPPED"
    run: int = 0
    generation: int = 1
    run_name: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 0
    max_restarts: int = 0
    max_hours: float | None = None
    max_gpu_hours: float | None = None
    max_cost: float | None = None
    sweep_id: int | None = None
    coordinates: Mapping[str, FlagValue] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)
    exp_order: float = 0.0
    starred: bool = False
    deleted: bool = False
    created_at: datetime
    updated_at: datetime
    wanted_at: datetime | None = None
    """When the present run was asked for; the age by which the queue is ordered."""

    current_state: State = "STOPPED"
    current_job_id: int | None = None
    observed_run: int = 0
    reason: str = ""
    message: str = ""
    attention: bool = False
    conditions: tuple[Condition, ...] = ()
    cluster_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One execution on the backend. ``experiment_id`` is ``None`` for an orphan."""

    id: int
    experiment_id: int | None = None
    attempt_id: str | None = None
    run: int = 0
    generation: int = 0
    name: str = ""
    status: str = "PENDING"
    reason: str = ""
    error_message: str | None = None
    """What the backend says of it: why it waits, or why it failed."""
    created_at: datetime
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
    git_commit: str | None = None
    user: str | None = None
    mine: bool = True
    workspace: str | None = None
    url: str | None = None
    hourly_cost: float | None = None
    """US dollars an hour for the whole job, all nodes, as last listed: an estimate. ``None``: no price is known."""

    adopted: bool = False
    lost: bool = False
    forgotten: bool = False
    cancel_asked: bool = False
    """A person named this very job: it is cancelled whatever its experiment wants."""

    cancel_sent_at: datetime | None = None
    cancel_count: int = 0
    changed_at: datetime
    """When we last changed it or heard of it by an answer (launched, cancel sent): older listings are no evidence."""

    @property
    def alive(self) -> bool:
        """Whether it may still use a machine: also when lost, until a person says :meth:`Deck.forget`."""
        return not self.forgotten and is_alive(self.status)

    @property
    def watched(self) -> bool:
        """Whether the loop looks after it. A job of another user is only shown, unless a person named it."""
        return self.experiment_id is not None or self.mine or self.cancel_asked


AttemptState = Literal["PREPARED", "SENDING", "UNKNOWN", "SUBMITTED", "REJECTED", "NOT_LAUNCHED"]
OPEN_ATTEMPT = frozenset({"PREPARED", "SENDING", "UNKNOWN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One intent to launch, written before the backend is called.

    ``PREPARED``: nothing can have been sent. ``SENDING``: a send is allowed until
    ``send_before``. ``UNKNOWN``: something may have been sent and no answer is
    known. The other three are closed.
    """

    id: str
    experiment_id: int
    run: int
    generation: int
    claim: str
    spec_hash: str
    term: int
    state: AttemptState = "PREPARED"
    created_at: datetime
    send_before: datetime | None = None
    request_id: str | None = None
    job_id: int | None = None
    replacing: int | None = None
    misses: int = 0
    missed_at: datetime | None = None
    error: str | None = None
    ended_at: datetime | None = None
    sent_as: str | None = None
    """The backend's user that sent it, where each sees only their own launches."""

    @property
    def open(self) -> bool:
        return self.state in OPEN_ATTEMPT


Brake = Literal["ARMED", "PASSED", "HELD", "RELEASED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """A named set of experiments and the definition that made it (JSON-able)."""

    id: int
    name: str
    definition: Mapping[str, Any]
    max_live: int | None = None
    max_gpu_hours: float | None = None
    max_cost: float | None = None
    """The budgets of the whole sweep: over every job that any of its experiments ever had."""

    brake: Brake = "ARMED"
    brake_message: str = ""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """An ordered, collapsible collection of experiments."""

    id: int
    name: str
    flags: tuple[str, ...] = ()
    group_order: float = 0.0
    collapsed: bool = False
    max_live: int | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """One epoch's model and replay files."""

    experiment_id: int
    epoch: int
    model_path: str
    replay_paths: tuple[str, ...] = ()
    size: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    created_at: datetime
    policy_version: str | None = None
