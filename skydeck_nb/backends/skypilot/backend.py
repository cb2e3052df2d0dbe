"""SkyPilot as a place where jobs run: managed jobs on a shared API server.

Decides which part answers which call of the contract, and who is asked first.
Refuses to import SkyPilot (``sdk.py`` does, in a process of its own), to know
the loop, and to read or write any file or database of the server.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from skydeck_nb.backends.base import Cadence, Capacity, Gate, Identity, Launched, Listing, Order, Query, Resolution
from skydeck_nb.backends.skypilot import logs, queue, source
from skydeck_nb.backends.skypilot import task as tasks
from skydeck_nb.backends.skypilot.access import Access, resolve
from skydeck_nb.backends.skypilot.answers import RequestFailed
from skydeck_nb.backends.skypilot.catalogue import Catalogue
from skydeck_nb.backends.skypilot.looking import Looker, wanted
from skydeck_nb.backends.skypilot.moves import Moves
from skydeck_nb.backends.skypilot.queue import Viewer
from skydeck_nb.backends.skypilot.searching import Search
from skydeck_nb.backends.skypilot.sending import Sender
from skydeck_nb.backends.skypilot.transport import Server, Transport
from skydeck_nb.errors import BackendUnavailable, InvalidCommand, LaunchRejected
from skydeck_nb.models import Spec
from skydeck_nb.taskfile import is_git_url

SEND_WITHIN: Final = 60.0
"""Seconds from the gate's word to the last write of a launch, as the loop's ``send_before`` has it."""

CONFIRM: Final = 10.0
"""Seconds for which a cancel is waited for, so that a refusal of the server's is heard."""

EXTRAS: Final = 10.0
"""Seconds for what a look asks besides, of jobs that moved: the listing itself does not wait longer for it."""

LOG_BYTES: Final = 32 << 20
"""The longest log that is taken whole."""

ENDPOINT_TO_SIGN_IN: Final = "SKYDECK_SIGN_IN"

LOGIN: Final = 330.0
"""Seconds for a person to sign in in a browser: SkyPilot itself waits 300."""


class SkyPilotBackend:
    """One deck's client of one API server.

    Args:
        environ: in place of ``os.environ``: it names the server, and gives the secrets.
        access: which server, and who asks, in place of what SkyPilot's own rules find.

    Raises:
        InvalidSetting: no server is named.
    """

    kind = "skypilot"
    prices = True

    def __init__(self, environ: Mapping[str, str] | None = None, *, access: Access | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._access = resolve(self._environ) if access is None else access
        self._transport = Transport(self._access)
        self._sender = Sender(self._transport, self._environ)
        self._search = Search(self._transport)
        self._moves = Moves(self._transport, Catalogue(self._transport))
        self._looker = Looker(self._transport, self._moves.waiting)
        self._looking = threading.Lock()
        self._refused: set[str] = set()
        self._workspaces: dict[int, str] = {}
        self._viewer: Viewer | None = None

    @property
    def identity(self) -> Identity:
        return Identity(kind=self.kind, place=self._access.place, scope=self._access.workspace)

    @property
    def cadence(self) -> Cadence:
        return Cadence(hot=10.0, discovery=60.0, launches=4, patience=80.0, follow=10.0)

    @property
    def user(self) -> str | None:
        return self._viewer.user_id if self._viewer is not None else None

    # -- declaring ----------------------------------------------------------------------

    def check(self, spec: Spec) -> None:
        tasks.check(spec)

    def missing(self, spec: Spec) -> tuple[str, str] | None:
        if importlib.util.find_spec("sky") is None:
            return (
                "SkyPilotMissing",
                "SkyPilot is not installed where the loop runs; run `pip install 'skydeck-nb[sky]'` there.",
            )
        for name in tasks.secret_names(spec):
            if not self._environ.get(name):
                return (
                    "SecretMissing",
                    f"The secret {name} is not set where the loop runs; set os.environ[{name!r}] there.",
                )
        if spec.workdir is not None and not is_git_url(spec.workdir) and not Path(spec.workdir).is_dir():
            return "WorkdirMissing", f"The folder {spec.workdir} does not exist where the loop runs; make it there."
        for target, path in spec.file_mounts.items():
            if "://" not in path and not Path(path).exists():
                return (
                    "FileMissing",
                    f"{path}, which is mounted at {target}, does not exist where the loop runs; put it there.",
                )
        return None

    # -- looking ------------------------------------------------------------------------

    def observe(self, query: Query, *, deadline: float) -> Listing:
        until = time.monotonic() + deadline
        begun_at = datetime.now(UTC)
        if not self._looking.acquire(timeout=deadline):
            raise BackendUnavailable(f"The look before this one at {self._access.place} has not ended yet.")
        try:
            server, viewer = self._asked(until)
            found = self._looker.look(query, server.api_version, until=until)
            rows = [row for group in found.rows.values() for row in group]
            jobs = {job.id: job for job in queue.jobs(rows, viewer) if wanted(job, query, found.members, viewer)}
            jobs = self._moves.completed(jobs, found.spot, until=min(until, time.monotonic() + EXTRAS))
        finally:
            self._looking.release()
        self._workspaces |= {job.id: job.workspace for job in jobs.values() if job.workspace is not None}
        return Listing(query=query, begun_at=begun_at, jobs=tuple(jobs.values()))

    def _asked(self, until: float) -> tuple[Server, Viewer]:
        """The server and who looks; another user, or another server, is looked at anew."""
        server = self._transport.server(until)
        viewer = Viewer(user_id=server.user_id or self._access.user_id, place=self._access.place)
        if self._viewer not in (None, viewer):
            self._looker.forget()
        self._viewer = viewer
        return server, viewer

    # -- launching ----------------------------------------------------------------------

    def launch(self, order: Order, gate: Gate, *, deadline: float) -> Launched:
        until = time.monotonic() + deadline
        if order.claim in self._refused:
            raise LaunchRejected(f"The launch {order.claim} was given up before it was sent.", reason="AttemptRefused")
        if order.priority not in tasks.PRIORITIES:
            raise LaunchRejected(f"priority={order.priority}: SkyPilot takes -1000 to 1000.", reason="InvalidPriority")
        if order.max_restarts and (times := tasks.restarts_on_errors(order.spec)):
            raise LaunchRejected(
                f"max_restarts={order.max_restarts}, and its task has SkyPilot restart it {times} times by itself: "
                "set one of the two to 0.",
                reason="RestartsTwice",
            )
        self._asked(until)
        names = tasks.secret_names(order.spec)
        with source.prepared(order.spec, until=until) as code:
            try:
                task = tasks.config(
                    code.spec,
                    order.argv,
                    name=order.experiment,
                    run_name=order.run_name,
                    claim=order.claim,
                    attempt_id=order.attempt_id,
                    metadata={**order.metadata, **code.metadata},
                    priority=order.priority,
                    max_seconds=order.max_seconds,
                )
            except InvalidCommand as error:
                raise LaunchRejected(str(error), reason="InvalidCommand") from None

            def allowed() -> None:
                if order.claim in self._refused:
                    raise LaunchRejected(f"The launch {order.claim} was given up.", reason="AttemptRefused")
                gate()

            request_id = self._sender.send(
                task,
                claim=order.claim,
                pool=order.spec.pool,
                secrets={name: self._environ[name] for name in names if name in self._environ},
                gate=allowed,
                until=until,
                send_within=SEND_WITHIN,
                wanted=getattr(gate, "wanted", lambda: True),
            )
        return Launched(request_id=request_id)

    def resolve(
        self,
        order_claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
        user: str | None = None,
    ) -> Resolution:
        until = time.monotonic() + deadline
        _, viewer = self._asked(until)
        found = self._search.resolve(order_claim, request_id, since=since, sender=user, viewer=viewer, until=until)
        if found.job_id is not None:
            self._search.forget(order_claim)
        return found

    def refuse(
        self,
        claim: str,
        attempt_id: str,
        request_id: str | None,
        *,
        deadline: float,
        since: datetime | None = None,
    ) -> None:
        self._refused.add(claim)  # in our own transport first, whatever the server says
        until = time.monotonic() + deadline
        _, viewer = self._asked(until)
        running = self._search.running(claim, request_id, since=since, viewer=viewer, until=until)
        self._transport.take_back(running, until=until)

    # -- acting on jobs -----------------------------------------------------------------

    def cancel(self, job_ids: Sequence[int], *, deadline: float) -> None:
        until = time.monotonic() + deadline
        self._asked(until)
        unknown = [number for number in job_ids if number not in self._workspaces]
        if unknown:
            body = queue.by_ids(unknown, details=False)
            _, answer = self._transport.exchange(queue.PATH, body, until=until, empty=queue.NO_CONTROLLER)
            for row in queue.records(answer)[0]:
                workspace = row.get("workspace")
                self._workspaces[row["job_id"]] = workspace if isinstance(workspace, str) else self._access.workspace
        by_workspace: dict[str, list[int]] = {}
        for number in job_ids:  # from another workspace a cancel is skipped without a word
            by_workspace.setdefault(self._workspaces.get(number, self._access.workspace), []).append(number)
        requests = [
            self._transport.post("/jobs/cancel", {"job_ids": sorted(ids), **self._within(workspace)}, until=until)
            for workspace, ids in sorted(by_workspace.items())
        ]
        heard = min(until, time.monotonic() + CONFIRM)
        for request_id in requests:
            try:
                self._transport.result(request_id, until=heard)
            except RequestFailed as error:
                if error.kind != queue.NO_CONTROLLER:
                    raise
            except BackendUnavailable:
                continue  # it was told; whether it did so is what looks show

    def _within(self, workspace: str) -> dict[str, Any]:
        return {"override_skypilot_config": {"active_workspace": workspace}}

    def logs(self, job_id: int, *, tail: int | None, deadline: float) -> str:
        if tail == 0:
            return ""  # the server would take it for all
        until = time.monotonic() + deadline
        body: dict[str, Any] = {"job_id": job_id, "follow": False, "tail": tail}
        if job_id in self._workspaces:
            body |= self._within(self._workspaces[job_id])
        self._asked(until)
        answer = self._transport.send("POST", "/jobs/logs", until=until, body=body, most=LOG_BYTES)
        problem = self._transport.problem(answer, "POST /jobs/logs")
        if problem is not None:
            raise problem
        return logs.tail(answer.body.decode(errors="replace"), tail)

    # -- the rest -----------------------------------------------------------------------

    def run_dir(self, job_id: int) -> Path | None:
        return None

    def checkpoint_dir(self, job_id: int) -> Path | None:
        return None

    def capacity(self) -> Capacity | None:
        return None

    def describe(self) -> Mapping[str, Any]:
        server = self._transport.known_server
        facts: dict[str, Any] = {
            "workspace": self._access.workspace,
            "user": (server.user_name if server is not None else None) or self._access.user_name,
            "requests": self._transport.counts.requests,
            "received_bytes": self._transport.counts.received,
        }
        if server is not None:
            facts |= {"skypilot": server.version, "api_version": server.api_version}
        if (memory := self._sender.memory) is not None:
            facts["client_process_bytes"] = memory
        return facts

    def sign_in(self, say: Callable[[str], None]) -> None:
        """SkyPilot's login, its words to ``say`` line by line; waits for the person.

        Raises:
            BackendUnavailable: it did not come to a sign-in.
        """
        if importlib.util.find_spec("sky") is None:
            raise BackendUnavailable(
                f"SkyPilot is not installed here: run `pip install 'skydeck-nb[sky]'`, or where it is, "
                f"{self._access.sign_in_command}"
            )
        command = [sys.executable, "-P", "-u", "-m", "skydeck_nb.backends.skypilot.sdk", "login"]
        last = ""
        with subprocess.Popen(
            command,
            env={**self._environ, ENDPOINT_TO_SIGN_IN: self._access.url},  # not for `ps`: it may hold a password
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as login:
            watch = threading.Timer(LOGIN, login.kill)
            watch.start()
            try:
                assert login.stdout is not None
                for line in login.stdout:
                    last = queue.plain(line) or last
                    say(line.rstrip())
                code = login.wait()
            finally:
                watch.cancel()
                login.kill()
        self._transport.forget()
        self._looker.forget()
        if code:
            raise BackendUnavailable(
                f"The sign-in to {self._access.place} did not succeed: {last or 'no reason given.'}"
            )

    @property
    def closed(self) -> bool:
        return self._transport.closed

    def close(self) -> None:
        self._sender.close()
        self._transport.close()
