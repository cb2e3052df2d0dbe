"""``%deck``: the grid of the deck that is open. Opens nothing by itself."""

from __future__ import annotations

from typing import Any

from skydeck_nb.opening import latest


def register(ipython: Any) -> None:
    """Add the magic to a shell."""

    def deck(line: str) -> Any:
        found = latest()
        if found is None:
            return "No deck is open: deck = sd.open()."
        return found.grid()

    ipython.register_magic_function(deck, magic_kind="line", magic_name="deck")
