"""Columns of a metadata file as columns of item_info: their values, and what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from model_zoo.core.data.list_columns import expected_list, guess_lists, holds_lists
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.arrow_tables import (
    is_list,
    is_number_list,
    is_text,
    list_matrix,
    lists_of,
)
from model_zoo.core.prepare.item_file import ItemFile, feature_kind

_EXPECTED = "numbers or lists of numbers"
_THOUSANDS = r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?$"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"


def as_values(column: pa.ChunkedArray, where: str, separator: str | None) -> pa.Array:
    """A column with its lists read from text; decimals as numbers, Booleans as 0 and 1.

    Args:
        column: As the file has it.
        where: File and column, for messages.
        separator: Of lists written as text; without one, text stays text.

    Raises:
        InputError: A cell is no list, or numbers are written with thousands separators.
    """
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_decimal(values.type):
        return values.cast(pa.float64() if values.type.scale else pa.int64())
    if pa.types.is_boolean(values.type):
        return values.cast(pa.int64())
    if not is_text(values.type):
        return values
    cells = pl.Series(values.cast(pa.string())).str.strip_chars().replace("", None)
    if separator is None or not holds_lists(cells, separator):
        _refuse_thousands(cells, where)
        return cells.to_arrow().cast(pa.string())
    lists, problems = guess_lists(cells, separator)
    if problems:
        row = min(problems)
        others = f" ({len(problems)} such rows)" if len(problems) > 1 else ""
        raise InputError(
            f"{where}, row {row}: found {cells[row]!r}, expected {expected_list(separator)}: "
            f"{problems[row]}{others}"
        )
    return lists.to_arrow()


def align(
    column: pa.Array,
    where: str,
    rows: npt.NDArray[np.int64],
    items: ItemFile,
    fill: int | float | str | None,
) -> tuple[pa.Array, str]:
    """Values for all rows of item_info, and what an entry of ``feature_cols`` says of them.

    Args:
        column: As :func:`as_values` gives it.
        where: File and column, for messages.
        rows: The row of each item (padding left out), -1 where there is none.
        items: The items.
        fill: For items without a value; None refuses them.

    Raises:
        InputError: A type or value that item_info cannot hold, or none at all.
    """
    dtype = column.type
    given = column.take(pa.array(rows, mask=rows < 0))
    ids = items.ids[items.first :]
    raw = not items.padding
    if raw and (_is_text_list(dtype) or _is_ragged(given)):
        return _lists(given, where, rows, ids, fill)
    if raw and is_text(dtype):
        there = given.is_valid().to_numpy(zero_copy_only=False)
        _require_values(there, where, rows, ids, fill)
        filled = given.fill_null("" if fill is None else str(fill))
        return filled, "dtype: str, type: categorical, source: item"
    if not (is_number_list(dtype) or pa.types.is_integer(dtype) or pa.types.is_floating(dtype)):
        more = (
            ", text or lists of text" if raw else ": row 0 of item_info is padding, its ids numbers"
        )
        raise InputError(f"{where} has type {dtype}; expected {_EXPECTED}{more}")
    values = _numbers(given, where, rows, ids, fill)
    values = np.pad(values, [(items.first, 0)] + [(0, 0)] * (values.ndim - 1))
    return lists_of(values) if values.ndim == 2 else pa.array(values), feature_kind(values)


def _refuse_thousands(cells: pl.Series, where: str) -> None:
    grouped = cells.str.contains(_THOUSANDS).fill_null(False)
    if grouped.any() and (grouped | cells.str.contains(_NUMBER).fill_null(True)).all():
        row = int(grouped.arg_true()[0])
        raise InputError(
            f"{where}, row {row}: found {cells[row]!r}; expected numbers without thousands "
            f"separators ({grouped.sum()} such rows)"
        )


def _is_text_list(dtype: pa.DataType) -> bool:
    return is_list(dtype) and is_text(dtype.value_type)


def _is_ragged(given: pa.Array) -> bool:
    """Whether these are lists of integers whose lengths differ."""
    if not is_number_list(given.type, floating=False):
        return False
    return len(pc.unique(pc.drop_null(pc.list_value_length(given)))) > 1


def _lists(
    given: pa.Array,
    where: str,
    rows: npt.NDArray[np.int64],
    ids: list[str],
    fill: int | float | str | None,
) -> tuple[pa.Array, str]:
    """Lists of texts, or of integers, of any length."""
    there = given.is_valid().to_numpy(zero_copy_only=False)
    _require_values(there, where, rows, ids, fill)
    text = _is_text_list(given.type)
    lists = pl.Series(given.cast(pa.large_list(pa.large_string() if text else pa.int64())))
    hole = pl.element().str.strip_chars() == "" if text else pl.element() < 0
    bad = lists.list.eval((pl.element().is_null() | hole).any()).list.first().fill_null(False)
    if bad.any():
        k = int(bad.arg_true()[0])
        expected = "a text for each item" if text else "integers from 0 up"
        raise InputError(f"{where}, item {ids[k]}: found {lists[k].to_list()}; expected {expected}")
    filled = lists.fill_null(pl.lit([], dtype=lists.dtype)) if not there.all() else lists
    longest = max(1, *filled.list.len().to_list())
    element = ("str", pa.string()) if text else ("int", pa.int64())
    kind = f"dtype: {element[0]}, type: sequence, source: item, max_len: {longest}"
    return filled.to_arrow().cast(pa.list_(element[1])), kind


def _require_values(
    there: npt.NDArray[np.bool_],
    where: str,
    rows: npt.NDArray[np.int64],
    ids: list[str],
    fill: int | float | str | None,
) -> None:
    if not there.all() and fill is None:
        k = int(np.argmin(there))
        raise InputError(
            f"{where}, item {ids[k]}, row {rows[k]}: no value ({int((~there).sum())} such items); "
            "expected one, or --fill 0"
        )


def _numbers(
    given: pa.Array,
    where: str,
    rows: npt.NDArray[np.int64],
    ids: list[str],
    fill: int | float | str | None,
) -> npt.NDArray[Any]:
    """Numbers of the items, (n,) or (n, length)."""
    dtype = given.type
    integer = pa.types.is_integer(dtype) or is_number_list(dtype, floating=False)
    of_lists = is_number_list(dtype)
    if isinstance(fill, str):
        raise InputError(f"{where} holds numbers; --fill {fill!r} is none")
    if not of_lists and integer and isinstance(fill, float) and not fill.is_integer():
        raise InputError(f"{where} holds integers; --fill {fill} is none")
    there = given.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(dtype):
        # pandas writes a missing number as NaN.
        there &= ~np.nan_to_num(np.isnan(given.to_numpy(zero_copy_only=False)), nan=True)
    _require_values(there, where, rows, ids, fill)
    kept = given.filter(pa.array(there))
    kept_ids = [item for item, one in zip(ids, there, strict=True) if one]
    if of_lists:
        found = list_matrix(pa.chunked_array([kept]), where, kept_ids)
    else:
        found = kept.to_numpy(zero_copy_only=False)
    stored = _as_stored(found, where, kept_ids, integer=integer)
    values = np.full((len(ids), *stored.shape[1:]), 0 if of_lists else fill or 0, stored.dtype)
    values[there] = stored
    return values


def _as_stored(
    found: npt.NDArray[Any], where: str, ids: list[str], *, integer: bool
) -> npt.NDArray[Any]:
    """The values in the type that is written; a value that does not fit is refused."""
    of_lists = found.ndim == 2
    # A model reads vectors as float32, so that is all that is kept of them. What is too large
    # for the new type shows as infinite, or as negative, in it.
    target = np.int64 if integer else (np.float32 if of_lists else np.float64)
    with np.errstate(over="ignore"):
        cast: npt.NDArray[Any] = found.astype(target)
    good, expected = np.isfinite(cast), "finite numbers"
    if integer and (of_lists or found.dtype.kind == "u"):
        good, expected = cast >= 0, "integers from 0 up"
    if not good.all():
        k = int(np.argmin(good.reshape(len(good), -1).all(axis=1)))
        bad = found[k].ravel()[np.argmin(good[k].ravel())]
        raise InputError(f"{where}, item {ids[k]}: found {bad}; expected {expected}")
    return cast
