"""An experiment as the SkyPilot task that runs it.

Decides how a spec and its arguments are written as a task: over the YAML that it
starts from, with the call's own word first. Refuses to import SkyPilot, to read
files and secrets, and to send anything. The shapes are SkyPilot's task YAML
(``sky/utils/schemas.py``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from skydeck_nb.errors import InvalidCommand
from skydeck_nb.models import Spec
from skydeck_nb.taskfile import is_git_url, mapping

GRACE: Final = 30
"""Seconds from TERM to KILL for a run whose ``max_hours`` are over."""

PRIORITIES: Final = range(-1000, 1001)
"""What SkyPilot takes as a priority (``sky/skylet/constants.py``)."""

_OWN: Final = frozenset({"name", "_metadata"})
"""Keys of a task that are this deck's to write."""


def base(text: str | None) -> dict[str, Any]:
    """The task that a spec starts from (raises ``InvalidCommand`` for what is none)."""
    return {} if text is None else mapping(text)


def config(
    spec: Spec,
    argv: Sequence[str],
    *,
    name: str,
    run_name: str,
    claim: str | None = None,
    attempt_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    priority: int = 0,
    max_seconds: float | None = None,
) -> dict[str, Any]:
    """The task as SkyPilot's YAML has it; secrets by name alone.

    ``name`` is the experiment's; ``run_name`` names its folders, ``claim`` the job.
    What belongs to one attempt is left out where no attempt is given.

    Raises:
        InvalidCommand: the base task cannot be used, or has nothing to run.
    """
    task = {key: value for key, value in base(spec.task).items() if key not in _OWN}
    task = {"name": claim or _slug(run_name), **task}
    if spec.nodes != 1 or "num_nodes" not in task:
        task["num_nodes"] = spec.nodes
    merged = resources(spec, _mapping(task, "resources"), priority)
    if merged:
        task["resources"] = merged
    if spec.workdir is not None:
        ref = spec.git_commit or spec.git_ref
        url = {"url": spec.workdir, **({"ref": ref} if ref else {})}
        task["workdir"] = url if is_git_url(spec.workdir) else spec.workdir
    told = {"PYTHONUNBUFFERED": "1"}, _mapping(task, "envs"), spec.env, _told(run_name, attempt_id)
    task["envs"] = {key: value for each in told for key, value in each.items()}
    secrets = {**_mapping(task, "secrets"), **dict.fromkeys(spec.secrets)}
    if secrets:
        task["secrets"] = secrets
    mounts = {**_mapping(task, "file_mounts"), **spec.file_mounts}
    if mounts:
        task["file_mounts"] = mounts
    if spec.setup is not None:
        task["setup"] = spec.setup
    task["run"] = _run(spec, argv, task.get("run"), run_name, claim, max_seconds)
    if metadata:
        task["_metadata"] = dict(metadata)
    return task


def resources(spec: Spec, given: Mapping[str, Any], priority: int = 0) -> dict[str, Any]:
    """The resources of a spec over those of its base task."""
    said: dict[str, Any] = {"accelerators": spec.accelerators, "infra": spec.infra, "use_spot": spec.spot}
    merged = {**given, **{key: value for key, value in said.items() if value is not None}, **spec.resources}
    if priority:
        merged["priority"] = priority
    return merged


def restarts_on_errors(spec: Spec) -> int:
    """How often SkyPilot itself restarts a job that fails: 0 unless the task says otherwise."""
    recovery = resources(spec, _mapping(base(spec.task), "resources")).get("job_recovery")
    times = recovery.get("max_restarts_on_errors", 0) if isinstance(recovery, dict) else 0
    return times if isinstance(times, int) else 0


def secret_names(spec: Spec) -> list[str]:
    """The secrets whose values the launching process must have, the base task's among them."""
    of_base = [name for name, value in _mapping(base(spec.task), "secrets").items() if value is None]
    return list(dict.fromkeys([*spec.secrets, *of_base]))


def check(spec: Spec) -> None:
    """Refuse what SkyPilot can never run (raises ``InvalidCommand``)."""
    task = base(spec.task)
    if spec.command is None and spec.script is None and not isinstance(task.get("run"), str):
        raise InvalidCommand("There is nothing to run: task= has no `run:`; write one, or give a command or script=.")
    asked = resources(spec, _mapping(task, "resources"))
    choices = any(key in asked for key in ("any_of", "ordered"))
    if spec.gpus and not choices and not asked.get("accelerators") and spec.pool is None:
        raise InvalidCommand(
            f"gpus={spec.gpus}: SkyPilot must know which kind; write accelerators='H100:{spec.gpus}' or another kind."
        )
    for key in ("envs", "secrets", "file_mounts"):
        _mapping(task, key)
    if spec.git_ref is not None and spec.workdir is None:
        raise InvalidCommand("git_ref= is a commit of workdir=, which is not given: name the folder or repository.")


_BREAKS: Final = frozenset("\r\x85\u2028\u2029\ufeff")
"""What YAML takes for line breaks, or leaves out, unless it is escaped."""


def text(task: Mapping[str, Any]) -> str:
    """A task as YAML, as people write it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if _BREAKS & set(value) else "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, block)
    written = yaml.dump(
        dict(task), Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )
    return str(written)


def _run(
    spec: Spec, argv: Sequence[str], base_run: Any, run_name: str, claim: str | None, max_seconds: float | None
) -> str:
    folders = {
        "SKYDECK_RUN_DIR": f"runs/{claim}" if claim else f"runs/{_slug(run_name)}",
        "SKYDECK_CHECKPOINT_DIR": f"checkpoints/{_slug(run_name)}",
    }
    lines = [f'export {key}="${{{key}:-$HOME/.skydeck/{path}}}"' for key, path in folders.items()]
    lines.append('mkdir -p "$SKYDECK_RUN_DIR" "$SKYDECK_CHECKPOINT_DIR"')
    limit = [] if max_seconds is None else ["timeout", f"--kill-after={GRACE}", f"{max(max_seconds, 1):.0f}"]
    script: Any = spec.script if spec.script is not None else base_run if spec.command is None else None
    if script is None:
        return "\n".join([*lines, shlex.join([*limit, *argv]), ""])
    if not isinstance(script, str):
        raise InvalidCommand("task= has no `run:` that is text: write one, or give a command or script=.")
    flags = argv if spec.script is None else argv[4:]  # bash -c SCRIPT NAME FLAG…
    if limit:
        return "\n".join([*lines, shlex.join([*limit, "bash", "-c", script, run_name, *flags]), ""])
    return "\n".join([*lines, shlex.join(["set", "--", *flags]), script.rstrip("\n"), ""])


def _told(run_name: str, attempt_id: str | None) -> dict[str, str]:
    told = {"SKYDECK_EXPERIMENT": run_name}
    return told if attempt_id is None else {**told, "SKYDECK_ATTEMPT": attempt_id}


def _mapping(task: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = task.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise InvalidCommand(f"task= has {key}: {found!r:.60}; write a mapping there.")
    return dict(found)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "run"
