"""What holds for every model with an item history, by its batches and its updates."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_zoo.core.memory import KERNEL_CACHES
from model_zoo.QIN.layers import AdaptiveSparseTargetAttention
from model_zoo.QINPlus.layers import GatedTargetAttention
from tests.QIN import test_model as qin
from tests.QIN.test_model import ITEM_FEATURES, ITEMS, packed, padded_batch, prepare_training
from tests.QINPlus import test_model as qin_plus
from tests.summed import Summed
from tests.TransformerDCN import test_model as transformer_dcn

MODELS: dict[str, Callable[..., Any]] = {
    "QIN": qin.build,
    "QIN+": qin_plus.build,
    "TransformerDCN": transformer_dcn.build,
}


@pytest.fixture(params=list(MODELS))
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    return lambda *features, **settings: MODELS[request.param](tmp_path, *features, **settings)


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logit: Tensor = model(batch)["logit"]
    return logit


def test_few_kernels_are_kept(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch has another length of histories, so those of most shapes never come again."""
    for name in KERNEL_CACHES:
        monkeypatch.delenv(name, raising=False)
    build()
    assert [os.environ[name] for name in KERNEL_CACHES] == ["64", "64"]


def test_padded_and_packed_batches_are_equal(build: Callable[..., Any]) -> None:
    model = build().eval()
    batch = padded_batch()
    batch["item_seq"] = batch["item_seq"].sort(dim=1, stable=True).values  # padding first
    expected = logits(model, packed(batch))
    torch.testing.assert_close(logits(model, batch), expected)
    history = batch["item_seq"]
    wider = torch.cat([torch.zeros_like(history), history, torch.zeros_like(history)], dim=1)
    torch.testing.assert_close(logits(model, batch | {"item_seq": wider}), expected)


def test_rows_do_not_see_each_other(build: Callable[..., Any]) -> None:
    """Nor does a row change when its neighbour has a longer history."""
    model = build(batch_norm=True).eval()
    batch = padded_batch()
    whole = logits(model, packed(batch))
    for row in range(len(whole)):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        torch.testing.assert_close(logits(model, packed(alone)), whole[row : row + 1])


def test_a_batch_without_any_history(build: Callable[..., Any]) -> None:
    model = build()
    batch = padded_batch() | {"item_seq": torch.zeros(9, 4, dtype=torch.long)}
    model.eval()
    torch.testing.assert_close(logits(model, packed(batch)), logits(model, batch))
    prepare_training(model, steps=1)
    before = [parameter.clone() for parameter in model.parameters()]
    assert torch.isfinite(torch.as_tensor(model.train_step(packed(batch)).item()))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("names", [["item_id"], ["tags"], ["text"], ["price"]])
def test_any_item_feature_and_no_row_features(build: Callable[..., Any], names: list[str]) -> None:
    model = build({name: ITEM_FEATURES[name] for name in names}, embedding_dim=3).eval()
    batch = packed(padded_batch())
    logit = logits(model, batch)
    assert logit.shape == (9, 1)
    other_target = batch | {"item_id": batch["item_id"] % (ITEMS - 1) + 1}
    assert not torch.allclose(logits(model, other_target), logit)


def test_lazy_updates_touch_only_the_items_of_the_batch(build: Callable[..., Any]) -> None:
    model = build(embedding_update="lazy")
    prepare_training(model, steps=1)
    table = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight
    before = table.detach().clone()
    batch = padded_batch(rows=2, slots=2)
    model.train_step(packed(batch))
    changed = set((table != before).any(dim=1).nonzero().squeeze(1).tolist())
    seen = set(torch.cat([batch["item_id"], batch["item_seq"].flatten()]).tolist()) - {0}
    # A history item whose attention weight is 0 has no gradient; the targets have one.
    assert set(batch["item_id"].tolist()) <= changed <= seen


def test_bf16_is_close_and_keeps_float32_weights(build: Callable[..., Any]) -> None:
    full, half = build(), build(precision="bf16")
    half.load_state_dict(full.state_dict())
    half.item_table = full.item_table
    batch = packed(padded_batch())
    one, other = (model.eval()(batch)["y_pred"] for model in (full, half))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
    prepare_training(half, steps=1)
    half.train_step(batch)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in half.parameters())


@pytest.mark.parametrize(
    ("module", "attention", "sums"),
    [
        ("QIN.layers.attention", lambda: AdaptiveSparseTargetAttention(8), 3),
        ("QINPlus.layers", lambda: GatedTargetAttention(8, units=4), 5),
    ],
    ids=["QIN", "QIN+"],
)
def test_gradients_of_many_places_are_summed_in_float32(
    module: str,
    attention: Callable[[], Any],
    sums: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On other devices than the CPU: CUDA adds up in the tensor's own precision, one by one."""
    monkeypatch.setattr(f"model_zoo.{module}.available", lambda x: False)
    torch.manual_seed(0)
    layer = attention()
    rows, index = torch.arange(12) // 4, torch.arange(12) % 2
    target, items = (torch.randn(n, 8, dtype=torch.bfloat16, requires_grad=True) for n in (3, 2))
    with torch.autocast("cpu", torch.bfloat16), Summed() as summed:
        layer.packed(target, items, rows, index).sum().backward()
    assert target.grad is not None and items.grad is not None
    assert len(summed.dtypes) >= sums
    assert set(summed.dtypes) == {torch.float32}
