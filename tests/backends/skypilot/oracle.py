"""SkyPilot's own client, asked what it thinks: ``python -m tests.backends.skypilot.oracle``.

One JSON object a line in, one out. It imports SkyPilot once; whatever that keeps
between two questions is forgotten before each.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import sky
from sky import skypilot_config
from sky.client import service_account_auth
from sky.jobs.state import ManagedJobStatus
from sky.schemas.api.responses import ManagedJobRecord
from sky.server import common, constants
from sky.server.requests import payloads
from sky.utils import annotations as modes
from sky.utils import common_utils

BODIES = (
    "JobsQueueV2Body", "JobsCancelBody", "JobsLogsBody", "RequestCancelBody", "GetJobEventsBody",
    "ListAcceleratorsBody", "RequestStatusBody", "RequestPayload",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """What its payloads, records and statuses are called."""
    return {
        "bodies": {name: sorted(getattr(payloads, name).model_fields) for name in BODIES},
        "record": sorted(ManagedJobRecord.model_fields),
        "statuses": {status.value: status.is_terminal() for status in ManagedJobStatus},
        "failures": sorted(status.value for status in ManagedJobStatus if status.is_failed()),
        "api_version": constants.API_VERSION,
        "oldest": constants.MIN_COMPATIBLE_API_VERSION,
    }


def access(environ: dict[str, str], folder: str) -> dict[str, Any]:
    """Whom it would ask, as whom, with what."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKYPILOT_")}
    os.environ.clear()
    os.environ.update({**kept, **environ})
    os.chdir(folder)
    common_utils.USER_HASH_FILE = os.path.expanduser("~/.sky/user_hash")
    modes.is_on_api_server = False
    common.get_server_url.cache_clear()
    common.is_api_server_local.cache_clear()
    try:
        skypilot_config.reload_config()
        return {
            "url": common.get_server_url(),
            "headers": service_account_auth.get_service_account_headers(),
            "cookies": {c.name: c.value for c in common.get_api_cookie_jar()},
            "cookie_file": str(common.get_api_cookie_jar_path()),
            "user_id": common_utils.get_user_hash(),
            "user_name": common_utils.get_local_user_name(),
            "config": json.loads(json.dumps(payloads.get_override_skypilot_config_from_client())),
            "workspace": skypilot_config.get_active_workspace(),
        }
    except Exception as error:  # noqa: BLE001  that it fails is the answer
        return {"error": type(error).__name__}


def task(config: dict[str, Any]) -> dict[str, Any]:
    """A task's config as it comes back from its ``Task``."""
    try:
        made = sky.Task.from_yaml_config(config)
        return {"task": json.loads(json.dumps(made.to_yaml_config(), default=str)), "metadata": made.metadata}
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    known: dict[str, Callable[..., Any]] = {"facts": facts, "access": access, "task": task}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = known[asked.pop("what")](**asked)
        answers.write(json.dumps({"answer": answer}) + "\n")
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
