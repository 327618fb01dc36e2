"""The parts that can stand in QIN's place against their formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model_zoo.QIN.layers import AdaptiveSparseTargetAttention
from model_zoo.QINAblation.layers import KINDS, QuadraticNetworkVariant, TargetAttentionVariant
from tests import oracles
from tests.oracles import gradients


def compare(one: Tensor, other: Tensor, layer: nn.Module, *inputs: Tensor) -> None:
    torch.testing.assert_close(one, other)
    pairs = zip(gradients(one, layer, *inputs), gradients(other, layer, *inputs), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    residual=st.booleans(),
    rows=st.integers(1, 5),
    slots=st.integers(1, 6),
    dim=st.integers(1, 5),
    size=st.sampled_from([1.0, 10.0]),
)
def test_attention_equals_its_formula(
    seed: int, kind: str, residual: bool, rows: int, slots: int, dim: int, size: float
) -> None:
    """Ragged histories, empty ones too, and scores far apart."""
    torch.manual_seed(seed)
    attention = TargetAttentionVariant(dim, kind=kind, residual=residual).double()
    target = size * torch.randn(rows, dim, dtype=torch.float64)
    history = torch.randn(rows, slots, dim, dtype=torch.float64)
    target.requires_grad_()
    history.requires_grad_()
    mask = torch.rand(rows, slots) < torch.rand(rows, 1)
    owners, _ = mask.nonzero(as_tuple=True)
    index = mask.flatten().nonzero().squeeze(1)
    got = attention.packed(target, history.flatten(0, 1), owners, index)
    expected = oracles.attention_variant(attention, target, history, mask)
    compare(got, expected, attention, target, history)


def test_a_softmax_of_large_scores_is_finite() -> None:
    attention = TargetAttentionVariant(3, kind="softmax")
    target, items = 1e3 * torch.randn(2, 3), 1e3 * torch.randn(4, 3)
    rows, index = torch.tensor([0, 0, 0, 1]), torch.arange(4)
    assert attention.packed(target, items, rows, index).isfinite().all()


def test_asta_is_qins() -> None:
    published = AdaptiveSparseTargetAttention(4).double()
    attention = TargetAttentionVariant(4).double()
    attention.load_state_dict(published.state_dict())
    target, items = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    arguments = (target, items, torch.tensor([0, 0, 2]), torch.tensor([4, 1, 1]))
    torch.testing.assert_close(attention.packed(*arguments), published.packed(*arguments))


def test_dropout_takes_weights_away_and_scales_the_rest() -> None:
    attention = TargetAttentionVariant(3, kind="softmax", dropout=0.25, residual=False).double()
    target, items = torch.randn(400, 3).double(), torch.randn(1, 3).double()
    rows, index = torch.arange(400), torch.zeros(400, dtype=torch.long)  # all weights are 1
    whole = attention.eval().packed(target, items, rows, index)
    dropped = attention.train().packed(target, items, rows, index)
    zero = (dropped == 0).all(dim=1)
    assert 60 < zero.sum() < 140  # 100 expected, standard deviation 9
    torch.testing.assert_close(dropped[~zero], whole[~zero] / 0.75)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(["prelu", "relu"]),
    norm=st.sampled_from(["after", "before"]),
    batch_norm=st.booleans(),
    num_layers=st.integers(1, 3),
    num_row=st.integers(1, 3),
)
def test_quadratic_network_equals_its_formula(
    seed: int, activation: str, norm: str, batch_norm: bool, num_layers: int, num_row: int
) -> None:
    torch.manual_seed(seed)
    network = QuadraticNetworkVariant(
        5,
        num_layers=num_layers,
        num_row=num_row,
        batch_norm=batch_norm,
        activation=activation,
        norm=norm,
    ).double()
    network(torch.randn(20, 5, dtype=torch.float64))  # moves the running statistics
    network.eval()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    compare(network(x), oracles.quadratic_network_variant(network, x), network, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetAttentionVariant(0), "dim=0, attention_dim=0"),
        (lambda: TargetAttentionVariant(2, kind="max"), "kind must be one of .*, got 'max'"),
        (lambda: TargetAttentionVariant(2, dropout=1.0), r"in \[0, 1\), got 1.0"),
        (lambda: QuadraticNetworkVariant(2, num_layers=0), "at least 1, got 0"),
        (lambda: QuadraticNetworkVariant(2, activation="tanh"), "prelu or relu, got 'tanh'"),
        (lambda: QuadraticNetworkVariant(2, norm="both"), "after or before, got 'both'"),
    ],
)
def test_impossible_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
