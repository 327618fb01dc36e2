"""Files of a raw data set, written with integers in place of ids."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.encoded_spec import history_column, item_row_column
from model_zoo.core.data.parquet import plain_pieces, scan_plain
from model_zoo.core.data.schema import is_label_type
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.data.vocabulary import encode_features
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside

Encoders = dict[str, Callable[[pl.Series], pl.Series]]


def item_keys(dataset: DatasetSpec) -> pl.Series:
    """The raw ids of item_info, in the order of its rows."""
    return scan_plain(dataset.item_info, [dataset.ids(dataset.item_col)]).collect().to_series()


def write_items(dataset: DatasetSpec, encoders: Encoders, target: Path) -> None:
    """Encode item_info, with a first row of padding."""
    features = dataset.features(of_items=True)
    items = scan_plain(dataset.item_info, features).collect()
    encoded = pl.DataFrame(encode_features(items, features, encoders))
    padding = encoded.head(1).select(
        pl.col(f.name).list.eval(pl.element() * 0)
        if isinstance(encoded.schema[f.name], pl.List)
        else pl.col(f.name) * 0
        for f in features
    )
    table = pl.concat([padding, encoded]).with_row_index(item_row_column(dataset))
    with write_aside(target) as partial:
        table.write_parquet(partial)


def write_split(
    dataset: DatasetSpec,
    encoders: Encoders,
    keys: pl.Series,
    source: Path,
    target: Path,
) -> None:
    """Encode a file piece by piece.

    Raises:
        InputError: If a target or history item is not in item_info: the first of each
            column, and how many.
    """
    features = [*dataset.features(of_items=False), *dataset.meta_columns()]
    label = dataset.label_col.name
    ids = [dataset.ids(dataset.item_col), dataset.ids(dataset.history_col)]
    item_row, history = item_row_column(dataset), history_column(dataset)
    unknown: dict[str, tuple[int, Any, int]] = {}  # column -> first row, its value, count
    with write_aside(target) as partial, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for start, piece in plain_pieces(source, [*ids, *features], [label]):
            columns = []
            for name in (dataset.item_col, dataset.history_col):
                column, missing = _item_rows(piece[name], keys)
                columns.append(column)
                if missing:
                    row, value, count = missing[0][0] + start, missing[0][1], len(missing)
                    before = unknown.get(name, (row, value, 0))
                    unknown[name] = (before[0], before[1], before[2] + count)
            columns = [columns[0].alias(item_row), columns[1].alias(history)]
            columns += encode_features(piece, features, encoders)
            if label in piece.columns and is_label_type(piece.schema[label]):
                columns.append(piece[label].cast(pl.Float32, strict=False))
            # Ids of users and groups only have to be told apart.
            narrow = pl.selectors.by_dtype(pl.Int128).cast(pl.Int64, wrap_numerical=True)
            table = pl.DataFrame(columns).with_columns(narrow).to_arrow()
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(partial, table.schema))
            writer.write_table(table)
        if unknown:
            raise InputError(
                [
                    f"{source}: column '{name}', row {row}: found {value!r}, expected an item of "
                    f"{dataset.item_info} ({count} such values)"
                    for name, (row, value, count) in unknown.items()
                ]
            )


def _item_rows(values: pl.Series, keys: pl.Series) -> tuple[pl.Series, list[tuple[int, Any]]]:
    """Item ids, or lists of them, as rows of item_info; nulls of a list are padding.

    Returns:
        The rows, int32, and the row number and value of each id that is not in ``keys``.
    """
    is_list = values.dtype == pl.List
    flat = values.explode(empty_as_null=False) if is_list else values
    slots = values.list.len().to_numpy() if is_list else np.ones(len(values), dtype=np.int64)
    owner = np.repeat(np.arange(len(values)), slots)
    real = (flat.is_not_null() & (flat.cast(pl.String) != "")).to_numpy()
    flat, owner = flat.filter(pl.Series(real)), owner[real]
    if flat.dtype != keys.dtype:  # some are beyond 64 bits with a sign
        flat, keys = flat.cast(pl.Int128), keys.cast(pl.Int128)
    rows = flat.replace_strict(keys, range(1, len(keys) + 1), default=None, return_dtype=pl.Int32)
    absent = rows.is_null()
    missing = list(zip(owner[absent.to_numpy()].tolist(), flat.filter(absent), strict=True))
    if not is_list:
        return rows.fill_null(0), missing
    ends = np.bincount(owner, minlength=len(values)).cumsum()
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, rows.fill_null(0).to_arrow())
    return pl.Series(values.name, pl.from_arrow(lists)), missing
