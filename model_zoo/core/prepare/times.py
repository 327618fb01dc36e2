"""Times written as text: numbers or ISO dates."""

from __future__ import annotations

import numpy as np
import polars as pl

_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
_ZONED = "%Y-%m-%d %H:%M:%S%.f%#z"


def parse_times(values: pl.Series) -> tuple[pl.Series, bool]:
    """Text as numbers, or as dates in microseconds since 1970, whichever reads more of it.

    Returns:
        The times, null where they cannot be read, and whether they are dates.
    """
    text = values.str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == 0:
        return whole, False
    numbers = text.cast(pl.Float64, strict=False)
    numbers = numbers.replace([np.inf, -np.inf, np.nan], None)
    text = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "$1 ")
    dates = [text.str.to_datetime(f, time_unit="us", strict=False) for f in _DATES]
    zoned = text.str.to_datetime(_ZONED, time_unit="us", strict=False)
    read = pl.select(pl.coalesce(*dates, zoned.dt.replace_time_zone(None))).to_series()
    if read.null_count() < numbers.null_count():
        return read.cast(pl.Int64), True
    return numbers, False
