"""Nothing goes through a shell: what a cell says arrives in ``argv`` as it is, or is refused with a reason."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skydeck_nb as sd
from skydeck_nb.deck import Deck
from skydeck_nb.errors import InvalidCommand, InvalidFlag, InvalidName, SkydeckError
from tests.kill.place import until

DUMP = "import json, os, sys; json.dump([sys.argv[1:], os.environ['SAID']], open(os.environ['OUT'], 'w'))"

HOSTILE = {
    "quotes": """it's "quoted" \\" \\' `backticks` """,
    "substitution": "$(touch pwned) ${HOME} $HOME `touch pwned` $((1+1))",
    "chain": "; touch pwned && touch pwned || touch pwned | tee pwned > pwned < /etc/passwd &",
    "newlines": "first\nsecond\r\nthird\n\n\ttabbed",
    "glob": "* ? [a-z] ~ ~root {a,b} !history #comment",
    "unicode": "naïve 日本語 🚀 \u202eright to left\u202c e\u0301 \u200bzero width",
    "control": "\x01\x07\x1b[31mred\x1b[0m\x7f\x85\u2028",
    "dashes": "--help",
    "equals": "a=b=c",
    "backslash": "\\n \\\\ trailing\\",
    "braces": "{name} {flags} {{x}} %s %(x)s",
    "empty": "",
    "spaces": "  leading and trailing  ",
    "long": "x" * 100_000,
    "long_unicode": "é" * 50_000,
}


@pytest.fixture
def deck(tmp_path: Path) -> Iterator[Deck]:
    with sd.open(tmp_path / "deck.db", local_root=tmp_path / "local", slots=4, gpus=0, grace=1) as deck:
        yield deck


def without_braces(value: str) -> str:
    """Placeholders may stand in ``env``: see the test of those."""
    return value.replace("{", "").replace("}", "")


def arrived(deck: Deck, name: str, out: Path) -> tuple[list[str], str]:
    """The arguments that a command got."""
    until(lambda: deck[name].state in ("SUCCEEDED", "FAILED"), lambda: repr(deck[name]))
    assert deck[name].state == "SUCCEEDED", deck[name].logs()
    argv, said = json.loads(out.read_text())
    return argv, said


def test_hostile_values_arrive_as_they_are(deck: Deck, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-c", DUMP]
    for name, value in HOSTILE.items():
        out = tmp_path / f"{name}.json"
        one = deck.create(
            name,
            [*command, "--value", "{value}", "x{value}y", "{name}", "{flags:json}"],
            flags={"value": value, "list": [value[:500], "b"], "nested.key": value[:500]},
            env={"OUT": str(out), "SAID": without_braces(value)},
            start=True,
        )
        assert one.flags["value"] == value
    for name, value in HOSTILE.items():
        argv, said = arrived(deck, name, tmp_path / f"{name}.json")
        assert argv[:4] == ["--value", value, f"x{value}y", name]
        assert json.loads(argv[4]) == {"value": value, "list": [value[:500], "b"], "nested.key": value[:500]}
        assert said == without_braces(value)
        assert deck[name].argv[5:] == tuple(argv)
    assert not list(tmp_path.rglob("pwned"))


def test_hostile_values_arrive_in_hydras_form_and_argparses_too(deck: Deck, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-c", DUMP]
    short = {key: value for key, value in HOSTILE.items() if len(value) < 1000}
    deck.create(
        "cli", [*command, "{flags:cli}"], flags=short, env={"OUT": str(tmp_path / "cli"), "SAID": ""}, start=True
    )
    deck.create("hydra", command, flags=short, env={"OUT": str(tmp_path / "hydra"), "SAID": ""}, start=True)
    argv, _ = arrived(deck, "cli", tmp_path / "cli")
    assert tuple(argv) == deck["cli"].argv[5:]
    parser = argparse.ArgumentParser()
    for key in short:
        parser.add_argument(f"--{key}")
    assert vars(parser.parse_args(argv)) == short
    argv, _ = arrived(deck, "hydra", tmp_path / "hydra")
    assert tuple(argv) == deck["hydra"].argv[5:]
    assert sorted(word.partition("=")[0] for word in argv) == sorted(short)
    assert not list(tmp_path.rglob("pwned"))


def test_a_hostile_script_gets_its_flags_as_arguments(deck: Deck, tmp_path: Path) -> None:
    """In ``script`` the user has a shell, and the values still do not pass through it."""
    value = HOSTILE["substitution"] + HOSTILE["quotes"] + HOSTILE["newlines"]
    deck.create(
        "script",
        script=f'printf "%s\\0" "$@" > {tmp_path}/out',
        flags={"value": value},
        start=True,
    )
    until(lambda: deck["script"].state in ("SUCCEEDED", "FAILED"), lambda: repr(deck["script"]))
    words = (tmp_path / "out").read_bytes().decode().split("\0")[:-1]
    assert [*deck["script"].argv[-len(words) :]] == words
    assert not list(tmp_path.rglob("pwned"))


def test_placeholders_in_env_and_workdir_are_filled_in(deck: Deck, tmp_path: Path) -> None:
    (tmp_path / "in-y-3").mkdir()
    command = [sys.executable, "-c", DUMP]
    how: dict[str, Any] = {"flags": {"lr": 3}, "start": True}
    deck.create("x", command, env={"OUT": str(tmp_path / "x.out"), "SAID": "{name} {lr} {{braces}}"}, **how)
    assert arrived(deck, "x", tmp_path / "x.out")[1] == "x 3 {braces}"
    deck.create("y", command, env={"OUT": "../y.out", "SAID": ""}, workdir=tmp_path / "in-{name}-{lr}", **how)
    arrived(deck, "y", tmp_path / "y.out")


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"flags": {"x": "a\0b"}}, InvalidFlag, "x"),
        ({"flags": {"x": "\udcff"}}, InvalidFlag, "x"),
        ({"flags": {"x": ["ok", "\ud800"]}}, InvalidFlag, "x"),
        ({"flags": {"x": "x" * 140_000}}, InvalidCommand, "131"),
        ({"flags": {f"k{i}": "x" * 100_000 for i in range(25)}}, InvalidCommand, ""),
        ({"flags": {"a b": 1}}, InvalidFlag, "a b"),
        ({"flags": {"$(x)": 1}}, InvalidFlag, ""),
        ({"flags": {"x\ny": 1}}, InvalidFlag, ""),
        ({"command": ["true", "a\0b"]}, InvalidCommand, ""),
        ({"command": ["true", "\udc80"]}, InvalidCommand, ""),
        ({"command": "true && touch pwned"}, InvalidCommand, "script"),
        ({"command": "echo $(touch pwned)"}, InvalidCommand, "script"),
        ({"env": {"A": "a\0b"}}, SkydeckError, "A"),
        ({"env": {"A=B": "x"}}, SkydeckError, "A=B"),
    ],
)
def test_what_cannot_arrive_is_refused_with_a_reason(
    deck: Deck, how: dict[str, Any], error: type[SkydeckError], says: str
) -> None:
    with pytest.raises(error) as raised:
        deck.create("x", **{"command": ["true"], **how}, start=True)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 500, "a reason, not the value"
    assert len(deck) == 0


@pytest.mark.parametrize(
    "name", ["it's", "$(touch pwned)", "a b", "a\nb", "../up", "日本", "x" * 101, "", "a\0b", "-x", "\ud800"]
)
def test_a_name_that_is_none_is_refused(deck: Deck, name: str) -> None:
    with pytest.raises(InvalidName) as raised:
        deck.create(name, ["true"], start=True)
    assert len(str(raised.value)) < 500
    assert len(deck) == 0
