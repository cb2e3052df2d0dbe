"""What a job costs an hour, from the server's catalogue, as an estimate.

Decides which of the catalogue's offers a placement is, and how long a price is
believed. Refuses to guess: where the catalogue has no price (Slurm, most
Kubernetes, CPUs), none is known.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from skydeck_nb.backends.skypilot.transport import Transport
from skydeck_nb.errors import BackendError

log = logging.getLogger("skydeck_nb")

PATH: Final = "/list_accelerators"

BELIEVED: Final = 6 * 3600.0
"""Seconds until prices are asked for again, also where there were none."""

AGAIN: Final = 300.0
"""Seconds until they are asked for again where the question failed."""

FIELDS: Final = (
    "cloud", "instance_type", "accelerator_name", "accelerator_count", "cpu_count", "device_memory", "memory",
    "price", "spot_price", "region",
)  # fmt: skip
"""``InstanceTypeInfo`` (``sky/catalog/common.py``), which travels as a list."""

UNPRICED: Final = frozenset({"slurm", "kubernetes", "ssh"})
"""Places without prices: nobody need be asked."""

Offer = Mapping[str, Any]


class Catalogue:
    """The prices of one server. Safe from any thread."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._offers: dict[tuple[str, int], tuple[float, tuple[Offer, ...]]] = {}
        self._lock = threading.Lock()

    def hourly(
        self, accelerators: str | None, nodes: int | None, infra: str | None, *, spot: bool, until: float
    ) -> float | None:
        """US dollars an hour for all nodes; ``None`` where no price is known."""
        if accelerators is None or infra is None or place_of(infra)[0] in UNPRICED:
            return None
        kind, _, count = accelerators.partition(":")
        one = cheapest(self._listed(kind, int(count or 1), until), infra, spot=spot)
        return None if one is None else one * (nodes or 1)

    def _listed(self, kind: str, count: int, until: float) -> tuple[Offer, ...]:
        key = (kind.lower(), count)
        with self._lock:
            known = self._offers.get(key)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        good = BELIEVED
        try:
            found = offers(self._transport.call(PATH, body(kind, count), until=until), kind)
        except BackendError as error:
            log.info("No prices for %s:%d, so costs of such jobs are not known for now: %s", kind, count, error)
            found, good = (), AGAIN
        with self._lock:
            self._offers[key] = (time.monotonic() + good, found)
        return found


def body(kind: str, count: int) -> dict[str, Any]:
    """The question for one kind's offers, priced or not, wherever they are."""
    return {
        "name_filter": f"^{re.escape(kind)}$",
        "quantity_filter": count,
        "case_sensitive": False,
        "gpus_only": True,
        "require_price": False,
        "all_regions": True,
    }


def offers(answer: Any, kind: str) -> tuple[Offer, ...]:
    """The catalogue's offers of one kind; what cannot be read is none."""
    if not isinstance(answer, dict):
        return ()
    rows = [row for name, many in answer.items() if str(name).lower() == kind.lower() and isinstance(many, list)
            for row in many]  # fmt: skip
    read = (dict(zip(FIELDS, row, strict=False)) if isinstance(row, list) else row for row in rows)
    return tuple(row for row in read if isinstance(row, dict))


def cheapest(found: Sequence[Offer], infra: str, *, spot: bool) -> float | None:
    """The lowest price of an offer at this place, of its region where the catalogue has that."""
    cloud, region = place_of(infra)
    here = [one for one in found if str(one.get("cloud", "")).lower() == cloud]
    near = [one for one in here if region and str(one.get("region", "")).lower() == region]
    prices = [one.get("spot_price" if spot else "price") for one in near or here]
    known = [float(price) for price in prices if price is not None and _is_price(price)]
    return min(known, default=None)


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


def place_of(infra: str) -> tuple[str, str]:
    """Cloud and region of ``AWS (us-east-1)``, ``aws/us-east-1`` or ``Slurm (loop)``, in lower case."""
    words = [word for word in re.split(r"[\s()/,]+", infra.lower()) if word]
    return (words[0] if words else "", words[1] if len(words) > 1 else "")
