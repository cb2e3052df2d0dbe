"""What was measured of the original SkyDeck, to stand beside our figures.

Its own code on a machine of the same kind (2 shared cores), with 1,000
experiments and 10,000 jobs; how is in the project's notes on SkyDeck
(``reference/skydeck.md``, section 3). Constants: nothing here is measured again.
"""

from __future__ import annotations

from typing import Final

SELECTS: Final = 20_716
"""SELECTs of one poll of 10,000 jobs in which nothing changed."""
UPDATES: Final = 10_383
"""Rows written by that poll, each with the values it had."""
COMMITS: Final = 10_383
"""Transactions of that poll: one a row."""
POLL_CPU: Final = (4.7, 8.2)
"""CPU seconds of that poll, least and most of 16; a file system that syncs took 10 to 12."""
START: Final = (36.0, 48.3, 60.4)
"""Seconds until a job that runs is shown RUNNING: least, median and most of 10. Its loop woke every 30 s."""
