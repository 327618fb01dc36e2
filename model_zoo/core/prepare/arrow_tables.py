"""Tables about items in Arrow's types: read, their ids as strings, their lists as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pyarrow import compute

from model_zoo.core.data.readable import unreadable
from model_zoo.core.data.text_files import DELIMITERS, open_text, table_suffix
from model_zoo.core.errors import InputError, suggestion


def read_table(path: Path, key: str, columns: list[str] | None) -> pa.Table:
    """All columns of a parquet, csv or tsv file, or the named ones.

    Args:
        path: The suffix tells csv and tsv, compressed or not; all else is read as parquet.
        key: The column of ids, which a text file keeps as text: 007 stays 007. White space
            around them does not count.
        columns: Names; None is all.

    Raises:
        InputError: No such file, no such column, or not readable.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    separator = DELIMITERS.get(table_suffix(path))
    try:
        if separator is None:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if columns is not None:
                    require(path, names, columns)
                return file.read(columns=columns)
        with open_text(path) as text:
            table = pc.read_csv(
                text,
                parse_options=pc.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=pc.ConvertOptions(column_types={key: pa.string()}),
            )
            if columns is not None:
                require(path, table.column_names, columns)
                table = table.select(columns)
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        kind = "parquet" if separator is None else table_suffix(path)[1:]
        raise unreadable(path, kind, error) from None
    if key in table.column_names:
        trimmed = compute.utf8_trim_whitespace(table[key])
        table = table.set_column(table.column_names.index(key), key, trimmed)
    return table


def require(path: Path, names: list[str], columns: Sequence[str]) -> None:
    """Refuse a table whose ``names`` lack some of ``columns``, naming the nearest ones."""
    problems = [
        f"{path}: no column '{column}'; found {', '.join(names)}{suggestion(column, names)}"
        for column in columns
        if column not in names
    ]
    if problems:
        raise InputError(problems)


def unique_ids(column: pa.ChunkedArray, where: str) -> list[str]:
    """A column of ids as strings, each of them once (see :func:`column_strings`)."""
    ids = column_strings(column, where)
    refuse_repeats(ids, where)
    return ids


def refuse_repeats(ids: Sequence[str], where: str) -> None:
    """Refuse ids that stand in two rows; ``where`` names the file."""
    first: dict[str, int] = {}
    for row, item in enumerate(ids):
        before = first.setdefault(item, row)
        if before != row:
            raise InputError(
                f"{where}: item {item} stands in rows {before} and {row}; expected each id once"
            )


def column_strings(column: pa.ChunkedArray, where: str) -> list[str]:
    """A column of ids as strings.

    Raises:
        InputError: The type is wrong or a value is null; ``where`` names file and column.
    """
    if not is_id_type(column.type):
        raise InputError(f"{where} has type {column.type}; expected integers or strings as ids")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError(f"{where}, row {row}: no value; expected an id in every row")
    strings: list[str] = column.cast(pa.string()).to_pylist()
    return strings


def list_matrix(column: pa.ChunkedArray, where: str, ids: list[str]) -> npt.NDArray[Any]:
    """A column of lists as an array (rows, length).

    Args:
        column: Lists or fixed-size lists of numbers.
        where: File and column, for messages.
        ids: The id of every row, for messages.

    Raises:
        InputError: A list is null, holds a null, or differs in length from the first one.
    """
    values = column.combine_chunks()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"{where}, item {ids[row]}: no list; expected a value")
    lengths = values.value_lengths().to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if len(lengths) else 0
    if (lengths != width).any():
        row = int(np.argmax(lengths != width))
        raise InputError(
            f"{where}, item {ids[row]}: a list of length {lengths[row]}; "
            f"expected {width}, as item {ids[0]} has"
        )
    if len(values) and not width:
        raise InputError(f"{where}: empty lists; expected numbers in them")
    flat = values.flatten()
    if flat.null_count:
        row = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False))) // width
        raise InputError(f"{where}, item {ids[row]}: a null in the list; expected a number")
    matrix: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(values), width)
    return matrix


def lists_of(values: npt.NDArray[Any]) -> pa.ListArray:
    """A column of lists from an array (rows, length)."""
    rows, length = values.shape
    offsets = np.arange(0, (rows + 1) * length, length, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values.reshape(-1))


def is_id_type(dtype: pa.DataType) -> bool:
    """Whether a column of this type may hold ids."""
    if pa.types.is_dictionary(dtype):
        return is_id_type(dtype.value_type)
    if pa.types.is_decimal(dtype):
        return bool(dtype.scale == 0)
    return is_text(dtype) or bool(pa.types.is_integer(dtype))


def is_text(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    string = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    return bool(string or pa.types.is_string_view(dtype))


def is_list(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds lists, of fixed length or not."""
    return bool(
        pa.types.is_list(dtype)
        or pa.types.is_large_list(dtype)
        or pa.types.is_fixed_size_list(dtype)
    )


def is_number_list(dtype: pa.DataType, *, floating: bool | None = None) -> bool:
    """Whether a column holds lists of numbers: of floats (True), integers (False), either."""
    if not is_list(dtype):
        return False
    of_floats = bool(pa.types.is_floating(dtype.value_type))
    of_integers = bool(pa.types.is_integer(dtype.value_type))
    if floating is None:
        return of_floats or of_integers
    return of_floats if floating else of_integers
