"""``skydeck start | stop | restart`` without a name: the background loop.

Decides what is said when it comes, goes and was there already. Refuses to know
how a process is kept (:mod:`skydeck_nb.background`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from skydeck_nb import background
from skydeck_nb.background import Running
from skydeck_nb.cli.place import Deck, Leader
from skydeck_nb.cli.printing import counted, say
from skydeck_nb.cli.reading import alive, shown
from skydeck_nb.errors import SkydeckError

if TYPE_CHECKING:
    from skydeck_nb.store import Store

TAKES: float = 1.5
"""Seconds in which another process of this host that follows takes a lease that is handed back."""


def start(deck: Deck) -> None:
    """Start it unless it runs; say whether it leads."""
    started = background.start(deck.settings)
    did = "started" if started.fresh else "runs already"
    log = background.Place.of(deck.settings).log
    say(f"The background loop {did} (pid {started.running.pid}); {_role(deck, started.running)}. Its log is {log}.")


def _role(deck: Deck, running: Running) -> str:
    with deck.store() as store, store.read() as tx:
        leader = Leader.of(tx)
    if leader.pid == running.pid and leader.who is not None:
        return f"it leads {deck.path}"
    if leader.who is not None:
        return f"it follows {leader.who}, and leads {deck.path} when that one ends"
    return f"nobody leads {deck.path} yet"


def stop(deck: Deck) -> None:
    """End it; say what that means for what runs."""
    place = background.Place.of(deck.settings)
    was_leading = _leader(deck)
    ended = background.stop(place)
    did = f"The background loop (pid {ended.pid}) has ended" if ended else f"No background loop runs for {deck.path}"
    if not deck.there:
        say(f"{did}.")
        return
    try:
        with deck.store() as store:
            waits = ended is not None and was_leading.pid == ended.pid
            say(f"{did}. {_left(store, TAKES if waits else 0.0)}")
    except SkydeckError as error:
        say(f"{did}. What it leaves cannot be read: {error}")


def restart(deck: Deck) -> None:
    """End it where it runs, and start it with the settings of now."""
    background.stop(background.Place.of(deck.settings))
    start(deck)


def _leader(deck: Deck) -> Leader:
    try:
        with deck.store() as store, store.read() as tx:
            return Leader.of(tx)
    except SkydeckError:
        return Leader(None)


def _left(store: Store, patience: float) -> str:
    """What lives on, and who cares for it: somebody who followed needs a moment to take over."""
    until = time.monotonic() + patience
    while True:
        with store.read() as tx:
            leader, runs = Leader.of(tx), alive(tx)
            queued = sum(shown(row) == "QUEUED" for row in tx.experiments())
        if leader.who is not None or time.monotonic() > until:
            break
        time.sleep(background.GLANCE)
    stay = f"{counted(runs, 'run')} {'stays' if runs == 1 else 'stay'} alive"
    if leader.who is not None:
        return f"{leader.who} leads now; {stay}." if runs else f"{leader.who} leads now; nothing runs."
    wait = f" {counted(queued, 'experiment')} {'waits' if queued == 1 else 'wait'} for a launch." if queued else ""
    if not runs:
        return f"No run is alive; until a deck opens nothing is launched.{wait}"
    return f"{stay}; until a deck opens nothing restarts, queues or limits {'it' if runs == 1 else 'them'}.{wait}"
