"""Adaptive Sparse Target Attention: the target picks from the click history with ReLU weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model_zoo.core.kernels import available
from model_zoo.QIN.layers import kernels


class AdaptiveSparseTargetAttention(nn.Module):
    r"""Attention of one target item over a click history, with ReLU in place of softmax.

    For a target :math:`t` and history items :math:`h_1 \dots h_L`

    .. math::
        q   &= W_q\, t, \qquad u = W_k^\top q \\
        a_l &= \mathrm{ReLU}(h_l \cdot u / \sqrt{A}) \\
        o   &= W_o\, W_v \sum_l a_l h_l + t

    Many weights are exactly 0 and they do not sum to 1, so the strength of the match
    reaches the output. The history's keys :math:`W_k h_l` and values :math:`W_v h_l` are
    never built: with one query per row, :math:`(W_k h_l) \cdot q = h_l \cdot (W_k^\top q)`
    and :math:`\sum_l a_l W_v h_l = W_v \sum_l a_l h_l` exactly, which lowers the cost of a
    row from :math:`O(L D A)` to :math:`O(D A + L D)`. There is one head, no dropout and no
    position code: the order of the history does not matter.

    Source: arXiv 2504.17699, section 3.2, as in the published implementation, which adds
    :math:`W_o` and fixes A = 2 D; the paper's equation 3 has neither.

    Args:
        dim: Width D of an item vector.
        attention_dim: Width A of query, key and value; ``None`` takes 2 D.

    Raises:
        ValueError: If a width is below 1, or the inputs' shapes do not fit together.

    Shapes (B rows, L history slots, T = all real history items of the batch):
        ``forward``: target (B, D), history (B, L, D), mask (B, L) -> (B, D)
        ``packed``: target (B, D), history (T, D), rows (T,) -> (B, D), or with U distinct
        items: target (B, D), history (U, D), rows (T,), index (T,) -> (B, D)

    Example:
        >>> attention = AdaptiveSparseTargetAttention(4)
        >>> target, history = torch.randn(2, 4), torch.randn(2, 3, 4)
        >>> mask = torch.tensor([[True, True, True], [False, False, False]])
        >>> output = attention(target, history, mask)
        >>> torch.equal(output[1], target[1])  # nothing but padding: the target itself
        True
    """

    def __init__(self, dim: int, *, attention_dim: int | None = None) -> None:
        super().__init__()
        attention_dim = 2 * dim if attention_dim is None else attention_dim
        if dim < 1 or attention_dim < 1:
            raise ValueError(f"widths must be at least 1, got dim={dim}, {attention_dim=}")
        self.dim = dim
        self.scale = 1.0 / math.sqrt(attention_dim)
        self.W_q = nn.Linear(dim, attention_dim, bias=False)
        self.W_k = nn.Linear(dim, attention_dim, bias=False)
        self.W_v = nn.Linear(dim, attention_dim, bias=False)
        self.W_o = nn.Linear(attention_dim, dim, bias=False)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend over padded histories.

        Args:
            target: Item vectors, (B, D).
            history: Item vectors, (B, L, D); what stands in masked slots does not matter,
                as long as it is finite.
            mask: (B, L), True or 1 at real items; ``None`` means every slot is real.
        """
        if history.shape != (*target.shape[:1], history.shape[1], self.dim):
            raise ValueError(
                f"history must be (B, L, {self.dim}) with the B of target "
                f"{tuple(target.shape)}, got {tuple(history.shape)}"
            )
        if mask is not None and mask.shape != history.shape[:2]:
            raise ValueError(
                f"mask must be {tuple(history.shape[:2])} like the history, got {tuple(mask.shape)}"
            )
        query = self._project_query(target)  # (B, D)
        weight = torch.relu(torch.bmm(history, query.unsqueeze(2)).squeeze(2))  # (B, L)
        if mask is not None:
            weight = weight * mask.to(weight.dtype)
        pooled = torch.bmm(weight.unsqueeze(1), history).squeeze(1)  # (B, D)
        return self._output(pooled, target)

    def packed(
        self, target: Tensor, history: Tensor, rows: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """Attend over histories without padding; equal to ``forward`` on the same items.

        Args:
            target: Item vectors, (B, D).
            history: Item vectors of all rows one after the other, (T, D); with ``index``
                those of the distinct items, (U, D).
            rows: Row of each history item, (T,) integers in 0..B-1, in any order.
            index: Which of the U vectors each history item has, (T,) integers.
        """
        if history.shape != (len(rows) if index is None else len(history), self.dim):
            raise ValueError(
                f"history must be ({rows.shape[0]}, {self.dim}), one vector for each of rows, "
                f"got {tuple(history.shape)}"
            )
        if index is not None and index.shape != rows.shape:
            raise ValueError(
                f"index must be {tuple(rows.shape)} like rows, got {tuple(index.shape)}"
            )
        query = self._project_query(target)  # (B, D)
        if available(history):
            return self._output(kernels.pooled(query, history, rows, index), target)
        # Gathered in float32 at least: the gradient of a vector is a sum over all its places.
        wide = torch.promote_types(history.dtype, torch.float32)
        history, query = history.to(wide), query.to(wide)
        if index is not None:
            history = history.index_select(0, index)  # (T, D)
        score = (history * query.index_select(0, rows)).sum(dim=1, keepdim=True)  # (T, 1)
        weighted = torch.relu(score) * history  # (T, D)
        pooled = torch.zeros_like(target, dtype=weighted.dtype).index_add(0, rows, weighted)
        return self._output(pooled, target)

    def _project_query(self, target: Tensor) -> Tensor:
        """W_kᵀ W_q t / √A: the query in the history's own space, (B, D)."""
        return nn.functional.linear(self.W_q(target), self.W_k.weight.t()) * self.scale

    def _output(self, pooled: Tensor, target: Tensor) -> Tensor:
        output: Tensor = self.W_o(self.W_v(pooled)) + target
        return output
