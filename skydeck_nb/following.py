"""Following a log of which one sees a window at a time.

Decides where one text goes on in the next, and when there is nothing more to come.
Refuses to know where the texts come from and how often they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

WINDOW: Final = 2_000
"""Lines of a followed log that are read each time."""


def followed(
    newest: Callable[[], int | None],
    busy: Callable[[], bool],
    read: Callable[[int, int | None], str],
    pause: Callable[[], None],
    tail: int | None,
) -> Iterator[str]:
    """What an experiment's jobs print, each line once, over restarts, until nothing more can come.

    ``newest`` is the job to read, ``busy`` whether more may come, ``read`` gives the
    last lines of a job (``None``: all). Of the first job only ``tail`` lines are old news.
    """
    known: int | None = None
    before = ""
    while True:
        more = busy()  # before the log is read, so that its end is not missed
        job_id = newest()
        if job_id is not None and job_id != known:
            whole = tail is None or known is not None
            before = read(job_id, None if tail is None or whole else max(tail, WINDOW))
            yield before if tail is None or whole else last_lines(before, tail)
            known = job_id
        elif job_id is not None:
            now = read(job_id, WINDOW)
            new = appended(before, now)
            if new is None:  # more came than the window holds, or the log began anew
                now = read(job_id, None)
                new = appended(before, now)
            yield now if new is None else new
            before = now
        if not more:
            return
        pause()


def appended(before: str, now: str) -> str | None:
    """What ``now`` has after the end of ``before``; ``None`` where ``before`` does not end within ``now``.

    Both are the last lines of one log. Where several ends fit (equal lines), the
    one that leaves least to print is taken.
    """
    if not before or now.startswith(before):
        return now[len(before) :]
    start = 0
    while (start := before.find("\n", start) + 1) > 0:
        kept = before[start:]
        if kept and now.startswith(kept):
            return now[len(kept) :]
    return None


def last_lines(text: str, lines: int) -> str:
    """The last lines of a text, as they are."""
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""
