"""A SkyPilot task as people give it becomes text that any process can launch later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from skydeck_nb.errors import InvalidCommand
from skydeck_nb.taskfile import absolute, is_git_url, mapping, text_of

PLAIN = "# kept as written\nresources: {cpus: 1}\nrun: echo hi\n"


class Task:
    """What ``sky.Task`` looks like from here."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def to_yaml_config(self) -> dict[str, Any]:
        return self._config


def test_text_is_kept_as_it_is() -> None:
    assert text_of(PLAIN, "/home/me") == PLAIN


@pytest.mark.parametrize("given", ["train.yaml", Path("train.yaml")])
def test_a_path_is_read_where_the_cell_runs(tmp_path: Path, given: Any) -> None:
    (tmp_path / "train.yaml").write_text(PLAIN)
    assert text_of(given, str(tmp_path)) == PLAIN


def test_an_object_is_asked_for_its_configuration() -> None:
    assert yaml.safe_load(text_of(Task({"run": "echo hi", "num_nodes": 2}), "/")) == {"run": "echo hi", "num_nodes": 2}


def test_local_paths_become_absolute_and_others_stay() -> None:
    task = {
        "workdir": "code",
        "file_mounts": {"/data": "../data", "/bucket": "s3://bucket/data", "/made": {"name": "b"}},
        "run": "echo hi",
    }
    assert yaml.safe_load(text_of(yaml.safe_dump(task), "/home/me")) == task | {
        "workdir": "/home/me/code",
        "file_mounts": {"/data": "/home/data", "/bucket": "s3://bucket/data", "/made": {"name": "b"}},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("run: [", "task= is not YAML: .*Correct that place"),
        ("", "task= is empty"),
        ("run: a\n---\nrun: b\n", "holds 2 documents, a pipeline"),
        ("- run\n- stop\n", "holds no mapping"),
        ("missing.yaml", "cannot be read .No such file"),
        (17, "task=17: write the path of a task file, its YAML, or a sky.Task"),
        ("secrets:\n  TOKEN: sesame\nrun: a\n", "the secret TOKEN, and secrets are never stored"),
        (
            "workdir:\n  url: https://me:sesame@host/it.git\nrun: a\n",
            "never stored: leave out what stands before the @",
        ),
        (Task({"secrets": {"TOKEN": "sesame"}, "run": "a"}), "the secret TOKEN, and secrets are never stored"),
    ],
)
def test_what_is_no_task_is_refused_by_name_and_tells_no_secret(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(InvalidCommand, match=message) as refusal:
        text_of(given, str(tmp_path))
    assert "sesame" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "repository"),
    [
        ("https://github.com/me/it.git", True),
        ("git@github.com:me/it.git", True),
        ("ssh://git@host/me/it", True),
        ("/home/me/it", False),
        ("it", False),
        ("a:b", False),
    ],
)
def test_a_repository_is_told_from_a_folder(path: str, repository: bool) -> None:
    assert is_git_url(path) == repository
    assert (absolute(path, "/cwd") == path) == (repository or path.startswith("/"))


def test_a_task_s_keys_are_text() -> None:
    assert mapping("1: a\nrun: b\n") == {"1": "a", "run": "b"}
