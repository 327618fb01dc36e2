"""The check that a data set's parquet files are what its YAML says they are.

Nothing is loaded: polars scans each file once, in a stream, and counts the rows that break a
rule. Only for broken rules are the first row and its value looked up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from model_zoo.core.data.rules import (
    AN_ITEM,
    ROW,
    Rule,
    column_rules,
    expected_type,
    id_list_rules,
    null_rules,
    padding_rules,
    range_rule,
    type_fits,
)
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.errors import InputError, first_line

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class SplitSummary:
    """What the check learnt about one split: its rows, and its clicks if it is labelled."""

    rows: int
    clicks: int | None

    @property
    def labelled(self) -> bool:
        return self.clicks is not None


def check_dataset(
    dataset: DatasetSpec, *, splits: tuple[str, ...] = SPLITS
) -> dict[str, SplitSummary]:
    """Check item_info and the named splits, raw or encoded.

    Args:
        dataset: The data set's YAML entry.
        splits: Which of train, valid and test to check; a test split that the data set
            does not have is passed over.

    Returns:
        A summary of each split.

    Raises:
        InputError: With every problem found, each naming file, column, row (the first row
            is 0), value and expectation.
    """
    paths = {name: path for name, path in dataset.sources().items() if name in splits}
    problems = missing_files(dataset, [dataset.item_info, *paths.values()])
    if problems:
        raise InputError(problems)

    item_rows, problems = _check_items(dataset)
    # Without a vocabulary in the YAML the item table itself is the vocabulary; if that is
    # unreadable too, ids cannot be judged.
    num_items = dataset.column(dataset.item_col).vocab_size or item_rows or sys.maxsize
    summaries = {}
    for split, path in paths.items():
        summary, found = _check_split(dataset, split, path, num_items)
        problems += found
        if summary is not None:
            summaries[split] = summary
    if problems:
        raise InputError(problems)
    return summaries


def parquet_files(path: str | Path) -> list[Path]:
    """A split's files: itself, or those of a folder in the order of their names."""
    return sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]


def missing_files(dataset: DatasetSpec, paths: list[str]) -> list[str]:
    """One problem for every path that is no file and no folder of parquet files."""
    source = f"; download it from {dataset.download_page}" if dataset.download_page else ""
    return [
        f"{path}: no such file, but data set {dataset.dataset_id} needs it{source}"
        for path in paths
        if not any(file.is_file() for file in parquet_files(path))
    ]


def _check_items(dataset: DatasetSpec) -> tuple[int, list[str]]:
    """Rows of item_info, and its problems."""
    key = dataset.item_col
    path = dataset.item_info
    expected = [_ids(dataset, key, "categorical")]
    expected += [f for f in dataset.features(of_items=True) if f.name != key]
    ignored = [c.name for c in dataset.feature_cols if not c.active and c.source == "item"]
    scan, problems = _open(path, expected, ignored)
    if scan is None:
        return 0, problems
    schema = scan.collect_schema()
    rules = []
    if type_fits(expected[0], schema[key]):
        rules += null_rules(key)
        if dataset.rebuild_dataset:
            rules.append(Rule(key, pl.col(key).is_duplicated(), pl.col(key), "each item once"))
        else:
            row = "the row number: row k is item k"
            rules.append(Rule(key, pl.col(key) != pl.col(ROW), pl.col(key), row))
    for feature in expected[1:]:
        encoded = not dataset.rebuild_dataset
        rules += column_rules(feature, schema[feature.name], encoded=encoded)
        if not dataset.rebuild_dataset:
            rules += padding_rules(feature, schema[feature.name])
    counts, found = _apply(path, scan, rules)
    problems += found
    rows = int(counts.get("rows", 0))
    vocab_size = dataset.column(key).vocab_size
    if counts and vocab_size is not None and rows != vocab_size:
        problems.append(
            f"{path}: {rows} rows, but {key} has vocab_size {vocab_size} "
            f"in {dataset.dataset_id}; expected one row per item, padding included"
        )
    return rows, problems


def _check_split(
    dataset: DatasetSpec, split: str, path: str, num_items: int
) -> tuple[SplitSummary | None, list[str]]:
    """Summary and problems of all files of a split; no summary if one is unreadable."""
    summaries: list[SplitSummary] = []
    problems: list[str] = []
    files = [str(file) for file in parquet_files(path)] if Path(path).is_dir() else [path]
    for file in files:
        summary, found = _check_file(dataset, file, num_items)
        problems += found
        if summary is not None:
            summaries.append(summary)
            if not summary.labelled and split != "test":
                label = dataset.label_col.name
                problems.append(f"{file}: column '{label}' is missing; {split} rows need a label")
    if len(summaries) < len(files):
        return None, problems
    labelled = all(summary.labelled for summary in summaries)
    rows = sum(summary.rows for summary in summaries)
    clicks = sum(summary.clicks or 0 for summary in summaries) if labelled else None
    if rows == 0:
        problems.append(f"{path}: no rows; expected at least one")
    elif clicks in (0, rows) and not problems:
        problems.append(
            f"{path}: column '{dataset.label_col.name}': all {rows} rows are "
            f"{int(clicks == rows)}; AUC and logloss need both classes"
        )
    return SplitSummary(rows, clicks), problems


def _check_file(
    dataset: DatasetSpec, path: str, num_items: int
) -> tuple[SplitSummary | None, list[str]]:
    label = dataset.label_col.name
    target = _ids(dataset, dataset.item_col, "categorical")
    history = _ids(dataset, dataset.history_col, "sequence")
    others = [*dataset.features(of_items=False), *dataset.meta_columns()]
    ignored = [c.name for c in dataset.feature_cols if not c.active]
    scan, problems = _open(path, [target, history, *others], [*ignored, label])
    if scan is None:
        return None, problems
    schema = scan.collect_schema()
    rules = []
    if type_fits(target, schema[target.name]):
        rules += null_rules(target.name)
        if not dataset.rebuild_dataset:
            rules.append(range_rule(target.name, pl.col(target.name), 1, num_items - 1, AN_ITEM))
    if type_fits(history, schema[history.name]):
        dtype = schema[history.name]
        if dataset.rebuild_dataset:
            rules += null_rules(history.name)
        else:
            rules += id_list_rules(history.name, dtype, history.max_len, num_items, AN_ITEM)
    for feature in others:
        encoded = not dataset.rebuild_dataset
        rules += column_rules(feature, schema[feature.name], encoded=encoded)
    totals = []
    if label in schema and (schema[label].is_numeric() or schema[label] == pl.Boolean):
        rules += null_rules(label)
        rules.append(Rule(label, ~pl.col(label).is_in([0, 1]), pl.col(label), "0 or 1"))
        totals.append((pl.col(label) == 1).sum().alias("clicks"))
    elif label in schema:
        problems.append(_wrong_type(path, label, schema[label], "numbers"))
        totals.append(pl.lit(0).alias("clicks"))
    counts, found = _apply(path, scan, rules, totals)
    if not counts:
        return None, [*problems, *found]
    return SplitSummary(int(counts["rows"]), counts.get("clicks")), [*problems, *found]


def _ids(dataset: DatasetSpec, name: str, kind: Literal["categorical", "sequence"]) -> FeatureSpec:
    """Target and history are item ids, whatever type their column is declared to be."""
    column = dataset.column(name)
    length = None if dataset.rebuild_dataset else column.max_len
    # Constructed without validation: the vocabulary is the item table's, not the column's.
    return FeatureSpec.model_construct(name=name, type=kind, dtype=column.dtype, max_len=length)


def _open(
    path: str, expected: list[FeatureSpec], allowed: list[str]
) -> tuple[pl.LazyFrame | None, list[str]]:
    """A scan of the file, or ``None`` when it is unreadable or lacks an expected column."""
    try:
        scan = pl.scan_parquet(path, glob=False).with_row_index(ROW)
        schema = scan.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        return None, [_unreadable(path, error)]
    names = {feature.name for feature in expected}
    missing = [feature for feature in expected if feature.name not in schema]
    problems = [
        f"{path}: column '{feature.name}' is missing; expected {expected_type(feature)}, "
        f"found columns {', '.join(n for n in schema if n != ROW)}"
        for feature in missing
    ]
    problems += [
        f"{path}: column '{name}' is not among feature_cols; "
        "declare it there (active: False to ignore it)"
        for name in schema
        if name not in names | {ROW, *allowed}
    ]
    problems += [
        _wrong_type(path, feature.name, schema[feature.name], expected_type(feature))
        for feature in expected
        if feature.name in schema and not type_fits(feature, schema[feature.name])
    ]
    return (None if missing else scan), problems


def _apply(
    path: str, scan: pl.LazyFrame, rules: list[Rule], totals: list[pl.Expr] | None = None
) -> tuple[dict[str, int], list[str]]:
    """Counts of rows (and of ``totals``), and one problem for each broken rule."""
    counters = [rule.bad.fill_null(False).sum().alias(str(i)) for i, rule in enumerate(rules)]
    try:
        counts = (
            scan.select(pl.len().alias("rows"), *counters, *(totals or []))
            .collect(engine="streaming")
            .row(0, named=True)
        )
        return counts, [
            _describe(path, scan, rule, counts[str(i)])
            for i, rule in enumerate(rules)
            if counts[str(i)]
        ]
    except (pl.exceptions.PolarsError, OSError) as error:
        return {}, [_unreadable(path, error)]


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


def _wrong_type(path: str, name: str, dtype: pl.DataType, expected: str) -> str:
    return f"{path}: column '{name}' has type {dtype}; expected {expected}"


def _unreadable(path: str, error: Exception) -> str:
    return f"{path}: not a readable parquet file: {first_line(error)}"
