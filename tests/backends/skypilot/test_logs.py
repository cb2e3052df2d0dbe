"""A job's own lines out of what SkyPilot's server streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydeck_nb.backends.skypilot import logs

CYAN, RESET = "\x1b[36m", "\x1b[0m"

# Copied from a real server (SkyPilot 0.14.1).
REAL = (
    "<sky-payload type='rich_init'>\"waiting\"</sky-payload>\n"
    "\x1b[33m├── \x1b[0mWaiting for task resources on 1 node.\n"
    f"└── {CYAN}Job started. Streaming logs... (Ctrl-C to exit log streaming; job will keep running){RESET}\n"
    f"{CYAN}(exp42, pid=31337){RESET} start exp-42\n"
    f"{CYAN}(exp42, pid=31337){RESET} \n"
    f"{CYAN}(exp42, pid=31337){RESET}   \x1b[31mred\x1b[0m (a, pid=1) b\n"
    "<sky-payload type='heartbeat'>\"\"</sky-payload>\n"
    f"{CYAN}(exp42, pid=31337){RESET} done\n"
    "\x1b[32m✓ Job finished (status: SUCCEEDED).\x1b[0m\x1b[0m\n"
)


def test_of_a_real_stream_the_jobs_own_lines_stay() -> None:
    assert logs.lines(REAL) == ["start exp-42", "", "  \x1b[31mred\x1b[0m (a, pid=1) b", "done"]


@pytest.mark.parametrize(
    ("stream", "own"),
    [
        ("", []),
        ("\n\n", []),
        ("(a, pid=1) x", ["x"]),
        ("(a, pid=1) x\n(a, pid=1) y\n", ["x", "y"]),
        ("(a, pid=1, ip=10.0.0.1) x", ["x"]),
        ("(a, rank=0, pid=1) x\n(a, rank=0, pid=1) y", ["x", "y"]),
        ("(a, rank=0, pid=1) x\n(a, rank=1, pid=1, ip=10.0.0.2) y", ["[0] x", "[1] y"]),
        ("(a, pid=1)x", ["x"]),
        ("(a, pid=1)   indented", ["  indented"]),
        ("(a b c, pid=1) x", ["x"]),
        ("(pid=1) x", ["x"]),
        ("not (a, pid=1) mine", ["not (a, pid=1) mine"]),
        ("(parenthesis) x", ["(parenthesis) x"]),
        ("no prefix at all", ["no prefix at all"]),
        ("(a, pid=1) ✓ Job finished", ["✓ Job finished"]),
        ("✓ Job finished (status: SUCCEEDED).", []),
        ("ERROR: Job 3 not found", []),
        ("Job 999999 not found.\n", []),
        ("<sky-payload>{}</sky-payload>\n(a, pid=1) x", ["x"]),
        ("(a, pid=1) x\r\n", ["x\r"]),
    ],
)
def test_what_is_said_around_the_jobs_lines_is_left_out(stream: str, own: list[str]) -> None:
    assert logs.lines(stream) == own


@pytest.mark.parametrize(("count", "text"), [(None, "a\nb\nc\n"), (2, "b\nc\n"), (9, "a\nb\nc\n"), (0, ""), (-1, "")])
def test_the_last_lines(count: int | None, text: str) -> None:
    assert logs.tail("".join(f"(j, pid=1) {line}\n" for line in "abc"), count) == text


def test_the_tail_of_nothing_is_nothing() -> None:
    assert logs.tail("", 5) == logs.tail("", None) == ""


LINES = st.lists(st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"])), max_size=5)


@given(LINES)
def test_a_jobs_lines_come_back_whatever_they_hold(said: list[str]) -> None:
    said = [line for line in said if "sky-payload" not in line and not line.endswith("\x1b[0m")]
    stream = "".join(f"{CYAN}(job, pid=7){RESET} {line}\n" for line in said)
    assert logs.lines(stream) == said


@given(st.text())
def test_any_stream_is_some_lines(stream: str) -> None:
    assert all("\n" not in line for line in logs.lines(stream))
