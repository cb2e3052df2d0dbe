"""Jobs of other people on the stack's server, as many as a team has after a year.

Decides who has them and in which states. Refuses to write a row that SkyPilot
would not: it makes one job of each status by the functions of SkyPilot's own
launch path, and multiplies their rows by its own tables. None of them runs; an
unfinished one stays as it is, since no controller was ever told of it.

    with strangers(stack, jobs=12_500, alive=200):
        ...
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sky.layout import DEFAULT_ROOT, PROJECT
from tests.sky.processes import StackError
from tests.sky.stack import Stack

PREFIX = "stranger"
USERS = 20
MONTH = 30 * 24 * 3600.0
FINISHED = {"SUCCEEDED": 80, "FAILED": 10, "CANCELLED": 8, "FAILED_SETUP": 1, "FAILED_NO_RESOURCE": 1}
ALIVE = {"RUNNING": 75, "PENDING": 15, "STARTING": 10}
CHUNK = 1000


@contextmanager
def strangers(stack: Stack, *, jobs: int, alive: int) -> Iterator[None]:
    """Meanwhile there are so many, and so many of them are not finished."""
    run(stack, f"add({jobs}, {alive})")
    try:
        yield
    finally:
        run(stack, "remove()")


def run(stack: Stack, call: str) -> None:
    """In a process of its own, which is to SkyPilot what its server is: same home, same database."""
    command = [sys.executable, "-c", f"from {__spec__.name} import add, remove; {call}"]
    environ = stack.env() | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environ, cwd=stack.layout.cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"failed: {call}\n{done.stderr}")


def add(jobs: int, alive: int) -> None:
    import sqlalchemy
    from sky import global_user_state, models
    from sky.jobs import state

    chance = random.Random(jobs)
    users = [f"{PREFIX}{number:02}" for number in range(USERS)]
    for user in users:
        global_user_state.add_or_update_user(models.User(id=user, name=f"{user}@example.com"))
    samples = {status: asyncio.run(sample(status)) for status in (*FINISHED, *ALIVE)}
    statuses = [
        *chance.choices(list(FINISHED), list(FINISHED.values()), k=jobs - alive - len(FINISHED)),
        *chance.choices(list(ALIVE), list(ALIVE.values()), k=alive - len(ALIVE)),
    ]
    with state._db_manager.get_engine().begin() as connection:

        def row(table: Any, job_id: int) -> dict[str, Any]:
            found = connection.execute(sqlalchemy.select(table).where(table.c.spot_job_id == job_id)).one()
            return dict(found._mapping)

        infos = {status: row(state.job_info_table, job_id) for status, job_id in samples.items()}
        tasks = {status: row(state.spot_table, job_id) for status, job_id in samples.items()}
        first = connection.execute(sqlalchemy.select(sqlalchemy.func.max(state.job_info_table.c.spot_job_id))).scalar()
        key = state.spot_table.primary_key.columns.values()[0]
        numbered = list(enumerate(statuses, first + 1))
        for start in range(0, len(numbered), CHUNK):
            new_infos, new_tasks = [], []
            for job_id, status in numbered[start : start + CHUNK]:
                shift = -chance.uniform(0, MONTH)
                task = {column: later(value, shift) for column, value in tasks[status].items() if column != key.key}
                name = f"train-{chance.randrange(1000)}-{job_id}"
                owner = chance.choice(users)
                new_tasks.append(task | {"spot_job_id": job_id, "task_name": name})
                new_infos.append(infos[status] | {"spot_job_id": job_id, "name": name, "user_hash": owner})
            connection.execute(state.job_info_table.insert(), new_infos)
            connection.execute(state.spot_table.insert(), new_tasks)


async def sample(status: str) -> int:
    """One job, brought to this status as SkyPilot's controller would."""
    from sky.jobs import state

    async def nobody(_: str) -> None:
        """Who is told of each change."""

    wanted = state.ManagedJobStatus(status)
    now = time.time()
    job: int = state.set_job_info_without_job_id(
        f"train-{status.lower()}",
        workspace="default",
        entrypoint="sky jobs launch train.yaml",
        pool=None,
        pool_hash=None,
        user_hash=f"{PREFIX}00",
    )
    state.set_pending(job, 0, f"train-{status.lower()}", "1x[H100:8]", "{}")
    if status == "PENDING":
        return job
    await state.set_starting_async(job, 0, f"sky-{now}", now - 7200, "1x[H100:8]", {}, nobody)
    if status not in ("STARTING", "FAILED_NO_RESOURCE"):
        await state.set_started_async(job, 0, now - 7000, nobody)
    if wanted.is_failed():
        await state.set_failed_async(job, 0, wanted, f"It ended as {status}.", nobody, end_time=now)
    elif status == "SUCCEEDED":
        await state.set_succeeded_async(job, 0, now, nobody)
    elif status == "CANCELLED":
        await state.set_cancelling_async(job, nobody)
        await state.set_cancelled_async(job, nobody)
    if wanted.is_terminal():
        await state.scheduler_set_done_async(job)
    return job


def later(value: Any, shift: float) -> Any:
    """A time moves; anything else stays."""
    return value + shift if isinstance(value, float) and value > MONTH else value


def remove() -> None:
    import sqlalchemy
    from sky.jobs import state

    theirs = sqlalchemy.select(state.job_info_table.c.spot_job_id).where(
        state.job_info_table.c.user_hash.startswith(PREFIX)
    )
    with state._db_manager.get_engine().begin() as connection:
        for table in (state.job_events_table, state.spot_table, state.job_info_table):
            connection.execute(table.delete().where(table.c.spot_job_id.in_(theirs)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sky.bigserver", description=__doc__)
    parser.add_argument("command", choices=["add", "remove"])
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument("--jobs", type=int, default=12_500)
    parser.add_argument("--alive", type=int, default=200)
    arguments = parser.parse_args()
    call = f"add({arguments.jobs}, {arguments.alive})" if arguments.command == "add" else "remove()"
    run(Stack(arguments.root), call)


if __name__ == "__main__":
    main()
