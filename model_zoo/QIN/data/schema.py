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

from model_zoo.QIN.data.spec import DatasetSpec, FeatureSpec
from model_zoo.QIN.errors import InputError

ROW = "row"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Rule:
    """A row breaks the rule where ``bad`` is true; ``found`` is the value to show."""

    column: str
    bad: pl.Expr
    found: pl.Expr
    expected: str


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
    """Check item_info and the named splits.

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
    paths = {split: getattr(dataset, f"{split}_data") for split in splits}
    paths = {split: path for split, path in paths.items() if path is not None}
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


def missing_files(dataset: DatasetSpec, paths: list[str]) -> list[str]:
    """One problem for every path that is no file."""
    source = f"; download it from {dataset.download_page}" if dataset.download_page else ""
    return [
        f"{path}: no such file, but data set {dataset.dataset_id} needs it{source}"
        for path in paths
        if not Path(path).is_file()
    ]


def _check_items(dataset: DatasetSpec) -> tuple[int, list[str]]:
    """Rows of item_info, and its problems."""
    key = dataset.item_col
    expected = [_ids(key, "categorical")]
    expected += [f for f in dataset.features(of_items=True) if f.name != key]
    ignored = [c.name for c in dataset.feature_cols if not c.active and c.source == "item"]
    scan, problems = _open(dataset.item_info, expected, ignored)
    if scan is None:
        return 0, problems
    schema = scan.collect_schema()
    rules = []
    if _type_fits(expected[0], schema[key]):
        rules = _null_rules(key)
        rules.append(
            Rule(key, pl.col(key) != pl.col(ROW), pl.col(key), "the row number: row k is item k")
        )
    for feature in expected[1:]:
        rules += _rules(feature, schema[feature.name])
        rules += _padding_rules(feature, schema[feature.name])
    counts, found = _apply(dataset.item_info, scan, rules)
    problems += found
    rows = int(counts.get("rows", 0))
    vocab_size = dataset.column(key).vocab_size
    if counts and vocab_size is not None and rows != vocab_size:
        problems.append(
            f"{dataset.item_info}: {rows} rows, but {key} has vocab_size {vocab_size} "
            f"in {dataset.dataset_id}; expected one row per item, padding included"
        )
    return rows, problems


def _check_split(
    dataset: DatasetSpec, split: str, path: str, num_items: int
) -> tuple[SplitSummary | None, list[str]]:
    label = dataset.label_col.name
    context = dataset.features(of_items=False)
    meta = [
        column
        for column in dataset.feature_cols
        if column.active
        and column.type == "meta"
        and column.name not in (dataset.item_col, dataset.history_col)
    ]
    target = _ids(dataset.item_col, "categorical")
    history = _ids(dataset.history_col, "sequence", dataset.column(dataset.history_col).max_len)
    ignored = [c.name for c in dataset.feature_cols if not c.active]
    scan, problems = _open(path, [target, history, *context, *meta], [*ignored, label])
    if scan is None:
        return None, problems
    schema = scan.collect_schema()
    labelled = label in schema
    if not labelled and split != "test":
        problems.append(f"{path}: column '{label}' is missing; {split} rows need a label")

    rules = []
    if _type_fits(target, schema[target.name]):
        item = pl.col(target.name)
        rules += _null_rules(target.name)
        rules.append(_range_rule(target.name, item, 1, num_items - 1, _AN_ITEM))
    if _type_fits(history, schema[history.name]):
        dtype = schema[history.name]
        rules += _id_list_rules(history.name, dtype, history.max_len, num_items, _AN_ITEM)
    for feature in [*context, *meta]:
        if feature.name in schema:
            rules += _rules(feature, schema[feature.name])
    totals = []
    if labelled and (schema[label].is_numeric() or schema[label] == pl.Boolean):
        rules += _null_rules(label)
        rules.append(Rule(label, ~pl.col(label).is_in([0, 1]), pl.col(label), "0 or 1"))
        totals.append((pl.col(label) == 1).sum().alias("clicks"))
    elif labelled:
        problems.append(_wrong_type(path, label, schema[label], "numbers"))

    counts, found = _apply(path, scan, rules, totals)
    problems += found
    if not counts:
        return None, problems
    rows = int(counts["rows"])
    clicks = int(counts["clicks"]) if "clicks" in counts else None
    if rows == 0:
        problems.append(f"{path}: no rows; expected at least one")
    elif clicks in (0, rows) and not found:
        problems.append(
            f"{path}: column '{label}': all {rows} rows are {int(clicks == rows)}; "
            "AUC and logloss need both classes"
        )
    return SplitSummary(rows, clicks), problems


def _open(
    path: str, expected: list[FeatureSpec], allowed: list[str]
) -> tuple[pl.LazyFrame | None, list[str]]:
    """A scan of the file, or ``None`` when it is unreadable or lacks an expected column."""
    try:
        scan = pl.scan_parquet(path).with_row_index(ROW)
        schema = scan.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        return None, [_unreadable(path, error)]
    names = {feature.name for feature in expected}
    missing = [feature for feature in expected if feature.name not in schema]
    extra = [name for name in schema if name not in names | {ROW, *allowed}]
    problems = [
        f"{path}: column '{feature.name}' is missing; expected type {feature.type}, "
        f"found columns {', '.join(n for n in schema if n != ROW)}"
        for feature in missing
    ]
    problems += [
        f"{path}: column '{name}' is not among feature_cols; "
        "declare it there (active: False to ignore it)"
        for name in extra
    ]
    for feature in expected:
        if feature.name in schema and not _type_fits(feature, schema[feature.name]):
            problems.append(
                _wrong_type(path, feature.name, schema[feature.name], _TYPES[feature.type])
            )
    return (None if missing else scan), problems


_AN_ITEM = "an item id (0 is padding)"
_TYPES = {
    "categorical": "integers",
    "meta": "integers or lists of integers",
    "numeric": "numbers",
    "sequence": "lists of integers",
    "embedding": "lists of numbers",
}


def _ids(
    name: str, kind: Literal["categorical", "sequence"], length: int | None = None
) -> FeatureSpec:
    """Target and history are item ids whatever else their columns are declared to be."""
    # Constructed without validation: the vocabulary is the item table's, not the column's.
    return FeatureSpec.model_construct(name=name, type=kind, dtype="int", max_len=length)


def _element(dtype: pl.DataType) -> pl.DataType:
    inner = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else dtype
    return inner if isinstance(inner, pl.DataType) else inner()


def _is_list(dtype: pl.DataType) -> bool:
    return isinstance(dtype, (pl.List, pl.Array))


def _type_fits(feature: FeatureSpec, dtype: pl.DataType) -> bool:
    element = _element(dtype)
    if feature.type == "meta":
        return element.is_integer()
    of_numbers = feature.type in ("numeric", "embedding")
    is_list = feature.type in ("sequence", "embedding")
    return _is_list(dtype) == is_list and (
        element.is_numeric() if of_numbers else element.is_integer()
    )


def _as_list(name: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(name).arr.to_list() if isinstance(dtype, pl.Array) else pl.col(name)


def _null_rules(name: str) -> list[Rule]:
    return [Rule(name, pl.col(name).is_null(), pl.col(name), "a value in every row")]


def _range_rule(name: str, values: pl.Expr, low: int, high: int, what: str) -> Rule:
    """Scalars, or the smallest and the largest element of lists, lie in low..high."""
    expected = f"{what} in {low}..{high}"
    return Rule(name, (values < low) | (values > high), values, expected)


def _list_rules(name: str, values: pl.Expr, length: int | None) -> list[Rule]:
    rules = [
        *_null_rules(name),
        Rule(name, values.list.contains(None), values, "no null inside a list"),
    ]
    if length is not None:
        size = values.list.len()
        rules.append(Rule(name, size != length, size, f"a list of length {length}"))
    return rules


def _id_list_rules(
    name: str, dtype: pl.DataType, length: int | None, num_ids: int, what: str
) -> list[Rule]:
    values = _as_list(name, dtype)
    return [
        *_list_rules(name, values, length),
        _range_rule(name, values.list.min(), 0, num_ids - 1, what),
        _range_rule(name, values.list.max(), 0, num_ids - 1, what),
    ]


def _rules(feature: FeatureSpec, dtype: pl.DataType) -> list[Rule]:
    """Rules for one column; none where its type is wrong, which is reported already."""
    name = feature.name
    if not _type_fits(feature, dtype):
        return []
    if feature.type == "meta":
        return _null_rules(name)
    if feature.type == "categorical":
        assert feature.vocab_size is not None  # the spec's own check
        rule = _range_rule(name, pl.col(name), 0, feature.vocab_size - 1, "an id of the vocabulary")
        return [*_null_rules(name), rule]
    if feature.type == "numeric":
        finite = pl.col(name).cast(pl.Float64).is_finite()
        return [*_null_rules(name), Rule(name, ~finite, pl.col(name), "a finite number")]
    if feature.type == "sequence":
        assert feature.vocab_size is not None  # the spec's own check
        return _id_list_rules(
            name, dtype, feature.max_len, feature.vocab_size, "an id of the vocabulary"
        )
    values = _as_list(name, dtype)
    # One infinity or NaN makes the sum infinite or NaN.
    total = values.list.eval(pl.element().cast(pl.Float64)).list.sum()
    return [
        *_list_rules(name, values, feature.pretrain_dim),
        Rule(name, ~total.is_finite(), total, "finite numbers (the sum of the list is shown)"),
    ]


def _padding_rules(feature: FeatureSpec, dtype: pl.DataType) -> list[Rule]:
    """Row 0 of item_info is padding, so it carries nothing."""
    if not _type_fits(feature, dtype):
        return []
    name, values = feature.name, pl.col(feature.name)
    if _is_list(dtype):
        values = _as_list(name, dtype)
        nonzero = (values.list.min() != 0) | (values.list.max() != 0)
    else:
        nonzero = values != 0
    return [Rule(name, (pl.col(ROW) == 0) & nonzero, values, "zeros: row 0 is padding")]


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
    return f"{path}: not a readable parquet file: {str(error).splitlines()[0]}"
