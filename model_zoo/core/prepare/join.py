"""``qin-data join``: columns of an item metadata file become columns of item_info.

The model looks a target and every history item up in item_info, so what is joined here
describes history items too, not only the target of a row.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model_zoo.core.errors import InputError
from model_zoo.core.files import require_apart, require_writable
from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.arrow_tables import is_number_list, list_matrix, read_table, unique_ids
from model_zoo.core.prepare.item_file import (
    OTHER_NUMBERING,
    check_new_columns,
    feature_col,
    lists_of,
    no_common_id,
    read_items,
    some,
    write_items,
)

EXAMPLE = (
    "qin-data join --item-info data/MicroLens_1M_x1/item_info.parquet "
    "--metadata data/item_feature.parquet --columns likes_level views_level --prefix item_"
)


@dataclass(frozen=True)
class JoinSummary:
    """What :func:`join` did.

    Attributes:
        feature_cols: A line of YAML for each new column.
        items: Items (padding excluded).
        filled: How many of them the metadata did not have.
        unused: Metadata rows of ids that item_info does not have.
        encoded: item_info has a padding row, so its ids are row numbers.
    """

    feature_cols: list[str]
    items: int
    filled: int
    unused: int
    encoded: bool


def join(
    item_info: str | os.PathLike[str],
    *,
    metadata: str | os.PathLike[str],
    columns: Sequence[str],
    item_id: str = "item_id",
    metadata_id: str | None = None,
    prefix: str = "",
    fill: int | float | None = None,
    replace: bool = False,
) -> JoinSummary:
    """Add ``columns`` of ``metadata`` to ``item_info``, aligned by item id.

    Rows keep their order; a padding row gets 0, or a list of zeros. Written are int64 and
    float64 scalars, lists of int64 and of float32.

    Args:
        item_info: A parquet file; replaced when the new one is complete.
        metadata: A parquet, csv or tsv file with one row for each item.
        columns: Integers, floats, or lists of one length of either.
        item_id: The id column of item_info. Ids are compared as strings.
        metadata_id: The id column of ``metadata``, if its name is another.
        prefix: Put before the names of the new columns.
        fill: For items without a value: this number, or a list of zeros. None refuses them.
        replace: Allow to write over columns that item_info has.

    Raises:
        InputError: With every problem found; nothing is written.
    """
    if fill is not None and not math.isfinite(fill):
        raise InputError(f"--fill is {fill}; expected a finite number")
    require_apart({"--metadata": metadata}, {"--item-info": item_info})
    require_writable([item_info])
    items = read_items(item_info, item_id)
    names = [prefix + name for name in columns]
    check_new_columns(items, item_id, names, replace)
    file, key = Path(metadata), metadata_id or item_id
    table = read_table(file, key, [key, *columns])
    ids = unique_ids(table[key], f"{file}: column '{key}'")
    at = {item: row for row, item in enumerate(ids)}
    wanted = items.ids[items.first :]
    rows = np.array([at.get(item, -1) for item in wanted], dtype=np.int64)
    missing = [item for item in wanted if item not in at]
    if wanted and len(missing) == len(wanted):
        raise InputError(no_common_id(items, file, ids))
    unused = len(set(ids) - set(items.ids))
    if missing and fill is None:
        hint = f" ({OTHER_NUMBERING})" if unused and items.padding else ""
        raise InputError(
            f"{file}: {len(missing)} of {len(wanted)} items of {items.path} are not in it: "
            f"{some(missing)}; --fill 0 gives them a value{hint}"
        )

    made: dict[str, pa.Array] = {}
    lines: list[str] = []
    problems: list[str] = []
    for name, column in zip(names, columns, strict=True):
        where = f"{file}: column '{column}'"
        try:
            values = _aligned(table[column].combine_chunks(), where, rows, wanted, fill)
        except InputError as error:
            problems += error.problems
            continue
        pad = [(items.first, 0)] + [(0, 0)] * (values.ndim - 1)
        values = np.pad(values, pad)
        made[name] = lists_of(values) if values.ndim == 2 else pa.array(values)
        lines.append(feature_col(name, values))
    if problems:
        raise InputError(problems)
    write_items(items, made, command="qin-data join")
    return JoinSummary(lines, len(wanted), len(missing), unused, items.padding)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``qin-data join``."""
    group = parser.add_argument_group(
        "join",
        "Note: track 2 of the WWW 2025 MM-CTR challenge allows the given item_info only; "
        "joining item_feature columns to it is not allowed there.",
    )
    group.add_argument(
        "--item-info", type=path_argument, required=True, metavar="FILE", help="replaced in place"
    )
    group.add_argument(
        "--metadata", type=path_argument, required=True, metavar="FILE", help="parquet, csv or tsv"
    )
    group.add_argument(
        "--columns", required=True, nargs="+", metavar="NAME", help="columns of the metadata to add"
    )
    group.add_argument("--id", default="item_id", metavar="NAME", help="column of the item ids")
    group.add_argument("--metadata-id", metavar="NAME", help="its name in the metadata, if another")
    group.add_argument(
        "--prefix",
        default="",
        help="put before the new names: a name that train.parquet has too needs one",
    )
    group.add_argument(
        "--fill", type=_number, help="value of items without one (lists: zeros); else they fail"
    )
    group.add_argument("--replace", action="store_true", help="write over columns already there")


def run(arguments: argparse.Namespace) -> None:
    """Join, and print the lines for ``dataset_config.yaml``."""
    done = join(
        arguments.item_info,
        metadata=arguments.metadata,
        columns=arguments.columns,
        item_id=arguments.id,
        metadata_id=arguments.metadata_id,
        prefix=arguments.prefix,
        fill=arguments.fill,
        replace=arguments.replace,
    )
    print(f"{arguments.item_info}: {len(done.feature_cols)} columns for {done.items} items")
    if done.filled:
        print(f"{done.filled} items are not in {arguments.metadata}: filled")
    if done.unused:
        print(f"{done.unused} rows of {arguments.metadata} belong to no item: not used")
        if done.encoded:
            print(f"warning: {OTHER_NUMBERING}")
    print("feature_cols, to paste into dataset_config.yaml:")
    for line in done.feature_cols:
        print(f"        {line}")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _aligned(
    column: pa.Array,
    where: str,
    rows: npt.NDArray[np.int64],
    ids: list[str],
    fill: int | float | None,
) -> npt.NDArray[Any]:
    """Values of the items, (n,) or (n, length); ``rows`` is -1 where there is none."""
    column = _as_numbers(column)
    dtype = column.type
    integer = pa.types.is_integer(dtype) or is_number_list(dtype, floating=False)
    is_list = is_number_list(dtype)
    if not (is_list or pa.types.is_integer(dtype) or pa.types.is_floating(dtype)):
        raise InputError(f"{where} has type {dtype}; expected numbers or lists of numbers")
    if not is_list and integer and isinstance(fill, float) and not fill.is_integer():
        raise InputError(f"{where} holds integers; --fill {fill} is none")
    given = column.take(pa.array(rows, mask=rows < 0))
    there = given.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(dtype):
        # pandas writes a missing number as NaN.
        there &= ~np.nan_to_num(np.isnan(given.to_numpy(zero_copy_only=False)), nan=True)
    if not there.all() and fill is None:
        k = int(np.argmin(there))
        raise InputError(
            f"{where}, item {ids[k]}, row {rows[k]}: no value ({int((~there).sum())} such items); "
            "expected one, or --fill 0"
        )
    kept = given.filter(pa.array(there))
    kept_ids = [item for item, one in zip(ids, there, strict=True) if one]
    if is_list:
        found = list_matrix(pa.chunked_array([kept]), where, kept_ids)
    else:
        found = kept.to_numpy(zero_copy_only=False)
    stored = _as_stored(found, where, kept_ids, integer=integer)
    values = np.full((len(ids), *stored.shape[1:]), 0 if is_list else fill or 0, stored.dtype)
    values[there] = stored
    return values


def _as_numbers(column: pa.Array) -> pa.Array:
    """Numbers that a writer stored as a dictionary, as decimals or as booleans."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64() if column.type.scale else pa.int64())
    return column.cast(pa.int64()) if pa.types.is_boolean(column.type) else column


def _as_stored(
    found: npt.NDArray[Any], where: str, ids: list[str], *, integer: bool
) -> npt.NDArray[Any]:
    """The values in the type that is written; a value that does not fit is refused."""
    is_list = found.ndim == 2
    # A model reads vectors as float32, so that is all that is kept of them. What is too large
    # for the new type shows as infinite, or as negative, in it.
    target = np.int64 if integer else (np.float32 if is_list else np.float64)
    with np.errstate(over="ignore"):
        cast: npt.NDArray[Any] = found.astype(target)
    good, expected = np.isfinite(cast), "finite numbers"
    if integer and (is_list or found.dtype.kind == "u"):
        good, expected = cast >= 0, "integers from 0 up"
    if not good.all():
        k = int(np.argmin(good.reshape(len(good), -1).all(axis=1)))
        bad = found[k].ravel()[np.argmin(good[k].ravel())]
        raise InputError(f"{where}, item {ids[k]}: found {bad}; expected {expected}")
    return cast
