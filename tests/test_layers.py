"""Pooled embeddings against look-up and pooling one after the other."""

from __future__ import annotations

import pytest
import torch
from fuxictr.pytorch.layers import MaskedAveragePooling, MaskedSumPooling
from torch import nn

from model_zoo.core.layers import PooledEmbedding


@pytest.mark.parametrize(
    ("mode", "pooling"), [("mean", MaskedAveragePooling), ("sum", MaskedSumPooling)]
)
@pytest.mark.parametrize("sparse", [True, False])
def test_equals_fuxictrs_pooling(mode: str, pooling: type[nn.Module], sparse: bool) -> None:
    table = nn.Embedding(9, 4, padding_idx=0, sparse=sparse, dtype=torch.float64)
    ids = torch.randint(0, 9, (20, 5))
    ids[0], ids[1] = 0, 3  # only padding, only repetitions
    results = []
    pooled = PooledEmbedding(table, mode=mode)
    outputs = [pooling()(table(ids)), pooled(ids)]
    if not sparse:  # as on a GPU
        outputs.append(pooled._with_padding_spread(ids, 0))
    for output in outputs:
        (gradient,) = torch.autograd.grad((output * output).sum(), table.weight)
        assert gradient.is_sparse == sparse
        results.append((output, gradient.to_dense()))
    for result in results[1:]:
        for plain, fast in zip(results[0], result, strict=True):
            torch.testing.assert_close(fast, plain)
        assert not result[0][0].any()
        assert not result[1][0].any()  # padding is not trained


def test_shares_the_table() -> None:
    table = nn.Embedding(3, 2, padding_idx=0)
    pooled = PooledEmbedding(table, mode="mean")
    assert pooled.weight is table.weight
    assert list(pooled.state_dict()) == ["weight"]


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be mean or sum, got 'max'"):
        PooledEmbedding(nn.Embedding(3, 2), mode="max")
