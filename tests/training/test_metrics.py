"""Metrics over groups: values against plain formulas, ties, undefined metrics, speed."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
from fuxictr import metrics as fuxictr_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from model_zoo.core.training.metrics import evaluate_metrics, undefined_reasons
from tests import oracles

BY_GROUP = ["gAUC", "avgAUC", "MRR", "NDCG(k=1)", "NDCG(k=3)", "NDCG(k=50)"]
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.7])),
    min_size=1,
    max_size=14,
)


def columns(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups, labels, predictions = zip(*rows, strict=True)
    return np.array(labels, float), np.array(predictions), np.array(groups)


def few_in_a_group(rows: list[tuple[int, int, float]]) -> bool:
    return max(np.bincount([row[0] for row in rows])) <= 6


@settings(deadline=None)
@given(ROWS.filter(few_in_a_group))
def test_group_metrics_are_the_mean_over_all_orders_of_ties(
    rows: list[tuple[int, int, float]],
) -> None:
    y_true, y_pred, groups = columns(rows)
    result = evaluate_metrics(y_true, y_pred, BY_GROUP, groups)
    mean = partial(oracles.mean_over_ties, y_true=y_true, y_pred=y_pred, groups=groups)
    assert result["MRR"] == pytest.approx(mean(oracles.reciprocal_rank))
    for k in (1, 3, 50):
        expected = mean(partial(oracles.ndcg, k=k))
        assert result[f"NDCG(k={k})"] == pytest.approx(expected), k
    own = [groups == group for group in np.unique(groups)]
    both = [mine for mine in own if 0 < y_true[mine].mean() < 1]
    if both:
        aucs = [roc_auc_score(y_true[mine], y_pred[mine]) for mine in both]
        assert result["avgAUC"] == pytest.approx(np.mean(aucs))
        assert result["gAUC"] == pytest.approx(oracles.group_auc(y_true, y_pred, groups))
    else:
        assert np.isnan([result["gAUC"], result["avgAUC"]]).all()


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[tuple[int, int, float]], random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, other = (
        evaluate_metrics(*columns(r)[:2], BY_GROUP, columns(r)[2]) for r in (rows, shuffled)
    )
    np.testing.assert_equal(one, other)


def test_without_ties_they_are_fuxictrs() -> None:
    random = np.random.default_rng(0)
    y_true, y_pred = random.integers(0, 2, 900).astype(float), random.random(900)
    groups = random.integers(-40, 40, 900)
    result = evaluate_metrics(y_true, y_pred, BY_GROUP, groups)
    functions = [
        fuxictr_metrics.gAUC,
        fuxictr_metrics.avgAUC,
        fuxictr_metrics.MRR,
        *(fuxictr_metrics.NDCG(k) for k in (1, 3, 50)),
    ]
    for name, function in zip(result, functions, strict=True):
        own = [function(y_true[groups == g], y_pred[groups == g]) for g in np.unique(groups)]
        pairs = np.array([value if isinstance(value, tuple) else (value, 1) for value in own])
        value, weight = pairs.sum(axis=0)
        assert result[name] == pytest.approx(value / weight, rel=1e-9), name


def test_a_constant_predictor_scores_the_mean_over_random_orders() -> None:
    """One click among four rows: ranks 1 to 4 are equally likely, wherever the click stands."""
    names = ["MRR", "NDCG(k=1)"]
    for place in range(4):
        result = evaluate_metrics(np.eye(4)[place], np.full(4, 0.5), names, np.zeros(4, np.int64))
        assert result == pytest.approx({"MRR": (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, "NDCG(k=1)": 0.25})


def test_metrics_over_rows_are_sklearns() -> None:
    random = np.random.default_rng(1)
    y_true, y_pred = random.integers(0, 2, 50).astype(float), random.random(50).round(1)
    expected = {"logloss": log_loss(y_true, y_pred), "AUC": roc_auc_score(y_true, y_pred)}
    assert evaluate_metrics(y_true, y_pred, ["logloss", "AUC"]) == expected
    assert list(evaluate_metrics(y_true, y_pred, ["logloss", "AUC"])) == ["logloss", "AUC"]


def test_undefined_metrics_are_nan_and_have_a_reason() -> None:
    y_true, y_pred = np.ones(4), np.array([0.2, 0.5, 0.5, 0.9])
    groups = np.array([7, 7, 8, 9])
    result = evaluate_metrics(y_true, y_pred, ["AUC", "gAUC", "MRR", "logloss"], groups)
    assert np.isnan([result["AUC"], result["gAUC"]]).all()
    assert result["logloss"] == pytest.approx(-np.log(y_pred).mean())
    assert undefined_reasons(result, y_true, groups) == {
        "AUC": "all 4 labels are 1",
        "gAUC": "none of the 3 groups has both a click and a row without one",
    }
    assert undefined_reasons({"AUC": 0.5}, y_true) == {}


def test_twenty_thousand_groups_take_less_than_a_second() -> None:
    random = np.random.default_rng(2)
    rows = 400_000
    y_true, y_pred = random.integers(0, 2, rows).astype(float), random.random(rows)
    groups = random.integers(0, 20_000, rows)
    evaluate_metrics(y_true[:100], y_pred[:100], BY_GROUP, groups[:100])
    start = time.process_time()
    evaluate_metrics(y_true, y_pred, ["gAUC", "MRR", "NDCG(k=5)"], groups)
    assert time.process_time() - start < 1
