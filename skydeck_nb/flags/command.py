"""An experiment's spec to the arguments of a process.

Decides how a command is split, what its placeholders mean, how flags are written for Hydra,
argparse and JSON, and what no machine could be given. Refuses to know shells, files and
backends: nothing here is ever interpreted, expanded or executed.

A command is a list of arguments or a string that is split as a POSIX shell would. Whatever a
shell would *do* in such a string (expand ``$NAME`` or ``~/``, redirect, chain, comment, set a
variable) is refused: single quotes pass it on as it is, ``script=`` has it done.

Placeholders: ``{flags}`` (Hydra), ``{flags:cli}`` and ``{flags:json}`` are an argument of their own and
give **all** flags. ``{name} {nodes} {gpus} {git_ref}`` and any flag's key may stand anywhere;
these four mean the experiment's own, also where a flag has such a name. Where no
``{flags…}`` stands, the flags are appended for Hydra, except those that a command already passes
as a whole value: ``--lr {lr}``, ``--lr={lr}``. A flag inside a longer text (``runs/{lr}``) is still
appended: a flag is rather given twice than lost. Flags are written in the order of their keys,
so that their order in a cell changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from skydeck_nb.errors import InvalidCommand, InvalidFlag
from skydeck_nb.flags.values import bare_key, check_text, format_value, normalise, suggest
from skydeck_nb.models import FlagValue, Spec

MAX_ARGUMENT: Final = 131_071
"""Bytes in one argument (Linux: MAX_ARG_STRLEN of 128 KiB, with the NUL)."""

MAX_TOTAL: Final = 2 * 1024 * 1024 - 131_072
"""Bytes in all arguments and ``env`` together (Linux: 2 MiB), less what a machine's own environment takes."""

WORDS: Final = ("name", "nodes", "gpus", "git_ref")
"""The placeholders that every command has."""

FORMS: Final = ("flags", "flags:cli", "flags:json")

# Splitting

_META: Final = re.compile(r"&&|\|\||;;|>>|<<|[|&;<>()`]|\$(?=[A-Za-z0-9_{(@*#?$!'\"-])[A-Za-z0-9_]*[{(]?")
_EXPANDS: Final = re.compile(r"`|\$(?=[A-Za-z0-9_{(@*#?$!-])[A-Za-z0-9_]*[{(]?")
_HOME: Final = re.compile(r"~(?=[/\s]|$)")
_ASSIGNS: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=")


def _split(text: str) -> list[str]:
    """``text`` as a POSIX shell splits it into words; refuses what a shell would do more than splitting."""
    words: list[str] = []
    word: str | None = None
    ended = False  # a line break after a word: a shell would begin another command
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char in " \t\r\n":
            if word is not None:
                words.append(word)
                word = None
            ended = ended or (char == "\n" and bool(words))
            at += 1
            continue
        if text.startswith("\\\n", at):
            at += 2
            continue
        if ended:
            raise InvalidCommand(
                "command goes on after a line break, where a shell would begin another command: "
                "end the line with a backslash, or use script= for several commands."
            )
        if word is None and (char == "#" or _HOME.match(text, at)):
            what = "begins a comment: leave it out" if char == "#" else "means a home folder: write the path in full"
            raise InvalidCommand(f"command has an unquoted {char!r} which in a shell {what}, or quote it.")
        if found := _META.match(text, at):
            raise InvalidCommand(
                f"command has an unquoted {found[0]!r}, which only a shell understands: "
                f"use script= to have a shell, or single quotes to pass it on as it is."
            )
        word = word or ""
        if char == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise InvalidCommand(f"command has a single quote that does not close: {text[at:]!r:.60}")
            word += text[at + 1 : end]
            at = end + 1
        elif char == '"':
            inner, at = _double_quoted(text, at)
            word += inner
        elif char == "\\":
            if at + 1 == size:
                raise InvalidCommand("command ends with a backslash: leave it out, or write two.")
            word += text[at + 1]
            at += 2
        else:
            word += char
            at += 1
    return words if word is None else [*words, word]


def _double_quoted(text: str, start: int) -> tuple[str, int]:
    parts: list[str] = []
    at = start + 1
    while at < len(text):
        char = text[at]
        if char == '"':
            return "".join(parts), at + 1
        if char == "\\" and text[at + 1 : at + 2] in ("$", "`", '"', "\\", "\n"):
            parts.append(text[at + 1].strip("\n"))
            at += 2
            continue
        if found := _EXPANDS.match(text, at):
            raise InvalidCommand(
                f"command has {found[0]!r} in double quotes, where a shell would expand it: "
                f"use script= to have that, or single quotes to pass it on as it is."
            )
        parts.append(char)
        at += 1
    raise InvalidCommand(f"command has a double quote that does not close: {text[start:]!r:.60}")


def parse(command: str | Sequence[str]) -> tuple[str, ...]:
    """The arguments of ``command``, placeholders kept: ``parse("a 'b c' {name}")`` is ``("a", "b c", "{name}")``.

    In a list, paths and numbers become text and everything is taken as it is. Raises
    :class:`InvalidCommand` for what is empty, needs a shell, cannot be an argument, or has braces
    that are no placeholder.
    """
    if isinstance(command, str):
        if assigns := _ASSIGNS.match(command):
            raise InvalidCommand(
                f"command begins with {assigns[1]}=…, which only a shell understands: "
                f"write env={{{assigns[1]!r}: …}} beside it."
            )
        words = _split(command)
    else:
        given: object = command
        if not isinstance(given, (list, tuple)):
            raise InvalidCommand(f"command={given!r:.60}: write a string or a list of arguments.")
        words = [_word(item) for item in given]
    if not words or not words[0].strip():
        raise InvalidCommand("command is empty: name the program to run, as in 'python train.py'.")
    for word in words:
        check_text(word, f"command argument {word!r:.60}", InvalidCommand)
        for kind, piece in _pieces(word):
            if kind and piece.startswith("flags:") and piece not in FORMS:
                raise InvalidCommand(f"command has {{{piece}}}: there are {{flags}}, {{flags:cli}} and {{flags:json}}.")
            if kind and piece in FORMS and word != f"{{{piece}}}":
                raise InvalidCommand(f"command has {{{piece}}} inside {word!r:.60}: it must be an argument of its own.")
    return tuple(words)


def _word(item: object) -> str:
    if isinstance(item, str):
        return str(item)
    if isinstance(item, os.PathLike) and isinstance(os.fspath(item), str):
        return str(os.fspath(item))
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return repr(item)
    raise InvalidCommand(f"command has the argument {item!r:.60} of type {type(item).__name__}; write it as text.")


# Placeholders

_BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@lru_cache(maxsize=4096)
def _pieces(text: str) -> tuple[tuple[bool, str], ...]:
    """``text`` cut at its placeholders: (True, key) or (False, literal)."""
    pieces: list[tuple[bool, str]] = []
    at = 0
    for found in _BRACES.finditer(text):
        pieces.append((False, text[at : found.start()]))
        at = found.end()
        if found[1] is not None:
            pieces.append((True, found[1]))
        elif len(found[0]) == 2:
            pieces.append((False, found[0][0]))
        else:
            raise InvalidCommand(f"a single {found[0]!r} in {text!r:.60} is no placeholder: write {found[0] * 2!r}.")
    pieces.append((False, text[at:]))
    return tuple(piece for piece in pieces if piece[1] or piece[0])


def _value(key: str, spec: Spec, flags: Mapping[str, FlagValue], name: str, where: str) -> str:
    match key:
        case "name":
            return name
        case "nodes":
            return str(spec.nodes)
        case "gpus":
            return str(spec.gpus or 0)
        case "git_ref":
            if spec.git_ref is None:
                raise InvalidCommand(f"{where} has {{git_ref}}, but no git_ref= is given.")
            return spec.git_ref
    if key in flags:
        return format_value(flags[key])
    if key.partition(":")[0] == "flags":
        raise InvalidCommand(f"{where} has {{{key}}}, which may stand only as an argument of a command.")
    raise InvalidCommand(
        f"{where} has {{{key}}}, which is no flag of this experiment.{suggest(key, [*WORDS, *FORMS, *flags])} "
        f"Write {{{{ and }}}} for braces."
    )


def render_text(text: str, spec: Spec, name: str, where: str = "text") -> str:
    """``text`` with ``{name}``, ``{nodes}``, ``{gpus}``, ``{git_ref}`` and flags filled in, for workdir, paths and env.

    ``where`` begins the message of the :class:`InvalidCommand` that an unknown placeholder raises.
    """
    return _render(text, spec, spec.flags, name, where)


def _render(text: str, spec: Spec, flags: Mapping[str, FlagValue], name: str, where: str) -> str:
    if "{" not in text and "}" not in text:
        return text
    return "".join(_value(piece, spec, flags, name, where) if kind else piece for kind, piece in _pieces(text))


def _passed(words: Sequence[str]) -> set[str]:
    """The keys that stand as the whole value of an argument: ``{lr}`` or ``--lr={lr}``."""
    keys = set()
    for word in words:
        pieces = _pieces(word)
        if pieces and pieces[-1][0]:
            before = "".join(piece for _, piece in pieces[:-1])
            if len(pieces) == 1 or (len(pieces) == 2 and before.endswith("=")):
                keys.add(pieces[-1][1])
    return keys.difference(WORDS)


# Flags as arguments

_HYDRA_PLAIN: Final = re.compile(r"[A-Za-z0-9_/+.%*@:$-]+")
_HYDRA_DIGITS: Final = r"(?:0|[1-9](?:_?[0-9])*)"
_HYDRA_POINT: Final = rf"(?:{_HYDRA_DIGITS}\.|{_HYDRA_DIGITS}?\.[0-9](?:_?[0-9])*)"
_HYDRA_OTHER: Final = re.compile(
    rf"[+-]?(?:{_HYDRA_DIGITS}|{_HYDRA_POINT}|(?:{_HYDRA_DIGITS}|{_HYDRA_POINT})e[+-]?[0-9](?:_?[0-9])*|inf|nan)"
    r"|true|false|null",
    re.IGNORECASE,
)


def hydra_value(value: FlagValue) -> str:
    """``value`` in Hydra's override grammar (1.1 and later), read back by it as the same value and type.

    Text is quoted only where it would be read as something else. ``${…}`` in a text stays, and
    stays an interpolation: that is Hydra's to resolve, as a Hydra user expects.
    """
    if isinstance(value, list):
        return "[" + ",".join(hydra_value(item) for item in value) + "]"
    if not isinstance(value, str):
        return format_value(value)
    if _HYDRA_PLAIN.fullmatch(value) and not _HYDRA_OTHER.fullmatch(value):
        return value
    quote = "'" if ('"' in value or "\\" in value) and "'" not in value else '"'
    return quote + re.sub(rf"(?<!\\)(\\*)({quote}|\Z)", _escape, value) + quote


def _escape(found: re.Match[str]) -> str:
    return found[1] * 2 + ("\\" + found[2] if found[2] else "")


def hydra_arguments(flags: Mapping[str, FlagValue]) -> list[str]:
    """``key=value`` for each flag, in the order of the keys; the empty text is ``key=``."""
    return [f"{key}={hydra_value(flags[key]) if flags[key] != '' else ''}" for key in sorted(flags, key=bare_key)]


def cli_arguments(flags: Mapping[str, FlagValue]) -> list[str]:
    """``--key value`` for each flag, in the order of the keys, as argparse, click and tyro read them.

    True is ``--key``, False ``--no-key``, None is left out, a list is ``--key 1 2`` (``nargs``), and a value
    that begins with a dash ``--key=-1``. Raises :class:`InvalidFlag` for Hydra's ``+key``.
    """
    words: list[str] = []
    for key in sorted(flags):
        value = flags[key]
        _no_prefix(key, "{flags:cli}")
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no-{key}")
        elif isinstance(value, list):
            words += [f"--{key}", *map(format_value, value)]
        elif (text := format_value(value)).startswith("-"):
            words.append(f"--{key}={text}")
        else:
            words += [f"--{key}", text]
    return words


def json_argument(flags: Mapping[str, FlagValue]) -> str:
    """All flags as one JSON object with the keys as written; ``NaN`` and ``Infinity`` as Python's json has them."""
    for key in flags:
        _no_prefix(key, "{flags:json}")
    return json.dumps(flags, sort_keys=True, ensure_ascii=False)


def _no_prefix(key: str, form: str) -> None:
    if key.startswith("+"):
        raise InvalidFlag(f"flag {key!r}: the prefix is Hydra's and has no meaning in {form}; leave it out.")


# All of it


def argv(spec: Spec, *, name: str) -> tuple[str, ...]:
    """The arguments to execute; ``name`` is the experiment's run name.

    A script is ``bash -c SCRIPT NAME FLAG…``, verbatim and without placeholders: its flags, written for
    Hydra, are ``"$@"``. With a ``task`` alone these are only the flags, for its ``run``. Raises
    :class:`InvalidCommand` or :class:`InvalidFlag` for what could not be executed.
    """
    flags = normalise(spec.flags)
    if spec.command is not None and spec.script is not None:
        raise InvalidCommand("command= and script= are both given: keep one.")
    words: list[str] = []
    if spec.script is not None:
        check_text(spec.script, "script", InvalidCommand)
        if not spec.script.strip():
            raise InvalidCommand("script is empty: write what bash is to run.")
        words = ["bash", "-c", spec.script, name or "skydeck", *hydra_arguments(flags)]
    elif spec.command is not None:
        placed = False
        for word in parse(spec.command):
            match word:
                case "{flags}":
                    words += hydra_arguments(flags)
                case "{flags:cli}":
                    words += cli_arguments(flags)
                case "{flags:json}":
                    words.append(json_argument(flags))
                case _:
                    words.append(_render(word, spec, flags, name, "command"))
                    continue
            placed = True
        if not placed:
            passed = _passed(spec.command)
            words += hydra_arguments({key: value for key, value in flags.items() if key not in passed})
    elif spec.task is not None:
        words = hydra_arguments(flags)
    else:
        raise InvalidCommand("nothing to run: give a command, script= or task=.")
    _measure(words)
    return tuple(words)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _measure(words: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    total = 0
    for word in words:
        size = _size(word)
        total += size + 9  # its NUL and its pointer
        if size > MAX_ARGUMENT:
            raise InvalidCommand(
                f"the argument {word!r:.40}… has {size:,} bytes and Linux takes {MAX_ARGUMENT:,} in one: "
                f"put it into a file and pass its path."
            )
    for key, value in (env or {}).items():
        size = _size(key) + _size(value) + 1
        total += size + 9
        if size > MAX_ARGUMENT:
            raise InvalidCommand(f"env {key!r} has {size:,} bytes and Linux takes {MAX_ARGUMENT:,}: use a file.")
    if total > MAX_TOTAL:
        raise InvalidCommand(
            f"the command and its env have {total:,} bytes and Linux takes {MAX_TOTAL:,}: "
            f"put the flags into a file and pass its path."
        )


def command_line(argv: Sequence[str]) -> str:
    """``argv`` as one line that a POSIX shell would split into exactly these arguments; for reading and copying."""
    return shlex.join(argv)


def validate(spec: Spec, name: str) -> None:
    """Raises now what would fail at the launch: command, flags, workdir, env, file mounts, sizes."""
    check_text(name, "name", InvalidCommand)
    words = argv(spec, name=name)
    for field in ("workdir", "setup"):
        text = getattr(spec, field)
        if text is not None:
            check_text(text, field, InvalidCommand)
    if spec.workdir is not None:
        render_text(spec.workdir, spec, name, "workdir")
    for target, source in spec.file_mounts.items():
        where = f"file_mounts {target!r}"
        for text in (target, source):
            render_text(check_text(text, where, InvalidCommand), spec, name, where)
    env: dict[str, str] = {}
    for key, text in spec.env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise InvalidCommand(f"env {key!r}: a variable's name has letters, digits and '_' only.")
        if not isinstance(text, str):
            raise InvalidCommand(f"env {key!r}: {text!r:.60} is of type {type(text).__name__}; write it as text.")
        env[key] = render_text(check_text(text, f"env {key!r}", InvalidCommand), spec, name, f"env {key!r}")
    _measure(words, env)
