"""The best reachable AUC of generated data, whose true click probabilities are known."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from sklearn.metrics import roc_auc_score

from model_zoo.core.data.file_check import apply_rules, open_checked
from model_zoo.core.data.readable import readable
from model_zoo.core.data.rules import Rule, null_rules, range_rule
from model_zoo.core.data.spec import FeatureSpec
from model_zoo.core.errors import InputError

_COLUMNS = [
    FeatureSpec(name="split", type="meta", dtype="str"),
    FeatureSpec(name="label", type="numeric", dtype="float"),
    FeatureSpec(name="probability", type="numeric", dtype="float"),
]


def best_auc(path: str, split: str = "valid") -> float:
    """The AUC of the true probabilities of a split's rows, which no model beats but by chance.

    Args:
        path: A parquet file as :func:`model_zoo.core.prepare.demo.generate_demo` writes it.
        split: A value of its column ``split``.

    Raises:
        InputError: If there is no such file, if it is unreadable or lacks a column, or if the
            split's rows have one class only, or a wrong value.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, but the data set names it as its oracle")
    scan, problems = open_checked(path, _COLUMNS, None)
    if scan is not None and not problems:
        label, probability = pl.col("label"), pl.col("probability")
        rules = [
            *null_rules("split"),
            *null_rules("label"),
            Rule("label", ~label.is_in([0.0, 1.0]), label, "0 or 1"),
            *null_rules("probability"),
            Rule("probability", probability.is_nan(), probability, "a number"),
            range_rule("probability", probability, 0, 1, "a probability"),
        ]
        problems = apply_rules(path, scan, rules)[1]
    if scan is None or problems:
        raise InputError(problems)
    with readable(path):
        rows = scan.filter(pl.col("split") == split).select("label", "probability").collect()
    if rows["label"].n_unique() < 2:
        raise InputError(f"{path}: {len(rows)} {split} rows; expected some with label 0 and with 1")
    return float(roc_auc_score(rows["label"], rows["probability"]))
