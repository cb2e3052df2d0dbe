"""Waiting for experiments, with a bar.

Decides what counts as over: ended, stopped, held, or waiting for a person.
Refuses to act: a wait may be interrupted without harm.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from skydeck_nb import states
from skydeck_nb.errors import SkydeckError
from skydeck_nb.experiment import BUSY, shown
from skydeck_nb.models import ExperimentRow
from skydeck_nb.selection import shortened

if TYPE_CHECKING:
    from skydeck_nb.control.runner import Runner

GLANCE: Final = 0.5
"""Seconds between two looks at the rows where no news came: news may have been lost, rows are not."""

PATIENCE: Final = 0.4
"""Seconds before a bar is shown: what is over at once needs none."""


def over(row: ExperimentRow) -> bool:
    """Whether nothing more comes of this by itself."""
    if row.deleted or shown(row) not in BUSY:
        return True
    return row.attention and row.observed_run >= row.run and row.reason != "CostUnknown"  # that one runs to its end


def wait(runner: Runner, ids: Sequence[int], *, timeout: float | None, check: bool) -> None:
    """Return when all of these are over.

    Raises:
        TimeoutError: some are not after ``timeout`` seconds.
        SkydeckError: some failed, with ``check``.
    """
    news = threading.Event()
    unsubscribe = runner.subscribe(lambda touched: news.set())
    began = time.monotonic()
    bar: Any = None
    try:
        runner.caught_up()
        while True:
            news.clear()
            rows = _rows(runner, ids)
            left = [row for row in rows if not over(row)]
            waited = time.monotonic() - began
            if bar is None and left and waited > PATIENCE:
                bar = _bar(len(rows))
            if bar is not None:
                _show(bar, rows, len(left))
            if not left:
                break
            if timeout is not None and waited >= timeout:
                raise TimeoutError(_unfinished(left, timeout))
            pause = GLANCE if timeout is None else min(GLANCE, max(timeout - waited, 0.0))
            news.wait(pause)
    finally:
        unsubscribe()
        if bar is not None:
            bar.close()
    if check:
        _checked(rows)


def _rows(runner: Runner, ids: Sequence[int]) -> list[ExperimentRow]:
    return runner.view(lambda mirror: [mirror.experiments[i] for i in ids if i in mirror.experiments])


def _bar(total: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's word on missing widgets: it then draws with text
        from tqdm.auto import tqdm

        return tqdm(total=total, unit="run", leave=True)


def _show(bar: Any, rows: Sequence[ExperimentRow], left: int) -> None:
    counts = Counter(shown(row) for row in rows)
    text = ", ".join(f"{counts[state]} {state}" for state in states.STATES if counts[state])
    bar.set_postfix_str(text, refresh=False)
    bar.n = len(rows) - left
    bar.refresh()


def _unfinished(left: Sequence[ExperimentRow], timeout: float) -> str:
    first = left[0]
    why = f" {first.message}" if first.message else ""
    names = shortened([row.name for row in left])
    return f"{len(left)} not over after {timeout:g} s: {names}. {first.name} is {shown(first)}.{why}"


def _checked(rows: Sequence[ExperimentRow]) -> None:
    failed = [row for row in rows if shown(row) == "FAILED"]
    if failed:
        names = shortened([row.name for row in failed])
        raise SkydeckError(f"{len(failed)} of {len(rows)} failed: {names}. {failed[0].message}")
