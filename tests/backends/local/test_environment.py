"""What of the leader's environment a command gets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.base import Order
from skydeck_nb.backends.local.environment import Folders, composed, inherited
from tests.backends.local.host import order

TOOLS = Path(sys.executable).parent
LEADER = {"PATH": "/usr/bin:/bin", "HOME": "/home/me", "LANG": "de_DE.UTF-8", "WANDB_API_KEY": "w"}


def made(wanted: Order, leader: dict[str, str] | None = None, *, gpus_here: bool = False) -> dict[str, str]:
    return composed(
        wanted, Folders(wanted, "/root-of-spool"), LEADER if leader is None else leader, gpus_here=gpus_here
    )


@pytest.mark.parametrize(
    "name",
    "JPY_PARENT_PID JPY_API_TOKEN JUPYTERHUB_API_TOKEN JUPYTER_TOKEN FORCE_COLOR CLICOLOR PAGER GIT_PAGER COLUMNS "
    "OLDPWD CUDA_VISIBLE_DEVICES VIRTUAL_ENV SKYDECK_SUPERVISES SKYDECK_ATTEMPT".split(),
)
def test_what_is_the_kernel_s_or_ours_is_not_passed_on(name: str) -> None:
    assert name not in inherited({**LEADER, name: "x"})


def test_what_is_the_user_s_is_passed_on() -> None:
    kept = inherited({**LEADER, "MPLBACKEND": "Agg", "SKYDECK_DB_PATH": "/x", "TERM": "xterm"})
    assert kept.items() >= {**LEADER, "MPLBACKEND": "Agg", "SKYDECK_DB_PATH": "/x", "TERM": "xterm"}.items()
    assert "MPLBACKEND" not in inherited({"MPLBACKEND": "module://matplotlib_inline.backend_inline"})


def test_a_leader_without_an_environment_still_gives_a_home_and_a_path() -> None:
    assert inherited({}).keys() == {"HOME", "USER", "LOGNAME", "PATH"}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "PWD": "/tmp"}),
        ({"path": "/opt/bin"}, {"PATH": "/opt/bin"}),
        ({"path": "/opt/bin", "interpreter": sys.executable}, {"PATH": f"{TOOLS}:/opt/bin", "VIRTUAL_ENV": sys.prefix}),
        ({"path": f"{TOOLS}:/opt/bin", "interpreter": sys.executable}, {"PATH": f"{TOOLS}:/opt/bin"}),
        ({"interpreter": sys.executable}, {"PATH": f"{TOOLS}:/usr/bin:/bin"}),
        ({"env": {"PATH": "/mine", "PYTHONUNBUFFERED": "0"}}, {"PATH": "/mine", "PYTHONUNBUFFERED": "0"}),
        ({"env": {"WANDB_API_KEY": "spec"}, "secrets": ("WANDB_API_KEY",)}, {"WANDB_API_KEY": "w"}),
        ({"env": {"SKYDECK_EXPERIMENT": "other"}, "run_name": "mine"}, {"SKYDECK_EXPERIMENT": "mine"}),
    ],
)
def test_a_spec_s_words_go_over_the_leader_s(spec: dict[str, Any], wanted: dict[str, str]) -> None:
    if sys.prefix == sys.base_prefix:
        wanted.pop("VIRTUAL_ENV", None)
    assert made(order("true", **spec)).items() >= wanted.items()


def test_gpus_are_hidden_from_who_asks_for_none_only_where_there_are_some() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in made(order("true"))
    assert made(order("true"), gpus_here=True)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("name", ["../../etc", "a/b c", "", "...", "x" * 300, "$(id)\n"])
def test_a_run_s_folders_stay_below_the_root(name: str) -> None:
    folders = Folders(order("true", run_name=name, experiment_id=7), "/spool")
    parts = Path(folders.run_dir).relative_to("/spool/runs/dk3f7q").parts
    assert len(parts) == 2
    assert parts[0].startswith("7-")
    assert len(parts[0]) < 70
    assert ".." not in parts
