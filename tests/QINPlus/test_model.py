"""QIN+ as a FuxiCTR model: its formula, precision, updates, settings, a training."""

from __future__ import annotations

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
from model_zoo.core.training.items import WHOLE_TABLE
from model_zoo.QINPlus.model import QINPlus
from tests import oracles
from tests.conftest import ROOT
from tests.QIN import test_model
from tests.QIN.test_model import (
    ITEM_FEATURES,
    ITEMS,
    packed,
    padded_batch,
    prepare_training,
    require_same_outputs,
)
from tests.serving.made import trained_norms


def build(tmp_path: Path, features: dict[str, Any] | None = None, **settings: Any) -> QINPlus:
    model = test_model.build(tmp_path, features, model="QIN+", **settings)
    if model.attention.of_place is not None:
        nn.init.normal_(model.attention.of_place)  # it begins at 0
    return model


def logits(model: QINPlus, batch: dict[str, Tensor]) -> Tensor:
    logit: Tensor = model(batch)["logit"]
    return logit


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": False},
        {"sparse": False, "length_power": 0.0},
        {"product": False, "length_power": 1.0},
        {"max_len": 2, "hidden_units": [6]},
        {"batch_norm": True},
    ],
)
@pytest.mark.parametrize("whole", [0.0, 100.0])
def test_equals_the_formulas_with_every_kind_of_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], whole: float
) -> None:
    """Whether the catalogue is encoded whole or the batch's distinct items are."""
    monkeypatch.setitem(WHOLE_TABLE, False, whole)
    model = build(tmp_path, **settings).double().eval()
    trained_norms(model.network)
    batch = padded_batch()
    columns = {n: model.item_table(torch.arange(ITEMS))[n] for n in ITEM_FEATURES}
    expected = oracles.qin_plus_logit(model, columns, batch)
    require_same_outputs(model, model(packed(batch)), expected)


def test_the_order_matters_only_with_order(tmp_path: Path) -> None:
    for order in (True, False):
        model = build(tmp_path, order=order).eval()
        batch = padded_batch()
        turned = batch | {"item_seq": batch["item_seq"].flip(1)}
        one, other = (logits(model, packed(b)) for b in (batch, turned))
        assert torch.allclose(one, other) == (not order)


def test_without_a_history_the_gate_learns_nothing(tmp_path: Path) -> None:
    model = build(tmp_path)
    batch = padded_batch() | {"item_seq": torch.zeros(9, 4, dtype=torch.long)}
    prepare_training(model, steps=1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.train_step(packed(batch))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "network.mlp.0.weight" in moved
    assert not any(name.startswith("attention") for name in moved)


def test_vectors_of_any_scale_are_the_same_when_rescaled(tmp_path: Path) -> None:
    names = ["item_id", "text", "image"]
    features = {name: ITEM_FEATURES[name] for name in names}
    model = build(tmp_path, features, rescaled=["text"]).eval()
    batch = packed(padded_batch())
    expected = logits(model, batch)
    columns = model.item_table.columns(None)
    for column, same in (("text", True), ("image", False)):
        scaled = columns | {column: 50 * columns[column]}
        model.item_table = ItemTable(scaled, rescaled=["text"])
        assert torch.allclose(logits(model, batch), expected, rtol=1e-4, atol=1e-5) == same


def test_dropout_acts_in_training_only(tmp_path: Path) -> None:
    model, batch = build(tmp_path, net_dropout=0.5).train(), packed(padded_batch())
    assert not torch.equal(logits(model, batch), logits(model, batch))
    model.eval()
    assert torch.equal(logits(model, batch), logits(model, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate_units": 0}, "units=0"),
        ({"max_len": 0}, "max_len=0"),
        ({"length_power": 2.0}, r"length_power must be in \[0, 1\], got 2.0"),
        ({"hidden_units": []}, r"hidden_units must be widths from 1 on, got \[\]"),
        ({"hidden_units": [8, 0]}, r"hidden_units must be widths from 1 on, got \[8, 0\]"),
        ({"net_dropout": 1.0}, r"net_dropout must be in \[0, 1\), got 1.0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)


def test_weights_by_name(tmp_path: Path) -> None:
    features = {"item_id": ITEM_FEATURES["item_id"], "text": ITEM_FEATURES["text"]}
    model = build(tmp_path, features, rescaled=["text"])
    tables = "embedding_layer.embedding_layer"
    gate = ["of_target.weight", "of_target.bias", "of_history.weight", "of_product.weight"]
    assert sorted(model.state_dict()) == sorted(
        [
            "item_table.factor_1",
            f"{tables}.embedding_layers.item_id.weight",
            f"{tables}.feature_encoders.text.weight",
            *(f"attention.{name}" for name in gate),
            *(f"attention.{name}" for name in ("of_place", "weight.weight", "weight.bias")),
            *(f"network.mlp.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")),
        ]
    )


@pytest.mark.parametrize("overrides", [[], ["order=False", "product=False"]])
def test_parameters_of_the_shipped_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    """By the formula."""
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(ROOT / "config", "QIN_plus_MicroLens_50k_x1", overrides)
    params = experiment.params
    model = QINPlus(
        build_feature_map(params), item_table=ItemTable({"item_id": torch.arange(1)}), **params
    )
    d, units, places = params["embedding_dim"], 32, params["max_len"]
    item, row = 3 * d, 2 * d
    gate = 3 * item * units + units + units + 1
    parts = 3
    if overrides:
        parts = 2
    else:
        gate += places * units
    widths = [row + parts * item, *params["hidden_units"], 1]
    network = sum((a + 1) * b for a, b in pairwise(widths))
    network += 2 * sum(params["hidden_units"])  # batch normalisation
    tables = (19_221 + 2_238 + 11 + 11 + 128) * d
    contrast = 2 * item * d  # two maps, which the folded model does not have
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == tables + gate + network + contrast


def test_one_epoch_on_the_demo_data_learns(workspace: Path) -> None:
    settings = ["epochs=1", "batch_size=20", "learning_rate=5.e-3", "weight_average=null"]
    experiment = load_experiment("config", "QIN_plus_default", settings)
    experiment, _ = prepare_dataset(experiment)
    params = experiment.params
    features = build_feature_map(params)
    loaders = {"dataset": experiment.dataset, "data_loader": make_loader}
    train, valid = RankDataLoader(features, stage="train", **params, **loaders)
    torch.manual_seed(1)
    model = build_model(experiment, features, gpu=-1)
    assert model.item_table.factor("item_emb_d128") is not None
    before = model.evaluate(train)
    model.fit(train, validation_data=valid, **params)
    after = model.evaluate(train)
    assert after["logloss"] < before["logloss"] - 0.02
    assert after["AUC"] > before["AUC"] + 0.1


def test_vectors_are_as_they_come_when_told(workspace: Path) -> None:
    for setting, rescaled in ((None, True), ("True", True), ("False", False)):
        settings = [] if setting is None else [f"rescale_vectors={setting}"]
        experiment, _ = prepare_dataset(load_experiment("config", "QIN_plus_default", settings))
        model = build_model(experiment, build_feature_map(experiment.params), gpu=-1)
        vectors = model.item_table(None)["item_emb_d128"][1:]
        mean = float(vectors.double().square().sum(dim=1).mean())
        assert (abs(mean - 1) < 1e-5) == rescaled
