"""QINAblation: with all defaults QIN itself, and each variant its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_zoo import get_model
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.model import Foldable
from model_zoo.QIN.layers import AdaptiveSparseTargetAttention, QuadraticNeuralNetwork
from model_zoo.QIN.model import QIN
from model_zoo.QINAblation.layers import QuadraticNetworkVariant
from model_zoo.QINAblation.model import QINAblation
from tests import oracles
from tests.conftest import feature_map
from tests.QIN.test_model import (
    ITEM_FEATURES,
    ITEMS,
    ROW_FEATURES,
    item_columns,
    packed,
    padded_batch,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {"attention": "softmax"},
    "relu2": {"attention": "relu2"},
    "silu": {"attention": "silu"},
    "mean": {"attention": "mean"},
    "none": {"attention": "none"},
    "no residual": {"residual": False},
    "dropout": {"attention_dropout": 0.1},
    "tied": {"tied": True},
    "mlp": {"network": "mlp", "hidden_units": [7, 5]},
    "mlp without norm": {"network": "mlp", "hidden_units": [7], "batch_norm": False},
    "relu": {"activation": "relu"},
    "norm before": {"qnn_norm": "before"},
    "two at once": {"attention": "softmax", "residual": False, "network": "mlp"}
    | {"hidden_units": [6]},
}


def build(tmp_path: Path, model: type = QINAblation, **settings: Any) -> Any:
    torch.manual_seed(3)
    columns = item_columns()
    arguments = {
        "learning_rate": 1e-2,
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC"],
        "model_root": str(tmp_path),
        "verbose": 0,
        "num_layers": 2,
        "num_row": 3,
        "net_dropout": 0.0,
    }
    built = model(
        feature_map({**ROW_FEATURES, **ITEM_FEATURES}, 4),
        embedding_dim=4,
        item_table=ItemTable(columns),
        **(arguments | settings),
    ).double()
    torch.manual_seed(4)
    for parameter in built.embedding_layer.parameters():
        nn.init.normal_(parameter)  # FuxiCTR's 1e-4 would hide a wrong embedding
    for table in built.embedding_layer.modules():
        if isinstance(table, nn.Embedding):
            table.weight.data[0] = 0
    return built


def results(model: nn.Module, logit: Tensor) -> list[Tensor]:
    """The logit, and the gradient of each parameter; without padding rows, which learn nothing."""
    named = list(model.named_parameters())
    weight = torch.linspace(-1, 1, logit.numel(), dtype=logit.dtype).view_as(logit)
    found = torch.autograd.grad((weight * logit).sum(), [p for _, p in named], allow_unused=True)
    kept = [logit]
    for (name, parameter), gradient in zip(named, found, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        kept.append(gradient[1:] if "embedding_layers" in name else gradient)
    return kept


@pytest.mark.parametrize("training", [False, True])
def test_with_all_defaults_it_is_qin(tmp_path: Path, training: bool) -> None:
    """Weights from the seed, outputs, gradients, and dropout's draws."""
    qin, model = (
        build(tmp_path, kind, net_dropout=0.2).train(training) for kind in (QIN, QINAblation)
    )
    assert qin.state_dict().keys() == model.state_dict().keys()
    for one, other in zip(qin.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    found = []
    for each in (qin, model):
        torch.manual_seed(5)
        found.append(results(each, each(packed(padded_batch()))["logit"]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_equals_its_formula(tmp_path: Path, name: str) -> None:
    model = build(tmp_path, **VARIANTS[name])
    batch = padded_batch()
    model.train()(batch)  # moves the running statistics
    model.eval()
    history = batch["item_seq"]
    columns = model.item_table(torch.arange(ITEMS))
    target = oracles.item_vectors(model, columns, batch["item_id"])
    vectors = oracles.item_vectors(model, columns, history.flatten()).view(*history.shape, -1)
    if isinstance(model.attention, AdaptiveSparseTargetAttention):
        interest = oracles.target_attention(model.attention, target, vectors, history != 0)
    else:
        interest = oracles.attention_variant(model.attention, target, vectors, history != 0)
    tables = model.embedding_layer.embedding_layer.embedding_layers
    row = [tables[name].weight[batch[name].long()] for name in model.row_features]
    network = oracles.perceptron
    if isinstance(model.qnn, QuadraticNeuralNetwork):
        network = oracles.quadratic_network
    elif isinstance(model.qnn, QuadraticNetworkVariant):
        network = oracles.quadratic_network_variant
    expected = network(model.qnn, torch.cat([*row, target, interest], dim=1))
    got = results(model, model(packed(batch))["logit"])
    for one, other in zip(got, results(model, expected), strict=True):
        # FuxiCTR reads numbers and vectors as float32 whatever the model computes in.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_each_switch_changes_the_model(tmp_path: Path) -> None:
    """All but dropout in evaluation, from the same weights where they are shared."""
    batch = packed(padded_batch())
    plain = build(tmp_path).eval()(batch)["logit"]
    for name, settings in VARIANTS.items():
        changed = build(tmp_path, **settings).eval()(batch)["logit"]
        assert torch.allclose(changed, plain) == (name == "dropout"), name


def test_tied_begins_with_equal_maps_that_part(tmp_path: Path) -> None:
    attention = build(tmp_path, tied=True).attention
    assert torch.equal(attention.W_k.weight, attention.W_q.weight)
    assert attention.W_k.weight is not attention.W_q.weight


def test_it_does_not_fold(tmp_path: Path) -> None:
    assert not hasattr(get_model("QINAblation"), "fold")
    assert not isinstance(build(tmp_path), Foldable)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tied": True, "attention": "mean"}, "tied: True needs queries and keys; attention mean"),
        ({"network": "cnn"}, "network must be qnn or mlp, got 'cnn'"),
        ({"network": "mlp", "hidden_units": []}, r"widths from 1 on, got \[\]"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)
