"""Rescaled columns of vectors: what the factor is, what it is not, and that it stays."""

from __future__ import annotations

import pytest
import torch

from model_zoo.core.data.item_table import ItemTable

VECTORS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 1.0]])  # padding, and one missing


def test_the_mean_squared_norm_of_items_that_have_a_vector_is_one() -> None:
    table = ItemTable({"item_id": torch.arange(4), "text": VECTORS, "image": VECTORS}, ["text"])
    factor = 1 / ((25 + 1) / 2) ** 0.5
    assert float(table.factor("text")) == pytest.approx(factor)
    assert table.factor("image") is None and table.factor("item_id") is None
    rows, plain = table(torch.tensor([3, 1])), table.columns(torch.tensor([3, 1]))
    torch.testing.assert_close(rows["text"], VECTORS[[3, 1]] * factor)
    assert torch.equal(rows["image"], VECTORS[[3, 1]])
    assert torch.equal(plain["text"], VECTORS[[3, 1]])
    assert list(rows) == list(plain) == ["item_id", "text", "image"]
    torch.testing.assert_close(table(None)["text"].square().sum(), torch.tensor(2.0))


def test_any_scale_gives_the_same() -> None:
    expected = ItemTable({"text": VECTORS}, ["text"])(None)["text"]
    for scale in (1e-6, 1e6):
        found = ItemTable({"text": VECTORS * scale}, ["text"])(None)["text"]
        torch.testing.assert_close(found, expected)


def test_a_column_without_a_vector_stays_as_it_is() -> None:
    table = ItemTable({"text": torch.zeros(3, 2)}, ["text"])
    assert float(table.factor("text")) == 1
    assert not table(None)["text"].any()


def test_the_factor_is_part_of_a_checkpoint_and_the_columns_are_not() -> None:
    trained = ItemTable({"item_id": torch.arange(4), "text": VECTORS}, ["text"])
    state = trained.state_dict()
    assert list(state) == ["factor_1"]
    more = torch.cat([VECTORS, torch.full((3, 2), 50.0)])
    grown = ItemTable({"item_id": torch.arange(7), "text": more}, ["text"])
    assert not torch.equal(grown(None)["text"][:4], trained(None)["text"])
    grown.load_state_dict(state)
    assert torch.equal(grown(None)["text"][:4], trained(None)["text"])
