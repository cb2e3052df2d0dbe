"""The commands: what they print, what they write, and how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb import background
from skydeck_nb.cli import lab, logs, main, printing
from skydeck_nb.store import Store
from tests.cli.conftest import Home, until
from tests.cli.rows import declare, declare_sweep, experiments


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


class Said:
    """Runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, self.err = self._capsys.readouterr()
        assert ended.value.code == code, self.err
        return out


@pytest.fixture
def deck(home: Home) -> Home:
    declare(home.database, ["ppo-1", "ppo-2", "ppo_3", "Ppo-4", "other"])
    return home


def desired(home: Home) -> dict[str, str]:
    return {name: row.desired_state for name, row in experiments(home.database).items()}


def lead(path: Path, listed_at: datetime | None = None) -> None:
    """Have this process named by the lease."""
    store = Store.open(path)
    with store.write() as tx:
        term = tx.take_lease("ann@here pid 1", socket.gethostname(), os.getpid())
        tx.renew_lease(term, "ann@here pid 1", listed_at=listed_at, next_look_at=None)
    store.close()


# -- asking -------------------------------------------------------------------------------


def test_start_and_stop_write_requests(deck: Home, said: Said) -> None:
    out = said("start", "ppo-?", "other", "other")
    assert out.splitlines() == [
        "EXPERIMENT  DID      WHY",
        "ppo-1       started  its first run",
        "ppo-2       started  its first run",
        "other       started  its first run",
        "3 started.",
    ]
    assert said.err == (
        "Nobody leads this deck: nothing happens until a deck opens or the background loop runs. "
        "Start it: skydeck start\n"
    )
    assert {name for name, wanted in desired(deck).items() if wanted == "RUNNING"} == {"ppo-1", "ppo-2", "other"}
    out = said("stop", "ppo-1", "ppo_3")
    assert out.splitlines()[1:] == [
        "ppo-1       stopped  nothing of it was running",
        "ppo_3       skipped  never ran",
        "1 stopped, 1 skipped.",
    ]
    assert "until a deck opens or the background loop runs, which stops it first. Start the loop: skyd" in said.err
    said("restart", "ppo-2")
    assert experiments(deck.database)["ppo-2"].run == 2


def test_where_somebody_leads_nothing_is_said_of_it(deck: Home, said: Said) -> None:
    lead(deck.database)
    said("start", "ppo-1")
    assert said.err == ""


def test_the_remedy_is_a_command_about_the_same_deck(tmp_path: Path, said: Said) -> None:
    path = tmp_path / "my deck.db"
    declare(path, ["a"])
    said("--db-path", str(path), "start", "a", "--backend", "local")
    assert f"Start it: skydeck start --db-path '{path}' --backend local" in said.err


def test_a_name_that_is_wrong_writes_nothing(deck: Home, said: Said) -> None:
    said("start", "ppo-1", "ppo-22", code=1)
    assert said.err.startswith("Error: There is no experiment 'ppo-22'. Did you mean ppo-")
    assert set(desired(deck).values()) == {"STOPPED"}
    said("start", "zzz", code=1)
    assert said.err == "Error: There is no experiment 'zzz'. `skydeck ls` lists them.\n"


def test_a_glob_that_matches_nothing_says_so(deck: Home, said: Said) -> None:
    assert said("start", "PPO-*") == "Nothing to do.\n"
    assert said.err == "'PPO-*' matches none of 5 experiments.\n"


def test_a_glob_is_no_pattern_of_another_kind(home: Home, said: Said) -> None:
    declare(home.database, ["a.b", "axb"])
    assert [line.split()[0] for line in said("ls", "a.?").splitlines()[1:]] == ["a.b"]
    assert "axb" not in said("ls", "a.b")


def test_a_sweep_and_a_deleted_one_say_what_to_name(home: Home, said: Said) -> None:
    sweep = declare_sweep(home.database, "ppo")
    declare(home.database, ["ppo-1"], sweep_id=sweep)
    declare(home.database, ["gone"], deleted=True)
    said("start", "ppo", code=1)
    assert said.err == (
        "Error: 'ppo' is a sweep, not an experiment: name its experiments, such as 'ppo-1'; a glob takes many.\n"
    )
    said("start", "gone", code=1)
    assert "'gone' is deleted" in said.err


def test_gpus_are_counted(home: Home, said: Said) -> None:
    declare(home.database, ["a"])
    store = Store.open(home.database)
    with store.write() as tx:
        tx.db.execute("UPDATE experiments SET gpus = 4, nodes = 2")
    store.close()
    assert said("start", "a").endswith("1 started. That is up to 8 GPUs.\n")
    assert "2x4" in said("ls")


# -- reading ------------------------------------------------------------------------------


def test_ls_is_aligned_and_in_the_decks_order(deck: Home, said: Said) -> None:
    lines = said("ls").splitlines()
    assert lines[0].split() == ["EXPERIMENT", "STATE", "REASON", "RUNTIME", "GPUS", "RESTARTS", "AGE", "MESSAGE"]
    assert [line.split()[0] for line in lines[1:]] == ["ppo-1", "ppo-2", "ppo_3", "Ppo-4", "other"]
    assert len({line.index("STOPPED") for line in lines[1:]}) == 1
    assert [line.split()[0] for line in said("ls", "other", "ppo-1").splitlines()[1:]] == ["ppo-1", "other"]


def test_ls_json_has_times_and_spans(deck: Home, said: Said) -> None:
    found = json.loads(said("ls", "ppo-1", "--json"))
    assert [each["experiment"] for each in found] == ["ppo-1"]
    (one,) = found
    assert one["state"] == "STOPPED"
    assert one["flags"] == {}
    assert one["runtime"] is None
    assert datetime.fromisoformat(one["created_at"]).tzinfo is not None
    assert 0 <= one["age"] < 600
    assert json.loads(said("ls", "x*", "--json")) == []


def test_json_takes_any_value(capsys: pytest.CaptureFixture[str]) -> None:
    printing.show_json(
        {"a": float("nan"), "b": (float("-inf"), None, True), "c": Path("/x"), "d": timedelta(minutes=1)}
    )
    assert json.loads(capsys.readouterr().out) == {"a": "nan", "b": ["-inf", None, True], "c": "/x", "d": 60.0}


def test_what_came_from_elsewhere_cannot_steer_the_terminal(home: Home, said: Said) -> None:
    declare(home.database, ["a"], message="\x1b[2Jbad\nline", reason="R", attention=True)
    (line,) = said("ls").splitlines()[1:]
    assert "?[2Jbad line" in line
    assert "STOPPED!" in line


def test_a_terminal_gets_lines_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    lines = printing.table(("A", "B"), [("x", "y" * 100), ("z", "short")])
    assert [len(line) for line in lines] == [4, 50, 8]
    assert lines[1].endswith("…")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59.9, "59s"), (200, "3m20s"), (3720, "1h02m"), (187_200, "2d04h"), (-5, "0s")],
)
def test_spans(seconds: float, shown: str) -> None:
    assert printing.span(timedelta(seconds=seconds)) == shown


def test_status_says_who_leads_and_what_there_is(deck: Home, said: Said) -> None:
    out = said("status")
    assert f"database     {deck.database}\n" in out
    assert "leader       nobody" in out
    assert "experiments  5: 5 STOPPED\n" in out
    assert "loop         does not run in the background\n" in out
    lead(deck.database, listed_at=datetime.now(UTC))
    assert "leader       ann@here pid 1, term 1\n" in said("status")
    found = json.loads(said("status", "--json"))
    assert found["leader"] == "ann@here pid 1"
    assert found["experiments"] == {"STOPPED": 5}
    assert datetime.fromisoformat(found["listed_at"]).tzinfo is not None


def test_a_leader_whose_process_is_gone_leads_no_more(deck: Home, said: Said) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    store = Store.open(deck.database)
    with store.write() as tx:
        tx.take_lease("dead", socket.gethostname(), process.pid)
    with store.read() as tx:
        row = tx.lease()
    assert not background.leads(row, datetime.now(UTC))
    with store.write() as tx:
        tx.take_lease("far", "elsewhere", 1)
    with store.read() as tx:
        row = tx.lease()
    assert background.leads(row, datetime.now(UTC))
    assert not background.leads(row, datetime.now(UTC) + timedelta(seconds=16))
    store.close()


def test_status_works_without_a_deck_and_with_a_broken_one(home: Home, said: Said) -> None:
    assert f"{home.database} (not made yet)" in said("status")
    assert not home.database.exists()
    home.database.write_text("no database" * 100)
    assert "error" in said("status")


# -- how commands end ---------------------------------------------------------------------


def test_exit_codes(deck: Home, said: Said, tmp_path: Path) -> None:
    said("--help")
    said("--version")
    said("frob", code=2)
    said("ls", "--nope", code=2)
    said("ls", "--backend", "aws", code=2)
    said("logs", "ppo-1", "ppo-2", "--follow", code=2)
    said("ls", "--db-path", str(tmp_path / "none.db"), code=1)
    assert said.err.startswith(f"Error: There is no deck at {tmp_path}/none.db yet")
    assert said.err.count("\n") == 1
    said("ls", "--backend", "fake", code=1)
    said("start", "--backend", "fake", code=1)


def test_a_bad_setting_is_one_sentence(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYDECK_MAX_GPUS", "many")
    said("ls", code=1)
    assert said.err == "Error: SKYDECK_MAX_GPUS is 'many'; it takes a whole number, 0 or more, or none.\n"


def test_what_nobody_expected_is_a_sentence_too(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("skydeck_nb.cli.reading.ls", broken)
    said("ls", code=1)
    assert said.err == "Error: RuntimeError: boom (--traceback shows where)\n"
    with pytest.raises(RuntimeError, match="boom"):
        main(["ls", "--traceback"])


def test_a_database_of_another_backend_is_told_apart(deck: Home, said: Said) -> None:
    store = Store.open(deck.database)
    store.claim_identity({"kind": "skypilot", "place": "https://api", "scope": "ann"})
    store.close()
    said("ls", "--backend", "local", code=1)
    assert "belongs to skypilot on https://api, not to local" in said.err
    assert "ppo-1" in said("ls")
    assert "backend      skypilot on https://api as ann" in said("status")


def test_options_may_stand_before_and_after(deck: Home, said: Said, tmp_path: Path) -> None:
    declare(tmp_path / "b.db", ["b"])
    assert "b  " in said("--db-path", str(tmp_path / "b.db"), "ls")
    assert "b  " in said("--db-path", str(deck.database), "ls", "--db-path", str(tmp_path / "b.db"))


def test_a_pipe_that_is_closed_early_is_no_error(home: Home) -> None:
    declare(home.database, [f"experiment-{i}" for i in range(3000)])
    with home.popen("ls", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_short_commands_import_little(deck: Home) -> None:
    code = (
        "import sys; from skydeck_nb.cli import run\n"
        "for words in (['ls'], ['ls', 'p*'], ['status'], ['start', 'other'], ['stop', 'other']): run(words)\n"
        "print(sorted({'pandas', 'numpy', 'pydantic', 'anywidget', 'httpx', 'boto3', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_is_a_command_too(deck: Home) -> None:
    assert "ppo-1" in deck.skydeck("ls")
    done = subprocess.run(
        [sys.executable, "-m", "skydeck_nb.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("skydeck ")


# -- logs ---------------------------------------------------------------------------------


def test_last_lines() -> None:
    text = b"a\nb\nc\n"
    assert [logs.last_lines(text, n) for n in (0, 1, 2, 3, 9)] == [b"", b"c\n", b"b\nc\n", text, text]
    assert logs.last_lines(b"a\nb", 1) == b"b"
    assert logs.last_lines(b"", 3) == b""


def test_the_loops_log_is_shown_over_its_rotation(home: Home, said: Said) -> None:
    said("logs", code=1)
    assert "has never run here: skydeck start starts it" in said.err
    Path(f"{home.place.log}.1").write_text("1\n2\n3\n")
    home.place.log.write_text("4\n5\n")
    assert said("logs", "-n", "3") == "3\n4\n5\n"
    assert said("logs", "-n", "1") == "5\n"


def test_a_log_that_is_followed_is_followed_over_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    with path.open("rb") as file:
        file.read()
        more = logs.grown(path, file.fileno())
        with path.open("a") as writer:
            writer.write("one\n")
        assert next(more) == b"one\n"
        with path.open("a") as writer:
            writer.write("two\n")
        path.rename(tmp_path / "log.1")
        assert next(more) == b"two\n"
        timer = threading.Timer(0.1, path.write_text, ("three\n",))
        timer.start()
        assert next(more) == b"three\n"
        more.close()
        timer.join()


@pytest.mark.kill
def test_an_experiments_log_is_shown_and_followed_to_its_end(home: Home) -> None:
    declare(
        home.database, ["a"], "sh", "-c", "echo first; echo second; while [ ! -e go ]; do sleep 0.05; done; echo last"
    )
    declare(home.database, ["never"])
    home.skydeck("start")
    home.skydeck("start", "a")
    until(lambda: "second" in home.skydeck("logs", "a"), "a line")
    assert home.skydeck("logs", "a", "-n", "1") == "second\n"
    assert home.skydeck("logs", "never") == ""
    assert home.skydeck("logs", "a", "never").startswith("==> a <==\nfirst\n")
    with home.popen("logs", "-f", "-n", "1", "a") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "second\n"
        (home.folder / "go").touch()
        assert process.stdout.read() == "last\n"
    assert process.returncode == 0


@pytest.mark.kill
def test_interrupting_a_log_says_nothing(home: Home) -> None:
    home.place.log.write_text("line\n")
    with home.popen("logs", "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip() == ""
    assert process.returncode == 130


# -- lab ----------------------------------------------------------------------------------


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process would become."""
    found: list[str] = []

    def execv(program: str, words: list[str]) -> None:
        found[:] = words
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_the_command_alone_is_lab(said: Said, became: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "quickstart_root", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said()
    assert became == [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"]
    assert said.err == "In a notebook:  import skydeck_nb as sd; sd.demo()\n"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said("lab", "--port", "45678", "--browser", "--", "--ServerApp.ip=0.0.0.0")
    assert became[3:] == ["--ServerApp.port=45678", "--ServerApp.port_retries=0", "--ServerApp.ip=0.0.0.0"]


def test_the_quick_start_is_opened_where_there_is_one(tmp_path: Path) -> None:
    assert lab.quickstart_root(tmp_path) is None
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_quickstart.ipynb").touch()
    assert lab.quickstart_root(tmp_path / "home", tmp_path) == tmp_path
    assert lab.arguments(tmp_path, None, None, {"DISPLAY": ":0"}, 1000) == [
        f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.default_url=/lab/tree/notebooks/01_quickstart.ipynb",
    ]


def test_a_port_that_is_taken_is_said(said: Said, became: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said("lab", "--port", str(port), code=1)
    assert said.err == f"Error: Port {port} is taken: choose another, or leave --port out and take a free one.\n"
    assert became == []


def test_without_jupyterlab_the_remedy_is_said(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "find_spec", lambda name: None if name == "jupyterlab" else find_spec(name))
    said("lab", code=1)
    assert "pip install 'skydeck-nb[lab]'" in said.err
