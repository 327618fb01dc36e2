"""Attention against its formula, and the properties it must have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_zoo.QIN.layers import AdaptiveSparseTargetAttention
from tests import oracles
from tests.oracles import gradients


def draw(seed: int, rows: int, slots: int, dim: int, attention_dim: int | None = None):
    """A layer and inputs whose histories are ragged, some of them empty."""
    torch.manual_seed(seed)
    attention = AdaptiveSparseTargetAttention(dim, attention_dim=attention_dim).double()
    target = torch.randn(rows, dim, dtype=torch.float64, requires_grad=True)
    history = torch.randn(rows, slots, dim, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(rows, slots) < torch.rand(rows, 1)
    return attention, target, history, mask


def pack(history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    rows, slots = mask.nonzero(as_tuple=True)
    return history[rows, slots], rows


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    slots=st.integers(1, 7),
    dim=st.integers(1, 6),
    attention_dim=st.one_of(st.none(), st.integers(1, 9)),
)
def test_both_forms_equal_the_formula(
    seed: int, rows: int, slots: int, dim: int, attention_dim: int | None
) -> None:
    attention, target, history, mask = draw(seed, rows, slots, dim, attention_dim)
    expected = oracles.target_attention(attention, target, history, mask)
    expected_gradients = gradients(expected, attention, target, history)
    for output in (
        attention(target, history, mask),
        attention.packed(target, *pack(history, mask)),
    ):
        torch.testing.assert_close(output, expected)
        for got, wanted in zip(
            gradients(output, attention, target, history), expected_gradients, strict=True
        ):
            torch.testing.assert_close(got, wanted)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(0, 20), items=st.integers(1, 6))
def test_an_item_that_occurs_often_is_stored_once(seed: int, length: int, items: int) -> None:
    """With ``index``, in any order of the rows: as if each place had a vector of its own."""
    torch.manual_seed(seed)
    attention = AdaptiveSparseTargetAttention(3).double()
    target = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(items, 3, dtype=torch.float64, requires_grad=True)
    rows, index = torch.randint(0, 4, (length,)), torch.randint(0, items, (length,))
    shared = attention.packed(target, vectors, rows, index)
    alone = attention.packed(target, vectors[index], rows)
    torch.testing.assert_close(shared, alone)
    for got, wanted in zip(
        gradients(shared, attention, target, vectors),
        gradients(alone, attention, target, vectors),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_other_devices_and_compilers_take_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, target, history, mask = draw(9, 6, 7, 3)
    packed = pack(history, mask)
    index = torch.arange(len(packed[1]))
    fast = attention.packed(target, *packed)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    torch.testing.assert_close(attention.packed(target, *packed), fast)
    torch.testing.assert_close(attention.packed(target, *packed, index), fast)


@pytest.mark.parametrize("broken", ["history", "W_q"])
def test_what_is_no_number_reaches_the_output(broken: str) -> None:
    attention, target, history, _ = draw(11, 3, 4, 3)
    if broken == "W_q":
        attention.W_q.weight.data[0, 0] = float("nan")
    else:
        history.data[:, 0] = float("nan")
    output = attention.packed(target, *pack(history, torch.ones(3, 4, dtype=torch.bool)))
    assert output.isnan().any(dim=1).all()


def test_autocast_sums_in_float32() -> None:
    attention, target, history, mask = draw(10, 6, 7, 4)
    attention, target, history = attention.float(), target.detach().float(), history.float()
    vectors, rows = pack(history, mask)
    vectors = vectors.detach().requires_grad_()
    exact = attention.packed(target, vectors, rows)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention.packed(target, vectors, rows)
    torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0.05)
    rounded.float().sum().backward()
    assert vectors.grad is not None and vectors.grad.dtype == torch.float32


def test_attention_width_is_twice_the_item_width() -> None:
    attention = AdaptiveSparseTargetAttention(6)
    assert [tuple(p.shape) for p in attention.parameters()] == [(12, 6)] * 3 + [(6, 12)]
    assert all("bias" not in name for name, _ in attention.named_parameters())


def test_a_history_of_padding_returns_the_target() -> None:
    attention, target, history, mask = draw(1, 4, 5, 3)
    assert torch.equal(attention(target, history, torch.zeros_like(mask)), target)
    nothing = attention.packed(target, history[0, :0], torch.empty(0, dtype=torch.long))
    assert torch.equal(nothing, target)


def test_the_content_of_padding_does_not_matter() -> None:
    attention, target, history, mask = draw(2, 6, 5, 3)
    other = torch.where(mask.unsqueeze(2), history, 1e6)
    torch.testing.assert_close(
        attention(target, other, mask), attention(target, history, mask), rtol=0, atol=0
    )


def test_the_order_of_the_history_does_not_matter() -> None:
    attention, target, history, mask = draw(3, 6, 8, 3)
    order = torch.randperm(8)
    shuffled = attention(target, history[:, order], mask[:, order])
    torch.testing.assert_close(shuffled, attention(target, history, mask))


def test_weights_do_not_sum_to_one() -> None:
    """Two copies of the same history double the interest; a softmax would not."""
    attention, target, history, _ = draw(4, 6, 3, 3)
    once = attention(target, history) - target
    twice = attention(target, torch.cat([history, history], dim=1)) - target
    torch.testing.assert_close(twice, 2 * once)


def test_rows_do_not_see_each_other() -> None:
    attention, target, history, mask = draw(5, 6, 4, 3)
    together = attention.packed(target, *pack(history, mask))
    for i in range(6):
        alone = attention.packed(target[i : i + 1], *pack(history[i : i + 1], mask[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("dims", [(0, None), (3, 0)])
def test_impossible_widths_are_refused(dims: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        AdaptiveSparseTargetAttention(dims[0], attention_dim=dims[1])


def test_inputs_that_do_not_fit_are_named() -> None:
    attention, target, history, mask = draw(6, 2, 4, 3)
    with pytest.raises(ValueError, match=r"history must be \(B, L, 3\).*\(2, 4, 2\)"):
        attention(target, history[:, :, :2], mask)
    with pytest.raises(ValueError, match=r"mask must be \(2, 4\).*\(2, 3\)"):
        attention(target, history, mask[:, :3])
    rows = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"history must be \(3, 3\).*\(4, 3\)"):
        attention.packed(target, history[0], rows)
    with pytest.raises(ValueError, match=r"index must be \(3,\).*\(2,\)"):
        attention.packed(target, history[0], rows, rows[:2])
