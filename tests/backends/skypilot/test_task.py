"""An experiment as the SkyPilot task that runs it: the call's own word over its base task's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skydeck_nb.backends.skypilot import task
from skydeck_nb.errors import InvalidCommand
from skydeck_nb.flags.command import argv
from skydeck_nb.models import Spec
from skydeck_nb.taskfile import is_git_url
from tests.backends.skypilot.conftest import Sdk

CLAIM = "ppo-sdabcdef-aaaaaaaaaa"

BASE = """
name: base
num_nodes: 2
workdir: /base
resources:
  accelerators: A100:8
  infra: aws
  use_spot: true
  cpus: 16+
  labels: {team: rl}
envs: {A: base, B: base}
secrets: {BASE_KEY: null}
file_mounts: {/data: s3://base, /cache: s3://cache}
setup: pip install base
run: python base.py
_metadata: {x: y}
event_callback: notify
"""


def config(spec: Spec | None = None, **changes: Any) -> dict[str, Any]:
    """The task of a spec, by default of a command."""
    spec = Spec(command=("train",)) if spec is None else spec
    arguments = changes.pop("argv", argv(spec, name="ppo") if spec.command or spec.script else [])
    return task.config(spec, arguments, **{"name": "ppo", "run_name": "ppo", "claim": CLAIM, **changes})


def over_base(**spec: Any) -> dict[str, Any]:
    return config(Spec(task=BASE, **spec))


# -- every keyword over the base task ------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "path", "alone", "over"),
    [
        ({"nodes": 4}, "num_nodes", 4, 4),
        ({}, "num_nodes", 1, 2),
        ({"accelerators": "H100:4"}, "resources.accelerators", "H100:4", "H100:4"),
        ({}, "resources.accelerators", None, "A100:8"),
        ({"infra": "k8s"}, "resources.infra", "k8s", "k8s"),
        ({"spot": False}, "resources.use_spot", False, False),
        ({"spot": None}, "resources.use_spot", None, True),
        ({"resources": {"cpus": 4, "disk_size": 50}}, "resources.cpus", 4, 4),
        ({"resources": {"disk_size": 50}}, "resources.cpus", None, "16+"),
        ({"resources": {"accelerators": "T4:1"}, "accelerators": "H100:1"}, "resources.accelerators", "T4:1", "T4:1"),
        ({}, "resources.labels", None, {"team": "rl"}),
        ({"workdir": "/mine"}, "workdir", "/mine", "/mine"),
        ({}, "workdir", None, "/base"),
        ({"env": {"A": "mine"}}, "envs.A", "mine", "mine"),
        ({"env": {"A": "mine"}}, "envs.B", None, "base"),
        ({"file_mounts": {"/data": "s3://mine"}}, "file_mounts./data", "s3://mine", "s3://mine"),
        ({"file_mounts": {"/data": "s3://mine"}}, "file_mounts./cache", None, "s3://cache"),
        ({"setup": "mine"}, "setup", "mine", "mine"),
        ({}, "setup", None, "pip install base"),
        ({}, "event_callback", None, "notify"),
        ({}, "name", CLAIM, CLAIM),
        ({}, "_metadata", None, None),
    ],
)
def test_the_calls_word_goes_before_the_base_tasks(spec: dict[str, Any], path: str, alone: Any, over: Any) -> None:
    def at(found: Any) -> Any:
        for key in path.split("."):
            found = found.get(key) if found is not None else None
        return found

    assert at(config(Spec(command=("train",), **spec))) == alone
    assert at(over_base(command=("train",), **spec)) == over


def test_a_spec_of_nothing_but_a_command_asks_for_nothing_else() -> None:
    assert config().keys() == {"name", "num_nodes", "envs", "run"}


@pytest.mark.parametrize(
    ("url", "ref", "commit", "workdir"),
    [
        ("https://github.com/a/b", "main", None, {"url": "https://github.com/a/b", "ref": "main"}),
        ("https://github.com/a/b", "main", "c0ffee", {"url": "https://github.com/a/b", "ref": "c0ffee"}),
        ("git@github.com:a/b.git", None, None, {"url": "git@github.com:a/b.git"}),
        ("/folder", "main", "c0ffee", "/folder"),
    ],
)
def test_a_repository_is_cloned_at_its_commit_and_a_folder_is_sent(
    url: str, ref: str | None, commit: str | None, workdir: Any
) -> None:
    assert config(Spec(command=("t",), workdir=url, git_ref=ref, git_commit=commit))["workdir"] == workdir


@pytest.mark.parametrize(
    ("workdir", "git"),
    [
        ("https://github.com/a/b", True), ("ssh://git@host/a", True), ("git@github.com:a/b", True), ("git://h/a", True),
        ("/a/b", False), ("a/b", False), ("~/a", False), ("./a:b", False), ("/a@b:c", False), ("C:/a", False),
    ],
)  # fmt: skip
def test_what_is_a_repository(workdir: str, git: bool) -> None:
    assert is_git_url(workdir) == git


def test_secrets_are_named_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    found = over_base(command=("t",), secrets=("MY_KEY",))
    assert found["secrets"] == {"BASE_KEY": None, "MY_KEY": None}
    assert "s3cret" not in task.text(found)


def test_the_run_knows_its_experiment_and_attempt() -> None:
    envs = config(attempt_id="aaaaaaaaaa")["envs"]
    assert (envs["SKYDECK_EXPERIMENT"], envs["SKYDECK_ATTEMPT"]) == ("ppo", "aaaaaaaaaa")
    assert "SKYDECK_ATTEMPT" not in config()["envs"]


def test_nobody_says_other_than_the_deck_which_experiment_it_is() -> None:
    assert config(Spec(command=("t",), env={"SKYDECK_EXPERIMENT": "other"}))["envs"]["SKYDECK_EXPERIMENT"] == "ppo"


def test_metadata_is_the_decks() -> None:
    assert over_base(command=("t",)).get("_metadata") is None
    assert config(Spec(task=BASE), metadata={"run": "1"})["_metadata"] == {"run": "1"}


def test_a_priority_is_the_resources() -> None:
    assert config(priority=5)["resources"] == {"priority": 5}
    assert "resources" not in config(priority=0)


@pytest.mark.parametrize(
    ("resources", "times"),
    [
        ({}, 0),
        ({"job_recovery": {"max_restarts_on_errors": 3}}, 3),
        ({"job_recovery": "FAILOVER"}, 0),
        ({"job_recovery": {"max_restarts_on_errors": "many"}}, 0),
    ],
)
def test_restarts_by_skypilot_itself_are_known(resources: dict[str, Any], times: int) -> None:
    assert task.restarts_on_errors(Spec(command=("t",), resources=resources)) == times


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("", "is empty"),
        ("# only a comment", "is empty"),
        ("run: a\n---\nrun: b", "2 documents, a pipeline"),
        ("- a", "no mapping"),
        ("!!python/object/apply:os.system [x]", "is not YAML"),
    ],
)
def test_a_base_task_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidCommand, match=words):
        task.base(text)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"task": "name: a"}, "nothing to run"),
        ({"task": "run: [a]"}, "nothing to run"),
        ({"command": ("t",), "gpus": 4}, "accelerators='H100:4'"),
        ({"command": ("t",), "task": "envs: [a]"}, "envs"),
        ({"command": ("t",), "task": "resources: 5"}, "resources"),
        ({"command": ("t",), "git_ref": "main"}, "git_ref="),
    ],
)
def test_what_skypilot_can_never_run_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidCommand, match=words):
        task.check(Spec(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        {"command": ("t",)},
        {"script": "echo"},
        {"task": "run: a"},
        {"command": ("t",), "gpus": 4, "accelerators": "H100:4"},
        {"command": ("t",), "gpus": 4, "pool": "p"},
        {"command": ("t",), "gpus": 4, "resources": {"any_of": [{"accelerators": "H100:4"}]}},
        {"command": ("t",), "gpus": 4, "task": BASE},
    ],
)
def test_what_skypilot_can_run_is_not_refused(spec: dict[str, Any]) -> None:
    task.check(Spec(**spec))


# -- what runs --------------------------------------------------------------------------------------

SHOW = "import json, sys; json.dump(sys.argv[1:], open({file!r}, 'w'))"
HOSTILE = (
    "",
    " ",
    "a b",
    "$HOME",
    "`id`",
    "$(id)",
    "'",
    '"',
    "\\",
    "a\nb",
    "*",
    "~",
    "!!",
    "&& exit",
    "世界",
    "--",
    "-x=\t",
)


def executed(run: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As SkyPilot runs it: a script of bash."""
    script = folder / "run.sh"
    script.write_text(run)
    environ = {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    return subprocess.run(["bash", str(script)], check=False, env=environ, cwd=folder, capture_output=True, text=True)


def show(folder: Path) -> tuple[str, ...]:
    """A program that writes its arguments into `said`."""
    return (sys.executable, "-S", "-c", SHOW.format(file=str(folder / "said")))


def test_bash_gives_the_program_the_arguments_as_they_are(tmp_path: Path) -> None:
    run = config(argv=[*show(tmp_path), *HOSTILE])["run"]
    assert executed(run, tmp_path).returncode == 0
    assert json.loads((tmp_path / "said").read_text()) == list(HOSTILE)


@pytest.mark.parametrize("max_seconds", [None, 60.0])
def test_a_script_runs_verbatim_with_the_flags_as_its_arguments(tmp_path: Path, max_seconds: float | None) -> None:
    script = (
        f'set -u\nx="a  b"\n{sys.executable} -S -c \'{SHOW.format(file="said").replace(chr(39), chr(34))}\' "$@" "$x"\n'
    )
    spec = Spec(script=script, flags={"lr": 0.1, "note": "it's $HOME"})
    run = config(spec, max_seconds=max_seconds)["run"]
    done = executed(run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "said").read_text()) == ["lr=0.1", 'note="it\'s $HOME"', "a  b"]


def test_the_scripts_text_stands_in_the_task_as_it_is_written() -> None:
    script = "echo 'one'\n\n  echo \"$two\"\n"
    assert script in config(Spec(script=script))["run"]


def test_a_base_tasks_own_run_stays_with_the_flags_as_its_arguments() -> None:
    run = config(Spec(task='run: python base.py "$@"'), argv=["lr=0.1"])["run"]
    assert run.endswith('set -- lr=0.1\npython base.py "$@"\n')


@pytest.mark.parametrize("code", [0, 3])
def test_the_runs_exit_code_is_the_programs(tmp_path: Path, code: int) -> None:
    for seconds in (None, 60.0):
        run = config(argv=["sh", "-c", f"exit {code}"], max_seconds=seconds)["run"]
        assert executed(run, tmp_path).returncode == code


def test_what_runs_too_long_is_ended(tmp_path: Path) -> None:
    run = config(argv=["sleep", "600"], max_seconds=0.01)["run"]
    assert executed(run, tmp_path).returncode == 124


def test_the_runs_folders_are_there(tmp_path: Path) -> None:
    run = config(Spec(script='touch "$SKYDECK_RUN_DIR/a" "$SKYDECK_CHECKPOINT_DIR/b"'))["run"]
    assert executed(run, tmp_path).returncode == 0
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name in ("a", "b")]
    assert sorted(files) == [".skydeck/checkpoints/ppo/b", f".skydeck/runs/{CLAIM}/a"]


# -- as text --------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)


@settings(max_examples=150)
@given(script=WORDS, value=WORDS, name=WORDS)
@example(script="a\n b\n\n", value="null", name="true")
@example(script="\t#: -\n- x", value="0x10", name="1e3")
@example(script=" x\x85y\u2028z", value="\ufeff\x00\x1b", name="2020-01-01")
def test_a_tasks_text_reads_back_as_the_task(script: str, value: str, name: str) -> None:
    made = {"run": script, "envs": {name: value}, "setup": value, "_metadata": {"a": script}}
    assert yaml.safe_load(task.text(made)) == made


def test_a_tasks_text_is_as_people_write_it() -> None:
    assert task.text(config(Spec(script="echo one\necho two\n"))).splitlines()[:4] == [
        f"name: {CLAIM}",
        "num_nodes: 1",
        "envs:",
        "  PYTHONUNBUFFERED: '1'",
    ]
    assert "run: |\n" in task.text(config(Spec(script="echo one\necho two\n")))


# -- as SkyPilot has it -----------------------------------------------------------------------------------

SPECS = {
    "command": Spec(command=("train", "{flags}"), flags={"lr": 0.1}),
    "hostile": Spec(command=("train", *HOSTILE[3:])),
    "script": Spec(script="echo 'a b'\nexit 3\n", setup="pip install x"),
    "base": Spec(task="run: echo\nresources: {cpus: 2+, infra: aws}\nnum_nodes: 2", env={"A": "b"}),
    "resources": Spec(command=("t",), accelerators="H100:8", spot=True, infra="aws/us-east-1", nodes=2, gpus=8),
    "more resources": Spec(
        command=("t",), resources={"cpus": "4+", "memory": 16, "disk_size": 100, "labels": {"a": "b"}}
    ),
    "choices": Spec(command=("t",), resources={"any_of": [{"accelerators": "H100:1"}, {"accelerators": "A100:1"}]}),
    "git": Spec(command=("t",), workdir="https://github.com/a/b", git_ref="main"),
    "mounts": Spec(command=("t",), file_mounts={"/data": "s3://bucket/data"}),
    "secrets": Spec(command=("t",), env={"X": "1", "Y": "true"}, secrets=("KEY",)),
}


@pytest.mark.parametrize("name", SPECS)
def test_skypilot_takes_the_task_and_reads_it_as_it_is_meant(name: str, sdk: Sdk) -> None:
    metadata = {"deck_id": "abcdef", "run": "1", "experiment": "a b"}
    made = config(SPECS[name], priority=5, metadata=metadata, attempt_id="aaaaaaaaaa")
    secrets = dict.fromkeys(made.get("secrets", {}), "value")
    taken = sdk.ask("task", config={**made, **({"secrets": secrets} if secrets else {})})
    assert "error" not in taken, taken
    theirs = taken["task"]
    assert {key: taken["metadata"].get(key) for key in metadata} == metadata
    assert (theirs["name"], theirs["run"], theirs["num_nodes"]) == (CLAIM, made["run"], made["num_nodes"])
    assert theirs["envs"] == made["envs"]
    assert theirs.get("setup") == made.get("setup")
    assert theirs.get("workdir") == made.get("workdir")


def test_skypilot_takes_the_task_from_its_text(sdk: Sdk) -> None:
    made = config(SPECS["hostile"])
    taken = sdk.ask("task", config=yaml.safe_load(task.text(made)))
    assert taken["task"]["run"] == made["run"]
