"""Kernels for the tests of this folder, and places for their decks."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kill.kernels import Forge
from tests.kill.place import Place

# Processes are held by pidfd and found in /proc.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    with tempfile.TemporaryDirectory(prefix="sdk-", dir="/tmp") as folder:
        forge = Forge(Path(folder))
        yield forge
        forge.close()


@pytest.fixture
def make_place(tmp_path: Path, forge: Forge) -> Iterator[Callable[..., Place]]:
    places: list[Place] = []

    def make(**settings: object) -> Place:
        places.append(Place(tmp_path / f"place-{len(places)}", forge, **settings))
        return places[-1]

    yield make
    for place in places:
        place.close()


@pytest.fixture
def place(make_place: Callable[..., Place]) -> Place:
    return make_place()
