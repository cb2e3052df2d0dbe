"""A SkyPilot task as people give it: a file, its text, or a ``sky.Task``.

Decides what of it is stored: its text, with its local paths made absolute, since
the process that launches is not the one that declared, and without the value of
a secret. Refuses to import SkyPilot and to know what becomes of the task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from skydeck_nb.errors import InvalidCommand

_GIT_URL: Final = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")
_REMOTE: Final = re.compile(r"[a-z][a-z0-9+.-]*://")


def is_git_url(workdir: str) -> bool:
    """Whether a workdir is a repository to clone, not a folder to upload."""
    return _GIT_URL.match(workdir) is not None


def absolute(path: str, cwd: str) -> str:
    """A local path in full; what is elsewhere (``s3://…``, a repository) as it is."""
    if _REMOTE.match(path) or is_git_url(path):
        return path
    return os.path.normpath(Path(cwd, Path(path).expanduser()))


def text_of(value: Any, cwd: str) -> str:
    """The YAML to store of what was given as ``task=``.

    Raises:
        InvalidCommand: it is none, cannot be read, or holds the value of a secret.
    """

    if callable(getattr(value, "to_yaml_config", None)):
        return _stored(value.to_yaml_config(), None, cwd)
    if isinstance(value, os.PathLike) or (
        isinstance(value, str) and "\n" not in value and value.strip().endswith((".yaml", ".yml"))
    ):
        file = Path(absolute(os.fspath(value).strip(), cwd))
        try:
            value = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InvalidCommand(
                f"task={str(file)!r} cannot be read ({why}): name a task file that is there."
            ) from None
    if not isinstance(value, str):
        raise InvalidCommand(f"task={value!r:.60}: write the path of a task file, its YAML, or a sky.Task.")
    return _stored(mapping(value), value, cwd)


def without_password(url: str, keyword: str) -> str:
    """The address of a repository (raises ``InvalidCommand`` where it holds a password or token)."""
    if re.match(r"https?://[^/\s]*@", url):
        raise InvalidCommand(
            f"{keyword} holds a password or token, and those are never stored: leave out what stands before the @, and "
            "let git's credential helper, or SkyPilot's, give it."
        )
    return url


def mapping(text: str) -> dict[str, Any]:
    """The one task that a YAML text holds; what is nested in it is to be read only.

    Raises:
        InvalidCommand: it is no YAML, no mapping, or several tasks.
    """
    return dict(_parsed(text))


@lru_cache(maxsize=256)
def _parsed(text: str) -> dict[str, Any]:
    """Cached: the loop asks for each row that waits, again and again."""
    import yaml

    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as error:
        raise InvalidCommand(f"task= is not YAML: {' '.join(str(error).split())}. Correct that place.") from None
    if len(documents) != 1:
        what = f"holds {len(documents)} documents, a pipeline" if documents else "is empty"
        raise InvalidCommand(f"task= {what}: an experiment is one task, so give one.")
    if not isinstance(documents[0], dict):
        raise InvalidCommand("task= holds no mapping: write a SkyPilot task, with `run:` at least.")
    return {str(key): value for key, value in documents[0].items()}


def _stored(task: Mapping[str, Any], text: str | None, cwd: str) -> str:
    import yaml

    valued = [str(name) for name, value in _items(task, "secrets") if value is not None]
    if valued:
        raise InvalidCommand(
            f"task= holds the value of the secret {valued[0]}, and secrets are never stored: leave it empty "
            f"(`{valued[0]}: null`) and set os.environ[{valued[0]!r}] where the loop runs."
        )
    changed = dict(task)
    repository = dict(_items(task, "workdir")).get("url")
    if isinstance(repository, str):
        without_password(repository, "task= workdir.url")
    if isinstance(task.get("workdir"), str):
        changed["workdir"] = absolute(task["workdir"], cwd)
    mounts = {
        key: absolute(value, cwd) if isinstance(value, str) else value for key, value in _items(task, "file_mounts")
    }
    if mounts:
        changed["file_mounts"] = mounts
    if text is not None and changed == task:
        return text
    dumped: str = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
    return dumped


def _items(task: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = task.get(key)
    return list(found.items()) if isinstance(found, Mapping) else []
