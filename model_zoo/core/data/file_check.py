"""One parquet file against its rules: what it lacks, and the first row that breaks each."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from model_zoo.core.data.list_columns import text_list_problems
from model_zoo.core.data.parquet import TEXT_TYPES, is_text_list, plain, scan_file, type_fits
from model_zoo.core.data.readable import READER_ERRORS, unreadable
from model_zoo.core.data.rules import ROW, Rule, expected_type
from model_zoo.core.data.spec import FeatureSpec


def open_checked(
    path: str, expected: list[FeatureSpec], allowed: list[str] | None
) -> tuple[pl.LazyFrame | None, list[str]]:
    """A scan of the file, or ``None`` when it is unreadable or lacks an expected column.

    Columns of fitting types are in their plain form. ``allowed`` are the columns that the file
    may have besides; ``None``: any.
    """
    try:
        scan = scan_file(path)
        schema = scan.collect_schema()
    except READER_ERRORS as error:
        return None, unreadable(path, "parquet", error).problems
    names = {feature.name for feature in expected}
    missing = [feature for feature in expected if feature.name not in schema]
    problems = [
        f"{path}: column '{feature.name}' is missing; expected {expected_type(feature)}, "
        f"found columns {', '.join(schema)}"
        for feature in missing
    ]
    problems += [
        f"{path}: column '{name}' is not among feature_cols; "
        "declare it there (active: False to ignore it)"
        for name in schema
        if allowed is not None and name not in names | {*allowed}
    ]
    problems += [
        wrong_type(path, feature.name, schema[feature.name], _expected(feature, schema))
        for feature in expected
        if feature.name in schema and not type_fits(feature, schema[feature.name])
    ]
    if missing:
        return None, problems
    written = [f for f in expected if is_text_list(f, schema[f.name])]
    if written:
        columns = {f.name: (f.dtype, str(f.splitter)) for f in written}
        problems += text_list_problems(path, columns)
    fitting = [feature for feature in expected if type_fits(feature, schema[feature.name])]
    plainly = scan.with_columns(plain(feature, schema[feature.name]) for feature in fitting)
    return plainly.with_row_index(ROW), problems


def _expected(feature: FeatureSpec, schema: pl.Schema) -> str:
    """The type that a column should have, and how lists may be written as text."""
    of_lists = feature.type in ("sequence", "embedding")
    text = of_lists and schema[feature.name] in TEXT_TYPES
    hint = "; lists written as text need list_separator in the data set's YAML (raw data only)"
    return expected_type(feature) + (hint if text else "")


def apply_rules(
    path: str,
    scan: pl.LazyFrame,
    rules: list[Rule],
    totals: Sequence[pl.Expr] = (),
    *,
    columns: Sequence[str] = (),
) -> tuple[dict[str, int], list[str]]:
    """Counts of rows (and of ``totals``), and one problem for each broken rule.

    ``columns`` that no rule names are read to their ends, too, to find damage.
    """
    counters = [rule.bad.fill_null(False).sum().alias(str(i)) for i, rule in enumerate(rules)]
    others = set(columns) - {rule.column for rule in rules}
    try:
        if others:  # from the file itself: in the scan, a wrong list written as text raises
            scan_file(path).select(pl.col(*others).null_count()).collect(engine="streaming")
        counts = (
            scan.select(pl.len().alias("rows"), *counters, *totals)
            .collect(engine="streaming")
            .row(0, named=True)
        )
        return counts, [
            _describe(path, scan, rule, counts[str(i)])
            for i, rule in enumerate(rules)
            if counts[str(i)]
        ]
    except READER_ERRORS as error:
        return {}, unreadable(path, "parquet", error).problems


def _describe(path: str, scan: pl.LazyFrame, rule: Rule, count: int) -> str:
    first = (
        scan.filter(rule.bad.fill_null(False))
        .select(pl.col(ROW), rule.found.alias("found"))
        .head(1)
        .collect()
    )
    others = f" ({count} such rows)" if count > 1 else ""
    found = first["found"].to_list()[0]
    if isinstance(found, list) and len(found) > 8:
        found = f"[{', '.join(map(str, found[:8]))}, ...]"
    return (
        f"{path}: column '{rule.column}', row {first[ROW][0]}: found {found}, "
        f"expected {rule.expected}{others}"
    )


def wrong_type(path: str, name: str, dtype: pl.DataType, expected: str) -> str:
    return f"{path}: column '{name}' has type {dtype}; expected {expected}"
