"""Names of files to checkpoints, and back.

Decides which epoch a file's name says, which files are a model's and which are
replays, and how those of one epoch make one checkpoint. Refuses to know where
the files lie: it is given paths relative to the run's folder or S3 prefix.

A number is an epoch only behind a word that says so, or where it is all there
is: ``conv2.mpt`` and ``dev5.mpt`` have none. What is not understood is given
back as ``unrecognised``, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

MODEL_SUFFIXES: Final = (
    ".bin", ".ckpt", ".h5", ".joblib", ".keras", ".mpt", ".msgpack", ".npy", ".npz", ".onnx", ".orbax", ".pickle",
    ".pkl", ".pt", ".pth", ".safetensors", ".zip",
)  # fmt: skip
REPLAY_SUFFIXES: Final = (".json.z", ".json.gz", ".replay", ".mp4", ".webm", ".gif")

_NUMBER: Final = r"(\d+(?:[eE]\+?\d{1,2})?)"
_WORDS: Final = (
    "epoch",
    "ep",
    "checkpoint",
    "ckpt",
    "chkpt",
    "model",
    "policy",
    "weights",
    "iteration",
    "iter",
    "v",
    "step",
    "update",
)
"""Words before an epoch, the surest first: in ``epoch=12-step=3`` and ``checkpoint_5_epoch_100`` it is *epoch*."""
_SAID: Final = tuple(
    re.compile(rf"(?:^|[^a-z0-9])(?:{word})s?[ _.=:-]*{_NUMBER}(?![0-9a-z])", re.IGNORECASE) for word in _WORDS
)
_BARE: Final = re.compile(rf"{_NUMBER}", re.IGNORECASE)
_REPLAYS: Final = re.compile(r"^(?:replays?|videos?|episodes?)$", re.IGNORECASE)
_LARGEST: Final = 2**53
"""Epochs beyond this are no epochs (a time, a hash)."""


class Entry(NamedTuple):
    """One file of a listing."""

    path: str
    size: int
    mtime: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """One epoch's files. ``size`` and ``created_at`` are the model's; several files of one model count together."""

    epoch: int
    model_path: str
    replay_paths: tuple[str, ...]
    size: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder holds: checkpoints by epoch, and the files of which no checkpoint could be made."""

    checkpoints: tuple[Found, ...] = ()
    unrecognised: tuple[Entry, ...] = ()


@dataclass(slots=True)
class _Epoch:
    models: list[tuple[str, Entry]] = field(default_factory=list)
    replays: list[Entry] = field(default_factory=list)


def epoch_of(name: str) -> int | None:
    """The epoch that one file's or folder's name says, ``None`` where it says none."""
    stem = _stem(name)
    for pattern in _SAID:
        if said := pattern.findall(stem):
            return _number(said[-1])
    return _number(stem) if _BARE.fullmatch(stem) else None


def checkpoints(entries: Iterable[Entry]) -> Layout:
    """Group the files of one run by epoch.

    A model is a file whose name says an epoch, or a folder that does, with all it
    holds. Of two models of one epoch the newer one counts; the other stays visible
    as unrecognised, as does a replay of an epoch that has no model.
    """
    epochs: dict[int, _Epoch] = {}
    unknown: list[Entry] = []
    for entry in sorted(entries):
        parts = [part for part in entry.path.split("/") if part]
        if not parts or entry.path.endswith("/"):
            continue
        epoch, root = _place(parts)
        if epoch is None:
            unknown.append(entry)
        elif _is_replay(parts):
            epochs.setdefault(epoch, _Epoch()).replays.append(entry)
        elif root or parts[-1].lower().endswith(MODEL_SUFFIXES):
            epochs.setdefault(epoch, _Epoch()).models.append((root or entry.path, entry))
        else:
            unknown.append(entry)
    made = []
    for epoch in sorted(epochs):
        found = epochs[epoch]
        if not found.models:
            unknown += found.replays
            continue
        newest: dict[str, datetime] = {}
        for root, entry in found.models:
            newest[root] = max(newest.get(root, entry.mtime), entry.mtime)
        model = max(newest, key=lambda root: (newest[root], root))
        made.append(
            Found(
                epoch=epoch,
                model_path=model,
                replay_paths=tuple(entry.path for entry in found.replays),
                size=sum(entry.size for root, entry in found.models if root == model),
                created_at=newest[model],
            )
        )
        unknown += [entry for root, entry in found.models if root != model]
    return Layout(tuple(made), tuple(sorted(unknown)))


def model_name(epoch: int, suffix: str = ".npz", *, width: int = 6) -> str:
    """A name that :func:`epoch_of` reads back, and that sorts by epoch as text."""
    return f"epoch_{epoch:0{width}d}{suffix}"


def _place(parts: list[str]) -> tuple[int | None, str]:
    """The epoch of a path, and the folder that is the model where a folder says it."""
    folders = parts[:-1]
    for i, folder in enumerate(folders):
        if _REPLAYS.match(folder):
            continue
        if "." not in folder and (epoch := epoch_of(folder)) is not None:
            return epoch, "" if _is_replay(parts) else "/".join(parts[: i + 1]) + "/"
    return epoch_of(parts[-1]), ""


def _is_replay(parts: list[str]) -> bool:
    return any(map(_REPLAYS.match, parts[:-1])) or parts[-1].lower().endswith(REPLAY_SUFFIXES)


def _stem(name: str) -> str:
    low = name.lower()
    for suffix in (*REPLAY_SUFFIXES, *MODEL_SUFFIXES):
        if low.endswith(suffix):
            return name[: -len(suffix)]
    return name


def _number(text: str) -> int | None:
    digits, _, power = text.lower().replace("+", "").partition("e")
    value = int(digits) * 10 ** int(power or 0)
    return value if value < _LARGEST else None
