"""The stack itself: it answers, survives what it is made to survive, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

import pytest

from tests.sky.processes import StackError
from tests.sky.stack import Stack


def health(endpoint: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{endpoint}/api/health", timeout=10) as answer:
        return dict(json.load(answer))


def test_it_is_a_healthy_server_of_the_locked_version(sky_stack: Stack, sky_endpoint: str) -> None:
    asked = [sys.executable, "-c", "from importlib.metadata import version; print(version('skypilot'))"]
    locked = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    seen = health(sky_endpoint)
    assert (seen["status"], seen["version"]) == ("healthy", locked)


def test_up_again_changes_nothing(sky_stack: Stack) -> None:
    before = sky_stack.server.pid_file.read_text()
    sky_stack.up()
    assert sky_stack.server.pid_file.read_text() == before


def test_a_killed_server_is_gone_and_comes_back_on_its_port(sky_stack: Stack) -> None:
    endpoint = sky_stack.endpoint
    sky_stack.kill_server()
    with pytest.raises(OSError, match="refused"):
        health(endpoint)
    sky_stack.start_server()
    assert health(endpoint)["status"] == "healthy"
    assert sky_stack.endpoint == endpoint


def test_another_run_is_told_who_uses_it(sky_stack: Stack) -> None:
    said = rf"process {os.getpid()} uses the stack in .*SKYDECK_STACK"
    with pytest.raises(StackError, match=said), Stack(sky_stack.layout.root).claimed():
        pytest.fail("two runs hold one stack")
