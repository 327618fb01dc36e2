"""How the gate of QIN+ is trained fast on a CPU: same values and gradients, less memory.

Its plain twin is the formula in :class:`model_zoo.QINPlus.layers.GatedTargetAttention`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model_zoo.core.kernels import weighted_sums

PAIRS = 2_048  # pairs of a target and a history item whose vectors are gathered at a time


def pooled(
    target: Tensor,
    items: Tensor,
    of_target: Tensor,
    of_history: Tensor,
    of_place: Tensor | None,
    product: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    rows: Tensor,
    index: Tensor,
    places: Tensor,
    sparse: bool,
) -> Tensor:
    r""":math:`\sum_l a_l h_l` of every row, (B, D), in float32 at least.

    Args:
        target: t of each row, (B, D).
        items: Item vectors, (U, D).
        of_target: P t + b of each row, (B, A).
        of_history: Q h of each item, (U, A).
        of_place: r, (max_len, A), or ``None``.
        product: W, (A, D). It is multiplied in autocast's precision if that is on.
        weight: v, (1, A).
        bias: c, (1,).
        rows: Row of each history item, (T,), ascending.
        index: Which of ``items`` each is, (T,).
        places: Which row of ``of_place`` each has, (T,).
        sparse: Whether weights go through a ReLU.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else product.dtype
    if of_place is None:
        of_place = product.new_zeros(1, len(product))
        places = torch.zeros_like(places)
    with torch.autocast("cpu", enabled=False):
        sums: Tensor = _Pooled.apply(  # type: ignore[no-untyped-call]
            target,
            items,
            of_target,
            of_history,
            of_place,
            product,
            weight,
            bias,
            (rows, index, places),
            sparse,
            dtype,
        )
    return sums


class _Pooled(torch.autograd.Function):
    """Some pairs at a time, so that their (T, D) products never exist at once.

    Saved for the gradient are u (T, A) and a (T,) of the pairs whose weight is not 0: no other
    has a part in the output or in a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        target: Tensor,
        items: Tensor,
        of_target: Tensor,
        of_history: Tensor,
        of_place: Tensor,
        product: Tensor,
        weight: Tensor,
        bias: Tensor,
        pairs: tuple[Tensor, Tensor, Tensor],
        sparse: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        inputs = (target, items, of_target, of_history, of_place, product, weight, bias)
        ctx.dtypes = [tensor.dtype for tensor in inputs]
        # Sums are never made in bfloat16.
        wide = torch.promote_types(items.dtype, torch.float32)
        target, items = target.to(wide), items.to(wide)
        w, v, c = product.to(dtype), weight.to(dtype), bias.to(dtype)
        tables = [table.to(dtype) for table in (of_target, of_history, of_place)]
        hidden, scores = [], []
        for some in _pieces(len(pairs[0])):
            places = [ids[some] for ids in pairs]
            both = items.index_select(0, places[1])
            both *= target.index_select(0, places[0])  # (p, D)
            u = functional.linear(both.to(dtype), w)  # (p, A)
            for table, ids in zip(tables, places, strict=True):
                u += table.index_select(0, ids)
            hidden.append(u.relu_())
            scores.append(functional.linear(u, v, c).squeeze(1))
        u, a = torch.cat(hidden), torch.cat(scores)
        if sparse:
            # Not "above 0": a score that is no number has to reach the loss.
            active = (a <= 0).logical_not().nonzero().squeeze(1)
            u, a = u[active], a[active]
            pairs = (pairs[0][active], pairs[1][active], pairs[2][active])
        a = a.to(wide)
        ctx.dtype = dtype
        ctx.sizes = [len(table) for table in tables]
        ctx.save_for_backward(target, items, w, v, u, a, *pairs)
        return weighted_sums(items, pairs[1], a, pairs[0], len(target))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        target, items, w, v, u, a, rows, index, places = ctx.saved_tensors
        grad = grad.to(items.dtype)
        to_target, to_items = torch.zeros_like(target), torch.zeros_like(items)
        to_product = torch.zeros_like(w, dtype=items.dtype)
        to_weight, to_bias = to_product.new_zeros(v.shape), to_product.new_zeros(1)
        to_tables = [to_product.new_zeros(size, len(w)) for size in ctx.sizes]
        for some in _pieces(len(a)):
            r, i = rows[some], index[some]
            t, h, g = (x.index_select(0, j) for x, j in ((target, r), (items, i), (grad, r)))
            to_a = (h * g).sum(dim=1, keepdim=True)  # (p, 1)
            to_u = to_a.to(ctx.dtype) * v * (u[some] > 0)  # (p, A)
            to_weight += to_a.t() @ u[some].to(to_a.dtype)
            to_bias += to_a.sum()
            for table, ids in zip(to_tables, (r, i, places[some]), strict=True):
                table.index_add_(0, ids, to_u.to(table.dtype))
            to_product += to_u.t() @ (t * h).to(ctx.dtype)
            to_both = (to_u @ w).to(h.dtype)  # (p, D)
            to_items.index_add_(0, i, g.mul_(a[some, None]).addcmul_(to_both, t))
            to_target.index_add_(0, r, to_both.mul_(h))
        found = (to_target, to_items, *to_tables, to_product, to_weight, to_bias)
        return (*(g.to(d) for g, d in zip(found, ctx.dtypes, strict=True)), None, None, None)


def _pieces(count: int) -> Iterator[slice]:
    for start in range(0, max(count, 1), PAIRS):
        yield slice(start, start + PAIRS)
