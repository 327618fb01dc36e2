"""Parquet files as any writer leaves them: where they are, and their columns in plain types.

Writers differ in the width of integers, in kinds of lists and of text, in whether booleans,
decimals or dictionaries stand for numbers and tokens. All that reads a data set sees the one
plain type of each column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.cell_text import TYPES, read_lists
from model_zoo.core.data.readable import readable
from model_zoo.core.data.spec import FeatureSpec
from model_zoo.core.errors import InputError

ROWS_PER_PIECE = 65_536
TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)  # of columns whose values are texts


def parquet_files(path: str | Path) -> list[Path]:
    """A split's files: itself, or those of a folder in the order of their names.

    Folders named ``name=value``, as Spark and Hive write them, belong to it, at any depth; the
    values in their names are no columns. Names that begin with ``.`` or ``_`` are passed over,
    as Spark does.

    Raises:
        InputError: If another folder in it has parquet files: whether they belong is unclear.
    """
    path = Path(path)
    return _listed(path) if path.is_dir() else [path]


def _listed(folder: Path) -> list[Path]:
    found = []
    for entry in sorted(folder.iterdir()):
        partition = entry.is_dir() and "=" in entry.name
        if entry.name.startswith(".") or (entry.name.startswith("_") and not partition):
            continue
        if partition:
            found += _listed(entry)
        elif entry.is_dir():
            if any(entry.rglob("*.parquet")):
                raise InputError(
                    f"{entry}: a folder with parquet files in a folder of parts; expected parts, "
                    "and folders named like date=2025-01-31"
                )
        elif entry.suffix == ".parquet":
            found.append(entry)
    return found


def scan_file(path: str | Path) -> pl.LazyFrame:
    """A lazy scan of one file; no character of its path is a pattern or a partition."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def read_columns(path: str | Path, names: Sequence[str]) -> pl.DataFrame:
    """Columns of one file."""
    return scan_file(path).select(names).collect()


def scan_plain(path: str | Path, features: Sequence[FeatureSpec]) -> pl.LazyFrame:
    """Columns of a file or of a folder of files, in plain types that are alike in all of them."""
    scans = []
    for file in parquet_files(path):
        scan = scan_file(file)
        schema = scan.collect_schema()
        scans.append(scan.select(plain(f, schema[f.name], widen=True) for f in features))
    return pl.concat(scans, how="vertical_relaxed")


def plain_pieces(
    path: str | Path, features: Sequence[FeatureSpec], others: Sequence[str] = ()
) -> Iterator[tuple[int, pl.DataFrame]]:
    """First row number and rows of each piece of a file, one piece of no rows if it has none.

    Args:
        path: The file.
        features: Columns that are given in plain, wide types.
        others: Columns that are given as they are, if they are there.

    Raises:
        InputError: If the file is damaged.
    """
    with readable(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        there = [name for name in others if name in schema.names]
        names = list(dict.fromkeys([*(f.name for f in features), *there]))
        start = 0
        for batch in file.iter_batches(ROWS_PER_PIECE, columns=names):
            yield start, _plain_piece(pa.Table.from_batches([batch]), features, there)
            start += len(batch)
        if not start:
            empty = pa.schema([schema.field(name) for name in names]).empty_table()
            yield 0, _plain_piece(empty, features, there)


def _plain_piece(
    table: pa.Table, features: Sequence[FeatureSpec], others: Sequence[str]
) -> pl.DataFrame:
    frame = pl.DataFrame(table)
    columns = {f.name: plain(f, frame.schema[f.name], widen=True) for f in features}
    return frame.select(*columns.values(), *(name for name in others if name not in columns))


def type_fits(feature: FeatureSpec, dtype: pl.DataType) -> bool:
    """Whether a column of a polars type can hold the feature's values, in whatever form.

    Any width of number; boolean and whole decimals as integers; dictionaries as text; any kind
    of list. A column of nulls only has any type.
    """
    if dtype == pl.Null:
        return True
    of_lists = feature.type in ("sequence", "embedding")
    if isinstance(dtype, (pl.List, pl.Array)) != of_lists:
        return is_text_list(feature, dtype)
    element = element_type(dtype)
    if of_lists and element == pl.Null:
        return True
    if feature.type == "embedding":
        return element.is_numeric()
    if feature.type == "numeric":
        return element.is_numeric() or element == pl.Boolean
    if feature.dtype == "str":
        return element in TEXT_TYPES
    whole = isinstance(element, pl.Decimal) and element.scale == 0
    return element.is_integer() or element == pl.Boolean or whole


def is_text_list(feature: FeatureSpec, dtype: pl.DataType) -> bool:
    """Whether a column has lists written as text, with a separator that is declared for it."""
    text = dtype in TEXT_TYPES
    return text and feature.type in ("sequence", "embedding") and feature.splitter is not None


def read_text_lists(cells: pl.Series, dtype: str, separator: str | None) -> pl.Series:
    """The lists of cells that :func:`.list_columns.text_list_problems` has found sound.

    Raises:
        InputError: One is none: the file has changed since.
    """
    lists, problems = read_lists(cells, dtype, separator)
    if problems:
        raise InputError(f"column '{cells.name}': {next(iter(problems.values()))}")
    return lists


def plain(feature: FeatureSpec, dtype: pl.DataType, *, widen: bool = False) -> pl.Expr:
    """A column of a fitting type in the plain form of its feature.

    Text is ``String``, integers stay what they are or become Int64, other numbers are floats or
    integers, lists are ``List``.

    Args:
        feature: What the column is.
        dtype: Its type in the file.
        widen: All integers become Int64, and those that this does not hold Int128: so that
            equal values of two files are equal.
    """
    column = pl.col(feature.name)
    if is_text_list(feature, dtype):
        read = partial(read_text_lists, dtype=feature.dtype, separator=feature.splitter)
        kind = pl.List(TYPES[feature.dtype])
        return column.cast(pl.String).map_batches(read, return_dtype=kind, is_elementwise=True)
    if isinstance(dtype, pl.Array):
        column = column.arr.to_list()
    element = _plain_element(feature, element_type(dtype), widen=widen)
    of_lists = feature.type in ("sequence", "embedding")
    target = pl.List(element) if of_lists else element
    return column if target == dtype else column.cast(target)


def element_type(dtype: pl.DataType) -> pl.DataType:
    """The type of a column's single values, in lists or not."""
    inner = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else dtype
    return inner if isinstance(inner, pl.DataType) else inner()


def _plain_element(feature: FeatureSpec, element: pl.DataType, *, widen: bool) -> pl.DataType:
    if feature.type in ("numeric", "embedding"):
        kept = element.is_integer() or element in (pl.Float32, pl.Float64)
        return element if kept else pl.Float64()
    if feature.dtype == "str":
        return pl.String()
    wide = element == pl.UInt64 or element == pl.Int128 or isinstance(element, pl.Decimal)
    if widen and wide:
        return pl.Int128()
    if element.is_integer() and not widen:
        return element
    return pl.Int128() if wide else pl.Int64()
