"""Opening decks: which file, which backend, and which of those already open.

Decides that one database is one deck in this process, and that a backend is
chosen and never guessed. Refuses to know what a deck does once it is open.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skydeck_nb import config, logfile
from skydeck_nb.errors import DeckOpen, InvalidSetting
from skydeck_nb.tracebacks import short

if TYPE_CHECKING:
    import os

    from skydeck_nb.backends.base import Backend
    from skydeck_nb.deck import Deck

_lock = threading.RLock()
_open: dict[Path | int, tuple[dict[str, Any], Deck]] = {}
"""Decks by their file, or by the id of a backend that was given without one; with what they were opened with."""

TRAIN: Final = Path(__file__).parent / "examples" / "train.py"
"""The small training of the demo and the quick start."""


@short
def open_deck(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: str | Backend | None = None,
    read_only: bool = False,
    **settings: Any,
) -> Deck:
    """Open a deck: one database, one backend, one loop.

    Args:
        path: the database; by default ``~/.skydeck/local.db``, or ``skydeck.db`` for SkyPilot.
        backend: ``"local"`` (the default: processes on this machine), ``"skypilot"``, or a backend such as
            :class:`FakeBackend`, which without a path lives in a temporary file.
        read_only: show, and write nothing.
        settings: any of ``deck.settings``, before environment and file.

    Raises:
        DeckOpen: the database is open here with other arguments.
        WrongBackend: it belongs to another backend.
        InvalidSetting: a setting that does not exist, or cannot be so.
    """
    logfile.keep_notebook_log()
    given = backend if backend is not None and not isinstance(backend, str) else None
    named = {"backend": backend} if isinstance(backend, str) else {}
    temporary = path is None and (given is not None or backend == "fake")
    if given is not None:
        named = {"backend": getattr(given, "kind", "fake")}
    if path is not None:
        settings = {**settings, "db_path": path}
    wanted = config.load({**named, **settings})
    asked = {"backend": given if given is not None else backend, "read_only": read_only, "settings": wanted}
    if wanted.db_path is None and not temporary:
        raise InvalidSetting(f"The {wanted.backend} backend has no database of its own: write sd.open(path, …).")
    with _lock:
        key: Path | int | None = id(given) if temporary and given is not None else wanted.db_path
        key = None if temporary and given is None else key.resolve() if isinstance(key, Path) else key
        if key is not None and (deck := _already(key, asked)) is not None:
            return deck
        deck = _make(wanted, given, read_only=read_only, temporary=temporary)
        if key is not None:
            _open[key] = (asked, deck)
            deck._loop.on_close(lambda: _forget(key))
        return deck


def latest() -> Deck | None:
    """The deck that was opened last and is open still."""
    with _lock:
        return next((deck for _, deck in reversed(_open.values()) if not deck._loop.closed), None)


def _already(key: Path | int, asked: dict[str, Any]) -> Deck | None:
    if key not in _open:
        return None
    before, deck = _open[key]
    if deck._loop.closed:
        del _open[key]
        return None
    if before == asked:
        return deck
    differ = [name for name in ("backend", "read_only") if before[name] != asked[name]]
    if not differ:
        now = {one.name: one.value for one in asked["settings"]}
        differ = [one.name for one in before["settings"] if now.get(one.name) != one.value]
        if not differ:
            return deck
    where = key if isinstance(key, Path) else "This backend's database"
    raise DeckOpen(
        f"{where} is open in this kernel already, with another {', '.join(differ)}: "
        "use that deck, or close it first with deck.close()."
    )


def _forget(key: Path | int) -> None:
    with _lock:
        _open.pop(key, None)


def _make(settings: config.Settings, given: Backend | None, *, read_only: bool, temporary: bool) -> Deck:
    from skydeck_nb.deck import Deck
    from skydeck_nb.store.store import Store

    folder = tempfile.TemporaryDirectory(prefix="skydeck-") if temporary else None
    path = Path(folder.name) / "deck.db" if folder is not None else settings.db_path
    if path is None:
        raise InvalidSetting("There is no database to open: write sd.open(path, …).")
    if path.is_dir():
        raise InvalidSetting(f"{path} is a folder: name a file in it, such as {path / 'deck.db'}.")
    backend = given if given is not None else make_backend(settings)
    try:
        store = Store.open(path, read_only=read_only)
        try:
            store.claim_identity(asdict(backend.identity))
            return Deck(store, backend, settings, folder=folder, owns_backend=given is None)
        except BaseException:
            store.close()
            raise
    except BaseException:
        if given is None:
            backend.close()
        if folder is not None:
            folder.cleanup()
        raise


def make_backend(settings: config.Settings) -> Backend:
    """The backend that the settings name; nothing is asked of it yet."""
    match settings.backend:
        case "local":
            from skydeck_nb.backends.local import LocalBackend

            config.private_folder(settings.local_root)
            return LocalBackend(settings.local_root, slots=settings.slots, gpus=settings.gpus, grace=settings.grace)
        case "fake":
            from skydeck_nb.backends.fake import FakeBackend

            return FakeBackend()
        case "skypilot":
            from skydeck_nb.backends.skypilot import SkyPilotBackend

            return SkyPilotBackend()


DEMO_SLOTS: Final = 6
"""Trainings of the demo at once: they sleep most of the time, whatever the machine has."""


@short
def demo() -> Deck:
    """A small sweep on this machine, live, in its own database: twelve short trainings, started."""
    folder = config.private_folder(config.home())
    deck = open_deck(folder / "demo.db", backend="local", local_root=folder / "demo", slots=DEMO_SLOTS)
    deck.sweep(
        "demo",
        [sys.executable, str(TRAIN), "{flags}"],
        flags={"lr": [0.01, 0.1, 1.0, 10.0], "width": [8, 32, 128]},
        workdir=folder,
        description="Twelve small trainings: sd.demo()",
        start=True,
    )
    return deck
