"""The check that a data set's parquet files are what its YAML says they are.

Nothing is loaded: polars scans each file once, in a stream, and counts the rows that break a
rule. Only for broken rules are the first row and its value looked up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model_zoo.core.data.file_check import apply_rules, open_checked, wrong_type
from model_zoo.core.data.parquet import parquet_files, scan_file, type_fits
from model_zoo.core.data.rules import (
    AN_ITEM,
    ROW,
    Rule,
    column_rules,
    id_list_rules,
    list_rules,
    null_rules,
    padding_rules,
    range_rule,
)
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.errors import InputError

SPLITS = ("train", "valid", "test")
UNLABELLED = "%s; the test split counts as unlabelled and is not evaluated"


@dataclass(frozen=True)
class SplitSummary:
    """What the check learnt about one split: its rows, and its clicks if it is labelled.

    Attributes:
        rows: How many.
        clicks: Rows with label 1; ``None`` if the split counts as unlabelled.
        unlabelled: Why a test split that has a label column counts as unlabelled, else empty.
    """

    rows: int
    clicks: int | None
    unlabelled: str = ""

    @property
    def labelled(self) -> bool:
        return self.clicks is not None


def check_dataset(
    dataset: DatasetSpec, *, splits: tuple[str, ...] = SPLITS, scoring: bool = False
) -> dict[str, SplitSummary]:
    """Check item_info and the named splits, raw or encoded.

    A test split none of whose rows has a label 0 or 1, or all of whose labels are equal, counts
    as unlabelled: there is nothing to evaluate.

    Args:
        dataset: The data set's YAML entry.
        splits: Which of train, valid and test to check; a test split that the data set
            does not have is passed over.
        scoring: The rows are only scored: labels and columns that the data set does not
            declare are not looked at.

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
        summary, found = _check_split(dataset, split, path, num_items, scoring=scoring)
        problems += found
        if summary is not None:
            summaries[split] = summary
    if problems:
        raise InputError(problems)
    return summaries


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
    if Path(path).is_dir():
        return 0, [f"{path}: a folder; expected item_info in one file"]
    expected = [dataset.ids(key)]
    expected += [f for f in dataset.features(of_items=True) if f.name != key]
    ignored = [c.name for c in dataset.feature_cols if not c.active and c.source == "item"]
    scan, problems = open_checked(path, expected, ignored)
    if scan is None:
        return 0, problems
    schema = scan.collect_schema()
    rules = []
    if type_fits(expected[0], schema[key]):
        rules += null_rules(key)
        if dataset.rebuild_dataset:
            rules.append(Rule(key, pl.col(key).is_duplicated(), pl.col(key), "each item once"))
            rules += _empty_rules(expected[0])
        else:
            row = "the row number: row k is item k"
            rules.append(Rule(key, pl.col(key) != pl.col(ROW), pl.col(key), row))
    for feature in expected[1:]:
        encoded = not dataset.rebuild_dataset
        rules += column_rules(feature, schema[feature.name], encoded=encoded)
        if not dataset.rebuild_dataset:
            rules += padding_rules(feature, schema[feature.name])
    counts, found = apply_rules(path, scan, rules, columns=[f.name for f in expected])
    problems += found
    rows = int(counts.get("rows", 0))
    if counts and not rows:
        problems.append(f"{path}: no rows; expected an item in each")
    vocab_size = dataset.column(key).vocab_size
    if counts and vocab_size is not None and rows != vocab_size:
        problems.append(
            f"{path}: {rows} rows, but {key} has vocab_size {vocab_size} "
            f"in {dataset.dataset_id}; expected one row per item, padding included"
        )
    return rows, problems


def _check_split(
    dataset: DatasetSpec, split: str, path: str, num_items: int, *, scoring: bool
) -> tuple[SplitSummary | None, list[str]]:
    """Summary and problems of all files of a split; no summary if one is unreadable."""
    summaries: list[SplitSummary] = []
    problems: list[str] = []
    label = dataset.label_col.name
    files = [str(file) for file in parquet_files(path)] if Path(path).is_dir() else [path]
    for file in files:
        summary, found = _check_file(dataset, split, file, num_items, scoring=scoring)
        problems += found
        if summary is not None:
            summaries.append(summary)
            if not summary.labelled and split != "test":
                problems.append(f"{file}: column '{label}' is missing; {split} rows need a label")
    if len(summaries) < len(files):
        return None, problems
    rows = sum(summary.rows for summary in summaries)
    if rows == 0:
        problems.append(f"{path}: no rows; expected at least one")
    filled = [summary for summary in summaries if summary.rows]  # an empty part says nothing
    labelled = all(summary.labelled for summary in filled)
    clicks = sum(summary.clicks or 0 for summary in filled) if labelled else None
    reason = next((summary.unlabelled for summary in filled if summary.unlabelled), "")
    if not labelled and not reason and any(summary.labelled for summary in filled):
        reason = f"{path}: column '{label}' is missing in some of its files"
    if rows and clicks in (0, rows) and not problems:
        one_class = f"{path}: column '{label}': all {rows} rows are {int(clicks == rows)}"
        if split != "test":
            problems.append(f"{one_class}; AUC and logloss need both classes")
        clicks, reason = None, one_class
    return SplitSummary(rows, clicks, reason), problems


def _check_file(
    dataset: DatasetSpec, split: str, path: str, num_items: int, *, scoring: bool
) -> tuple[SplitSummary | None, list[str]]:
    label = dataset.label_col.name
    target, history = dataset.ids(dataset.item_col), dataset.ids(dataset.history_col)
    others = [*dataset.features(of_items=False), *dataset.meta_columns()]
    ignored = [c.name for c in dataset.feature_cols if not c.active]
    allowed = None if scoring else [*ignored, label]
    expected = [target, history, *others]
    columns = [feature.name for feature in expected]
    scan, problems = open_checked(path, expected, allowed)
    if scan is None:
        return None, problems
    schema = scan.collect_schema()
    rules = []
    if type_fits(target, schema[target.name]):
        rules += null_rules(target.name)
        if not dataset.rebuild_dataset:
            rules.append(range_rule(target.name, pl.col(target.name), 1, num_items - 1, AN_ITEM))
        else:
            rules += _empty_rules(target)
    if type_fits(history, schema[history.name]):
        if not dataset.rebuild_dataset:
            rules += id_list_rules(history.name, history.max_len, num_items, AN_ITEM)
        else:
            rules += _raw_history_rules(path, history)
    for feature in others:
        encoded = not dataset.rebuild_dataset
        rules += column_rules(feature, schema[feature.name], encoded=encoded)
    if scoring or label not in schema:
        counts, found = apply_rules(path, scan, rules, columns=columns)
        return (SplitSummary(int(counts["rows"]), None) if counts else None), [*problems, *found]
    value = pl.col(label).cast(pl.Float64, strict=False)
    label_rules = [
        *null_rules(label),
        Rule(label, ~value.is_in([0.0, 1.0]), pl.col(label), "0 or 1"),
    ]
    test, numbers = split == "test", is_label_type(schema[label])
    totals = [pl.lit(0).alias("clicks"), pl.lit(0).alias("labels")]
    if numbers:
        rules += [] if test else label_rules
        totals = [
            (value == 1).sum().alias("clicks"),
            value.is_in([0.0, 1.0]).sum().alias("labels"),
        ]
    elif not test:
        problems.append(wrong_type(path, label, schema[label], "numbers"))
    counts, found = apply_rules(path, scan, rules, totals, columns=columns)
    problems += found
    if not counts:
        return None, problems
    rows, labels = int(counts["rows"]), int(counts["labels"])
    if test and rows and not labels:
        reason = f"{path}: column '{label}' ({schema[label]}): no row has a label 0 or 1"
        return SplitSummary(rows, None, reason), problems
    if test and labels < rows:
        problems += apply_rules(path, scan, label_rules)[1]
    return SplitSummary(rows, int(counts["clicks"])), problems


def is_label_type(dtype: pl.DataType) -> bool:
    """Whether a column of this type may hold labels."""
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)


def _empty_rules(ids: FeatureSpec) -> list[Rule]:
    """Raw ids that are text are not empty."""
    if ids.dtype != "str":
        return []
    return [Rule(ids.name, pl.col(ids.name) == "", pl.col(ids.name), "an id")]


def _raw_history_rules(path: str, history: FeatureSpec) -> list[Rule]:
    """No item is missing in a history; in lists of fixed length such places are padding."""
    name = history.name
    if isinstance(scan_file(path).collect_schema()[name], pl.Array):
        return null_rules(name)
    if history.dtype != "str":
        return list_rules(name, None)
    values = pl.col(name)
    empty = Rule(name, values.list.contains(""), values, "no empty text inside a list")
    return [*list_rules(name, None), empty]
