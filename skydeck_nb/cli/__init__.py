"""``skydeck``: the deck from a shell, while any kernel is busy or dead.

Decides how a command ends: 0 when it did what was asked, 1 with one sentence on
standard error, 2 when it was not understood; and that a pipe that is closed early
is no error. Refuses to know what the commands do (:mod:`skydeck_nb.cli.commands`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from skydeck_nb.cli.commands import skydeck
from skydeck_nb.errors import SkydeckError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command ``skydeck``."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    traces = "--traceback" in args
    try:
        code = run([one for one in args if one != "--traceback"])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python says so once more when it ends
        code = 0
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except Exception as error:
        if traces:
            raise
        known = isinstance(error, (SkydeckError, OSError))
        code = _fail(str(error) if known else f"{type(error).__name__}: {error} (--traceback shows where)")
    sys.exit(code)


def run(args: list[str]) -> int:
    """One command; its exit code. What is wrong with it is raised, but for usage."""
    try:
        answer = skydeck.main(args, prog_name="skydeck", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return answer if isinstance(answer, int) else 0


def _fail(text: str) -> int:
    click.echo(f"Error: {' '.join(text.split())}", err=True)
    return 1


__all__ = ["main"]
