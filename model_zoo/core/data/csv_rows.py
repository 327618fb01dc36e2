"""Rows in csv as the parquet that everything else reads."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError, first_line

# What may stand between the items of a list: FuxiCTR's ^, or space, comma, |; in brackets or not.
_BETWEEN = r"[\s,^|]+"


def csv_to_parquet(source: Path, target: Path, dataset: DatasetSpec) -> None:
    """Convert rows in csv; lists are text such as ``7^8^9``, ``7 8 9`` or ``[7, 8, 9]``.

    The file is streamed, so it may be larger than memory.

    Args:
        source: csv file with a header.
        target: Parquet file to write.
        dataset: Says which columns are lists, and of what.

    Raises:
        InputError: If the file is unreadable, or a value is not what its column says.
    """
    lists = {dataset.history_col: dataset.column(dataset.history_col).dtype}
    kinds: dict[str, str] = {dataset.item_col: dataset.column(dataset.item_col).dtype}
    for feature in dataset.features(of_items=False):
        of_lists = feature.type in ("sequence", "embedding")
        (lists if of_lists else kinds)[feature.name] = feature.dtype
    types = {"int": pl.Int64, "float": pl.Float64, "str": pl.String}
    try:
        # As text first, so that a wrong value can be named with its row.
        text = pl.scan_csv(source, infer_schema=False)
        columns = text.collect_schema().names()
        converted = [
            pl.col(name).cast(types[kind], strict=False)
            for name, kind in kinds.items()
            if name in columns
        ]
        converted += [
            _split(name).cast(pl.List(types[kind]), strict=False)
            for name, kind in lists.items()
            if name in columns
        ]
        known = {*kinds, *lists}
        _require_values(source, text, {n: k for n, k in kinds.items() if n in columns})
        label = dataset.label_col.name
        converted += [pl.col(label).cast(pl.Float64, strict=False)] if label in columns else []
        known.add(label)
        text.select(
            *converted, *(pl.col(name) for name in columns if name not in known)
        ).sink_parquet(target)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{source}: not a readable csv file: {first_line(error)}") from None


def _split(name: str) -> pl.Expr:
    inner = pl.col(name).fill_null("").str.strip_chars("[]() \t'\"")
    parts = inner.str.replace_all(_BETWEEN, " ").str.replace_all("['\"]", "").str.split(" ")
    return parts.list.filter(pl.element() != "")


def _require_values(source: Path, text: pl.LazyFrame, kinds: dict[str, str]) -> None:
    """Refuse the first value of each column that is no number where one belongs."""
    problems = []
    for name, kind in kinds.items():
        if kind == "str":
            continue
        number = pl.Int64 if kind == "int" else pl.Float64
        wrong = pl.col(name).is_not_null() & pl.col(name).cast(number, strict=False).is_null()
        found = text.with_row_index("row").filter(wrong).select("row", name).head(1).collect()
        if len(found):
            row, value = found.row(0)
            expected = "an integer" if kind == "int" else "a number"
            problems.append(
                f"{source}: column '{name}', row {row}: found {value!r}, expected {expected}"
            )
    if problems:
        raise InputError(problems)
