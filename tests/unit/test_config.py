"""Settings: which source wins, what may stand where, and what a mistake is told."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb import config
from skydeck_nb.background import loop_settings
from skydeck_nb.errors import InvalidSetting, SkydeckError


class Place:
    """A home of its own, an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.toml"
        self.environ = {"SKYDECK_HOME": str(folder)}

    def write(self, text: str) -> Path:
        self.file.write_text(text, encoding="utf-8")
        self.file.chmod(0o600)
        return self.file

    def load(self, arguments: dict[str, Any] | None = None, **environ: str) -> config.Settings:
        return config.load(arguments, environ=self.environ | environ)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(config.private_folder(tmp_path / "deck-home"))


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# Sources.


def test_defaults_stand_where_nobody_said_anything(place: Place) -> None:
    settings = place.load()
    assert settings.backend == "local"
    assert settings.db_path == place.folder / "local.db"
    assert settings.local_root == place.folder / "local"
    assert (settings.poll_interval, settings.reconcile_interval) == (None, None), "the backend's own cadence"
    assert (settings.sync_interval, settings.grace) == (60.0, 10.0)
    assert (settings.max_live, settings.max_gpus, settings.slots, settings.gpus) == (None, None, None, None)
    assert settings.run_name == "{name}"
    assert (settings.checkpoints, settings.policy_url, settings.links) == (None, None, {})
    assert {one.source for one in settings} == {"default"}
    assert settings.notes == ()


def test_the_budgets_of_a_deck_reach_its_loop(place: Place) -> None:
    loop = loop_settings(place.load(SKYDECK_MAX_GPU_HOURS="40", SKYDECK_MAX_COST="99.5"))
    assert (loop.max_gpu_hours, loop.max_cost) == (40.0, 99.5)
    lifted = place.load({"max_cost": None}, SKYDECK_MAX_COST="99.5")
    assert (lifted.max_cost, lifted["max_cost"].source) == (None, "argument")


def test_arguments_win_over_variables_over_the_file_over_defaults(place: Place) -> None:
    place.write("max_gpus = 8\nmax_live = 8\nslots = 8\n")
    settings = place.load({"max_gpus": 2}, SKYDECK_MAX_GPUS="4", SKYDECK_MAX_LIVE="4")
    assert [(settings[name].value, settings[name].source) for name in ("max_gpus", "max_live", "slots", "gpus")] == [
        (2, "argument"),
        (4, "SKYDECK_MAX_LIVE"),
        (8, str(place.file)),
        (None, "default"),
    ]


@pytest.mark.parametrize(("backend", "name"), [("local", "local.db"), ("skypilot", "skydeck.db"), ("fake", None)])
def test_the_database_depends_on_the_backend_unless_it_is_named(place: Place, backend: str, name: str | None) -> None:
    assert place.load({"backend": backend}).db_path == (place.folder / name if name else None)
    assert place.load(SKYDECK_BACKEND=backend, SKYDECK_DB_PATH="/data/d.db").db_path == Path("/data/d.db")


def test_none_lifts_a_limit_and_means_not_given_where_there_always_is_a_value(place: Place) -> None:
    place.write("max_gpus = 8\nbackend = 'skypilot'\nslots = 2\n")
    settings = place.load({"max_gpus": None, "backend": None, "db_path": None}, SKYDECK_SLOTS="None")
    assert (settings.max_gpus, settings["max_gpus"].source) == (None, "argument")
    assert (settings.slots, settings["slots"].source) == (None, "SKYDECK_SLOTS")
    assert (settings.backend, settings["backend"].source) == ("skypilot", str(place.file))
    assert settings.db_path == place.folder / "skydeck.db"


def test_an_empty_variable_is_not_set(place: Place) -> None:
    assert place.load(SKYDECK_MAX_GPUS="")["max_gpus"].source == "default"


def test_paths_become_absolute_beside_where_they_were_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    place.write("db_path = 'decks/../a.db'\nlocal_root = '~/runs'\n")
    assert place.load().db_path == place.folder / "a.db"
    assert place.load().local_root == Path.home() / "runs"
    assert place.load({"db_path": "b.db"}).db_path == Path("/b.db")
    assert place.load({"db_path": Path("c.db")}).db_path == Path("/c.db")
    assert place.load(SKYDECK_DB_PATH="d.db").db_path == Path("/d.db")


def test_links_are_merged_by_name(place: Place) -> None:
    place.write("[links]\nwandb = 'https://wandb.ai/file/{run_name}'\nlogs = 'https://logs.example/{job_id}'\n")
    settings = place.load(
        {"links": {"ci": "https://ci.example/?c={git_commit}", "logs": None}},
        SKYDECK_LINK_WANDB="https://wandb.ai/variable/{run_name}",
    )
    assert settings.links == {
        "wandb": "https://wandb.ai/variable/{run_name}",
        "ci": "https://ci.example/?c={git_commit}",
    }
    assert settings["links.wandb"].source == "SKYDECK_LINK_WANDB"
    assert settings["links.ci"].source == "argument"


def test_the_home_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKYDECK_HOME", str(tmp_path))
    assert config.home() == tmp_path
    assert config.load().db_path == tmp_path / "local.db"
    monkeypatch.delenv("SKYDECK_HOME")
    assert config.home() == Path.home() / ".skydeck"


# Values.

GOOD: list[tuple[str, Any, Any]] = [
    ("max_gpus", "0", 0),
    ("max_gpus", 8.0, 8),
    ("max_gpu_hours", "2.5", 2.5),
    ("max_cost", 100, 100.0),
    ("poll_interval", "0.5", 0.5),
    ("poll_interval", 2, 2.0),
    ("grace", 0, 0.0),
    ("run_name", "{user}.{name}", "{user}.{name}"),
    ("run_name", "{{x}}-{name}", "{{x}}-{name}"),
    ("checkpoints", "s3://bucket/policies/{name}", "s3://bucket/policies/{name}/"),
    ("checkpoints", "s3://bucket/policies/{name}/", "s3://bucket/policies/{name}/"),
    ("policy_url", "https://policies.example/v1", "https://policies.example/v1"),
]


@pytest.mark.parametrize(("name", "value", "kept"), GOOD, ids=str)
def test_good_values_are_kept_in_their_type(place: Place, name: str, value: Any, kept: Any) -> None:
    found = getattr(place.load({name: value}), name)
    assert found == kept
    assert type(found) is type(kept)


BAD: list[tuple[str, Any]] = [
    ("max_gpus", "many"),
    ("max_gpus", -1),
    ("max_gpus", 1.5),
    ("max_gpus", True),
    ("max_live", 0),
    ("max_gpu_hours", 0),
    ("max_cost", -1),
    ("max_cost", "$5"),
    ("slots", "0"),
    ("gpus", [1]),
    ("poll_interval", 0),
    ("poll_interval", "nan"),
    ("sync_interval", float("inf")),
    ("grace", -1),
    ("grace", "soon"),
    ("backend", "slurm"),
    ("backend", "Local"),
    ("db_path", ""),
    ("db_path", ":memory:"),
    ("db_path", 3),
    ("run_name", "always-the-same"),
    ("run_name", "{name}-{lr}"),
    ("run_name", "{name"),
    ("run_name", "{name!r}"),
    ("run_name", "a/{name}"),
    ("run_name", "a {name}"),
    ("checkpoints", "/disk/{name}/"),
    ("checkpoints", "s3://bucket/all-in-one/"),
    ("checkpoints", "s3://{name}/"),
    ("policy_url", "ftp://policies.example"),
    ("policy_url", "https://["),
    ("policy_url", "policies.example"),
    ("links", "https://wandb.ai"),
    ("links", {"wandb": "javascript:alert({name})"}),
    ("links", {"wandb": "https://{name}/"}),
    ("links", {"wandb": "https://wandb.ai/{secret}"}),
    ("links", {"wandb": 3}),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_bad_argument_is_one_error_that_names_it_and_the_remedy(place: Place, name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        place.load({name: value})
    assert isinstance(caught.value, SkydeckError)
    assert caught.value.__suppress_context__ or caught.value.__cause__ is None
    assert str(caught.value).startswith(f"The argument {name}")
    assert " it takes " in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_bad_variable_is_named(place: Place) -> None:
    with pytest.raises(
        InvalidSetting, match=r"^SKYDECK_MAX_GPUS is 'many'; it takes a whole number, 0 or more, or none"
    ):
        place.load(SKYDECK_MAX_GPUS="many")
    with pytest.raises(InvalidSetting, match=r"^SKYDECK_LINK_WANDB is 'x'; it takes an https:// address"):
        place.load(SKYDECK_LINK_WANDB="x")
    with pytest.raises(InvalidSetting, match=r"^SKYDECK_BACKEND is 'none'"):
        place.load(SKYDECK_BACKEND="none")


def test_a_bad_value_in_the_file_is_named_with_the_file(place: Place) -> None:
    place.write("max_gpus = 'many'\n")
    with pytest.raises(InvalidSetting) as caught:
        place.load()
    assert str(caught.value).startswith(f"max_gpus in {place.file} is 'many'; it takes")
    place.write("max_gpus = true\n")
    with pytest.raises(InvalidSetting, match="max_gpus in"):
        place.load()


def test_a_bad_value_is_an_error_even_where_another_source_wins(place: Place) -> None:
    with pytest.raises(InvalidSetting, match=r"^SKYDECK_MAX_GPUS"):
        place.load({"max_gpus": 3}, SKYDECK_MAX_GPUS="many")


def test_an_endless_bad_value_does_not_make_an_endless_message(place: Place) -> None:
    with pytest.raises(InvalidSetting) as caught:
        place.load({"max_gpus": "9" * 3000 + "x"})
    assert len(str(caught.value)) < 200


def test_unknown_names_are_refused_with_near_ones(place: Place) -> None:
    with pytest.raises(InvalidSetting, match="no setting 'max_gpu'; did you mean max_gpus"):
        place.load({"max_gpu": 3})
    with pytest.raises(InvalidSetting, match="no setting 'zzz'; there are db_path, "):
        place.load({"zzz": 3})
    place.write("pol_interval = 3\n")
    with pytest.raises(
        InvalidSetting, match=r"config\.toml has the unknown key 'pol_interval'; did you mean poll_interval"
    ):
        place.load()


def test_a_misspelt_variable_is_noted_and_a_run_s_own_are_not(place: Place) -> None:
    run = dict.fromkeys(("SKYDECK_EXPERIMENT", "SKYDECK_ATTEMPT", "SKYDECK_RUN_DIR", "SKYDECK_CHECKPOINT_DIR"), "x")
    assert place.load(None, **run).notes == ()
    (note,) = place.load(SKYDECK_POLINTERVAL="3").notes
    assert note.startswith(
        "The variable SKYDECK_POLINTERVAL is no setting and was left out; did you mean SKYDECK_POLL_INTER"
    )


# The file.


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"max_gpus = \n", "is not TOML: .*line 1"), (b"run_name = '\xff'\n", "is not UTF-8")],
)
def test_a_file_that_cannot_be_understood_is_named(place: Place, content: bytes, words: str) -> None:
    place.file.write_bytes(content)
    with pytest.raises(InvalidSetting, match=words):
        place.load()


def test_a_file_that_cannot_be_read_is_named(place: Place) -> None:
    place.file.mkdir()
    with pytest.raises(InvalidSetting, match=r"config\.toml cannot be read \(Is a directory\)"):
        place.load()


def test_what_others_can_read_is_noted_and_not_changed(place: Place) -> None:
    place.write("").chmod(0o644)
    place.folder.chmod(0o755)
    notes = place.load().notes
    assert [f"chmod 700 {place.folder}" in notes[0], f"chmod 600 {place.file}" in notes[1]] == [True, True]
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o644


@pytest.mark.usefixtures("loose_umask")
def test_folders_are_made_for_nobody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    made = config.private_folder(tmp_path / "a" / "b")
    assert [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path, made.parent, made)] == [0o755, 0o700, 0o700]
    assert config.private_folder(made) == made
    assert config.open_to_others(made) is None
    assert config.open_to_others(tmp_path / "absent") is None


# Showing.


def test_the_frame_has_a_row_a_setting_and_shows_no_password(place: Place) -> None:
    settings = place.load(
        {"policy_url": "https://ann:s3cret@policies.example/v1", "links": {"w": "https://w.example/{name}"}}
    )
    rows = config.frame_rows(settings)
    assert [row["setting"] for row in rows] == [*(name for name in config.FIELDS if name != "links"), "links.w"]
    assert all(set(row) == {"setting", "value", "source"} for row in rows)
    shown = {row["setting"]: (row["value"], row["source"]) for row in rows}
    assert shown["policy_url"] == ("https://policies.example/v1", "argument")
    assert settings.policy_url == "https://ann:s3cret@policies.example/v1"
    with pytest.raises(InvalidSetting) as caught:
        place.load({"policy_url": "ftp://ann:s3cret@policies.example"})
    assert "s3cret" not in str(caught.value)


def test_one_setting_is_read_by_its_name(place: Place) -> None:
    assert place.load({"grace": 3})["grace"] == config.Setting(name="grace", value=3.0, source="argument")
    with pytest.raises(InvalidSetting, match="did you mean grace"):
        place.load()["graze"]


def test_pydantic_is_imported_by_loading_and_not_before() -> None:
    program = (
        "import sys, skydeck_nb.config as config; before = 'pydantic' in sys.modules;"
        "config.load({'slots': 1}); print(before, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
