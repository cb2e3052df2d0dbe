"""Flag keys and flag values: what is accepted, how it is kept, shown, typed and hashed.

Decides which Python values can be a flag and what they become (`normalise`), their one
JSON form (`encode`, `decode`), the text people read (`format_value`) and type
(`edit_text`, `parse_value`), and the hash that tells two specs apart (`spec_hash`).
Refuses to know commands, sweeps, files and numpy: numpy's values are recognised by their
shape, without importing it.

Keys are dotted: ``trainer.lr``. As Hydra has them, ``db/engine`` and ``db@backup`` are keys
too, and ``+key`` and ``++key`` keep their prefix; ``~key`` deletes, has no value and
belongs in the command. Values are kept exactly: ``1``, ``1.0`` and ``True`` are three
values, ``0.0`` and ``-0.0`` are two, and every NaN is the same one.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from skydeck_nb.errors import InvalidCommand, InvalidFlag
from skydeck_nb.models import FlagValue, Scalar, Spec

MAX_INT_BITS: Final = 4096
"""Integers beyond this cannot be printed by every Python; they are refused."""

_KEY: Final = re.compile(
    r"(\+{0,2})([A-Za-z_][A-Za-z0-9_-]*(?:[./][A-Za-z0-9_][A-Za-z0-9_-]*)*(?:@[A-Za-z_][A-Za-z0-9_.-]*)?)"
)
_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_REMEDY: Final[Mapping[str, str]] = {
    "Decimal": "write float(x), or str(x) to keep every digit",
    "Fraction": "write float(x), or str(x)",
    "complex": "write str(x)",
    "bytes": "write x.decode()",
    "bytearray": "write x.decode()",
    "datetime": "write x.isoformat()",
    "date": "write x.isoformat()",
    "timedelta": "write x.total_seconds()",
    "Timestamp": "write x.isoformat()",
    "Timedelta": "write x.total_seconds()",
    "datetime64": "write str(x)",
    "timedelta64": "write str(x)",
    "NAType": "write None",
    "NaTType": "write None",
    "set": "it has no order: write sorted(x)",
    "frozenset": "it has no order: write sorted(x)",
    "dict_keys": "write list(x)",
    "dict_values": "write list(x)",
    "Tensor": "write x.item() or x.tolist()",
    "Tied": "tied axes belong in deck.sweep(…)",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Fixed:
    """A list that is one value and not an axis; made by :func:`skydeck_nb.flags.grid.fixed`."""

    value: Any


def suggest(word: str, options: Iterable[str]) -> str:
    """``" Did you mean 'trainer.lr'?"``, or nothing where no option is near."""
    known = list(options)
    near = [option for option in known if re.split(r"[./]", option)[-1] == word]
    near += [option for option in difflib.get_close_matches(word, known, 3, 0.6) if option not in near]
    return f" Did you mean {' or '.join(repr(option) for option in near[:3])}?" if near else ""


# Keys


@lru_cache(maxsize=65536)
def _split_key(key: str) -> tuple[str, str]:
    found = _KEY.fullmatch(key)
    if found:
        return found[1], found[2]
    if key.startswith("~"):
        remedy = "a deletion has no value: write it in the command, as in 'python train.py ~key'"
    elif key.startswith("-"):
        remedy = "leave the dashes out: {flags:cli} in the command writes them"
    elif "=" in key:
        remedy = "write {'key': value}"
    else:
        remedy = "a key is dotted names of letters, digits, '_' and '-', as in 'trainer.lr'"
    raise InvalidFlag(f"flag {key!r}: this cannot be a key; {remedy}.")


def check_key(key: object) -> str:
    """``key`` if it can be a flag's key. Raises :class:`InvalidFlag` with the remedy."""
    if type(key) is not str:
        if not isinstance(key, str) or isinstance(key, enum.Enum):
            raise InvalidFlag(f"flag {key!r}: a key is text, not {type(key).__name__}; write '{key}'.")
        key = str(key)
    _split_key(key)
    return key


def bare_key(key: str) -> str:
    """``key`` without Hydra's ``+`` or ``++``."""
    return _split_key(key)[1]


# Normalising


def check_text(text: str, what: str, error: type[InvalidFlag] | type[InvalidCommand] = InvalidFlag) -> str:
    """``text`` if it can be an argument of a process; otherwise ``error``, beginning with ``what``."""
    if "\0" in text:
        raise error(f"{what}: it has a NUL character at position {text.index(chr(0))}, which no argument can carry.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as wrong:
            raise error(
                f"{what}: it has a lone surrogate (U+{ord(text[wrong.start]):04X}) at position {wrong.start}, "
                f"which is no text; decode the bytes it came from."
            ) from None
    return text


def _family(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def items_of(value: Any) -> Sequence[Any] | None:
    """The elements of a list, tuple, range, 1-d numpy array or pandas Series; ``None`` for anything else."""
    if isinstance(value, (list, tuple, range)):
        return value
    if getattr(value, "ndim", None) == 1:
        if _family(value) == "pandas":
            value = value.to_numpy()
        if _family(value) == "numpy":
            return list(value)  # numpy scalars, so that a float32 keeps its own shortest digits
    return None


def _refuse(key: str, value: object) -> InvalidFlag:
    name = type(value).__name__
    if isinstance(value, enum.Enum):
        remedy = "write x.value or x.name"
    elif isinstance(value, Mapping):
        remedy = "write dotted keys, as in {'a.b': 1}"
    elif items_of(value) is not None:
        remedy = "a list holds str, int, float, bool and None only; write str(x), or several flags"
    elif isinstance(value, Iterator):
        remedy = "write list(x)"
    elif getattr(value, "ndim", 0):
        remedy = "write a list of one dimension"
    else:
        remedy = _REMEDY.get(name, "a flag is a str, int, float, bool, None or a list of these; write str(x)")
    return InvalidFlag(f"flag {key!r}: {value!r:.80} is of type {name}, which cannot be a flag; {remedy}.")


def _scalar(key: str, value: Any) -> Scalar:
    kind = type(value)
    if value is None or kind is float or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is not str and isinstance(value, enum.Enum):
        raise _refuse(key, value)
    if isinstance(value, str):
        return check_text(str(value), f"flag {key!r}")
    if isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            raise InvalidFlag(f"flag {key!r}: this integer has {value.bit_length():,} bits; write it as text.")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        return _scalar(key, os.fspath(value))
    if _family(value) == "numpy" and getattr(value, "ndim", None) == 0:
        value = value[()]
        match getattr(getattr(value, "dtype", None), "kind", None):
            case "b":
                return bool(value)
            case "i" | "u":
                return int(value)
            case "f":
                return float(str(value)) if value.dtype.itemsize < 8 else float(value)
            case None:
                return _scalar(key, value)
    raise _refuse(key, value)


def normalise_value(key: str, value: Any) -> FlagValue:
    """What is kept of a flag's value: str, int, float, bool, None, or a list of these.

    Tuples, ranges, 1-d arrays and Series become lists; numpy's scalars and 0-d arrays become
    Python's, a float32 with its own shortest digits (``np.float32(0.1)`` is ``0.1``); a path
    becomes its text, as written. ``key`` serves the message alone. Raises :class:`InvalidFlag`,
    naming the key, the type and the remedy.
    """
    if type(value) in _ATOMS:
        return _scalar(key, value)
    if isinstance(value, Fixed):
        value = value.value
    items = items_of(value)
    return _scalar(key, value) if items is None else [_scalar(key, item) for item in items]


def flatten(flags: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values, nested mappings with dotted keys: ``{"a": {"b": 1}}`` gives ``("a.b", 1)``."""
    if not isinstance(flags, Mapping):
        raise InvalidFlag(f"flags={flags!r:.80}: write a mapping, as in {{'trainer.lr': 0.001}}.")
    for key, value in flags.items():
        path = prefix + check_key(key)
        if prefix:
            check_key(path)
        if type(value) not in _ATOMS and isinstance(value, Mapping):
            if not value:
                raise InvalidFlag(f"flag {path!r}: an empty mapping has no value; write None or leave it out.")
            yield from flatten(value, path + ".")
        else:
            yield path, value


def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of ``pairs``. Raises :class:`InvalidFlag` where a key stands twice (``a`` and ``+a`` are one)."""
    result: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in pairs:
        bare = _split_key(key)[1]
        if bare in spelled:
            twice = f"twice, as {spelled[bare]!r} and {key!r}" if spelled[bare] != key else "twice, once in a mapping"
            raise InvalidFlag(f"flag {bare!r}: it is given {twice}; leave one out.")
        spelled[bare] = key
        result[key] = value
    return result


def normalise(flags: Mapping[Any, Any]) -> dict[str, FlagValue]:
    """``flags`` as they are kept: dotted keys in the order written, plain values, nested mappings flattened."""
    return {key: normalise_value(key, value) for key, value in unique(flatten(flags)).items()}


# One JSON form

_JSON: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _safe(value: Any) -> Any:
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return {"$float": repr(float(value))}
    if isinstance(value, dict):
        return {key: _safe(item) for key, item in value.items()}
    return [_safe(item) for item in value] if isinstance(value, (list, tuple)) else value


def canonical(value: Any) -> str:
    """The one JSON text of plain data: keys sorted, no spaces, ``nan`` as ``{"$float":"nan"}``.

    Equal for two normalised values exactly when they are the same value.
    """
    try:
        return _JSON.encode(value)
    except ValueError:  # a float that JSON has no word for
        return _JSON.encode(_safe(value))


def _restore(value: dict[str, Any]) -> Any:
    return float(value["$float"]) if value.keys() == {"$float"} else value


def encode(flags: Mapping[str, Any]) -> str:
    """Flags as canonical JSON: equal after normalising means equal text, and the other way round."""
    return canonical(normalise(flags))


def decode(text: str) -> dict[str, FlagValue]:
    """The flags that :func:`encode` wrote. Raises :class:`InvalidFlag` for anything else."""
    try:
        flags = json.loads(text, object_hook=_restore)
    except (ValueError, TypeError) as wrong:
        raise InvalidFlag(f"stored flags cannot be read ({wrong}): {text!r:.80}") from None
    if not isinstance(flags, dict):
        raise InvalidFlag(f"stored flags cannot be read (no JSON object): {text!r:.80}")
    return normalise(flags)


def _plain(what: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidCommand(f"{what}: the key {key!r} is no text; write '{key}'.")
        return {key: _plain(f"{what}[{key!r}]", item) for key, item in value.items()}
    if (items := items_of(value)) is not None:
        return [_plain(what, item) for item in items]
    try:
        return _scalar(what, value)
    except InvalidFlag:
        raise InvalidCommand(
            f"{what}: {value!r:.80} is of type {type(value).__name__}, which cannot be kept; "
            f"use text, numbers, lists and mappings."
        ) from None


_DEFAULTS: Final = {field.name: getattr(Spec(), field.name) for field in dataclasses.fields(Spec)}


def spec_hash(spec: Spec) -> str:
    """16 hexadecimal digits of the SHA-256 of everything that is executed.

    The same in every process and Python. The order of flags, env and resources does not count.
    Fields at their default are left out, so that a field added to ``Spec`` later changes no hash.
    Raises :class:`InvalidFlag` or :class:`InvalidCommand` for values that have no hash; whether a
    spec can be executed is :func:`skydeck_nb.flags.command.validate`'s to say.
    """
    body: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(spec, name)
        if value is default or (type(default) in (dict, tuple) and not value):
            continue
        if type(value) is not type(default) or value != default:
            known = name == "flags" and all(type(item) in _ATOMS for item in value.values())
            body[name] = dict(value) if known else normalise(value) if name == "flags" else _plain(name, value)
    return hashlib.sha256(canonical(body).encode(errors="surrogatepass")).hexdigest()[:16]


# Text


def format_value(value: FlagValue) -> str:
    """The text for names and tables: ``0.0003``, ``true``, ``null``, ``1,2``; text as it is."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return ",".join(map(format_value, value))


_DIGITS: Final = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_FRACTION: Final = r"[0-9]+(?:_[0-9]+)*"
_INT: Final = re.compile(rf"[+-]?{_DIGITS}")
_FLOAT: Final = re.compile(
    rf"[+-]?(?:(?:{_DIGITS}\.(?:{_FRACTION})?|\.{_FRACTION})(?:[eE][+-]?[0-9]+)?|{_DIGITS}[eE][+-]?[0-9]+|inf|nan)"
)
_WORDS: Final[Mapping[str, bool | None]] = {
    "true": True, "True": True, "false": False, "False": False, "null": None, "None": None,
}  # fmt: skip
_ITEM: Final = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,"'\[\]][^,\[\]]*)\s*(,|$)""", re.DOTALL)
_PLAIN_ITEM: Final = re.compile(r"[^\s,\"'\[\]](?:[^,\[\]]*[^\s,\[\]])?")


def parse_value(text: str, key: str = "value") -> FlagValue:
    """What a person meant who typed ``text`` for flag ``key``.

    ``true false null`` (and Python's spelling), ``1``, ``1_000``, ``1e-3``, ``nan``, ``inf``; ``[1, "a"]``
    is a list; ``"…"`` (as JSON) and ``'…'`` are text whatever they hold; everything else is text as typed,
    without the spaces around it: ``007`` and ``10k`` too. Raises :class:`InvalidFlag` for quotes or brackets
    that do not close and for numbers that a float cannot hold.
    """
    text = text.strip()
    if not text.startswith("["):
        return _parse_scalar(text, key)
    if not text.endswith("]") or len(text) < 2:
        raise InvalidFlag(f"flag {key!r}: the list {text!r:.80} has no closing bracket; quote it if it is text.")
    body, items, at = text[1:-1].strip(), [], 0
    while at < len(body):
        found = _ITEM.match(body, at)
        if not found:
            raise InvalidFlag(
                f"flag {key!r}: {body[at:]!r:.80} in a list is not understood; "
                f'write items as [1, true, "text"], lists hold no lists.'
            )
        items.append(_parse_scalar(found[1].strip(), key))
        at = found.end()
    return items


def _parse_scalar(text: str, key: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_INT_BITS // 4:
            raise InvalidFlag(f"flag {key!r}: {text!r:.40} has {len(text):,} digits; quote it to keep it as text.")
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        lost = abs(number) == float("inf") if number else re.search("[1-9]", re.split("[eE]", text)[0])
        if lost and text[-1] != "f":
            raise InvalidFlag(f"flag {key!r}: no float holds {text!r:.40}; quote it to keep it as text.")
        return number
    if text[:1] in ("'", '"'):
        return check_text(_unquote(text, key), f"flag {key!r}")
    return check_text(text, f"flag {key!r}")


def _unquote(text: str, key: str) -> str:
    if text[0] == '"':
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            pass
    elif re.fullmatch(r"'(?:[^'\\]|\\.)*'", text, re.DOTALL):
        return re.sub(r"\\(['\\])", r"\1", text[1:-1])
    raise InvalidFlag(f"flag {key!r}: the quotes of {text!r:.80} do not close; put the whole text into quotes.")


def edit_text(value: FlagValue) -> str:
    """The text an editor shows, from which :func:`parse_value` gives back exactly ``value``."""
    if isinstance(value, list):
        return "[" + ", ".join(_edit_item(item) for item in value) + "]"
    if not isinstance(value, str):
        return format_value(value)
    try:
        if value.isprintable() and value and parse_value(value) == value:
            return value
    except InvalidFlag:
        pass
    return _quoted(value)


def _edit_item(value: Scalar) -> str:
    if not isinstance(value, str):
        return format_value(value)
    return edit_text(value) if _PLAIN_ITEM.fullmatch(value) else _quoted(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())  # an editor's line holds no line breaks
