"""Columns of ids: as text, or as one type in several files."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from model_zoo.core.data.parquet import TEXT_TYPES, element_type

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


@dataclass(frozen=True)
class IdKind:
    """How ids of one kind are read: as one type in all files, nulls and padding left out.

    Attributes:
        dtype: The type.
        padding: The value that is no id; None where all but null are ids.
    """

    dtype: type[pl.DataType]
    padding: int | str | None

    @classmethod
    def of(cls, *dtypes: pl.DataType, padded: bool) -> IdKind:
        """The kind of columns of these types; ``padded``: whether an integer 0 is padding."""
        if all(element_type(dtype).is_integer() for dtype in dtypes):
            return cls(pl.Int64, 0 if padded else None)
        return cls(pl.String, "")

    def _real(self, value: pl.Expr) -> pl.Expr:
        return value.is_not_null() if self.padding is None else value != self.padding

    def one(self, name: str) -> pl.Expr:
        """A column of ids, null where there is none."""
        # Hashed 64-bit ids may be unsigned; wrapped they stay distinct.
        value = pl.col(name).cast(self.dtype, wrap_numerical=True)
        return pl.when(self._real(value)).then(value)

    def many(self, name: str) -> pl.Expr:
        """A column of lists of ids, empty where there are none."""
        kind = pl.List(self.dtype)
        values = pl.col(name).cast(kind, wrap_numerical=True)
        return values.list.filter(self._real(pl.element())).fill_null(pl.lit([], dtype=kind))
