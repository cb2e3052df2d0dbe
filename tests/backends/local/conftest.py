"""A host that is found empty again after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.local.host import Host


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**settings: Any) -> Host:
        hosts.append(Host(tmp_path, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        host.empty()


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    return make_host()
