"""The quadratic network against its formula, and the properties it must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.QIN.layers import QuadraticLayer, QuadraticNeuralNetwork
from model_zoo.QIN.layers.kernels import keep_mask
from tests import oracles
from tests.conftest import CATEGORICAL, SEQUENCE, build_qin
from tests.oracles import gradients


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


@pytest.mark.parametrize("p", [0.1, 0.5, 1e-6, 0.999999])
def test_dropout_keeps_the_share_and_the_expectation(p: float) -> None:
    count = 1_000_003
    keep, scale = keep_mask((count,), p)
    share = 1 / scale
    assert share == pytest.approx(1 - p, abs=2**-16)
    spread = (share * (1 - share) / count) ** 0.5
    assert float(keep.double().mean()) == pytest.approx(share, abs=5 * spread + 1e-9)
    assert set(keep.unique().tolist()) <= {0, 1}


def test_elements_are_dropped_independently() -> None:
    """Neighbours come from one draw of 64 bits: no pair of lanes may go together."""
    keep = keep_mask((400_000, 4), 0.3)[0].double()
    correlation = torch.corrcoef(torch.cat([keep[:-1], keep[1:]], dim=1).T) - torch.eye(8)
    assert float(keep.mean(dim=0).sub(0.7).abs().max()) < 0.005
    assert float(correlation.abs().max()) < 0.01


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.4, 0.0])
def test_gradients_in_training(monkeypatch: pytest.MonkeyPatch, bias: bool, dropout: float) -> None:
    """The masks are fixed by the seed; several chunks, the last of them smaller."""
    monkeypatch.setattr("model_zoo.QIN.layers.kernels.CHUNK", 3)
    layer = QuadraticLayer(4, num_row=3, dropout=dropout, bias=bias).double().train()
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)

    def output(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(layer, named, (x,))

    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))


@pytest.mark.parametrize("net_dropout", [0.4, 0.0])
def test_gradients_of_a_network_in_training(
    monkeypatch: pytest.MonkeyPatch, net_dropout: float
) -> None:
    monkeypatch.setattr("model_zoo.QIN.layers.kernels.CHUNK", 3)
    monkeypatch.setattr("model_zoo.QIN.layers.kernels.POINTWISE", 8)
    network = QuadraticNeuralNetwork(4, num_layers=2, num_row=2, net_dropout=net_dropout)
    network.double().train()
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    names = dict(network.named_parameters())

    def output(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *network.parameters()))


def test_compilers_see_dropout_as_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways have the same expectation; averaged over many draws they agree."""
    network = QuadraticNeuralNetwork(
        4, num_layers=1, num_row=2, net_dropout=0.3, batch_norm=False
    ).train()
    x = torch.randn(5, 4).repeat(20_000, 1)

    def means() -> torch.Tensor:
        return network(x).detach().view(-1, 5).mean(dim=0)

    ours = means()
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    torch.testing.assert_close(ours, means(), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("half", [True, False])
def test_a_compiler_takes_the_network_whole(half: bool) -> None:
    """As on a GPU: one graph without a break, with the values and gradients of the formula."""
    network = QuadraticNeuralNetwork(8, num_layers=2, num_row=3, net_dropout=0.0).train()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(33, 8, requires_grad=True)

    def results(forward: torch.nn.Module) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = forward(x)
        weights = [x, *network.parameters()]
        return [output, *torch.autograd.grad(output.float().square().sum(), weights)]

    tolerance = {"rtol": 0.05, "atol": 0.05} if half else {"rtol": 1e-4, "atol": 1e-4}
    for got, expected in zip(results(compiled), results(network), strict=True):
        scale = max(float(expected.detach().abs().max()), 1.0)
        torch.testing.assert_close(got / scale, expected / scale, **tolerance)


@pytest.mark.parametrize("amd", [True, False])
@pytest.mark.parametrize("dropout", [0.4, 0.0])
def test_float32_and_bfloat16_equal_the_formula_with_the_same_masks(
    monkeypatch: pytest.MonkeyPatch, amd: bool, dropout: float
) -> None:
    """float32 goes through other kernels than float64, which the other tests use."""
    monkeypatch.setattr("model_zoo.core.kernels._on_amd", lambda: amd)
    monkeypatch.setattr("model_zoo.core.kernels.CONVOLVED", 1)
    layer = QuadraticLayer(40, num_row=3, dropout=dropout).train()
    x = torch.randn(33, 40, requires_grad=True)

    def results(layer: QuadraticLayer, x: torch.Tensor) -> list[torch.Tensor]:
        torch.manual_seed(1)
        output = layer(x)
        return [output.detach(), *gradients(output, layer, x)]

    single = results(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        half = results(layer, x)
    double = results(layer.double(), x.double())
    for exact, got, rough in zip(double, single, half, strict=True):
        torch.testing.assert_close(got.double(), exact, atol=1e-4, rtol=1e-4)
        assert float((rough - exact).norm() / exact.norm()) < 0.02


def test_dropout_follows_the_seed() -> None:
    network = QuadraticNeuralNetwork(6, net_dropout=0.5).train()
    x = torch.randn(8, 6)
    draws = [(torch.manual_seed(seed), network(x))[1] for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


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


def test_the_plain_model_is_the_same_function(tmp_path: Path) -> None:
    """The baseline of the benchmarks: the same logits, and without dropout the same gradients."""
    features = {
        "level": {**CATEGORICAL, "vocab_size": 4},
        "item_id": {**CATEGORICAL, "source": "item", "vocab_size": 12},
        "tags": {**SEQUENCE, "source": "item", "vocab_size": 7, "max_len": 3},
        "text": {"type": "embedding", "source": "item", "pretrain_dim": 6},
    }
    columns = {
        "item_id": torch.arange(12),
        "tags": torch.randint(0, 7, (12, 3)),
        "text": torch.randn(12, 6),
    }
    model = build_qin(features, columns, tmp_path)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    plain = oracles.PlainQIN(model)
    batch = {
        "level": torch.randint(0, 4, (9,)),
        "item_id": torch.randint(1, 12, (9,)),
        "item_seq": torch.randint(1, 12, (9, 5)) * (torch.rand(9, 5) < 0.6),
    }
    for training in (True, False):
        plain.train(training)
        expected, got = plain(batch), model(batch)["logit"]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        parameters = [*model.attention.parameters(), *model.qnn.parameters()]
        for mine, wanted in zip(
            torch.autograd.grad(got.sum(), parameters),
            torch.autograd.grad(expected.sum(), parameters),
            strict=True,
        ):
            torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-3)
