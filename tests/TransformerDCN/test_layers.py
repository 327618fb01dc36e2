"""The Transformer over history and target against softmax attention by hand, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_zoo.TransformerDCN.layers import TargetAwareTransformer
from tests import oracles

D = 3
LENGTHS = [0, 1, 2, 3, 7, 5]


def made(**settings: Any) -> TargetAwareTransformer:
    """A transformer whose every weight matters, in float64 and evaluation."""
    sizes = {"num_layers": 2, "num_heads": 2, "feed_forward": 5, "num_last": 3}
    transformer = TargetAwareTransformer(D, **(sizes | settings)).double().eval()
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return transformer


def inputs(slots: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, histories padded on the left with large numbers, and their mask."""
    target = torch.randn(len(LENGTHS), D, dtype=torch.float64)
    mask = torch.arange(slots) >= slots - torch.tensor(LENGTHS).unsqueeze(1)
    history = torch.full((len(LENGTHS), slots, D), 1e6, dtype=torch.float64)
    history[mask] = torch.randn(int(mask.sum()), D, dtype=torch.float64)
    return target, history, mask


@pytest.mark.parametrize("num_heads", [1, 2, 3])
@pytest.mark.parametrize("num_last", [1, 3, 9])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_formulas(num_heads: int, num_last: int, training: bool) -> None:
    """Values and gradients; num_last below, among and above the lengths."""
    transformer = made(num_heads=num_heads, num_last=num_last, dropout=0.0).train(training)
    target, history, mask = inputs()
    items = history[mask].requires_grad_()
    target.requires_grad_()
    rows = mask.nonzero()[:, 0]
    outputs = [
        transformer(target, history.masked_scatter(mask.unsqueeze(2), items), mask),
        transformer.packed(target, items, rows, longest=7),
        oracles.target_aware_transformer(transformer, target, list(items.split(LENGTHS))),
    ]
    weights = torch.randn_like(outputs[0])
    leaves = [target, items, *transformer.parameters()]
    *fast, plain = ([o, *torch.autograd.grad((o * weights).sum(), leaves)] for o in outputs)
    assert outputs[0].shape == (len(LENGTHS), transformer.output_dim)
    for one in fast:
        for mine, expected in zip(one, plain, strict=True):
            torch.testing.assert_close(mine, expected)
    with torch.no_grad():  # torch may take another way without gradients
        torch.testing.assert_close(transformer(target, history, mask), outputs[2])


def test_distinct_items_may_be_given_once() -> None:
    transformer = made()
    target, items = inputs()[0], torch.randn(4, D, dtype=torch.float64)
    rows = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    index = torch.randint(0, 4, (sum(LENGTHS),))
    torch.testing.assert_close(
        transformer.packed(target, items, rows, index, longest=7),
        transformer.packed(target, items[index], rows, longest=7),
    )


@pytest.mark.parametrize("content", [0.0, -3.0, float("nan"), float("inf")])
def test_padding_content_never_matters(content: float) -> None:
    transformer = made()
    target, history, mask = inputs()
    changed = history.masked_fill(~mask.unsqueeze(2), content)
    assert torch.equal(transformer(target, changed, mask), transformer(target, history, mask))


@pytest.mark.parametrize("longest", [8, 20])
def test_further_padding_changes_nothing(longest: int) -> None:
    transformer = made()
    target, history, mask = inputs()
    rows = mask.nonzero()[:, 0]
    torch.testing.assert_close(
        transformer.packed(target, history[mask], rows, longest=longest),
        transformer.packed(target, history[mask], rows, longest=7),
    )


def test_no_history_at_all() -> None:
    """One step [0; t], in every form that an empty history has."""
    transformer = made()
    target = inputs()[0]
    expected = oracles.target_aware_transformer(transformer, target, [target[:0]] * len(target))
    for slots in (0, 1, 4):
        mask = torch.zeros(len(target), slots, dtype=torch.bool)
        torch.testing.assert_close(
            transformer(target, target.new_ones(len(target), slots, D), mask), expected
        )
    none = torch.zeros(0, dtype=torch.long)
    torch.testing.assert_close(transformer.packed(target, target[:0], none, longest=0), expected)
    steps = expected[:, : -2 * D].view(len(target), 3, 2 * D)
    assert not steps[:, :2].any()
    assert steps[:, 2].all()


def test_rows_do_not_see_each_other() -> None:
    transformer = made()
    target, history, mask = inputs()
    whole = transformer(target, history, mask)
    for row in range(len(target)):
        alone = slice(row, row + 1)
        torch.testing.assert_close(
            transformer(target[alone], history[alone], mask[alone]), whole[alone]
        )


def test_order_matters_only_through_the_last_steps() -> None:
    transformer = made()
    target, history, mask = inputs()
    row = slice(4, 5)  # seven items, of which the last three are steps of their own
    output = transformer(target[row], history[row], mask[row])
    earlier = history[row][:, [2, 0, 3, 1, 4, 5, 6]]
    torch.testing.assert_close(transformer(target[row], earlier, mask[row]), output)
    last = history[row][:, [0, 1, 2, 3, 5, 4, 6]]
    swapped = transformer(target[row], last, mask[row]).view(1, 4, 2 * D)
    torch.testing.assert_close(swapped[:, [1, 0, 2, 3]], output.view(1, 4, 2 * D))
    assert not torch.allclose(swapped.flatten(1), output)


def test_early_items_reach_the_output() -> None:
    """Through attention and the maximum, though they are no steps of their own."""
    transformer = made()
    target, history, mask = inputs()
    changed = history.clone()
    changed[4, 0] += 1.0
    difference = transformer(target, changed, mask) - transformer(target, history, mask)
    assert difference[4].any()
    assert not difference[[0, 1, 2, 3, 5]].any()


def test_dropout_is_random_in_training_only() -> None:
    transformer = made(dropout=0.5)
    arguments = inputs()
    assert torch.equal(transformer(*arguments), transformer(*arguments))
    transformer.train()
    assert not torch.equal(transformer(*arguments), transformer(*arguments))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 4}, "num_heads=4, width 6"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"feed_forward": 0}, "feed_forward must be at least 1, got 0"),
        ({"num_last": 0}, "num_last must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetAwareTransformer(D, **settings)


def test_shapes_that_do_not_fit_are_refused() -> None:
    transformer = made()
    target, history, mask = inputs()
    with pytest.raises(ValueError, match=r"history must be \(B, L, 3\).*got \(5, 7, 3\)"):
        transformer(target, history[:5], mask)
    with pytest.raises(ValueError, match=r"mask must be \(6, 7\).*got \(6, 6\)"):
        transformer(target, history, mask[:, 1:])
