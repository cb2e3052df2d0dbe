"""The log files of this package: rotating, in UTC, for nobody but the user.

Decides how such a file is made and how its lines read, and that the warnings of
a notebook's threads go to one, since standard error would be whichever cell
happens to run. Refuses to know what is logged.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import threading
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from skydeck_nb import config

LOG_BYTES: Final = 1 << 20
LOG_COPIES: Final = 3

_lock = threading.Lock()


class LogFile(logging.handlers.RotatingFileHandler):
    """A log that rotates, and that only its user can read (0600)."""

    def __init__(self, path: Path, *, size: int = LOG_BYTES, copies: int = LOG_COPIES, delay: bool = False) -> None:
        super().__init__(
            path, maxBytes=size, backupCount=copies, encoding="utf-8", errors="backslashreplace", delay=delay
        )
        formatter = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def _open(self) -> TextIOWrapper:
        fd = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.opened(fd)
        return TextIOWrapper(open(fd, "ab"), encoding=self.encoding, errors=self.errors)  # noqa: PTH123

    def opened(self, fd: int) -> None:
        """Called with every file that is begun."""


class NotebookLog(LogFile):
    """The log of a notebook's threads: made with the first warning, and silent where it cannot be written."""

    def _open(self) -> TextIOWrapper:
        config.private_folder(Path(self.baseFilename).parent)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """A full disk is no reason to print into a cell."""


def keep_notebook_log() -> None:
    """Have the warnings of this process in ``notebook.log`` of this package's folder; again is nothing more."""
    path = config.home() / "notebook.log"
    ours = logging.getLogger("skydeck_nb")
    with _lock:
        for handler in [one for one in ours.handlers if isinstance(one, NotebookLog)]:
            if Path(handler.baseFilename) == path:
                return
            ours.removeHandler(handler)
            handler.close()
        handler = NotebookLog(path, delay=True)
        handler.setLevel(logging.WARNING)
        ours.addHandler(handler)
