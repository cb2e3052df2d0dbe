"""SkyPilot's own client, in a process of its own: ``python -m skydeck_nb.backends.skypilot.sdk``.

The only importer of ``sky``. Decides how one launch goes through the SDK
(validation, uploads and admin policy are its own) and that each write of the
launch request asks first. Refuses to decide anything about experiments, and to
live longer than whoever started it.

A process of its own, because the SDK changes the one it lives in: it starts a
local API server where none is wanted, sets ``sys.tracebacklimit``, prints into
whatever ``sys.stdout`` is, silences ``httpx``, waits without a deadline, and
brings 1,900 modules. The notebook's own ``sky`` is another one, untouched.

One JSON object a line. In: ``{"launch": {task, name, pool, secrets, workspace,
before}}``, and ``{"go": before}`` or ``{"go": null}`` as the answer to a gate;
``before`` is a time of a clock that runs while the machine sleeps. Out:
``{"ready": version}``, ``{"gate": true}``, ``{"request_id": …}`` or
``{"failed": {kind, message, …}}``. The end of the input is the end of this.
"""

from __future__ import annotations

import inspect
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Final

IDLE: Final = 600.0
"""Seconds without a launch after which the process ends and gives its memory back."""

CONNECT: Final = 5.0

LAUNCH: Final = "/jobs/launch"

TOKEN: Final = "SKYPILOT_SERVICE_ACCOUNT_TOKEN"


def clock() -> float:
    """Seconds, the same for all processes of this machine, that go on while it sleeps where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Refused(Exception):
    """The launch may not be sent (any more)."""


class SignIn(Exception):
    """The server answers with a sign-in instead of what was asked."""


class TooLate(Exception):
    """The time for this launch is over."""


@dataclass
class Sending:
    """One launch on its way: what it may take, and what is known of its writes."""

    until: float
    writes: int = 0
    """Writes of the launch request that were begun and may have arrived."""
    statuses: list[int] = field(default_factory=list)
    """How the server answered them."""
    said: str = ""
    """Its own word for why it did not take the launch, which the SDK leaves out."""


class Wire:
    """The two ends of the pipe to whoever started this."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink

    def say(self, **what: Any) -> None:
        self._sink.write(json.dumps(what).encode() + b"\n")
        self._sink.flush()

    def hear(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message; ``None`` at the end of the input, or when nothing came in time."""
        if timeout is not None and not select.select([self._source], [], [], timeout)[0]:
            return None
        line = self._source.readline()
        message: dict[str, Any] | None = json.loads(line) if line else None
        return message

    def may_send(self) -> float:
        """Seconds for which the launch may be sent (raises ``Refused``)."""
        self.say(gate=True)
        answer = self.hear()
        before = None if answer is None else answer.get("go")
        if before is None:
            raise Refused("The launch may not be sent any more.")
        return float(before) - clock()


def main() -> int:
    source = os.fdopen(0, "rb", buffering=0, closefd=False)  # unbuffered: select sees all
    wire = Wire(source, os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # whatever prints goes to the log, never between the messages
    import sky
    from sky.server import rest

    workspace: str | None = None
    tame(lambda: workspace)
    session = rest._session
    wire.say(ready=sky.__version__)
    while (message := wire.hear(IDLE)) is not None:
        order = message["launch"]
        sending = Sending(until=order["before"])
        workspace = order["workspace"]
        mount(session, wire, sending)
        try:
            request_id = launch(order)
        except BaseException as error:  # noqa: BLE001  whatever the SDK raises is told, and this process goes on
            wire.say(failed=failure(error, sending))
        else:
            wire.say(request_id=request_id, **asdict(sending))
    return 0


def tame(workspace: Callable[[], str | None]) -> None:
    """Have the SDK send the client's configuration for this workspace, and no token inside its bodies."""
    from sky.server.requests import payloads
    from sky.utils import annotations

    annotations.is_on_api_server = False  # True until a first "client" call: then the workspace is not sent
    told = payloads.request_body_env_vars

    def without_token() -> dict[str, str]:
        return {name: value for name, value in told().items() if name != TOKEN}

    payloads.request_body_env_vars = without_token
    configured = payloads.get_override_skypilot_config_from_client

    def within() -> dict[str, Any]:
        named = workspace()
        return configured() if named is None else {**configured(), "active_workspace": named}

    payloads.get_override_skypilot_config_from_client = within


def mount(session: Any, wire: Wire, sending: Sending) -> None:
    """Bound every exchange of the SDK, and ask before each write of the launch."""
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectTimeout
    from urllib3.exceptions import NewConnectionError

    unsent = (ConnectTimeout, NewConnectionError)

    class Asking(HTTPAdapter):
        def send(
            self,
            request: Any,
            stream: bool = False,
            timeout: Any = None,
            verify: Any = True,
            cert: Any = None,
            proxies: Any = None,
        ) -> Any:
            left = sending.until - clock()
            launching = request.method == "POST" and request.path_url.partition("?")[0].endswith(LAUNCH)
            if launching:
                left = wire.may_send()
                sending.writes += 1
            if left <= 0:
                raise TooLate("The time for this launch is over.")
            given = timeout if isinstance(timeout, tuple) else (timeout, timeout)
            bounded = (min(given[0] or CONNECT, CONNECT, left), min(given[1] or left, left))
            try:
                response = super().send(request, stream, bounded, verify, cert, proxies)
            except Exception as error:
                if launching and any(isinstance(one, unsent) for one in chain(error)):
                    sending.writes -= 1  # no byte of it left
                raise
            if launching:
                sending.statuses.append(response.status_code)
                sending.said = detail(response) if response.status_code >= 400 else ""
            if response.is_redirect or response.status_code == 401:
                raise SignIn("The server wants a sign-in.")
            return response

    adapter = Asking(pool_connections=4, pool_maxsize=8, max_retries=0)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)


def detail(response: Any) -> str:
    """What an answer says of its failure; never what it repeats of the request."""
    try:
        said = response.json().get("detail")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if isinstance(said, dict):
        said = said.get("message")
    return said[:2000] if isinstance(said, str) else ""


def launch(order: Mapping[str, Any]) -> str:
    """One launch through the SDK; the id of its request."""
    import sky

    known = inspect.signature(sky.jobs.launch).parameters
    config = dict(order["task"])
    if order["secrets"]:
        config["secrets"] = {**config.get("secrets", {}), **order["secrets"]}
    task = sky.Task.from_yaml_config(config)
    optional: dict[str, Any] = {"pool": order["pool"]} if order["pool"] is not None else {}
    if "job_group" in known:
        optional["job_group"] = None  # else it joins, and ends with, the job group that a kernel may live in
    return str(sky.jobs.launch(task, name=order["name"], **optional))


def failure(error: BaseException, sending: Sending) -> dict[str, Any]:
    """What went wrong, and how far it had come."""
    return {
        "kind": type(error).__name__,
        "kinds": [each.__name__ for one in chain(error) for each in type(one).__mro__],
        "message": str(error),
        **asdict(sending),
    }


def chain(error: BaseException) -> list[BaseException]:
    """An error and what it came of, the reasons that libraries wrap among them."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found


def login() -> int:
    """SkyPilot's login, its words on standard output; it prints an address to open, and opens none."""
    from sky.client import sdk

    known = inspect.signature(sdk.api_login).parameters
    how = {"no_browser": True} if "no_browser" in known else {}
    try:
        sdk.api_login(endpoint=os.environ["SKYDECK_SIGN_IN"], **how)
    except Exception as error:  # noqa: BLE001  its message is the answer
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201  this is a program
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(login() if sys.argv[1:2] == ["login"] else main())
