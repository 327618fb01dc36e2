"""QIN+'s contrastive loss against its formula, its part in the training, and none in the logit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.QINPlus.layers import HistoryContrast
from tests import oracles
from tests.QIN.test_model import packed, padded_batch, prepare_training
from tests.QINPlus.test_model import build


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 8),
    items=st.integers(1, 6),
    dim=st.integers(1, 5),
    units=st.integers(1, 4),
    negatives=st.integers(1, 10),
    temperature=st.floats(0.05, 2.0),
)
def test_equals_the_formula(
    seed: int, rows: int, items: int, dim: int, units: int, negatives: int, temperature: float
) -> None:
    """Values and gradients, with items that several rows share and rows without a history."""
    torch.manual_seed(seed)
    contrast = HistoryContrast(dim, units=units, temperature=temperature, negatives=negatives)
    contrast = contrast.double()
    vectors = torch.randn(items, dim, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, items, (rows,))
    lengths = torch.randint(0, 4, (rows,))
    index = torch.randint(0, items, (int(lengths.sum()),))
    of_row = torch.arange(rows).repeat_interleave(lengths)
    users = contrast.users(vectors[ids], vectors, of_row, index)
    loss = contrast(ids, vectors[ids], users)
    histories = [[vectors[i] for i in part] for part in index.split(lengths.tolist())]
    expected = oracles.history_contrast(contrast, ids.tolist(), vectors[ids], histories)
    torch.testing.assert_close(loss, expected)
    assert not loss[lengths == 0].any()
    wanted = [vectors, *contrast.parameters()]
    factor = torch.linspace(-1, 2, rows, dtype=torch.float64)
    if lengths.any():
        got = torch.autograd.grad((loss * factor).sum(), wanted)
        right = torch.autograd.grad((expected * factor).sum(), wanted)
        for one, other in zip(got, right, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_rows_without_a_history_leave_finite_gradients() -> None:
    contrast = HistoryContrast(3)
    items = torch.randn(4, 3, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    users = contrast.users(items[[1, 2]], items, none, none)
    loss = contrast(torch.tensor([1, 2]), items[[1, 2]], users)
    assert not loss.any()
    loss.sum().backward()
    assert items.grad is not None and not items.grad.any()


@pytest.mark.parametrize(
    "wrong", [{"dim": 0}, {"units": 0}, {"negatives": 0}, {"temperature": 0.0}]
)
def test_impossible_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HistoryContrast(**({"dim": 2} | wrong))


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_loss_is_that_of_the_labels_and_of_the_clicked_rows(
    tmp_path: Path, weight: float
) -> None:
    model = build(tmp_path, contrast=weight, net_dropout=0.0, embedding_regularizer=None).double()
    prepare_training(model, steps=1)
    batch = packed(padded_batch())
    output, label = model(batch), batch["label"].double().view(-1, 1)
    clicked = label.squeeze(1) == 1
    entropy = torch.nn.functional.binary_cross_entropy(output["y_pred"], label)
    expected = entropy + weight * output["contrast"][clicked].mean()
    torch.testing.assert_close(model.add_loss(output, label), expected)
    nobody = torch.zeros_like(label)
    without = torch.nn.functional.binary_cross_entropy(output["y_pred"], nobody)
    torch.testing.assert_close(model.add_loss(output, nobody), without)
    before = {name: value.clone() for name, value in model.contrast.named_parameters()}
    model.train_step(batch)
    assert all((value != before[n]).any() for n, value in model.contrast.named_parameters())


def test_rows_without_a_click_are_left_out_of_it(tmp_path: Path) -> None:
    """Loss and gradients are those of a batch that does not tell its labels to the model."""
    model = build(tmp_path, contrast=2.0, contrast_negatives=3, net_dropout=0.0).double()
    prepare_training(model, steps=1)
    for batch in (packed(padded_batch()), padded_batch()):
        label = batch["label"].double().view(-1, 1)
        unlabelled = {name: value for name, value in batch.items() if name != "label"}
        found = []
        for inputs in (batch, unlabelled):
            model.zero_grad()
            output = model.train()(inputs)
            model.add_loss(output, label).backward()
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append((output["contrast"], grads))
        (some, some_grads), (every, all_grads) = found
        assert 0 < label.sum() < len(label)
        torch.testing.assert_close(some, every * label.squeeze(1))
        assert (every[label.squeeze(1) == 0] > 0).any()
        for one, other in zip(some_grads, all_grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    nobody = batch | {"label": torch.zeros_like(batch["label"])}
    assert not model(nobody)["contrast"].any()


def test_it_has_no_part_in_the_logit(tmp_path: Path) -> None:
    model, plain = build(tmp_path, contrast=1.0).eval(), build(tmp_path).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.item_table = model.item_table
    batch = packed(padded_batch())
    output = model(batch)
    assert "contrast" not in output
    assert torch.equal(output["logit"], plain(batch)["logit"])
    folded, without = model.double().fold(), plain.double().fold()
    assert folded.state_dict().keys() == without.state_dict().keys()
    for name, tensor in without.state_dict().items():
        assert torch.equal(tensor, folded.state_dict()[name]), name


def test_in_bf16_it_is_computed_in_float32(tmp_path: Path) -> None:
    full = build(tmp_path, contrast=1.0)
    half = build(tmp_path, contrast=1.0, precision="bf16")
    half.load_state_dict(full.state_dict())
    half.item_table = full.item_table
    batch = packed(padded_batch())
    one, other = (model.train()(batch)["contrast"] for model in (full, half))
    assert one.any() and other.dtype == torch.float32
    torch.testing.assert_close(one, other, atol=0.3, rtol=0.1)


def test_its_scores_are_float32_under_autocast() -> None:
    """Of the same vectors; scores of bfloat16 would be off by 0.04."""
    torch.manual_seed(0)
    contrast = HistoryContrast(4, units=8)
    ids, target = torch.arange(32), torch.randn(32, 4)
    users = torch.nn.functional.normalize(torch.randn(32, 8), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrast(ids, target, users)
        items = torch.nn.functional.normalize(contrast.of_target(target).float(), dim=1)
    scores = users @ (items / contrast.temperature).T
    expected = torch.nn.functional.cross_entropy(scores, ids, reduction="none")
    torch.testing.assert_close(found, expected)
