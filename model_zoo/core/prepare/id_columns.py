"""Columns of ids as text."""

from __future__ import annotations

import polars as pl

from model_zoo.core.data.parquet import TEXT_TYPES

_LARGEST = {"Float32": 2**24, "Float64": 2**53}  # below, a float is one integer only


def id_text(values: pl.Series) -> pl.Series | None:
    """Ids as text without white space at the ends, null where there is none.

    Integers, also where they became floats beside missing values (1.0, NaN), are their digits;
    bytes are UTF-8. A text stays what it is: NA, null and nan are ids too.

    Returns:
        The text, or ``None`` if the column cannot hold ids.
    """
    dtype = values.dtype
    if dtype.is_float():
        values = values.fill_nan(None)
        exact = (values == values.floor()) & (values.abs() < _LARGEST.get(str(dtype), 2**11))
        if not exact.fill_null(True).all():
            return None
        values = values.cast(pl.Int64)
    elif dtype == pl.Binary:
        try:
            values = values.cast(pl.String)
        except pl.exceptions.ComputeError:  # not UTF-8
            return None
    elif not (
        dtype.is_integer()
        or dtype in TEXT_TYPES
        or (isinstance(dtype, pl.Decimal) and not dtype.scale)
    ):
        return None
    return values.cast(pl.String).str.strip_chars()
