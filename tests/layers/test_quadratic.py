"""The quadratic network against its formula, and the properties it must have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.QIN.layers import QuadraticLayer, QuadraticNeuralNetwork
from tests import oracles


def gradients(output: torch.Tensor, module: torch.nn.Module, x: torch.Tensor):
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weight).sum(), [*module.parameters(), x])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    dim=st.integers(1, 6),
    num_row=st.integers(1, 4),
    bias=st.booleans(),
    training=st.booleans(),
)
def test_layer_equals_the_formula(
    seed: int, rows: int, dim: int, num_row: int, bias: bool, training: bool
) -> None:
    torch.manual_seed(seed)
    layer = QuadraticLayer(dim, num_row=num_row, bias=bias).double().train(training)
    x = torch.randn(rows, dim, dtype=torch.float64, requires_grad=True)
    expected, output = oracles.quadratic_layer(layer, x), layer(x)
    torch.testing.assert_close(output, expected)
    for got, wanted in zip(gradients(output, layer, x), gradients(expected, layer, x), strict=True):
        torch.testing.assert_close(got, wanted)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dim=st.integers(2, 6),
    num_layers=st.integers(1, 4),
    num_row=st.integers(1, 4),
    batch_norm=st.booleans(),
)
def test_network_equals_the_formula(
    seed: int, dim: int, num_layers: int, num_row: int, batch_norm: bool
) -> None:
    torch.manual_seed(seed)
    network = QuadraticNeuralNetwork(
        dim, num_layers=num_layers, num_row=num_row, batch_norm=batch_norm
    ).double()
    x = torch.randn(7, dim, dtype=torch.float64, requires_grad=True)
    network(x)  # running statistics that are not 0 and 1
    network.eval()
    expected, output = oracles.quadratic_network(network, x), network(x)
    torch.testing.assert_close(output, expected)
    for got, wanted in zip(
        gradients(output, network, x), gradients(expected, network, x), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_without_bias_it_scales_with_the_square() -> None:
    layer = QuadraticLayer(5, num_row=3, bias=False).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(-2.5 * x), 6.25 * layer(x))


def test_dropout_masks_each_row_of_a_layer_separately() -> None:
    """With all weights equal, the R rows differ only by their masks."""
    layer = QuadraticLayer(1, num_row=50, dropout=0.5, bias=False).train()
    torch.nn.init.ones_(layer.linear.weight)
    kept = layer(torch.ones(200, 1)) / 2  # how many of 50 rows survived, as dropout doubles
    assert kept.unique().numel() > 5
    assert float(kept.detach().mean()) == pytest.approx(25, abs=1)


def test_dropout_is_off_in_evaluation() -> None:
    network = QuadraticNeuralNetwork(6, net_dropout=0.5)
    x = torch.randn(8, 6)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_rows_do_not_see_each_other_in_evaluation() -> None:
    network = QuadraticNeuralNetwork(6).double().eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(network(x)[2:3], network(x[2:3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_row": 0}, "num_row=0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"net_dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"net_dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuadraticNeuralNetwork(4, **arguments)
