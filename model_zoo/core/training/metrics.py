"""FuxiCTR's metrics, with group metrics computed in this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from fuxictr import metrics as fuxictr_metrics

ROW_METRICS = ("AUC", "logloss")
GROUP_METRICS = ("gAUC", "avgAUC", "MRR")
_NDCG = re.compile(r"NDCG\(k=(\d+)\)")

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
    """Metrics by name, in the order asked for.

    FuxiCTR's own function forks ``cpu_count // 2`` processes for group metrics: none at all
    on one core, and a fork beside the threads of torch and polars can hang. Its formulas
    are used as they are.

    Args:
        y_true: Labels, (n,).
        y_pred: Click probabilities, (n,).
        metrics: AUC, logloss, gAUC, avgAUC, MRR or NDCG(k=...).
        group_id: Group of each row, (n,); needed by group metrics.

    Raises:
        ValueError: If a metric is unknown, or a group metric has no ``group_id``.
    """
    by_row = [name for name in metrics if not is_group_metric(name)]
    result = dict(fuxictr_metrics.evaluate_metrics(y_true, y_pred, by_row))
    by_group = [name for name in metrics if is_group_metric(name)]
    if by_group:
        if group_id is None:
            raise ValueError(f"{', '.join(by_group)} need a group_id")
        frame = pl.DataFrame({"group": group_id, "y_true": y_true, "y_pred": y_pred})
        functions = [_group_function(name) for name in by_group]
        groups = frame.partition_by("group", maintain_order=True)
        totals = np.sum([fuxictr_metrics.evaluate_block(g, functions) for g in groups], axis=0)
        for name, (value, weight) in zip(by_group, totals, strict=True):
            result[name] = float(value / weight) if weight else float("nan")
    return {name: float(result[name]) for name in metrics}


def _group_function(name: str) -> Callable[..., object]:
    ndcg = _NDCG.fullmatch(name)
    function: Callable[..., object] = (
        fuxictr_metrics.NDCG(k=int(ndcg[1])) if ndcg else getattr(fuxictr_metrics, name)
    )
    return function
