"""Records what a real SkyPilot server answers, for the quick tests: ``python -m tests.sky.record FOLDER``.

Decides which answers are kept, and what of them belongs to the machine that
recorded them and is left out: pickles, paths, process ids. Needs the environment
of a client of the server (``HOME``, the endpoint), where it launches four small
jobs and waits for their end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from skydeck_nb.backends.skypilot import queue, task
from skydeck_nb.backends.skypilot.access import resolve
from skydeck_nb.backends.skypilot.sending import Sender
from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.models import Spec
from skydeck_nb.states import TERMINAL

DECK: Final = "record"
PICKLES: Final = frozenset({"entrypoint", "request_body", "pid", "object", "handle", "stacktrace"})
PATIENCE: Final = 600.0
FOLDERS: Final = "HOME"

RUNS: Final[Mapping[str, Spec]] = {
    "quick": Spec(command=("echo", "hello from quick")),
    "fail": Spec(script="echo bad; exit 3"),
    "setup": Spec(command=("true",), setup="exit 4"),
    "stay": Spec(command=("sleep", "600"), accelerators="H100:2", gpus=2),
}


class Recorder:
    """Asks a server and keeps its answers by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._transport = Transport(resolve())
        self._sender = Sender(self._transport)
        folder.mkdir(parents=True, exist_ok=True)

    def until(self) -> float:
        return time.monotonic() + PATIENCE

    def keep(self, name: str, status: int, body: Any) -> None:
        text = json.dumps({"status": status, "body": cleaned(body)}, indent=1, ensure_ascii=False)
        (self._folder / f"{name}.json").write_text(f"{text}\n")

    def get(self, name: str, path: str) -> Any:
        answer = self._transport.send("GET", path, until=self.until())
        body = answer.json(path)
        self.keep(name, answer.status, body)
        return body

    def call(self, name: str, path: str, body: dict[str, Any]) -> Any:
        request_id = self._transport.post(path, body, until=self.until())
        return self.get(name, f"/api/get?request_id={request_id}")

    def launch(self, name: str, spec: Spec) -> str:
        claim = f"{name}-sd{DECK}-aaaaaaaaaa"
        made = task.config(
            Spec(**{**{f: getattr(spec, f) for f in spec.__slots__}, "infra": "slurm", "resources": {"cpus": 1}}),
            spec.command or ("bash", "-c", spec.script or "", name),
            name=name,
            run_name=name,
            claim=claim,
            attempt_id="aaaaaaaaaa",
            metadata={"deck_id": DECK, "experiment_id": "1", "attempt_id": "aaaaaaaaaa", "run": "1"},
        )
        return self._sender.send(
            made, claim=claim, pool=None, secrets={}, gate=lambda: None, until=self.until(), send_within=60
        )

    def statuses(self) -> dict[str, str]:
        body = queue.by_name(f"-sd{DECK}-", page=1, api_version=62)
        rows, _ = queue.records(self._transport.call(queue.PATH, body, until=self.until()))
        return {str(row["job_name"]).partition("-sd")[0]: str(row["status"]) for row in rows}

    def record(self) -> None:
        self.get("health", "/api/health")
        requests = {name: self.launch(name, spec) for name, spec in RUNS.items()}
        self.get("launched", f"/api/get?request_id={requests['quick']}")
        self.call("queue_waiting", queue.PATH, queue.by_ids(range(1, 50), details=True))
        while self.statuses().get("stay") != "RUNNING":
            time.sleep(2)
        ids = {row["job_name"].partition("-sd")[0]: row["job_id"] for row in self._jobs()}
        self.call("queue_hot", queue.PATH, queue.by_ids(list(ids.values()), details=False))
        self.call("queue_placed", queue.PATH, queue.placed([ids["stay"]]))
        self.call("cancel", "/jobs/cancel", {"job_ids": [ids["stay"]]})
        while not all(status in TERMINAL for status in self.statuses().values()):
            time.sleep(2)
        self.call("queue_whole", queue.PATH, queue.by_name(f"-sd{DECK}-", page=1, api_version=62))
        self.call("queue_empty", queue.PATH, queue.by_ids([999_999], details=False))
        self.call("queue_unknown_field", queue.PATH, {"fields": ["nope"]})
        self.call("events", "/jobs/events", {"job_id": ids["quick"], "limit": 5})
        self.get("unknown_request", "/api/get?request_id=00000000")
        self.get("requests", "/api/status?all_status=true&limit=20&fields=request_id&fields=name&fields=status")
        self.get("launch_request", f"/api/status?request_ids={requests['quick']}")
        for name in ("quick", "fail"):
            body = {"job_id": ids[name], "follow": False, "tail": 20}
            answer = self._transport.send("POST", "/jobs/logs", until=self.until(), body=body)
            self.keep(f"logs_{name}", answer.status, answer.body.decode())

    def _jobs(self) -> list[Mapping[str, Any]]:
        body = queue.by_name(f"-sd{DECK}-", page=1, api_version=62)
        return queue.records(self._transport.call(queue.PATH, body, until=self.until()))[0]

    def close(self) -> None:
        self._sender.close()
        self._transport.close()


def cleaned(value: Any) -> Any:
    """A value without what belongs to the machine that answered."""
    if isinstance(value, dict):
        return {key: "" if key in PICKLES and key != "request_body" else cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    if not isinstance(value, str):
        return value
    if value[:1] in "{[" and len(value) > 1:
        try:
            return json.dumps(cleaned(json.loads(value)))
        except ValueError:
            return plain(value)
    return plain(value)


def plain(text: str) -> str:
    """Text without a pickle and without this machine's folders."""
    if text.startswith("gAS"):
        return ""
    home = str(Path.home())
    for folder, word in ((home, f"/{FOLDERS}"), (sys.prefix, "/VENV"), (str(Path.cwd()), "/CWD")):
        text = text.replace(folder, word)
    return text


def main() -> None:
    recorder = Recorder(Path(sys.argv[1]))
    try:
        recorder.record()
    finally:
        recorder.close()


if __name__ == "__main__":
    main()
