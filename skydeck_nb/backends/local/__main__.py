"""The detached process of one job: ``python -I -S __main__.py supervise|watch ROOT JOB FD…``.

Decides how that process comes to be: detached from whoever dispatched it, and
with this package's modules importable while no ``__init__`` of the package
runs, so that it starts in some tens of milliseconds, holds little memory, and
needs nothing that is installed. Refuses to know jobs.
"""

# A supervisor does without pathlib, to start sooner.
# ruff: noqa: PTH120

from __future__ import annotations

import os
import sys
from types import ModuleType


def _detach() -> None:
    """Leave the parent and its session, so that the parent's end, or its zombies, are not ours."""
    if os.fork():
        os._exit(0)
    os.setsid()


def _bare_packages() -> None:
    """Put empty packages in the place of ours: their modules import as usual, their ``__init__`` never runs."""
    folder = os.path.dirname(os.path.abspath(__file__))
    names = ("skydeck_nb.backends.local", "skydeck_nb.backends", "skydeck_nb")
    for name in names:
        package = ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
        folder = os.path.dirname(folder)


if __name__ == "__main__":
    _detach()
    _bare_packages()
    from skydeck_nb.backends.local import supervisor

    supervisor.main(sys.argv[1:])
