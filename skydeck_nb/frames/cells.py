"""Columns of raw cells to arrays of fixed dtypes.

Decides how SQLite's cells (integers for times and booleans, text for JSON,
``None`` for unknown) become pandas arrays, without touching cells one by one
where numpy can do it. Refuses to know which table they came from.

The dtypes are the same for an empty column: ``string``, ``Int64``, ``Float64``,
``boolean``, ``category``, ``datetime64[us, UTC]``, ``timedelta64[us]``, and
``object`` where a cell holds a tuple or a dict.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.extensions import ExtensionArray

from skydeck_nb.events import micros

Column = Sequence[Any]
"""The cells of one column, from ``zip(*cursor.fetchall())``."""
Array = ExtensionArray | npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NAT: Final = np.iinfo(np.int64).min
"""What numpy's times use for *unknown*."""
EXACT: Final = 2**53
"""Integers up to this are the same number as a float."""


def columns(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, Column]:
    """Rows of one SELECT, whose columns are ``names`` in this order, as columns.

    Raises:
        ValueError: the rows are not as wide as that.
    """
    if not rows:
        return dict.fromkeys(names, ())
    if len(rows[0]) != len(names):
        raise ValueError(f"rows of {len(rows[0])} cells for {len(names)} columns: {' '.join(names)}")
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def known(column: Column) -> tuple[Ints, Mask]:
    """Integers, 0 where unknown, and where that is."""
    if None not in column:
        return np.array(column, dtype=np.int64), np.zeros(len(column), dtype=np.bool_)
    cells = np.array(column, dtype=object)
    mask = pd.isna(cells)
    cells[mask] = 0
    values: Ints = cells.astype(np.int64)
    return values, mask


def integers(column: Column) -> Array:
    return pd.arrays.IntegerArray(*known(column))


def floats(column: Column) -> Array:
    values = np.array(column, dtype=np.float64)  # None becomes NaN, and SQLite stores no NaN
    return pd.arrays.FloatingArray(values, np.isnan(values))


def readings(column: Column) -> Array:
    """Values of metrics, all of them known: NULL is how SQLite keeps NaN."""
    return pd.arrays.FloatingArray(np.array(column, dtype=np.float64), np.zeros(len(column), dtype=np.bool_))


def booleans(column: Column) -> Array:
    values, mask = known(column)
    return pd.arrays.BooleanArray(values.astype(np.bool_), mask)


def strings(column: Column) -> Array:
    return pd.array(np.array(column, dtype=object), dtype="string")


def objects(column: Iterable[Any], length: int) -> Array:
    """Cells kept as they are, tuples and dicts too."""
    return np.fromiter(column, dtype=object, count=length)


def categories(column: Column, words: Sequence[str], *, ordered: bool = False) -> Array:
    """A category over ``words``, whichever of them occur. A word that is not among them comes after them."""
    code = {word: i for i, word in enumerate(words)}
    if new := sorted(set(column).difference(code, (None,))):
        code.update({word: len(words) + i for i, word in enumerate(new)})
    code[None] = -1  # type: ignore[index]
    dtype = pd.CategoricalDtype([*words, *new], ordered=ordered)
    codes = np.fromiter(map(code.__getitem__, column), dtype=np.int16, count=len(column))
    return pd.Categorical.from_codes(codes, dtype=dtype)


def instants(column: Column) -> Ints:
    """Microseconds, :data:`NAT` where unknown."""
    values, mask = known(column)
    if mask.any():
        values[mask] = NAT
    return values


def times(column: Column | Ints) -> Array:
    """Aware UTC times from microseconds."""
    us = column if isinstance(column, np.ndarray) else instants(column)
    array: Array = pd.DatetimeIndex(us.view("M8[us]")).tz_localize("UTC").array
    return array


def elapsed(start: Ints, end: Ints) -> Ints:
    """Microseconds from one to the other, unknown where either is, and never negative."""
    span: Ints = np.maximum(end - start, 0)
    span[(start == NAT) | (end == NAT)] = NAT
    return span


def spans(us: Ints) -> Array:
    """Durations from microseconds."""
    array: Array = pd.TimedeltaIndex(us.view("m8[us]")).array
    return array


def hours(us: Ints) -> tuple[npt.NDArray[np.float64], Mask]:
    """Microseconds as hours, and where they are unknown."""
    mask = us == NAT
    return np.where(mask, np.nan, us / 3.6e9), mask


COST: Final = "an estimate in US dollars: hours times the backend's price an hour; missing where it lists none"
"""``frame.attrs["cost"]`` of every frame with a column ``cost``."""


def costed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame, which says what its ``cost`` is worth."""
    frame.attrs["cost"] = COST
    return frame


def totals(counts: Sequence[int | None], of_us: Sequence[float | None]) -> Array:
    """Sums over jobs by the microsecond, as sums by the hour: 0 where there is no job, unknown where they are."""
    sums = [0 if n is None else us for n, us in zip(counts, of_us, strict=True)]
    values = np.array(sums, dtype=np.float64) / 3.6e9
    return pd.arrays.FloatingArray(values, np.isnan(values))


def masked_floats(values: npt.NDArray[np.float64], mask: Mask) -> Array:
    return pd.arrays.FloatingArray(values, mask)


def clock(now: datetime) -> int:
    return micros(now)


# -- JSON cells ---------------------------------------------------------------------------


def parsed(column: Column, kind: type, what: str, names: Column | None = None) -> list[Any]:
    """The JSON of a column, every cell one ``kind`` (dict or list); an unknown cell is an empty one.

    A cell that is no such JSON becomes an empty one, and one warning names its row.
    pydantic's parser takes 0.4 of the time of :mod:`json` and reads every number the same;
    what it refuses (half a surrogate pair) is given to :mod:`json`.
    """
    from pydantic_core import from_json

    try:
        values = [from_json(cell, cache_strings="keys") if cell else None for cell in column]
    except ValueError:
        values = [_json(cell) for cell in column]
    if set(map(type, values)) <= {kind}:
        return values
    bad = [i for i, value in enumerate(values) if column[i] and type(value) is not kind]
    if bad:
        named = ", ".join(str(names[i] if names is not None else i) for i in bad[:5]) + (", …" if len(bad) > 5 else "")
        warnings.warn(f"The {what} of {named} cannot be read and are shown as empty.", UserWarning, stacklevel=4)
    return [value if type(value) is kind else kind() for value in values]


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def tuples(column: Column, what: str, names: Column | None = None) -> Array:
    """JSON lists as tuples (hashable, so that ``groupby`` and ``drop_duplicates`` take them)."""
    if set(column) <= {"[]"}:
        return objects([()] * len(column), len(column))
    return objects([tuple(value) for value in parsed(column, list, what, names)], len(column))


def spread(dicts: list[dict[str, Any]], *, order: Callable[[Iterable[str]], list[str]] = sorted) -> dict[str, Column]:
    """Dicts as columns: one for each key that any of them has, ``None`` where it has not."""
    if not dicts:
        return {}
    first = list(dicts[0])
    if all(map(first.__eq__, map(list, dicts))):  # the usual case, and four times quicker
        found: Mapping[str, Column] = dict(zip(first, zip(*map(dict.values, dicts), strict=True), strict=True))
    else:
        keys = set().union(*dicts)
        found = {key: [each.get(key) for each in dicts] for key in keys}
    return {key: found[key] for key in order(found)}


def narrowest(column: Column) -> Array:
    """The narrowest dtype that holds every value: ``boolean Int64 Float64 string``, else ``object``.

    Integers that no float can hold make a column of integers and floats ``object``,
    as do integers beyond 64 bits.
    """
    kinds = set(map(type, column))
    partial = type(None) in kinds
    kinds.discard(type(None))
    if kinds == {str}:
        return strings(column)
    if kinds == {bool}:
        return booleans(column)
    if kinds == {int}:
        try:
            return integers(column)
        except OverflowError:
            return objects(column, len(column))
    if kinds == {float} or (kinds == {int, float} and all(abs(v) <= EXACT for v in column if type(v) is int)):
        values = np.array(column, dtype=np.float64)
        missing = np.equal(np.array(column, dtype=object), None) if partial else np.zeros(len(column), dtype=np.bool_)  # type: ignore[call-overload]
        return pd.arrays.FloatingArray(values, missing.astype(np.bool_))  # a NaN that was written stays one
    return objects(column, len(column))
