"""FuxiCTR's metrics; those over groups come from one sort of all rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from fuxictr import metrics as fuxictr_metrics
from sklearn.metrics import log_loss

ROW_METRICS = ("AUC", "logloss")
GROUP_METRICS = ("gAUC", "avgAUC", "MRR")
_NDCG = re.compile(r"NDCG\(k=([1-9]\d*)\)")

_Floats = npt.NDArray[np.float64]


def is_group_metric(name: str) -> bool:
    """Whether a metric is averaged over groups: gAUC, avgAUC, MRR or NDCG(k=...)."""
    return name in GROUP_METRICS or _NDCG.fullmatch(name) is not None


def evaluate_metrics(
    y_true: _Floats,
    y_pred: _Floats,
    metrics: Sequence[str],
    group_id: npt.NDArray[np.int64] | None = None,
) -> dict[str, float]:
    r"""Metrics by name, in the order asked for; NaN where one is undefined.

    With the rows of a group ranked by falling prediction, c clicks among its n rows:

    - gAUC: AUC of each group with both classes, weighted by n. avgAUC: the same, unweighted.
    - MRR: :math:`\frac{1}{c} \sum_{clicks} 1 / rank`, 0 without a click; mean over all groups.
    - NDCG(k): :math:`\sum_{clicks, rank \le k} 1 / \log_2(1 + rank)` over its largest value, 0
      without a click; mean over all groups.

    These are FuxiCTR's definitions. Rows with the same prediction have no order: MRR and NDCG
    are expected values over all orders of such ties. A tie that holds the ranks a+1 … b with p
    clicks gives each of its ranks p/(b-a) clicks on average, whatever the order of the rows.

    Args:
        y_true: Labels, 0 or 1, (n,).
        y_pred: Click probabilities, (n,).
        metrics: AUC, logloss, gAUC, avgAUC, MRR or NDCG(k=...).
        group_id: Group of each row, (n,); needed by group metrics.

    Raises:
        ValueError: If a metric is unknown, or a group metric has no ``group_id``.
    """
    one_class = bool(np.all(y_true == y_true[0]))
    result = {}
    for name in (name for name in metrics if not is_group_metric(name)):
        if one_class and name == "AUC":
            result[name] = float("nan")
        elif one_class and name == "logloss":
            result[name] = log_loss(y_true, y_pred, labels=[0, 1])
        else:
            result.update(fuxictr_metrics.evaluate_metrics(y_true, y_pred, [name]))
    by_group = [name for name in metrics if is_group_metric(name)]
    if by_group:
        if group_id is None:
            raise ValueError(f"{', '.join(by_group)} need a group_id")
        ranking = _Ranking(y_true, y_pred, group_id)
        result.update({name: ranking.metric(name) for name in by_group})
    return {name: float(result[name]) for name in metrics}


def undefined_reasons(
    result: Mapping[str, float], y_true: _Floats, group_id: npt.NDArray[np.int64] | None = None
) -> dict[str, str]:
    """Why each metric that is NaN is undefined, by name.

    Args:
        result: What :func:`evaluate_metrics` returned.
        y_true: The labels, (n,).
        group_id: Group of each row, (n,).
    """
    reasons = {}
    for name in (name for name, value in result.items() if np.isnan(value)):
        if is_group_metric(name) and group_id is not None:
            groups = pl.Series(group_id).n_unique()
            reasons[name] = f"none of the {groups} groups has both a click and a row without one"
        else:
            reasons[name] = f"all {len(y_true)} labels are {y_true[0]:g}"
    return reasons


class _Ranking:
    """Every group's rows by falling prediction, as ties: runs of rows with one prediction.

    All arrays have an entry for each tie, or for each group where the name says so.
    """

    def __init__(self, y_true: _Floats, y_pred: _Floats, group_id: npt.NDArray[np.int64]) -> None:
        rows = pl.DataFrame({"group": group_id, "prediction": y_pred, "label": y_true})
        rows = rows.sort("group", "prediction", descending=[False, True])
        begins_group = _changes(rows["group"])
        begins_tie = np.flatnonzero(begins_group | _changes(rows["prediction"]))
        starts = np.flatnonzero(begins_group)
        ends = np.append(starts[1:], len(rows))
        self.group = np.cumsum(begins_group)[begins_tie] - 1
        self.group_rows = ends - starts
        # Ranks before+1 … last of the group belong to the tie.
        self.before = begins_tie - starts[self.group]
        self.last = np.append(begins_tie[1:], len(rows)) - starts[self.group]
        self.clicks = np.add.reduceat(rows["label"].to_numpy(), begins_tie)
        self.group_clicks = self._by_group(self.clicks)

    def metric(self, name: str) -> float:
        ndcg = _NDCG.fullmatch(name)
        ranks = np.arange(1, self.group_rows.max() + 1)
        if ndcg:
            discount = np.where(ranks <= int(ndcg[1]), 1 / np.log2(ranks + 1), 0.0)
            best = np.append(0.0, np.cumsum(discount))[self.group_clicks.astype(np.int64)]
            return self._gain(discount, best)
        if name == "MRR":
            return self._gain(1 / ranks, self.group_clicks)
        return self._auc(weighted=name == "gAUC")

    def _gain(self, discount: _Floats, best: _Floats) -> float:
        """Mean over groups of the expected sum of the clicks' discounts, over ``best``."""
        total = np.append(0.0, np.cumsum(discount))
        share = self.clicks / (self.last - self.before)
        gain = self._by_group(share * (total[self.last] - total[self.before]))
        # A group without a click has gain 0, and best 0.
        return float(np.mean(gain / np.where(best > 0, best, 1.0)))

    def _auc(self, *, weighted: bool) -> float:
        """Mean over the groups with both classes of the share of pairs in the right order."""
        others = self.last - self.before - self.clicks
        seen = np.cumsum(others)
        below = np.cumsum(self._by_group(others))[self.group] - seen
        right = self._by_group(self.clicks * (below + 0.5 * others))
        pairs = self.group_clicks * (self.group_rows - self.group_clicks)
        both = pairs > 0
        if not both.any():
            return float("nan")
        weights = self.group_rows[both] if weighted else None
        return float(np.average(right[both] / pairs[both], weights=weights))

    def _by_group(self, values: _Floats) -> _Floats:
        """Sum over the ties of each group."""
        return np.bincount(self.group, weights=values, minlength=len(self.group_rows))


def _changes(column: pl.Series) -> npt.NDArray[np.bool_]:
    """Where a row differs from the one before; the first does."""
    return column.ne_missing(column.shift()).to_numpy() | (np.arange(len(column)) == 0)
