"""Parity with numbers recorded from the original implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model_zoo.QIN.checkpoint import load_published_checkpoint
from model_zoo.QIN.model import QIN
from tests.conftest import CATEGORICAL, SEQUENCE, build_qin


@pytest.fixture
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "qin_reference_a.npz") as file:
        return dict(file)


def tensors(golden: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in golden.items()
        if name.startswith(prefix)
    }


def published_state(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return tensors(golden, "state/")


def build(golden: dict[str, np.ndarray], tmp_path: Path, dtype: torch.dtype) -> QIN:
    config: dict[str, Any] = json.loads(str(golden["config"]))
    item = {"source": "item"}
    features = {
        "user_id": {"type": "meta"},
        "item_seq": {"type": "meta"},
        "likes_level": {**CATEGORICAL, "vocab_size": 11},
        "views_level": {**CATEGORICAL, "vocab_size": 11},
        "item_id": {**CATEGORICAL, **item, "vocab_size": config["n_items"]},
        "item_tags": {**SEQUENCE, **item, "vocab_size": config["n_tags"], "max_len": 4},
        "item_emb": {"type": "embedding", **item, "pretrain_dim": config["item_emb_dim"]},
    }
    columns = {
        "item_id": torch.arange(config["n_items"]),
        "item_tags": torch.from_numpy(golden["tags"]),
        "item_emb": torch.from_numpy(golden["item_emb"]),
    }
    model = build_qin(
        features,
        columns,
        tmp_path,
        embedding_dim=config["embedding_dim"],
        num_layers=config["num_layers"],
        num_row=config["num_row"],
        batch_norm=config["batch_norm"],
        net_dropout=config["net_dropout"],
        learning_rate=config["learning_rate"],
        embedding_regularizer=config["embedding_regularizer"],
    ).to(dtype)
    load_published_checkpoint(model, published_state(golden))
    model._max_gradient_norm = config["max_gradient_norm"]
    return model


def batch_of(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    names = ("item_id", "likes_level", "views_level", "label")
    return {"item_seq": torch.from_numpy(golden["seq"])} | {
        name: torch.from_numpy(golden[name]) for name in names
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_predictions(
    golden: dict[str, np.ndarray], tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    model = build(golden, tmp_path, dtype).eval()
    y = model(batch_of(golden))["y_pred"].detach().double().numpy().ravel()
    assert np.abs(y - golden["y_pred_eval"]).max() <= tolerance


def test_loss_and_gradients(golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = build(golden, tmp_path, torch.float64).eval()
    batch = batch_of(golden)
    loss = model.compute_loss(model(batch), batch["label"].view(-1, 1))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(golden["loss_eval"]), rel=1e-6)
    recorded = tensors(golden, "grad_eval/")
    # The importer's renaming, applied to gradients by importing them as if they were weights.
    named = build(golden, tmp_path, torch.float64)
    load_published_checkpoint(named, published_state(golden) | recorded)
    expected = dict(named.named_parameters())
    assert set(expected) == {n for n, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        difference = (parameter.grad - expected[name]).norm()
        assert difference <= 1e-6 * max(float(expected[name].detach().norm()), 1e-6), name


def test_five_training_steps(golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = build(golden, tmp_path, torch.float64).train()
    model._steps_per_epoch, model._batch_index = 1, 0
    model.get_labels = lambda batch: batch["label"].view(-1, 1)  # FuxiCTR's own are float32
    losses = [float(model.train_step(batch_of(golden)).item()) for _ in range(5)]
    np.testing.assert_allclose(losses, golden["train_losses"], rtol=0, atol=1e-6)
    y = model.eval()(batch_of(golden))["y_pred"].detach().numpy().ravel()
    np.testing.assert_allclose(y, golden["y_pred_after5"], rtol=0, atol=1e-6)


def test_wrong_shapes_are_listed_all_at_once(golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = build(golden, tmp_path, torch.float64)
    state = published_state(golden)
    state["attention_layers.W_q.weight"] = torch.zeros(3, 3)
    state["qnn.fc.bias"] = torch.zeros(2)
    del state["qnn.norm.1.bias"]
    with pytest.raises(ValueError) as error:
        load_published_checkpoint(model, state)
    assert len(error.value.problems) == 3
    assert "attention.W_q.weight has shape (3, 3), the model expects (48, 24)" in str(error.value)
