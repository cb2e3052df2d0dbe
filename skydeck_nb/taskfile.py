"""An experiment as a SkyPilot task file, to read and to copy.

Decides how a spec is written as YAML. Needs no YAML library: every scalar is
written as JSON, which YAML reads. Refuses to launch anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from skydeck_nb.flags.command import command_line
from skydeck_nb.models import Spec


def task_yaml(spec: Spec, *, name: str, argv: Sequence[str]) -> str:
    """The task that runs these arguments on these resources."""
    if spec.task is not None:
        return spec.task
    accelerators = spec.accelerators or (f"GPU:{spec.gpus}" if spec.gpus else None)
    resources = {
        "accelerators": accelerators,
        "use_spot": spec.spot,
        "infra": spec.infra,
        **spec.resources,
    }
    task: dict[str, Any] = {
        "name": name,
        "num_nodes": spec.nodes if spec.nodes != 1 else None,
        "resources": {key: value for key, value in resources.items() if value is not None},
        "workdir": spec.workdir,
        "envs": dict(spec.env),
        "secrets": dict.fromkeys(spec.secrets, ""),
        "file_mounts": dict(spec.file_mounts),
        "setup": spec.setup,
        "run": command_line(argv),
    }
    return "".join(_lines({key: value for key, value in task.items() if value not in (None, {}, "")}, ""))


def _lines(mapping: Mapping[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{_key(key)}:\n", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{_key(key)}: {json.dumps(value, ensure_ascii=False)}\n")
    return lines


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() else json.dumps(key, ensure_ascii=False)
