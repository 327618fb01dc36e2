"""Precision, penalties and the watch over non-finite numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from tqdm import tqdm

from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.errors import InputError
from model_zoo.core.training.optimizer import L2Penalty, build_optimizer, clip_gradients
from model_zoo.QIN.layers import QuadraticNeuralNetwork
from model_zoo.QIN.model import QIN
from tests.QIN.test_model import build, packed, padded_batch, prepare_training


@pytest.mark.parametrize(
    ("embedding_regularizer", "net_regularizer"), [(0.3, None), (None, 0.2), (0.3, 0.2)]
)
def test_the_penalty_is_fuxictrs_in_value_and_gradient(
    tmp_path: Path, embedding_regularizer: float | None, net_regularizer: float | None
) -> None:
    model = build(
        tmp_path, embedding_regularizer=embedding_regularizer, net_regularizer=net_regularizer
    ).double()
    expected = model.regularization_loss()
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    penalty = L2Penalty(model, embedding_regularizer, net_regularizer)
    penalty.add_gradient()
    torch.testing.assert_close(penalty.value(), expected.detach())
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name])


def test_other_norms_are_left_to_fuxictr(tmp_path: Path) -> None:
    """The same step as with the loss that contains them."""
    batch = padded_batch()
    one, other = (
        build(tmp_path, embedding_regularizer="l1_l2(0.1,0.2)", batch_norm=False).double()
        for _ in range(2)
    )
    other.load_state_dict(one.state_dict())
    other.item_table = one.item_table
    assert not L2Penalty(one, "l1_l2(0.1,0.2)", None).supported
    for model in (one, other):
        prepare_training(model, steps=1)
    reported = one.train_step(batch).item()
    loss = other.compute_loss(other(batch), other.get_labels(batch))
    loss.backward()
    nn.utils.clip_grad_norm_(other.parameters(), 10.0)
    other.optimizer.step()
    torch.testing.assert_close(reported, loss.detach())
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["adam", "Adam", "AdamW", "SGD", "Adagrad", "RMSprop"])
def test_fused_optimizers_step_like_plain_ones(name: str) -> None:
    weights = [nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2)]
    kind = torch.optim.Adam if name == "adam" else getattr(torch.optim, name)
    optimizers = [build_optimizer(name, [weights[0]], 0.1), kind([weights[1]], lr=0.1)]
    for step in range(3):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.sin(torch.arange(7.0) + step)
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1])


def test_bf16_is_close_and_keeps_float32_weights(tmp_path: Path) -> None:
    full, half = build(tmp_path), build(tmp_path, precision="bf16")
    half.load_state_dict(full.state_dict())
    half.item_table = full.item_table
    batch = packed(padded_batch())
    for model in (full, half):
        prepare_training(model, steps=1)
        model.get_labels = lambda batch: batch["label"].view(-1, 1)
    one, other = (model.eval()(batch)["y_pred"] for model in (full, half))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
    half.train().train_step(batch)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_losses_are_added_up_without_a_look_at_each(tmp_path: Path) -> None:
    """What FuxiCTR's loop does with a step's result."""
    model = build(tmp_path)
    prepare_training(model, steps=1)
    model.get_labels = lambda batch: batch["label"].view(-1, 1)
    train_loss = 0
    for _ in range(3):
        train_loss += model.train_step(packed(padded_batch())).item()
    assert isinstance(train_loss, torch.Tensor)
    assert float(f"{train_loss / 3:.6f}") > 0


def test_a_loss_that_is_not_finite_stops_the_training(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected at step 20: the message names it, and the best weights are untouched."""
    real_loss = QIN.add_loss

    def add_loss(self: QIN, output: dict[str, torch.Tensor], y_true: torch.Tensor) -> torch.Tensor:
        loss = real_loss(self, output, y_true)
        return loss * float("nan") if self._total_steps == 20 else loss

    monkeypatch.setattr(QIN, "add_loss", add_loss)
    with pytest.raises(InputError) as error:
        run_experiment("config", "QIN_test", overrides=["epochs=5", "batch_size=50"])
    message = str(error.value)
    assert "step 20: loss nan, gradient norm nan" in message
    assert "learning_rate 0.002; largest gradients: " in message
    assert "the best weights so far are in" in message
    weights = torch.load("checkpoints/MicroLens_demo/QIN_test.model", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_the_bar_shows_rows_and_loss_in_a_terminal(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Eager(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "mininterval": 0.0, "ncols": 120})

    monkeypatch.setattr("model_zoo.core.training.watch.tqdm", Eager)
    for terminal, verbose in ((True, 1), (True, 0), (False, 1)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        run_experiment("config", "QIN_test", overrides=["batch_size=100", f"verbose={verbose}"])
        shown = capsys.readouterr().out
        if terminal and verbose:
            assert re.search(r"Epoch 1: 100%.*600/600 .*rows/s, loss=0\.\d{4}", shown)
        else:
            assert "rows/s" not in shown


def test_the_history_has_every_metric(workspace: Path) -> None:
    run_experiment("config", "QIN_test", overrides=["epochs=2", "batch_size=100"])
    lines = Path("checkpoints/MicroLens_demo/QIN_test.history.csv").read_text().splitlines()
    assert lines[0] == "epoch,train_loss,learning_rate,AUC,logloss"
    assert [line.split(",")[0] for line in lines[1:]] == ["1.0", "2.0"]


def test_lazy_updates_touch_the_batch_and_nothing_else(tmp_path: Path) -> None:
    """The first step is dense Adam's in the rows of the batch; all other rows stand still."""
    settings = {"embedding_regularizer": 0.3, "batch_norm": False}
    dense, lazy = build(tmp_path, **settings), build(tmp_path, embedding_update="lazy", **settings)
    lazy.load_state_dict(dense.state_dict())
    lazy.item_table = dense.item_table
    batch = packed(padded_batch(rows=3, slots=2))
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    for model in (dense, lazy):
        prepare_training(model, steps=1)
        model.get_labels = lambda batch: batch["label"].view(-1, 1)
        model.train_step(batch)
    ids = torch.cat([batch["item_id"], batch["item_seq"].long()]).unique()
    touched = torch.zeros(len(lazy.item_table.get_buffer("column_0")), dtype=torch.bool)
    touched[ids] = True
    touched[0] = False  # padding has no gradient
    name = "embedding_layer.embedding_layer.embedding_layers.item_id.weight"
    one, other, start = dense.state_dict()[name], lazy.state_dict()[name], before[name]
    torch.testing.assert_close(other[touched], one[touched], atol=2e-4, rtol=1e-3)
    assert torch.equal(other[~touched], start[~touched])
    assert not torch.equal(other[touched], start[touched])


def test_lazy_training_resumes(workspace: Path) -> None:
    lazy = ["embedding_update=lazy", "batch_size=100", "accumulation_steps=2"]
    run_experiment("config", "QIN_test", overrides=[*lazy, "epochs=2"])
    run_experiment("config", "QIN_test", overrides=[*lazy, "epochs=4"], resume=True)
    resumed = Path("checkpoints/MicroLens_demo/QIN_test.history.csv").read_text()
    run_experiment("config", "QIN_test", overrides=[*lazy, "epochs=4"])
    assert Path("checkpoints/MicroLens_demo/QIN_test.history.csv").read_text() == resumed


def test_lazy_needs_adam(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lazy needs optimizer adam, got SGD"):
        build(tmp_path, embedding_update="lazy", optimizer="SGD")


def test_clipping_counts_sparse_gradients(tmp_path: Path) -> None:
    model = build(tmp_path, embedding_update="lazy")
    batch = padded_batch()
    model.add_loss(model(batch), batch["label"].view(-1, 1)).backward()
    dense = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters()]
    expected = torch.stack([gradient.norm() for gradient in dense]).norm()
    torch.testing.assert_close(clip_gradients(model.parameters(), 1e-3), expected)
    clipped = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters()]
    norm = torch.stack([gradient.norm() for gradient in clipped]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("available", [True, False])
def test_compiling_falls_back_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    def compile(function: object) -> object:
        if not available:
            raise RuntimeError("no compiler")
        return function

    warnings: list[tuple[object, ...]] = []
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr("logging.warning", lambda *arguments: warnings.append(arguments))
    compiled: list[object] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self: compiled.append(type(self)))
    build(tmp_path, compile=True)
    assert compiled == ([QuadraticNeuralNetwork] if available else [])
    assert len(warnings) == (not available)


def test_tensorboard_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install '\.\[tensorboard\]'"):
        build(tmp_path, tensorboard=True)


def test_tensorboard_gets_every_evaluation(workspace: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    run_experiment("config", "QIN_test", overrides=["tensorboard=True", "epochs=2"])
    assert list(Path("checkpoints/MicroLens_demo/QIN_test.tensorboard").glob("events*"))
