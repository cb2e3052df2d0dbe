"""A spec to the arguments of a process."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.errors import InvalidCommand, InvalidFlag
from skydeck_nb.flags import command
from skydeck_nb.models import FlagValue, Spec

TRAIN = ("python", "train.py")


def argv(line: Any, name: str = "run", **spec: Any) -> list[str]:
    return list(command.argv(Spec(command=command.parse(line), **spec), name=name))


# Splitting


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python train.py", ["python", "train.py"]),
        ("  python\ttrain.py  \n", ["python", "train.py"]),
        ("python 'a b' \"c d\" e\\ f", ["python", "a b", "c d", "e f"]),
        ("python a'b'\"c\"d ''", ["python", "abcd", ""]),
        ("python '$HOME' '&&' '|' '>' ';' '`ls`' '$(ls)' \\$HOME \\;",
         ["python", "$HOME", "&&", "|", ">", ";", "`ls`", "$(ls)", "$HOME", ";"]),
        ('python "a && b | c; d > e"', ["python", "a && b | c; d > e"]),
        ('python "\\$HOME \\" \\\\ \\x"', ["python", '$HOME " \\ \\x']),
        ("python train.py \\\n  --lr 1 \\\n  x", ["python", "train.py", "--lr", "1", "x"]),
        ("python key=[1,2] *.csv a? ~key color=#fff 5$ a~/b",
         ["python", "key=[1,2]", "*.csv", "a?", "~key", "color=#fff", "5$", "a~/b"]),
        ("python 'a\nb'", ["python", "a\nb"]),
    ],
)  # fmt: skip
def test_a_string_is_split_as_a_shell_would(line: str, words: list[str]) -> None:
    assert list(command.parse(line)) == words


@given(st.lists(st.text(st.characters(exclude_characters="\0{}", exclude_categories=["Cs"])), max_size=5))
def test_what_shlex_joins_is_split_into_the_same_words(words: list[str]) -> None:
    assert list(command.parse(shlex.join(["python", *words]))) == ["python", *words]


@given(st.text(st.sampled_from("ab '\"\\=.-"), max_size=20))
def test_without_shell_syntax_it_splits_as_shlex_does(text: str) -> None:
    line = "python " + text
    try:
        expected = shlex.split(line)
    except ValueError:
        with pytest.raises(InvalidCommand):
            command.parse(line)
    else:
        assert list(command.parse(line)) == expected


@pytest.mark.parametrize(
    "piece",
    ["$HOME", "${HOME}", "$(ls)", "`ls`", "&&", "||", "|", ">", ">>", "<", ";", "&",
     "$1", "$@", "$?", "(", ")", "a>b", "$'x'", "2>&1"],
)  # fmt: skip
def test_what_only_a_shell_understands_is_refused_pointing_to_script(piece: str) -> None:
    with pytest.raises(InvalidCommand, match=r"script="):
        command.parse(f"python train.py {piece} x")


@pytest.mark.parametrize("piece", ["$HOME", "${HOME}", "$(ls)", "`ls`"])
def test_what_a_shell_expands_in_double_quotes_is_refused_pointing_to_single_ones(piece: str) -> None:
    with pytest.raises(InvalidCommand, match="single quotes"):
        command.parse(f'python "{piece}/x"')


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("python a.py\npython b.py", "backslash, or use script="),
        ("CUDA_VISIBLE_DEVICES=0 python train.py", r"env=\{'CUDA_VISIBLE_DEVICES'"),
        ("python train.py # note", "comment"),
        ("python ~/train.py", "home folder"),
        ("python 'a", "single quote"),
        ('python "a', "double quote"),
        ("python a\\", "backslash"),
        ("", "empty"),
        ("  \n", "empty"),
        ("'' x", "empty"),
        ("python a\0", "NUL"),
        ("python a\ud800", "surrogate"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(line: str, remedy: str) -> None:
    with pytest.raises(InvalidCommand, match=remedy):
        command.parse(line)


def test_a_list_is_taken_as_it_is() -> None:
    words = ["python", "a b", "$HOME", "&&", "*", "'", "", "\n", "# x", "~/a"]
    assert list(command.parse(words)) == words


def test_paths_and_numbers_in_a_list_become_text() -> None:
    assert command.parse(["python", pathlib.PurePosixPath("a/b"), 1, 0.5]) == ("python", "a/b", "1", "0.5")  # type: ignore[list-item]


@pytest.mark.parametrize("bad", [[], [b"a"], ["a", None], ["a", True], 3, b"ls", {"a"}])
def test_what_is_no_command_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidCommand):
        command.parse(bad)


def test_parsing_what_was_parsed_changes_nothing() -> None:
    once = command.parse("python 'a b' {name} '$X' {flags:cli}")
    assert command.parse(once) == once


# Placeholders


def test_placeholders_stand_anywhere_in_an_argument() -> None:
    line = "torchrun --nproc={gpus} {nodes} out/{name}-{trainer.lr}/{git_ref} {{{name}}} {{x}} {flags}"
    assert argv(line, nodes=2, gpus=8, git_ref="main", flags={"trainer.lr": 3e-4}) == [
        "torchrun", "--nproc=8", "2", "out/run-0.0003/main", "{run}", "{x}", "trainer.lr=0.0003",
    ]  # fmt: skip


def test_gpus_that_nobody_asked_for_are_none() -> None:
    assert argv("train {gpus}") == ["train", "0"]


def test_a_git_ref_that_is_missing_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="git_ref="):
        argv("train {git_ref}")


def test_the_four_words_mean_the_experiment_also_where_a_flag_has_such_a_name() -> None:
    assert argv("train {nodes}", nodes=2, flags={"nodes": 7}) == ["train", "2", "nodes=7"]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("{trainer.lrr}", "trainer.lr"),
        ("{lr}", "trainer.lr"),
        ("{nmae}", "name"),
        ("{flag}", "flags"),
        ('{"a": 1}', "braces"),
    ],
)
def test_an_unknown_placeholder_is_refused_with_near_names(word: str, near: str) -> None:
    with pytest.raises(InvalidCommand, match=re.escape(near)) as caught:
        argv(["train", word], flags={"trainer.lr": 1})
    assert word in str(caught.value)


@pytest.mark.parametrize("word", ["{", "}", "{name", "a}b", "{{name}", "x={flags}", "{flags:cli},", "{flags:yaml}"])
def test_braces_that_are_no_placeholder_are_refused_when_declared(word: str) -> None:
    with pytest.raises(InvalidCommand):
        command.parse(["train", word])


def test_values_are_never_read_for_placeholders() -> None:
    assert argv("train {a} {flags}", flags={"a": "{name}{{"}) == ["train", "{name}{{", 'a="{name}{{"']


def test_flags_are_appended_where_no_flags_stand() -> None:
    assert argv("train x", flags={"b": 1, "a": True}) == ["train", "x", "a=true", "b=1"]


def test_a_flag_that_is_passed_as_a_whole_value_is_not_appended_again() -> None:
    line = "train --lr {lr} --seed={seed}"
    assert argv(line, flags={"lr": 0.1, "seed": 1, "x": 2}) == ["train", "--lr", "0.1", "--seed=1", "x=2"]


def test_a_flag_inside_a_longer_text_is_still_appended() -> None:
    assert argv("train runs/{lr} d={lr}x", flags={"lr": 0.1}) == ["train", "runs/0.1", "d=0.1x", "lr=0.1"]


def test_flags_that_stand_give_all_flags() -> None:
    assert argv("train --lr {lr} {flags:cli}", flags={"lr": 0.1}) == ["train", "--lr", "0.1", "--lr", "0.1"]


def test_the_order_of_flags_in_a_cell_changes_nothing() -> None:
    assert (
        argv("t", flags={"a": 1, "+b": 2, "c": 3})
        == argv("t", flags={"c": 3, "+b": 2, "a": 1})
        == ["t", "a=1", "+b=2", "c=3"]
    )


def test_text_beside_the_command_has_the_same_placeholders() -> None:
    spec = Spec(nodes=2, flags={"a.b": [1, 2]})
    assert command.render_text("/out/{name}/{nodes}/{a.b}/{{x}}", spec, "run") == "/out/run/2/1,2/{x}"


@pytest.mark.parametrize("text", ["{flags}", "{flags:json}", "{nope}", "{"])
def test_text_beside_the_command_refuses_other_placeholders(text: str) -> None:
    with pytest.raises(InvalidCommand, match=r"^workdir|single"):
        command.render_text(text, Spec(), "run", "workdir")


# Hydra


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1, "x=1"),
        (0.001, "x=0.001"),
        (True, "x=true"),
        (None, "x=null"),
        (math.nan, "x=nan"),
        ([], "x=[]"),
        ([1, None, "a b", "c"], 'x=[1,null,"a b",c]'),
        ("", "x="),
        ([""], 'x=[""]'),
        ("s3://bucket/a-b_c.pt", "x=s3://bucket/a-b_c.pt"),
        ("2026-01-01", "x=2026-01-01"),
        ("v1.2.3", "x=v1.2.3"),
        ("a b", 'x="a b"'),
        ("a,b", 'x="a,b"'),
        ("a=b", 'x="a=b"'),
        ("[1]", 'x="[1]"'),
        ("1", 'x="1"'),
        ("1e3", 'x="1e3"'),
        ("true", 'x="true"'),
        ("NULL", 'x="NULL"'),
        ("-Inf", 'x="-Inf"'),
        ("f(a)", 'x="f(a)"'),
        ("é", 'x="é"'),
        ("it's", 'x="it\'s"'),
        ('say "hi"', "x='say \"hi\"'"),
        ("C:\\", "x='C:\\\\'"),
        ("\\'\"", 'x="\\\'\\""'),
        ("${a.b}/c", 'x="${a.b}/c"'),
        ("a\n", 'x="a\n"'),
    ],
)
def test_how_a_flag_is_written_for_hydra(value: FlagValue, written: str) -> None:
    """Each of these, and 20,000 random ones, were read back as the same value by Hydra 1.3.8."""
    assert command.hydra_arguments({"x": value}) == [written]


def hydra_read(text: str) -> FlagValue:
    """A small model of Hydra's override grammar, written from OverrideLexer.g4 and its visitor."""
    if text.startswith("["):
        items: list[Any] = []
        rest = text[1:]
        while rest != "]":
            found = re.match(
                r"\"(?:(?:\\\\)*|.*?[^\\](?:\\\\)*)\"|'(?:(?:\\\\)*|.*?[^\\](?:\\\\)*)'|[^,\]]+", rest, re.DOTALL
            )
            assert found, rest
            items.append(hydra_read(found[0]))
            rest = rest[found.end() :].removeprefix(",")
        return items
    if text[:1] in ("'", '"'):
        body = text[1:]
        unescaped = re.sub(
            rf"(\\+)({text[0]})", lambda m: (m[1] + m[2])[1::2] if m.end() < len(body) else m[1][1::2] + m[2], body
        )
        return unescaped[:-1]
    lower = text.lower()
    if lower in ("true", "false", "null"):
        return {"true": True, "false": False}.get(lower)
    if re.fullmatch(r"[+-]?(0|[1-9](_?\d)*)", text):
        return int(text)
    if re.fullmatch(r"[+-]?((0|[1-9](_?\d)*)?\.?(\d(_?\d)*)?(e[+-]?\d(_?\d)*)?|inf|nan)", lower) and re.search(
        r"\d|inf|nan", lower
    ):
        try:
            return float(text)
        except ValueError:
            return text
    assert re.fullmatch(r"[A-Za-z0-9_/+.%*@:$?|-]*", text), text
    return text


texts = st.text(st.sampled_from("ab01.-+eE_\"'\\ \t\n,:=[]{}()$%*@?|/é"), max_size=12) | st.sampled_from(
    ["1", "null", "-nan", ".5", "1_0"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts


@given(scalars | st.lists(scalars, max_size=4))
def test_hydra_reads_back_the_same_value_and_type(value: FlagValue) -> None:
    (written,) = command.hydra_arguments({"a.b": value})
    assert written.startswith("a.b=")
    assert repr(hydra_read(written[4:])) == repr(value)


def test_a_hundred_kilobytes_of_backslashes_are_written_at_once() -> None:
    value = "\\" * 100_000 + "x"
    assert command.hydra_value(value) == f"'{value}'"


# argparse and JSON


def test_how_flags_are_written_for_argparse() -> None:
    flags: dict[str, FlagValue] = {
        "trainer.lr": 0.1, "on": True, "off": False, "none": None, "l": [1, 2],
        "neg": -1, "dash": "-x", "text": "a b", "e": "", "no": [],
    }  # fmt: skip
    assert command.cli_arguments(flags) == [
        "--dash=-x", "--e", "", "--l", "1", "2", "--neg=-1", "--no", "--no-off", "--on", "--text", "a b",
        "--trainer.lr", "0.1",
    ]  # fmt: skip


def test_argparse_reads_what_was_written() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction)
    parser.add_argument("--note")
    parser.add_argument("--resume")
    words = command.cli_arguments({"lr": -1e-05, "layers": [1, 2], "amp": False, "note": "--x y", "resume": None})
    assert vars(parser.parse_args(words)) == {
        "lr": -1e-05,
        "layers": [1, 2],
        "amp": False,
        "note": "--x y",
        "resume": None,
    }


def test_json_is_one_argument() -> None:
    words = argv("train {flags:json}", flags={"b.c": [1, None], "a": "é'\n", "n": math.inf})
    assert len(words) == 2
    assert json.loads(words[1]) == {"a": "é'\n", "b.c": [1, None], "n": math.inf}


@pytest.mark.parametrize("form", ["{flags:cli}", "{flags:json}"])
def test_hydras_prefix_is_refused_where_hydra_does_not_read(form: str) -> None:
    with pytest.raises(InvalidFlag, match="prefix"):
        argv(["train", form], flags={"+a": 1})


# Scripts and tasks


def test_a_script_is_verbatim_and_gets_the_flags_as_its_arguments() -> None:
    script = 'echo {name} ${HOME} "$@" | cat\n'
    spec = Spec(script=script, flags={"a": "x y"})
    assert command.argv(spec, name="run") == ("bash", "-c", script, "run", 'a="x y"')
    assert command.argv(spec, name="")[3] == "skydeck"


def test_bash_gives_the_script_its_flags_untouched() -> None:
    script = f"exec {shlex.quote(sys.executable)} -c 'import sys,json;print(json.dumps(sys.argv[1:]))' \"$@\""
    flags: dict[str, FlagValue] = {"a": "$(touch /x) `id` ' \" \\ \n é", "b": ["*", "~"]}
    words = command.argv(Spec(script=script, flags=flags), name="run")
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == command.hydra_arguments(flags)


def test_a_task_alone_gives_the_flags_for_its_own_run() -> None:
    assert command.argv(Spec(task="run: x", flags={"a": 1}), name="run") == ("a=1",)


@pytest.mark.parametrize("spec", [Spec(), Spec(command=TRAIN, script="x"), Spec(script="  "), Spec(script="a\0")])
def test_a_spec_with_nothing_or_two_things_to_run_is_refused(spec: Spec) -> None:
    with pytest.raises(InvalidCommand):
        command.argv(spec, name="run")


# Nothing is interpreted

HOSTILE = [
    "'", '"', "\\", "$(touch /tmp/x)", "`id`", "${HOME}", "a\nb\r\n\tc", "é 漢字 🚀 \u202e", "; rm -rf /", "&& x", "*",
    "~", "-rf", "--", "", " ", "%s", "!1", "x" * 100_000, "é" * 50_000,
]  # fmt: skip


def test_hostile_values_arrive_as_they_are() -> None:
    echo = [sys.executable, "-X", "utf8", "-c", "import sys,json;print(json.dumps(sys.argv[1:]))"]
    placed = [f"{{v{i}}}" for i in range(len(HOSTILE))]
    flags = {f"v{i}": value for i, value in enumerate(HOSTILE)}
    words = command.argv(Spec(command=(*echo, *placed, "{flags}"), flags=flags), name="run")
    back = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert back[: len(HOSTILE)] == HOSTILE
    assert {word.partition("=")[0]: hydra_read(word.partition("=")[2]) for word in back[len(HOSTILE) :]} == flags


@given(st.lists(st.text(), min_size=1))
def test_the_displayed_line_splits_into_the_same_arguments(words: list[str]) -> None:
    assert shlex.split(command.command_line(words)) == words


# Limits


def test_the_longest_argument_that_linux_takes_passes_and_arrives() -> None:
    value = "x" * (command.MAX_ARGUMENT - len("v="))
    spec = Spec(command=(sys.executable, "-c", "import sys;print(len(sys.argv[1]))"), flags={"v": value})
    command.validate(spec, "run")
    out = subprocess.run(command.argv(spec, name="run"), capture_output=True, text=True, check=True).stdout
    assert int(out) == command.MAX_ARGUMENT


@pytest.mark.parametrize(
    "spec",
    [
        Spec(command=TRAIN, flags={"v": "x" * command.MAX_ARGUMENT}),
        Spec(command=TRAIN, flags={"v": "é" * (command.MAX_ARGUMENT // 2)}),
        Spec(script="#" * (command.MAX_ARGUMENT + 1)),
        Spec(command=TRAIN, env={"A": "x" * command.MAX_ARGUMENT}),
        Spec(command=TRAIN, flags={f"v{i}": "x" * 100_000 for i in range(20)}),
    ],
)
def test_what_linux_would_not_start_is_refused_when_declared(spec: Spec) -> None:
    with pytest.raises(InvalidCommand, match="Linux takes"):
        command.validate(spec, "run")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (Spec(command=("train", "{nope}")), "{nope}"),
        (Spec(command=TRAIN, workdir="/w/{nope}"), "workdir has {nope}"),
        (Spec(command=TRAIN, workdir="/w\0"), "workdir"),
        (Spec(command=TRAIN, env={"A": "{nope}"}), "env 'A' has {nope}"),
        (Spec(command=TRAIN, env={"A": "\0"}), "env 'A'"),
        (Spec(command=TRAIN, env={"A B": "1"}), "env 'A B'"),
        (Spec(command=TRAIN, env={"A": 1}), "env 'A'"),  # type: ignore[dict-item]
        (Spec(command=TRAIN, file_mounts={"/a": "{nope}"}), "file_mounts '/a'"),
        (Spec(command=TRAIN, setup="\0"), "setup"),
    ],
)
def test_what_would_fail_at_the_launch_is_refused_when_declared_and_named(spec: Spec, names: str) -> None:
    with pytest.raises(InvalidCommand, match=re.escape(names)):
        command.validate(spec, "run")


def test_a_flag_that_no_argument_can_carry_is_refused_when_declared() -> None:
    with pytest.raises(InvalidFlag, match="NUL"):
        command.validate(Spec(command=TRAIN, flags={"a": "\0"}), "run")


def test_a_good_spec_is_valid() -> None:
    command.validate(
        Spec(command=TRAIN, workdir="/w/{name}", env={"A": "{name}"}, file_mounts={"/a": "s3://{name}"}), "run"
    )
