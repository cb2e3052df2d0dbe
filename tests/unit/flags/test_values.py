"""Flag keys and values: what is kept, shown, typed and hashed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import string
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.errors import InvalidCommand, InvalidFlag
from skydeck_nb.flags import values
from skydeck_nb.flags.grid import fixed, zipped
from skydeck_nb.models import FlagValue, Spec


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def same(one: object, two: object) -> bool:
    """Equal in type and value, where NaN is NaN and -0.0 is not 0.0."""
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and repr(one) == repr(two)


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
lookalikes = st.sampled_from(
    [
        "1",
        "1.0",
        "true",
        "None",
        "null",
        "nan",
        "-inf",
        "1e3",
        "1_000",
        "[1]",
        '"a"',
        "'",
        "",
        " a",
        "a\n",
        "007",
        "a, b",
    ]
)
hostile = st.text(st.sampled_from("ab01.-+eE_\"'\\ \t\n,:=[]{}()$%*@?|/é"), max_size=12)
text = words | lookalikes | hostile
numbers = st.integers() | st.floats()
scalars = st.none() | st.booleans() | numbers | text
flag_values = scalars | st.lists(scalars, max_size=4)
keys = st.from_regex(r"[a-z_][a-z0-9_-]{0,5}(\.[a-z0-9_]{1,5}){0,2}", fullmatch=True)


# Keys


@pytest.mark.parametrize(
    "key", ["lr", "trainer.lr", "a.0.b", "batch-size", "db/engine", "db@backup", "+a", "++a.b", "_x"]
)
def test_what_hydra_and_argparse_call_a_key_is_a_key(key: str) -> None:
    assert values.check_key(key) == key


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("--lr", "leave the dashes out"),
        ("-lr", "leave the dashes out"),
        ("~lr", "write it in the command"),
        ("lr=1", r"write \{'key': value\}"),
        ("", "dotted names"),
        ("a b", "dotted names"),
        ("a..b", "dotted names"),
        ("a.", "dotted names"),
        ("größe", "dotted names"),
        ("lr\n", "dotted names"),
        ("$(rm)", "dotted names"),
        (3, "write '3'"),
        (None, "a key is text"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_the_remedy(key: object, remedy: str) -> None:
    with pytest.raises(InvalidFlag, match=remedy):
        values.check_key(key)


def test_a_key_without_its_prefix() -> None:
    assert [values.bare_key(key) for key in ("a.b", "+a.b", "++a.b")] == ["a.b"] * 3


# Normalising


@pytest.mark.parametrize(
    ("given_value", "kept"),
    [
        (1, 1),
        (True, True),
        (1.0, 1.0),
        (None, None),
        ("x", "x"),
        (-0.0, -0.0),
        (math.inf, math.inf),
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.bool_(True), True),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.1),
        (np.float16(0.1), 0.1),
        (np.float32("nan"), math.nan),
        (np.str_("x"), "x"),
        (np.array(3), 3),
        (np.array(0.1, dtype="float32"), 0.1),
        (np.array(3, dtype=object), 3),
        ([1, 2.0, None, "a"], [1, 2.0, None, "a"]),
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (np.array([0.1, 0.2], dtype="float32"), [0.1, 0.2]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        ([], []),
        (fixed([1, 2]), [1, 2]),
        (pathlib.PurePosixPath("data/x"), "data/x"),
        (1234567, 1234567),
        (2**70, 2**70),
    ],
)
def test_a_value_is_kept_as_plain_python_of_its_own_type(given_value: object, kept: FlagValue) -> None:
    assert same(values.normalise_value("x", given_value), kept)


@pytest.mark.parametrize(
    ("value", "kind", "remedy"),
    [
        (decimal.Decimal("0.1"), "Decimal", r"float\(x\)"),
        (Color.RED, "Color", r"x\.value"),
        (Level.HIGH, "Level", r"x\.value"),
        (b"x", "bytes", r"x\.decode\(\)"),
        (dt.date(2026, 1, 1), "date", "isoformat"),
        (np.datetime64("2026-01-01"), "datetime64", r"str\(x\)"),
        (pd.NA, "NAType", "None"),
        (pd.NaT, "NaTType", "None"),
        ({1, 2}, "set", "sorted"),
        ((x for x in "ab"), "generator", r"list\(x\)"),
        ({}.keys(), "dict_keys", r"list\(x\)"),
        (1j, "complex", r"str\(x\)"),
        (np.zeros((2, 2)), "ndarray", "one dimension"),
        ([[1]], "list", "a list holds"),
        ([{"a": 1}], "dict", "dotted keys"),
        (object(), "object", r"str\(x\)"),
        (zipped(a=[1])["a"], "Tied", "sweep"),
    ],
)
def test_what_cannot_be_a_value_is_refused_naming_key_type_and_remedy(value: object, kind: str, remedy: str) -> None:
    with pytest.raises(InvalidFlag, match=remedy) as caught:
        values.normalise_value("trainer.x", value)
    assert "'trainer.x'" in str(caught.value)
    assert kind in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "reason"), [("a\0b", "NUL character at position 1"), ("a\ud800", r"lone surrogate \(U\+D800\)")]
)
def test_text_that_no_argument_can_carry_is_refused_with_the_reason(bad: str, reason: str) -> None:
    for value in (bad, [bad]):
        with pytest.raises(InvalidFlag, match=reason):
            values.normalise_value("x", value)


def test_an_integer_that_no_python_prints_is_refused() -> None:
    with pytest.raises(InvalidFlag, match="bits"):
        values.normalise_value("x", 10**5000)


def test_nested_mappings_become_dotted_keys_in_the_order_written() -> None:
    flags = values.normalise({"b": 1, "trainer": {"lr": 0.1, "losses": {"ppo": True}}, "a": 2})
    assert list(flags.items()) == [("b", 1), ("trainer.lr", 0.1), ("trainer.losses.ppo", True), ("a", 2)]


@pytest.mark.parametrize("flags", [{"a.b": 1, "a": {"b": 2}}, {"a": 1, "+a": 2}])
def test_a_key_that_is_given_twice_is_refused(flags: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidFlag, match="twice"):
        values.normalise(flags)


def test_an_empty_mapping_is_refused() -> None:
    with pytest.raises(InvalidFlag, match="empty mapping"):
        values.normalise({"a": {}})


def test_flags_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(InvalidFlag, match="write a mapping"):
        values.normalise(["a"])  # type: ignore[arg-type]


@given(st.dictionaries(keys, flag_values, max_size=4))
def test_normalising_twice_changes_nothing(flags: dict[str, FlagValue]) -> None:
    once = values.normalise(flags)
    assert same([*values.normalise(once).items()].__repr__(), [*once.items()].__repr__())


# JSON


@given(st.dictionaries(keys, flag_values, max_size=4))
def test_flags_come_back_from_json_as_they_went(flags: dict[str, FlagValue]) -> None:
    back = values.decode(values.encode(flags))
    assert back.keys() == flags.keys()
    assert all(same(back[key], flags[key]) for key in flags)


@given(st.dictionaries(keys, flag_values, max_size=4))
def test_encoded_flags_are_strict_json(flags: dict[str, FlagValue]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(values.encode(flags), parse_constant=refuse)


def test_the_order_of_flags_does_not_count() -> None:
    assert values.encode({"a": 1, "b": 2}) == values.encode({"b": 2, "a": 1}) == '{"a":1,"b":2}'


def test_what_renders_differently_encodes_differently() -> None:
    different = [
        1,
        1.0,
        True,
        "1",
        "true",
        0.0,
        -0.0,
        0,
        False,
        None,
        "null",
        "",
        math.nan,
        math.inf,
        "nan",
        [1],
        [1.0],
        [],
    ]
    assert len({values.encode({"x": value}) for value in different}) == len(different)


def test_what_normalises_to_the_same_encodes_to_the_same() -> None:
    assert values.encode({"x": np.float32(0.1)}) == values.encode({"x": 0.1})
    assert values.encode({"x": float("nan")}) == values.encode({"x": -float("nan")}) == '{"x":{"$float":"nan"}}'


@pytest.mark.parametrize("stored", ["", "[1]", "{", '{"a":{"b":[[1]]}}', '{"a b":1}', '{"a":{"$float":"x"}}'])
def test_stored_flags_that_are_damaged_are_refused_clearly(stored: str) -> None:
    with pytest.raises(InvalidFlag):
        values.decode(stored)


# The hash


def test_the_hash_is_the_same_in_every_process() -> None:
    spec = Spec(command=("python", "train.py"), flags={"b": math.nan, "a": "é"}, nodes=4, env={"A": "1"})
    program = (
        "from skydeck_nb.flags.values import spec_hash; from skydeck_nb.models import Spec;"
        "flags = {'a': 'é', 'b': float('nan')};"
        "print(spec_hash(Spec(command=('python', 'train.py'), flags=flags, nodes=4, env={'A': '1'})))"
    )
    printed = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program], capture_output=True, text=True, check=True, encoding="utf8"
    ).stdout
    assert printed.strip() == values.spec_hash(spec) == "680ba23402ee1c62"


def test_every_field_of_a_spec_counts() -> None:
    changed: dict[str, Any] = {
        "command": ("a",), "script": "a", "task": "a", "flags": {"a": 1}, "nodes": 2, "gpus": 0, "accelerators": "H100",
        "spot": False, "infra": "aws", "resources": {"cpus": 2}, "workdir": "/w", "git_ref": "main", "git_commit": "f",
        "setup": "", "env": {"A": ""}, "secrets": ("A",), "file_mounts": {"/a": "b"}, "pool": "p", "interpreter": "py",
        "path": "/bin",
    }  # fmt: skip
    assert changed.keys() == {field.name for field in dataclasses.fields(Spec)}
    hashes = {values.spec_hash(Spec(**{name: value})) for name, value in changed.items()}
    assert len(hashes | {values.spec_hash(Spec())}) == len(changed) + 1


def test_flags_that_render_differently_hash_differently() -> None:
    different = [1, 1.0, True, "1", 0.0, -0.0, 0, False, None, "null", [1], [1.0], []]
    assert len({values.spec_hash(Spec(flags=values.normalise({"x": value}))) for value in different}) == len(different)


def test_the_order_of_flags_and_env_does_not_change_the_hash() -> None:
    one = Spec(flags={"a": 1, "b": 2}, env={"A": "1", "B": "2"}, resources={"x": {"a": 1, "b": 2}})
    two = Spec(flags={"b": 2, "a": 1}, env={"B": "2", "A": "1"}, resources={"x": {"b": 2, "a": 1}})
    assert values.spec_hash(one) == values.spec_hash(two)


def test_a_resource_that_cannot_be_kept_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidCommand, match=r"resources\['a'\]\['b'\].*object"):
        values.spec_hash(Spec(resources={"a": {"b": object()}}))


# Text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.001, "0.001"),
        (3e-4, "0.0003"),
        (3e-5, "3e-05"),
        (1e16, "1e+16"),
        (1.0, "1.0"),
        (1234567, "1234567"),
        (True, "true"),
        (None, "null"),
        ("a b", "a b"),
        ([1, 2], "1,2"),
        ([], ""),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_how_a_value_is_shown(value: FlagValue, shown: str) -> None:
    assert values.format_value(value) == shown


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("1", 1),
        ("-3", -3),
        ("+3", 3),
        ("1_000", 1000),
        ("1234567", 1234567),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.0", -0.0),
        ("nan", math.nan),
        ("-inf", -math.inf),
        ('"quoted"', "quoted"),
        ("'it\\'s'", "it's"),
        ('"1"', "1"),
        ('"a\\nb"', "a\nb"),
        ("", ""),
        ('""', ""),
        ("  spaced out  ", "spaced out"),
        ("007", "007"),
        ("10k", "10k"),
        ("1.2.3", "1.2.3"),
        ("2026-01-01", "2026-01-01"),
        ("it's", "it's"),
        ("NaN", "NaN"),
        ("s3://bucket/a,b", "s3://bucket/a,b"),
        ("[1,2]", [1, 2]),
        ("[1, true, \"a, b\", 'c', d e, null,]", [1, True, "a, b", "c", "d e", None]),
        ("[]", []),
        ("[ ]", []),
        ("٣", "٣"),
    ],
)
def test_what_a_person_means_by_what_they_type(typed: str, meant: FlagValue) -> None:
    assert same(values.parse_value(typed), meant)


@pytest.mark.parametrize(
    "typed", ['"a', "'a", '"a" b', "[1", "[", "[1,,2]", "[[1]]", "1e999", "1e-999", "[1 ]]", "a\0", "9" * 5000]
)
def test_what_nobody_can_mean_is_refused_naming_the_flag(typed: str) -> None:
    with pytest.raises(InvalidFlag, match=r"'trainer\.lr'"):
        values.parse_value(typed, "trainer.lr")


@given(flag_values)
def test_opening_and_saving_an_editor_changes_nothing(value: FlagValue) -> None:
    assert same(values.parse_value(values.edit_text(value)), value)


@given(st.none() | st.booleans() | numbers)
def test_the_shown_text_of_a_number_reads_back_exactly(value: FlagValue) -> None:
    assert same(values.parse_value(values.format_value(value)), value)


@given(st.text(string.ascii_letters + "_/:-", min_size=1))
def test_ordinary_text_needs_no_quotes_in_the_editor(value: str) -> None:
    if value not in {"true", "True", "false", "False", "null", "None", "nan", "inf", "-inf", "-nan"}:
        assert values.edit_text(value) == value


@pytest.mark.parametrize("value", ["1", "true", "nan", "", " a", "a\n", "[a]", '"a"'])
def test_text_that_looks_like_something_else_is_quoted_in_the_editor(value: str) -> None:
    assert values.edit_text(value) == json.dumps(value)


@given(flag_values)
def test_the_editors_text_is_one_line(value: FlagValue) -> None:
    assert len(values.edit_text(value).splitlines()) <= 1
