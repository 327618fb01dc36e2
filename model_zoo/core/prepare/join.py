"""``qin-data join``: columns of an item metadata file become columns of item_info.

The model looks a target and every history item up in item_info, so what is joined here
describes history items too, not only the target of a row.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from model_zoo.core.data.list_columns import separator_problem
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_apart, require_writable
from model_zoo.core.paths import path_argument
from model_zoo.core.prepare.arrow_tables import read_table, unique_ids
from model_zoo.core.prepare.item_file import (
    OTHER_NUMBERING,
    check_new_columns,
    feature_line,
    no_common_id,
    read_items,
    some,
    write_items,
)
from model_zoo.core.prepare.join_columns import align, as_values

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
    fill: int | float | str | None = None,
    separator: str | None = None,
    replace: bool = False,
) -> JoinSummary:
    """Add ``columns`` of ``metadata`` to ``item_info``, aligned by item id.

    Rows keep their order; a padding row gets 0, or a list of zeros. Written are int64 and
    float64 scalars, text, lists of int64, of float32 and of text.

    Args:
        item_info: A parquet file; replaced when the new one is complete.
        metadata: A parquet, csv or tsv file with one row for each item; csv and tsv may be
            compressed, as their names say.
        columns: Numbers, Booleans (as 0 and 1), or lists of one length of numbers. Where
            item_info has no padding row, its ids being raw: text, and lists of any length of
            integers or texts.
        item_id: The id column of item_info. Ids are compared as strings.
        metadata_id: The id column of ``metadata``, if its name is another.
        prefix: Put before the names of the new columns.
        fill: For items without a value: this value, a list of zeros, or an empty list where
            lengths differ. None refuses them.
        separator: Of lists written as text: a column of text in which it occurs, or with all
            cells in brackets, holds lists.
        replace: Allow to write over columns that item_info has.

    Raises:
        InputError: With every problem found; nothing is written.
    """
    if isinstance(fill, float) and not math.isfinite(fill):
        raise InputError(f"--fill is {fill}; expected a finite number")
    wrong = separator is not None and separator_problem(separator)
    if wrong:
        raise InputError(f"--list-separator: {wrong}")
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
            given = as_values(table[column], where, separator)
            made[name], kind = align(given, where, rows, items, fill)
        except InputError as error:
            problems += error.problems
            continue
        lines.append(feature_line(name, kind))
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
        "--metadata",
        type=path_argument,
        required=True,
        metavar="FILE",
        help="parquet, csv or tsv (.gz)",
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
        "--fill",
        type=_value,
        help="value of items without one (lists: zeros, or none where lengths differ); else they "
        "fail",
    )
    group.add_argument(
        "--list-separator",
        metavar="MARK",
        help="of lists written as text, such as a|b; text in which it occurs, or with all cells in "
        "[..], becomes lists",
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
        separator=arguments.list_separator,
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


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
