"""Negatives are drawn with the weights that are documented."""

from __future__ import annotations

import numpy as np
import pytest

from model_zoo.core.prepare.rows import item_weights, sample_negatives


@pytest.mark.parametrize("alpha", [0.0, 0.75, 500.0])
@pytest.mark.parametrize("sampling", ["uniform", "popularity", "mix"])
def test_weights_of_negatives(sampling: str, alpha: float) -> None:
    counts = np.array([0, 1, 3, 0, 1000])
    weights = item_weights(counts, sampling=sampling, alpha=alpha, only_seen=False)
    popular = np.array([0, (1 / 1000) ** alpha, (3 / 1000) ** alpha, 0, 1])
    plain_weights = {
        "uniform": np.full(5, 0.2),
        "popularity": popular / popular.sum(),
        "mix": 0.1 + 0.5 * popular / popular.sum(),
    }
    np.testing.assert_allclose(weights, plain_weights[sampling], rtol=1e-12)


@pytest.mark.parametrize("price", [0, 8, np.inf])
def test_negatives_follow_their_weights(monkeypatch: pytest.MonkeyPatch, price: float) -> None:
    """Drawing again and drawing exactly give the same distribution: weights without the seen."""
    monkeypatch.setattr("model_zoo.core.prepare.rows._CELLS_PER_DRAW", price)
    weights = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    drawn = sample_negatives(
        np.ones(40_000, dtype=np.int64),
        weights,
        np.array([0, 5, 5 + 1]),  # user 0 has seen item 0, user 1 items 0 and 1
        count=1,
        random=np.random.default_rng(1),
    )
    shares = np.bincount(drawn[:, 0], minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0, 0, 2 / 3, 1 / 3, 0], atol=0.01)
