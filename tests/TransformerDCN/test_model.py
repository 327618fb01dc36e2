"""TransformerDCN as a FuxiCTR model: wiring, precision, settings, a training."""

from __future__ import annotations

import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fuxictr.pytorch.dataloaders import RankDataLoader
from torch import Tensor, nn

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.data.loader import make_loader
from model_zoo.core.errors import InputError
from model_zoo.core.training.items import WHOLE_TABLE
from model_zoo.QIN.model import QIN
from model_zoo.TransformerDCN.model import TransformerDCN
from tests import oracles
from tests.conftest import ROOT, feature_map
from tests.QIN.test_model import (
    ITEM_FEATURES,
    ITEMS,
    ROW_FEATURES,
    item_columns,
    packed,
    padded_batch,
    require_same_outputs,
)


def build(
    tmp_path: Path, features: dict[str, Any] | None = None, **settings: Any
) -> TransformerDCN:
    """A small model with embeddings large enough to be seen."""
    columns = item_columns()
    features = {**ROW_FEATURES, **ITEM_FEATURES} if features is None else features
    arguments: dict[str, Any] = {
        "learning_rate": 1e-2,
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "model_root": str(tmp_path),
        "verbose": 0,
        "embedding_dim": 4,
        "feed_forward": 6,
        "transformer_dropout": 0.0,
        "num_last": 3,
        "cross_layers": 2,
        "hidden_units": [8, 5],
        "output_units": [4],
    }
    arguments |= settings
    model = TransformerDCN(
        feature_map(features, arguments["embedding_dim"]),
        item_table=ItemTable({name: columns[name] for name in features if name in columns}),
        **arguments,
    )
    for parameter in model.embedding_layer.parameters():
        nn.init.normal_(parameter)
    for table in model.embedding_layer.modules():
        if isinstance(table, nn.Embedding):
            table.weight.data[0] = 0
    return model


def logits(model: TransformerDCN, batch: dict[str, Tensor]) -> Tensor:
    logit: Tensor = model(batch)["logit"]
    return logit


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("whole", [0.0, 100.0])
def test_equals_the_formulas_with_every_kind_of_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: bool, whole: float
) -> None:
    """Whether the catalogue is encoded whole or the batch's distinct items are."""
    monkeypatch.setitem(WHOLE_TABLE, False, whole)
    model = build(tmp_path, num_heads=2).double().train(training)
    batch = padded_batch()
    columns = {n: model.item_table(torch.arange(ITEMS))[n] for n in ITEM_FEATURES}
    expected = oracles.transformer_dcn_logit(model, columns, batch)
    require_same_outputs(model, model(packed(batch)), expected)


def test_each_dropout_acts_in_training(tmp_path: Path) -> None:
    batch = packed(padded_batch())
    for setting in ("transformer_dropout", "net_dropout"):
        model = build(tmp_path, **{setting: 0.5}).train()
        assert not torch.equal(logits(model, batch), logits(model, batch)), setting
        model.eval()
        assert torch.equal(logits(model, batch), logits(model, batch)), setting


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "num_heads=5, width 44"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"cross_layers": 0}, "cross_layers must be at least 1, got 0"),
        ({"hidden_units": []}, r"hidden_units must be widths from 1 on, got \[\]"),
        ({"output_units": [8, 0]}, r"output_units must be widths from 1 on, got \[8, 0\]"),
        ({"net_dropout": 1.0}, r"net_dropout must be in \[0, 1\), got 1.0"),
        ({"transformer_dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)


def test_parameters_of_the_shipped_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the formula; at embedding_dim 64 the cross network's input is known to be 6,848 wide."""
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(ROOT / "config", "TransformerDCN_MicroLens_50k_x1")
    params = experiment.params
    model = TransformerDCN(
        build_feature_map(params), item_table=ItemTable({"item_id": torch.arange(1)}), **params
    )
    d, feed_forward = 32, 256
    item, row = 3 * d, 2 * d
    step = 2 * item
    encoder = 4 * step * (step + 1) + 2 * step * feed_forward + feed_forward + step + 4 * step
    width = row + item + 17 * step
    assert width == 6_848 // 2
    units = [width, 1024, 512, 256]
    deep = sum((a + 1) * b for a, b in pairwise(units))
    units = [width + 256, 64, 32, 1]
    output = sum((a + 1) * b for a, b in pairwise(units))
    tables = (19_221 + 2_238 + 11 + 11 + 128) * d
    expected = tables + 2 * encoder + step * (step + 1) + 3 * width * (width + 1) + deep + output
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_the_first_place_is_shipped_as_described() -> None:
    described = {
        "num_layers": 2,
        "num_heads": 1,
        "feed_forward": 256,
        "transformer_dropout": 0.2,
        "num_last": 16,
        "max_len": 16,
        "cross_layers": 3,
        "hidden_units": [1024, 512, 256],
        "output_units": [64, 32],
        "embedding_dim": 32,
        "precision": "bf16",
        "learning_rate": 1e-3,
        "batch_size": 1024,
        "embedding_regularizer": 1e-5,
    }
    params = load_experiment(ROOT / "config", "TransformerDCN_MicroLens_50k_x1").params
    assert {key: params[key] for key in described} == described


def test_the_model_card_has_every_setting_that_is_this_models_own() -> None:
    card = (ROOT / "model_zoo" / "TransformerDCN" / "README.md").read_text(encoding="utf-8")
    shared = set(inspect.signature(QIN).parameters) - {"num_layers", "net_dropout", "batch_norm"}
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(TransformerDCN).parameters.items()
        if name not in shared
    }
    for name, default in own.items():
        value = list(default) if isinstance(default, tuple) else default
        text = f"{value:g}" if isinstance(value, float) else str(value)
        assert f"| `{name}` | {text} |" in card


def test_one_epoch_on_the_demo_data_learns(workspace: Path) -> None:
    settings = ["epochs=1", "batch_size=20", "embedding_dim=4", "num_last=4"]
    experiment = load_experiment("config", "TransformerDCN_default", settings)
    experiment, _ = prepare_dataset(experiment)
    params = experiment.params
    features = build_feature_map(params)
    loaders = {"dataset": experiment.dataset, "data_loader": make_loader}
    train, valid = RankDataLoader(features, stage="train", **params, **loaders)
    torch.manual_seed(1)
    model = build_model(experiment, features, gpu=-1)
    before = model.evaluate(train)
    model.fit(train, validation_data=valid, **params)
    after = model.evaluate(train)
    assert after["logloss"] < before["logloss"] - 0.02
    assert after["AUC"] > before["AUC"] + 0.1


def test_a_setting_that_the_model_refuses_is_one_message(workspace: Path) -> None:
    experiment = load_experiment("config", "TransformerDCN_default", ["num_heads=7"])
    experiment, _ = prepare_dataset(experiment)
    with pytest.raises(InputError, match=r"TransformerDCN_default.*num_heads=7, width"):
        build_model(experiment, build_feature_map(experiment.params), gpu=-1)
