"""FuxiCTR's ten models on our batches: what they compute, and what they must not look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_zoo.longctr_adapter.source import installed_models
from tests.longctr_adapter.made import (
    MAX_LEN,
    SMALL,
    build,
    draw_rows,
    fuxictr_batch,
    packed,
    padded,
)

MODELS = sorted(SMALL)
LENGTHS = [0, 1, 2, 3, 5, 7]
# Whatever the batch, these always get max_len slots.
NEEDS_ALL_SLOTS = {"SIM", "ETA", "MIRRN"}


def scores(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(batch)["y_pred"]


def test_all_ten_are_here() -> None:
    assert sorted(installed_models()) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_the_same_as_fuxictrs_class_on_its_own_batch(name: str, tmp_path: Path) -> None:
    """Values and gradients, from a batch made row by row."""
    model = build(name, tmp_path).eval()
    rows = draw_rows(LENGTHS)
    outputs = model(packed(rows))
    slots = max(model.padding.slots, max(LENGTHS))
    batch = fuxictr_batch(rows, model.item_table, slots, side=model.padding.side)
    expected = model.source.forward(model, batch)
    assert outputs.keys() == expected.keys()
    assert outputs["y_pred"].std() > 1e-3
    gradients = []
    for output in (outputs, expected):
        model.zero_grad()
        model.add_loss(output, model.get_labels(packed(rows))).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key], value)
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][key], value, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_padded_and_packed_input_give_the_same(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path)
    rows = draw_rows(LENGTHS)
    assert torch.equal(scores(model, packed(rows)), scores(model, padded(rows, MAX_LEN)))


@pytest.mark.parametrize("name", MODELS)
def test_the_content_of_padding_never_matters(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path)
    batch = packed(draw_rows(LENGTHS))
    expected = scores(model, batch)
    with torch.no_grad():
        for column in model.item_table.buffers():
            column[0] = 3
        for table in model.embedding_layer.embedding_layer.embedding_layers.values():
            if isinstance(table, torch.nn.Embedding):
                table.weight[0] = 5.0
    # Tags that are padding are pooled by FuxiCTR, and are no matter of the history.
    with torch.no_grad():
        model.embedding_layer.embedding_layer.embedding_layers["item_tags"].weight[0] = 0.0
    torch.testing.assert_close(scores(model, batch), expected)


@pytest.mark.parametrize("name", MODELS)
def test_rows_do_not_see_each_other(name: str, tmp_path: Path) -> None:
    """Alone, and beside a row with a longer history, so that there are more slots."""
    model = build(name, tmp_path)
    rows = draw_rows(LENGTHS)
    together = scores(model, packed([*rows, *draw_rows([MAX_LEN])]))
    for i, row in enumerate(rows):
        torch.testing.assert_close(scores(model, packed([row]))[0], together[i])


@pytest.mark.parametrize("name", MODELS)
def test_only_where_padding_counts_is_the_number_of_slots_held_fixed(
    name: str, tmp_path: Path
) -> None:
    """FuxiCTR's forward pass over more slots: the three exceptions, and the reason for them."""
    model = build(name, tmp_path, max_len=4 * MAX_LEN).eval()
    rows = draw_rows(LENGTHS * 8)
    narrow, wide = (
        model.source.forward(
            model, fuxictr_batch(rows, model.item_table, slots, side=model.padding.side)
        )["y_pred"]
        for slots in (max(LENGTHS), 4 * MAX_LEN)
    )
    assert torch.allclose(narrow, wide, atol=1e-6) == (name not in NEEDS_ALL_SLOTS)
    assert (model.padding.slots == 4 * MAX_LEN) == (name in NEEDS_ALL_SLOTS)
