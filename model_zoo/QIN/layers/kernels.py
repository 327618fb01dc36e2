"""How the layers' formulas are computed fast on a CPU: same values and gradients, less memory.

Each function has a plain twin: the formula in the layer that calls it, and ``tests/oracles.py``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model_zoo.core.kernels import dots, linear, outer, weighted_sums

# Rows that are multiplied at a time, and elements that go through pointwise steps together:
# few enough for what is reused to stay in the cache.
CHUNK = 4096
POINTWISE = 2**19
SLOTS = 4096  # history items whose vectors are gathered at a time


def keep_mask(shape: tuple[int, ...], p: float) -> tuple[Tensor, float]:
    """What dropout keeps, 0 or 1 as bytes, and the factor that preserves the expectation.

    Four elements share one 64-bit draw of torch's generator, which is much faster than
    ``bernoulli_``. So p is rounded to a multiple of 2⁻¹⁶, and the factor is that of the
    rounded p.
    """
    dropped = min(max(round(p * 65536), 1), 65535)
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64)
    bits.random_(torch.iinfo(torch.int64).min, None)  # all 64 bits
    keep = bits.view(torch.int16)[:count] >= dropped - 32768
    return keep.view(torch.uint8).view(shape), 65536 / (65536 - dropped)


def quadratic_product(x: Tensor, module: nn.Linear, num_row: int, p: float) -> Tensor:
    """x ⊙ Σ_r Dropout(W_r x + b_r): (B, F) -> (B, F), in autocast's precision if it is on."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    weight = module.weight.view(num_row, -1, module.in_features)
    bias = None if module.bias is None else module.bias.view(num_row, -1)
    if p == 0:  # the rows are one
        weight = weight.sum(dim=0, keepdim=True)
        bias = None if bias is None else bias.sum(dim=0, keepdim=True)
    with torch.autocast("cpu", enabled=False):
        product: Tensor = _Product.apply(x, weight, bias, p, dtype)  # type: ignore[no-untyped-call]
    return product


class _Product(torch.autograd.Function):
    """x ⊙ Σ_r Dropout(W_r x + b_r), for some rows of x and one r at a time.

    So the R·F outputs never exist at once. Matrix products and the sum over r are computed
    in ``dtype``; saved for the gradient are x, that sum, and the masks as bytes.

    Shapes: x (B, F), weight (R, F, F), bias (R, F) -> (B, F).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, p: float, dtype: torch.dtype
    ) -> Tensor:
        w = weight.to(dtype)
        b = [None] * len(w) if bias is None else bias.to(dtype)
        product, scale = torch.empty_like(x), 1.0
        sums, masks = [], []
        for start in range(0, len(x), CHUNK):
            some = slice(start, start + CHUNK)
            x_n = x[some].to(dtype)
            if p == 0:
                sum_n = linear(x_n, w[0], b[0])  # (n, F)
            else:
                sum_n = torch.zeros_like(x_n)
                for r in range(len(w)):
                    h = linear(x_n, w[r], b[r])  # (n, F)
                    keep, scale = keep_mask(h.shape, p)
                    masks.append(keep)
                    sum_n.addcmul_(h, keep.to(dtype), value=scale)
            sums.append(sum_n)
            torch.mul(x[some], sum_n.to(x.dtype), out=product[some])
        ctx.save_for_backward(x, weight, *sums, *masks)
        ctx.scale, ctx.dtype, ctx.chunks, ctx.has_bias = scale, dtype, len(sums), bias is not None
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        dtype, sums, masks = ctx.dtype, saved[: ctx.chunks], iter(saved[ctx.chunks :])
        w = weight.to(dtype)
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        to_bias = weight.new_zeros(weight.shape[:2]) if ctx.has_bias else None
        for start, sum_n in zip(range(0, len(x), CHUNK), sums, strict=True):
            some = slice(start, start + CHUNK)
            x_n, to_x_n = x[some].to(dtype), to_x[some]
            to_sum = (grad[some] * x[some]).mul_(ctx.scale).to(dtype)
            torch.mul(grad[some], sum_n.to(x.dtype), out=to_x_n)
            for r in range(len(w)):
                keep = next(masks, None)
                to_h = to_sum if keep is None else keep.to(dtype).mul_(to_sum)  # (n, F)
                to_x_n += linear(to_h, w[r].t())
                to_weight[r] += outer(to_h, x_n)
                if to_bias is not None:
                    to_bias[r] += to_h.sum(dim=0)
        return to_x, to_weight, to_bias, None, None


def add_activated(x: Tensor, y: Tensor, slope: Tensor, p: float) -> Tensor:
    """x + Dropout(PReLU(y)) with one slope, in the precision of x and y: (B, F) -> (B, F)."""
    with torch.autocast("cpu", enabled=False):
        total: Tensor = _AddActivated.apply(x, y, slope, p)  # type: ignore[no-untyped-call]
    return total


class _AddActivated(torch.autograd.Function):
    """x + Dropout(PReLU(y)), some rows at a time; saved are y and the masks as bytes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slope: Tensor, p: float) -> Tensor:
        ctx.slope, ctx.scale, ctx.rows = float(slope), 1.0, max(1, POINTWISE // y.shape[1])
        output, masks = torch.empty_like(x), []
        for x_n, y_n, out in zip(*(torch.split(t, ctx.rows) for t in (x, y, output)), strict=True):
            z = nn.functional.leaky_relu(y_n, ctx.slope)
            if p == 0:
                torch.add(x_n, z, out=out)
                continue
            keep, ctx.scale = keep_mask(z.shape, p)
            masks.append(keep)
            torch.addcmul(x_n, z, keep.to(y.dtype), value=ctx.scale, out=out)
        ctx.save_for_backward(y, slope, *masks)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, slope, *masks = ctx.saved_tensors
        to_y, to_slope = torch.empty_like(y), torch.zeros_like(slope)
        for i, (g, y_n, out) in enumerate(
            zip(*(torch.split(t, ctx.rows) for t in (grad, y, to_y)), strict=True)
        ):
            to_z = masks[i].to(y.dtype).mul_(g).mul_(ctx.scale) if masks else g
            to_slope += y_n.clamp(max=0).mul_(to_z).sum()
            torch.ops.aten.leaky_relu_backward.grad_input(
                to_z, y_n, ctx.slope, False, grad_input=out
            )
        return grad, to_y, to_slope, None


class _Pooled(torch.autograd.Function):
    """Σ_l ReLU(h_l · u) h_l of every row, without a vector for each history item.

    Vectors are read where they lie, once for each step of the formula. Items of weight 0 are
    left out of everything after the scores: neither the output nor a gradient needs them.

    Shapes: query u (B, D), items (U, D), rows and index (T,), rows ascending -> (B, D).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, items: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        dtype = torch.promote_types(items.dtype, torch.float32)  # autocast must not sum in bf16
        ctx.dtypes = query.dtype, items.dtype
        query, items = query.to(dtype), items.to(dtype)
        score = dots(query, rows, items, index)  # (T,)
        # Not "above 0": a score that is no number has to reach the loss, where it is noticed.
        active = (score <= 0).logical_not().nonzero().squeeze(1)
        weight, rows, index = score[active], rows[active], index[active]
        ctx.save_for_backward(query, items, weight, rows, index)
        return weighted_sums(items, index, weight, rows, len(query))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, items, weight, rows, index = ctx.saved_tensors
        grad = grad.to(query.dtype)
        to_weight = dots(grad, rows, items, index)
        to_query = weighted_sums(items, index, to_weight, rows, len(query))
        # An item receives weight · grad + to_weight · u from each place where it stands.
        order = index.argsort()
        places = torch.stack([rows, rows + len(query)], dim=1)[order].flatten()
        factors = torch.stack([weight, to_weight], dim=1)[order].flatten()
        owners = index[order].repeat_interleave(2)
        to_items = weighted_sums(torch.cat([grad, query]), places, factors, owners, len(items))
        return to_query.to(ctx.dtypes[0]), to_items.to(ctx.dtypes[1]), None, None


def pooled(query: Tensor, items: Tensor, rows: Tensor, index: Tensor | None) -> Tensor:
    """Σ_l ReLU(h_l · u) h_l of every row, (B, D).

    Args:
        query: u of each row, (B, D).
        items: Item vectors (U, D).
        rows: Row of each history item, (T,), in any order.
        index: Which of ``items`` each history item is, (T,); ``None``: the one at its place.
    """
    if index is None:
        index = torch.arange(len(rows))
    arguments = (query, items, *_sorted_by_row(rows, index))
    output: Tensor = _Pooled.apply(*arguments)  # type: ignore[no-untyped-call]
    return output


def _sorted_by_row(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    if (rows[1:] < rows[:-1]).any():
        rows, order = rows.sort()
        index = index[order]
    return rows, index


def grouped_dots(queries: Tensor, vectors: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
    """queries[b] · vectors[j] for each item j of each row b's history, packed, (T,).

    The same as :func:`dots`, and in bfloat16 faster on a CPU: rows of like length are padded
    with item 0 and multiplied as one batch of matrices.

    Args:
        queries: (B, D)
        vectors: (I, D)
        history: Rows of ``vectors`` for all b one after the other, (T,).
        lengths: How many belong to each b, (B,).
    """
    rows, longest = len(lengths), int(lengths.max()) if len(lengths) else 0
    mask = torch.arange(longest) < lengths.unsqueeze(1)  # (B, L)
    order = lengths.argsort(descending=True)
    padded = history.new_zeros(rows, longest).masked_scatter_(mask, history)[order]
    queries = queries[order].unsqueeze(2)  # (B, D, 1)
    products = queries.new_zeros(rows, longest, 1)
    sizes, start = lengths[order].tolist(), 0
    while start < rows and sizes[start] > 0:
        size = sizes[start]
        some = slice(start, start + max(1, SLOTS // size))
        ids = padded[some, :size]
        gathered = vectors.index_select(0, ids.flatten()).view(*ids.shape, -1)
        products[some, :size] = torch.bmm(gathered, queries[some])
        start = some.stop
    return products.squeeze(2)[order.argsort()][mask]
