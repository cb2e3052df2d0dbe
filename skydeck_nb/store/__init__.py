"""SQLite, the only place with SQL: the deck's rows, its log, and both in memory."""

from skydeck_nb.codec import Table
from skydeck_nb.store.mirror import Mirror, Touched
from skydeck_nb.store.opening import leave_wal
from skydeck_nb.store.records import Latest, LeaseRow, Line, LogLine, Metric, Stored
from skydeck_nb.store.store import Store, utcnow
from skydeck_nb.store.transaction import Transaction

__all__ = [
    "Latest",
    "LeaseRow",
    "Line",
    "LogLine",
    "Metric",
    "Mirror",
    "Store",
    "Stored",
    "Table",
    "Touched",
    "Transaction",
    "leave_wal",
    "utcnow",
]
