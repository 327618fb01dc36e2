"""What makes a column of a parquet file sound, as polars expressions on its plain form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from model_zoo.core.data.parquet import type_fits
from model_zoo.core.data.spec import FeatureSpec

# No column of a file has this name.
ROW = "\x00row"
AN_ITEM = "an item id (0 is padding)"
A_TOKEN = "an id of the vocabulary"
# What float32 holds: models compute in it.
LARGEST = float(np.finfo(np.float32).max)
NUMBERS = f"numbers within ±{LARGEST:.4g}, the range of float32"
A_NUMBER = f"a finite number within ±{LARGEST:.4g}, the range of float32"


@dataclass(frozen=True)
class Rule:
    """A row breaks the rule where ``bad`` is true; ``found`` is the value to show."""

    column: str
    bad: pl.Expr
    found: pl.Expr
    expected: str


def expected_type(feature: FeatureSpec) -> str:
    """For messages: what the values of a column should be."""
    element = "text" if feature.dtype == "str" else "integers"
    return {
        "categorical": element,
        "meta": element,
        "numeric": "numbers",
        "sequence": f"lists of {element}",
        "embedding": "lists of numbers",
    }[feature.type]


def column_rules(feature: FeatureSpec, dtype: pl.DataType, *, encoded: bool) -> list[Rule]:
    """Rules for one feature column.

    None where its type is wrong, which is a problem of its own. Ids whose vocabulary is yet
    to be built may be missing (they become padding) and have any value. Numbers that are yet to
    be encoded may be missing too.
    """
    if not type_fits(feature, dtype):
        return []
    name = feature.name
    if feature.type == "meta":
        return null_rules(name)
    if feature.type == "categorical":
        if feature.vocab_size is None:
            return []
        return [
            *null_rules(name),
            range_rule(name, pl.col(name), 0, feature.vocab_size - 1, A_TOKEN),
        ]
    if feature.type == "numeric":
        number = pl.col(name).cast(pl.Float64)
        rule = Rule(name, ~(number.abs() <= LARGEST), pl.col(name), A_NUMBER)
        return [*(null_rules(name) if encoded else []), rule]
    if feature.type == "sequence":
        if feature.vocab_size is None:
            return []
        return id_list_rules(name, feature.max_len, feature.vocab_size, A_TOKEN)
    values = pl.col(name)
    # One infinity or NaN makes the sum infinite or NaN.
    total = values.list.eval(pl.element().cast(pl.Float64)).list.sum()
    largest = values.list.eval(pl.element().cast(pl.Float64).abs()).list.max()
    return [
        *list_rules(name, feature.pretrain_dim),
        Rule(name, ~total.is_finite(), total, "finite numbers (the sum of the list is shown)"),
        Rule(
            name,
            total.is_finite() & (largest > LARGEST),
            largest,
            f"{NUMBERS} (the largest size is shown)",
        ),
    ]


def padding_rules(feature: FeatureSpec, dtype: pl.DataType) -> list[Rule]:
    """Row 0 of an encoded item_info is padding, so it carries nothing."""
    if not type_fits(feature, dtype):
        return []
    name, values = feature.name, pl.col(feature.name)
    if feature.type in ("sequence", "embedding"):
        nonzero = (values.list.min() != 0) | (values.list.max() != 0)
    else:
        nonzero = values != 0
    return [Rule(name, (pl.col(ROW) == 0) & nonzero, values, "zeros: row 0 is padding")]


def null_rules(name: str) -> list[Rule]:
    return [Rule(name, pl.col(name).is_null(), pl.col(name), "a value in every row")]


def range_rule(name: str, values: pl.Expr, low: int, high: int, what: str) -> Rule:
    return Rule(name, (values < low) | (values > high), values, f"{what} in {low}..{high}")


def id_list_rules(name: str, length: int | None, num_ids: int, what: str) -> list[Rule]:
    """Lists of ids in 0..num_ids - 1, of one length if that is given."""
    values = pl.col(name)
    return [
        *list_rules(name, length),
        range_rule(name, values.list.min(), 0, num_ids - 1, what),
        range_rule(name, values.list.max(), 0, num_ids - 1, what),
    ]


def list_rules(name: str, length: int | None) -> list[Rule]:
    """Lists in every row and values in every list, of one length if that is given."""
    values = pl.col(name)
    rules = [
        *null_rules(name),
        Rule(name, values.list.contains(None), values, "no null inside a list"),
    ]
    if length is not None:
        size = values.list.len()
        rules.append(Rule(name, size != length, size, f"a list of length {length}"))
    return rules
