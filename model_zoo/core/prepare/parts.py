"""The parts of a table, as Spark and others write it, as one."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from model_zoo.core.data.parquet import TEXT_TYPES, element_type
from model_zoo.core.errors import InputError, first_line


def joined_parts(folder: str, parts: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Parts below each other; a column may differ between them in width, or be missing in some.

    Args:
        folder: Where they are.
        parts: By file.

    Raises:
        InputError: If a column is of different kinds: numbers here, text there.
    """
    kinds: dict[str, dict[str, str]] = {}  # column -> kind -> the first part that has it
    for file, frame in parts.items():
        for name, dtype in frame.schema.items():
            if dtype != pl.Null:
                kinds.setdefault(name, {}).setdefault(_kind(dtype), file)
    problems = [
        f"{folder}: column '{name}' is {' and '.join(f'{k} in {f}' for k, f in found.items())}; "
        "expected one kind in all parts"
        for name, found in kinds.items()
        if len(found) > 1
    ]
    if problems:
        raise InputError(problems)
    try:
        return pl.concat(_of_equal_types(list(parts.values())), how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{folder}: its parts do not fit together: {first_line(error)}") from error


def _kind(dtype: pl.DataType) -> str:
    if isinstance(dtype, (pl.List, pl.Array)):
        return f"lists of {_kind(element_type(dtype))}"
    if dtype.is_numeric() or dtype == pl.Boolean:
        return "numbers"
    if dtype in TEXT_TYPES:
        return "text"
    return "dates" if dtype.is_temporal() else str(dtype)


def _of_equal_types(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """With dictionaries as text, and without pairs of integer types that polars joins as floats.

    Raises:
        pl.exceptions.InvalidOperationError: If an unsigned number does not fit a signed column.
    """
    types: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for name, dtype in frame.schema.items():
            types.setdefault(name, set()).add(dtype)
    signed = [n for n, found in types.items() if pl.UInt64 in found and len(found) > 1]
    return [
        frame.with_columns(
            pl.selectors.by_dtype(pl.Categorical, pl.Enum).cast(pl.String),
            *(
                pl.col(name).cast(pl.Int64)
                for name in signed
                if frame.schema.get(name) == pl.UInt64
            ),
        )
        for frame in frames
    ]
