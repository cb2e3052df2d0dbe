"""What a person's word means for the rows: start, stop, retry, restart, delete, adopt and the like.

Decides, for each experiment a call names, whether the word applies and which
columns it changes, and says in a sentence why it does not. Refuses to know the
database, the backend and clocks: rows and a time in, requests and outcomes out.
A request never launches and never cancels; the loop does, from the rows.

The table of ``start``, ``retry`` and ``restart``:

===========  =====================  ==========================  ==========  ==========
word         stopped or never run   alive                       succeeded   failed
===========  =====================  ==========================  ==========  ==========
``start``    runs                   skipped                     skipped     skipped
``retry``    skipped                skipped                     skipped     runs again
``restart``  runs                   cancelled, then runs again  runs again  runs again
===========  =====================  ==========================  ==========  ==========
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

from skydeck_nb.control import observing
from skydeck_nb.errors import InvalidName, InvalidSetting, NameTaken, NotYours, UnknownExperiment
from skydeck_nb.events import (
    CancelRequested,
    Cell,
    Change,
    DeleteRequested,
    Event,
    JobAdopted,
    JobForgotten,
    Key,
    PurgeRequested,
    SpecChanged,
    StartRequested,
    StopRequested,
    SweepChanged,
    TerminateRequested,
    UndeleteRequested,
    micros,
)
from skydeck_nb.models import AttemptRow, ExperimentRow, JobRow, SweepRow
from skydeck_nb.states import FAILED

How = Literal["start", "retry", "restart"]
Phase = Literal["new", "stopped", "waiting", "alive", "lost", "succeeded", "failed"]
"""Where an experiment stands for the words: ``waiting`` is wanted, and nothing of it runs yet."""

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call did to one experiment; ``action`` is a past participle, ``skipped`` where nothing changed."""

    experiment_id: int
    name: str
    action: str
    reason: str


class Prepared(NamedTuple):
    """What to write, and what to say about it."""

    events: list[Event]
    outcomes: list[Outcome]


@dataclass(frozen=True, slots=True)
class Work:
    """What is known to run for some experiments: their jobs, and which have a launch without an answer."""

    jobs: Mapping[int, Sequence[JobRow]] = field(default_factory=dict)
    unanswered: Collection[int] = frozenset()

    def alive(self, experiment_id: int) -> list[JobRow]:
        return [job for job in self.jobs.get(experiment_id, ()) if job.alive]

    def busy(self, experiment_id: int) -> bool:
        """Whether something of it may use a machine, now or as soon as its launch is answered."""
        return experiment_id in self.unanswered or bool(self.alive(experiment_id))

    def last(self, row: ExperimentRow) -> JobRow | None:
        """The newest job of the present run; one that a person said is gone is none."""
        of_run = [job for job in self.jobs.get(row.id, ()) if job.run == row.run and not job.forgotten]
        return max(of_run, key=lambda job: (job.created_at, job.id), default=None)


def phase(row: ExperimentRow, work: Work) -> Phase:
    """Where this experiment stands, by its rows alone."""
    if row.run == 0:
        return "new"
    last = work.last(row)
    wanted = row.desired_state == "RUNNING"
    if wanted and work.busy(row.id):
        lost = [job for job in work.alive(row.id) if job.lost]
        return "lost" if lost and len(lost) == len(work.alive(row.id)) else "alive"
    if last is not None and last.status == "SUCCEEDED":
        return "succeeded"
    if not wanted or (last is not None and last.status == "CANCELLED"):
        return "stopped"
    rejected = row.observed_run == row.run and row.current_state == "FAILED"
    if rejected or (last is not None and last.status in FAILED):
        return "failed"
    return "waiting"


def check_name(name: str) -> str:
    """The name, or an error that says what a name is."""
    if not NAME.fullmatch(str(name)):
        raise InvalidName(
            f"{name!r} cannot be a name: a letter first, then letters, digits, '.', '_' and '-', 100 in all at most."
        )
    return name


# -- Running ----------------------------------------------------------------------------


def start(rows: Sequence[ExperimentRow], work: Work, now: datetime, *, how: How = "start") -> Prepared:
    """Ask for a run: ``start`` what was stopped, ``retry`` what failed, ``restart`` whatever it does."""
    prepared = Prepared([], [])
    for row in rows:
        why_not, why = _may_start(row, work, how)
        if why_not:
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", why_not))
            continue
        prepared.events.append(
            StartRequested(
                at=now,
                experiment_id=row.id,
                how=how,
                run=row.run + 1,
                changes=(_wanted(row, now, run=row.run + 1),),
            )
        )
        done = {"start": "started", "retry": "retried", "restart": "restarted"}[how]
        prepared.outcomes.append(Outcome(row.id, row.name, done, why))
    return prepared


def _may_start(row: ExperimentRow, work: Work, how: How) -> tuple[str, str]:
    """Why not, or why: one of the two is empty."""
    if row.deleted:
        return "deleted: undelete it first", ""
    at = phase(row, work)
    last = work.last(row)
    which = f"job {last.id}" if last is not None else "its last launch"
    if how == "restart":
        said = {
            "new": "its first run",
            "alive": "what runs is cancelled first",
            "lost": f"waits until {which}, which is lost, is seen again or forgotten",
            "waiting": "its wait begins anew",
        }
        ended = f"{which} {_ended(last)}" if at in ("succeeded", "failed") else "its last run was stopped"
        return "", said.get(at, ended)
    if at == "alive":
        running = f"{which} is {last.status}" if last is not None and last.alive else "its launch is under way"
        return f"alive already: {running}", ""
    if at == "lost":
        return f"{which} is lost and may be alive: deck.forget({last.id if last else ''}) says that it is gone", ""
    if at == "waiting":
        return "waits already" + (f": {row.message}" if row.message else " to be launched"), ""
    if at == "succeeded":
        return f"done: {which} succeeded; restart runs it again", ""
    if at == "failed":
        failed = f"{which} {_ended(last)}"
        return (f"failed: {failed}; retry runs it again", "") if how == "start" else ("", failed)
    if how == "retry":
        return ("never run: start runs it" if at == "new" else "was stopped, did not fail: start runs it"), ""
    return "", "its first run" if at == "new" else "its last run was stopped"


def _ended(job: JobRow | None) -> str:
    if job is None:
        return "was refused"
    code = f" with exit code {job.exit_code}" if job.exit_code else ""
    return f"ended {job.status}{code}"


def _wanted(row: ExperimentRow, now: datetime, *, run: int) -> Change:
    columns: dict[str, Cell] = {"run": run, "wanted_at": micros(now), "updated_at": micros(now)}
    if row.desired_state != "RUNNING":
        columns["desired_state"] = "RUNNING"
    return Change("experiments", row.id, columns)


def release(sweep: SweepRow, now: datetime) -> list[Event]:
    """Let go a sweep that its brake holds; nothing where it does not."""
    if sweep.brake != "HELD":
        return []
    columns: dict[str, Cell] = {"brake": "RELEASED", "brake_message": "", "updated_at": micros(now)}
    return [SweepChanged(at=now, sweep_id=sweep.id, what="released", changes=(Change("sweeps", sweep.id, columns),))]


def stop(rows: Sequence[ExperimentRow], work: Work, now: datetime, *, reason: str = "") -> Prepared:
    """Ask that nothing of these experiments runs; also of deleted ones."""
    prepared = Prepared([], [])
    for row in rows:
        if row.desired_state != "RUNNING":
            still = "is being stopped already" if work.busy(row.id) else "is stopped already"
            said = "never ran" if row.run == 0 else still if row.desired_state == "STOPPED" else "is terminated already"
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", said))
        elif phase(row, work) == "succeeded":
            last = work.last(row)
            prepared.outcomes.append(
                Outcome(row.id, row.name, "skipped", f"done already: job {last.id if last else '?'} succeeded")
            )
        else:
            prepared.events.append(
                StopRequested(at=now, experiment_id=row.id, reason=reason, changes=(_desire(row, "STOPPED", now),))
            )
            prepared.outcomes.append(Outcome(row.id, row.name, "stopped", _to_stop(row, work)))
    return prepared


def _to_stop(row: ExperimentRow, work: Work) -> str:
    alive = work.alive(row.id)
    if alive:
        return "; ".join(f"job {job.id} was {job.status}" for job in alive)
    return "its launch was under way" if row.id in work.unanswered else "nothing of it was running"


def terminate(rows: Sequence[ExperimentRow], work: Work, now: datetime) -> Prepared:
    """Ask that neither a job nor a cluster of these experiments is left."""
    prepared = Prepared([], [])
    for row in rows:
        if row.desired_state == "TERMINATED":
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", "is terminated already"))
        elif row.run == 0 and not work.busy(row.id):
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", "never ran"))
        else:
            prepared.events.append(
                TerminateRequested(at=now, experiment_id=row.id, changes=(_desire(row, "TERMINATED", now),))
            )
            prepared.outcomes.append(Outcome(row.id, row.name, "terminated", _to_stop(row, work)))
    return prepared


def _desire(row: ExperimentRow, state: str, now: datetime, **more: Cell) -> Change:
    return Change("experiments", row.id, {"desired_state": state, "updated_at": micros(now), **more})


# -- Coming and going -------------------------------------------------------------------


def delete(rows: Sequence[ExperimentRow], work: Work, now: datetime) -> Prepared:
    """Stop and hide. Nothing is removed: :func:`undelete` brings it back, :func:`purge` removes the rows."""
    prepared = Prepared([], [])
    for row in rows:
        if row.deleted:
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", "is deleted already"))
            continue
        desired = "TERMINATED" if row.desired_state == "TERMINATED" else "STOPPED"
        prepared.events.append(
            DeleteRequested(at=now, experiment_id=row.id, changes=(_desire(row, desired, now, deleted=1),))
        )
        said = f"hidden when it has ended: {_to_stop(row, work)}" if work.busy(row.id) else "undelete brings it back"
        prepared.outcomes.append(Outcome(row.id, row.name, "deleted", said))
    return prepared


def undelete(rows: Sequence[ExperimentRow], taken: Collection[str], now: datetime) -> Prepared:
    """Show again, stopped; as ``name-2`` and so on where the name is another's by now."""
    prepared = Prepared([], [])
    names = set(taken)
    for row in rows:
        if not row.deleted:
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", "is not deleted"))
            continue
        name = free_name(row.name, names)
        names.add(name)
        renamed: dict[str, Cell] = {} if name == row.name else {"name": name}
        prepared.events.append(
            UndeleteRequested(
                at=now, experiment_id=row.id, changes=(_desire(row, "STOPPED", now, deleted=0, **renamed),)
            )
        )
        said = f"as {name}: another has its name" if renamed else "stopped"
        prepared.outcomes.append(Outcome(row.id, name, "undeleted", said))
    return prepared


def free_name(name: str, taken: Collection[str]) -> str:
    """The name itself, or the first of ``name-2``, ``name-3``, … that nobody has."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        end = f"-{number}"
        candidate = name[: 100 - len(end)] + end
    return candidate


def purge(
    rows: Sequence[ExperimentRow],
    work: Work,
    owned: Mapping[int, Iterable[tuple[str, Key]]],
    now: datetime,
) -> Prepared:
    """Remove the rows of deleted experiments of which nothing is alive, with all that refers to them (``owned``)."""
    prepared = Prepared([], [])
    for row in rows:
        if not row.deleted:
            why = "is not deleted: delete it first"
        elif work.busy(row.id):
            why = f"is still being stopped: {_to_stop(row, work)}"
        else:
            removed = [Change(table, key, None) for table, key in owned.get(row.id, ())]
            prepared.events.append(
                PurgeRequested(at=now, experiment_id=row.id, changes=(*removed, Change("experiments", row.id, None)))
            )
            prepared.outcomes.append(Outcome(row.id, row.name, "purged", f"with {len(removed)} rows of its own"))
            continue
        prepared.outcomes.append(Outcome(row.id, row.name, "skipped", why))
    return prepared


# -- Marks and names --------------------------------------------------------------------


def star(rows: Sequence[ExperimentRow], now: datetime, *, on: bool = True) -> Prepared:
    """Put the star on, or take it off."""
    prepared = Prepared([], [])
    word = "starred" if on else "unstarred"
    for row in rows:
        if row.starred == on:
            prepared.outcomes.append(Outcome(row.id, row.name, "skipped", f"is {word} already"))
            continue
        prepared.events.append(_edited(row, word, now, starred=int(on)))
        prepared.outcomes.append(Outcome(row.id, row.name, word, ""))
    return prepared


def rename(row: ExperimentRow, to: str, taken: Mapping[str, int], now: datetime) -> Prepared:
    """Give another name. ``run_name`` is frozen at the first launch, so nothing on disk or in S3 moves."""
    check_name(to)
    if to == row.name:
        return Prepared([], [Outcome(row.id, row.name, "skipped", "has this name already")])
    if to in taken:
        raise NameTaken(f"{to!r} is the name of another experiment: take another name, or rename that one first.")
    kept = f"; its runs go on as {row.run_name}" if row.run_name else ""
    return Prepared([_edited(row, "renamed", now, name=to)], [Outcome(row.id, to, "renamed", f"was {row.name}{kept}")])


def _edited(row: ExperimentRow, what: str, now: datetime, **columns: Cell) -> Event:
    changed = Change("experiments", row.id, {**columns, "updated_at": micros(now)})
    return SpecChanged(at=now, experiment_id=row.id, what=what, generation=row.generation, changes=(changed,))


# -- Single jobs ------------------------------------------------------------------------


def cancel(job: JobRow, row: ExperimentRow | None, work: Work, now: datetime, *, others: bool = False) -> Prepared:
    """Cancel one job. Of an experiment that wants it, this is a stop: else the loop would start the next."""
    _own(job, others, "cancel")
    if not job.alive:
        return _ended_already(job, row)
    events: list[Event] = []
    reason = f"deck.cancel({job.id})"
    if row is not None and row.desired_state == "RUNNING" and job.run == row.run:
        events += stop([row], work, now, reason=reason).events
    events.append(
        CancelRequested(
            at=now,
            experiment_id=job.experiment_id,
            job_id=job.id,
            reason="AskedFor",
            by="user",
            changes=(Change("jobs", job.id, {"cancel_asked": 1}),),
        )
    )
    said = f"job {job.id} was {job.status}" + (f"; {row.name} is stopped" if len(events) > 1 and row else "")
    return Prepared(events, [_of_job(job, row, "cancelled", said)])


def adopt(
    job: JobRow, row: ExperimentRow, work: Work, owner: ExperimentRow | None, now: datetime, *, others: bool = False
) -> Prepared:
    """Put an orphan under an experiment, as the job of a new run that it wants."""
    if owner is not None:
        if owner.id == row.id:
            return Prepared([], [_of_job(job, row, "skipped", f"job {job.id} is its own already")])
        raise NameTaken(f"Job {job.id} belongs to {owner.name} already; a job has one experiment.")
    if not job.mine and not others:
        raise NotYours(
            f"Job {job.id} belongs to {job.user or 'another user'}; "
            f"deck.adopt({job.id}, {row.name!r}, others=True) insists."
        )
    if row.deleted:
        raise UnknownExperiment(f"{row.name} is deleted: deck.undelete({row.name!r}) first.")
    if work.busy(row.id):
        raise NameTaken(
            f"{row.name} has something alive of its own ({_to_stop(row, work)}): stop it first, or adopt job {job.id} "
            "under another experiment."
        )
    run = row.run + 1
    of_job: dict[str, Cell] = {"experiment_id": row.id, "run": run, "generation": row.generation, "adopted": 1}
    return Prepared(
        [
            JobAdopted(
                at=now,
                experiment_id=row.id,
                job_id=job.id,
                name=job.name,
                changes=(Change("jobs", job.id, of_job), _wanted(row, now, run=run)),
            )
        ],
        [_of_job(job, row, "adopted", f"job {job.id} is {job.status}")],
    )


def forget(job: JobRow, row: ExperimentRow | None, now: datetime) -> Prepared:
    """Say that a lost job is gone, so that its experiment may run again."""
    if not job.alive:
        return _ended_already(job, row)
    if not job.lost:
        raise InvalidSetting(
            f"Job {job.id} is {job.status}, not lost: deck.cancel({job.id}) ends it; only a lost job can be forgotten."
        )
    event = JobForgotten(
        at=now,
        experiment_id=job.experiment_id,
        job_id=job.id,
        changes=(Change("jobs", job.id, {"forgotten": 1, "changed_at": micros(now)}),),
    )
    return Prepared([event], [_of_job(job, row, "forgotten", f"job {job.id} counts as gone")])


def give_up(attempt: AttemptRow, row: ExperimentRow, now: datetime) -> Prepared:
    """Say that a launch without an answer made no job, so that its experiment may be launched again."""
    if not attempt.open:
        said = f"its launch {attempt.id} is {attempt.state} already"
        return Prepared([], [Outcome(row.id, row.name, "skipped", said)])
    if attempt.state != "UNKNOWN":
        raise InvalidSetting(
            f"The launch {attempt.id} of {row.name} is under way: deck.stop({row.name!r}) takes it back; only one "
            "without an answer can be forgotten."
        )
    outcome = Outcome(row.id, row.name, "forgotten", f"the launch {attempt.id} counts as never made")
    return Prepared([observing.not_launched(attempt, "Forgotten", now)], [outcome])


def _own(job: JobRow, others: bool, verb: str) -> None:
    if others or (job.mine and job.experiment_id is not None):
        return
    if not job.mine:
        raise NotYours(
            f"Job {job.id} belongs to {job.user or 'another user'}; deck.{verb}({job.id}, others=True) insists."
        )
    raise NotYours(
        f"Job {job.id} ({job.name}) carries no claim of this deck: deck.adopt({job.id}, name) first, "
        f"or deck.{verb}({job.id}, others=True)."
    )


def _ended_already(job: JobRow, row: ExperimentRow | None) -> Prepared:
    said = "is forgotten" if job.forgotten else f"ended already: {job.status}"
    return Prepared([], [_of_job(job, row, "skipped", f"job {job.id} {said}")])


def _of_job(job: JobRow, row: ExperimentRow | None, action: str, reason: str) -> Outcome:
    return Outcome(row.id if row else 0, row.name if row else job.name, action, reason)
