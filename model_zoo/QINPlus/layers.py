"""The gate of QIN+ and its contrastive loss: pure torch, usable without FuxiCTR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.core.kernels import available
from model_zoo.QINPlus import kernels


class GatedTargetAttention(nn.Module):
    r"""Attention of one target item over a click history, by a small network for each pair.

    For a target :math:`t` and history items :math:`h_0 \dots h_{n-1}`, newest first,

    .. math::
        u_l &= \mathrm{ReLU}\big(P t + Q h_l + W (t \odot h_l) + r_l + b\big) \\
        a_l &= \mathrm{ReLU}(v \cdot u_l + c), \qquad
        o = n^{-\gamma} \sum_l a_l h_l

    As in adaptive sparse target attention the weights do not sum to 1 and may be exactly 0. What
    differs: the score is not linear in the pair, it has a bias, and r makes it depend on how
    recent the item is. P t and Q h depend on one item each and can be tabulated; only
    :math:`W (t \odot h)` belongs to the pair. Without an item o is 0.

    Args:
        dim: Width D of an item vector.
        units: Hidden units A.
        max_len: Places that have an :math:`r_l` of their own; older ones share the last.
        length_power: γ; 0 sums, 1 averages.
        order: Whether r exists; without it the order of the history does not matter.
        sparse: Whether the weight goes through the ReLU; without it weights may be negative.

    Raises:
        ValueError: If an argument is out of range, or the inputs' shapes do not fit together.

    Shapes (B rows, L history slots, T real history items of the batch, U distinct items):
        ``forward``: target (B, D), history (B, L, D) **newest first**, mask (B, L) -> (B, D)
        ``packed``: target (B, D), items (U, D), rows (T,) ascending, index (T,) oldest first
        within a row -> (B, D)

    Example:
        >>> attention = GatedTargetAttention(4, units=3)
        >>> target, history = torch.randn(2, 4), torch.randn(2, 3, 4)
        >>> mask = torch.tensor([[True, True, True], [False, False, False]])
        >>> attention(target, history, mask)[1].abs().sum().item()  # nothing but padding
        0.0
    """

    def __init__(
        self,
        dim: int,
        *,
        units: int = 32,
        max_len: int = 64,
        length_power: float = 0.5,
        order: bool = True,
        sparse: bool = True,
    ) -> None:
        super().__init__()
        if min(dim, units, max_len) < 1:
            raise ValueError(f"widths must be at least 1, got {dim=}, {units=}, {max_len=}")
        if not 0.0 <= length_power <= 1.0:
            raise ValueError(f"length_power must be in [0, 1], got {length_power}")
        self.dim, self.max_len = dim, max_len
        self.length_power, self.sparse = length_power, sparse
        self.of_target = nn.Linear(dim, units)
        self.of_history = nn.Linear(dim, units, bias=False)
        self.of_product = nn.Linear(dim, units, bias=False)
        self.of_place = nn.Parameter(torch.zeros(max_len, units)) if order else None
        self.weight = nn.Linear(units, 1)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend over padded histories, newest item first.

        Args:
            target: Item vectors, (B, D).
            history: Item vectors, (B, L, D); what stands in masked slots does not matter.
            mask: (B, L), True or 1 at real items, which come first; ``None``: all are real.
        """
        self._require_target(target)
        if history.dim() != 3 or history.shape[::2] != target.shape:
            raise ValueError(
                f"history must be (B, L, {self.dim}) with the B of target "
                f"{tuple(target.shape)}, got {tuple(history.shape)}"
            )
        if mask is None:
            mask = history.new_ones(history.shape[:2])
        if mask.shape != history.shape[:2]:
            raise ValueError(
                f"mask must be {tuple(history.shape[:2])} like the history, got {tuple(mask.shape)}"
            )
        mask = mask.to(history.dtype)
        places = torch.arange(history.shape[1], device=history.device)
        pair = self.of_product(target.unsqueeze(1) * history) + self.of_history(history)
        weight = self._weight(pair + self.of_target(target).unsqueeze(1), places) * mask  # (B, L)
        pooled = torch.bmm(weight.unsqueeze(1), history).squeeze(1)  # (B, D)
        return self._scaled(pooled, mask.sum(dim=1))

    def packed(self, target: Tensor, items: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """Attend over histories without padding; equal to ``forward`` on the same items.

        Args:
            target: Item vectors, (B, D).
            items: Vectors of distinct items, (U, D).
            rows: Row of each history item, (T,) integers in 0..B-1, ascending.
            index: Which of ``items`` each is, (T,); within a row oldest first.
        """
        self._require_target(target)
        if index.shape != rows.shape or items.shape != (len(items), self.dim):
            raise ValueError(
                f"index must be {tuple(rows.shape)} like rows and items (U, {self.dim}), got "
                f"{tuple(index.shape)} and {tuple(items.shape)}"
            )
        count = torch.zeros(len(target), dtype=torch.long, device=rows.device)
        count = count.index_add(0, rows, torch.ones_like(rows))  # (B,)
        ends = count.cumsum(0).index_select(0, rows)
        places = ends - 1 - torch.arange(len(rows), device=rows.device)  # (T,), newest 0
        of_target, of_history = self.of_target(target), self.of_history(items)  # (B, A), (U, A)
        if available(items):
            sums = kernels.pooled(
                target,
                items,
                of_target,
                of_history,
                self.of_place,
                self.of_product.weight,
                self.weight.weight,
                self.weight.bias,
                rows=rows,
                index=index,
                places=places.clamp(max=self.max_len - 1),
                sparse=self.sparse,
            )
            return self._scaled(sums, count)
        # Gathered in float32 at least: the gradient of a vector is a sum over all its places.
        wide = torch.promote_types(items.dtype, torch.float32)
        target, items, of_target, of_history = (
            vectors.to(wide) for vectors in (target, items, of_target, of_history)
        )
        history = items.index_select(0, index)  # (T, D)
        pair = self.of_product(target.index_select(0, rows) * history)
        pair = pair + of_history.index_select(0, index) + of_target.index_select(0, rows)
        weight = self._weight(pair, places).unsqueeze(1)  # (T, 1)
        weighted = weight * history
        pooled = torch.zeros_like(target, dtype=weighted.dtype).index_add(0, rows, weighted)
        return self._scaled(pooled, count)

    def _require_target(self, target: Tensor) -> None:
        if target.dim() != 2 or target.shape[1] != self.dim:
            raise ValueError(f"target must be (B, {self.dim}), got {tuple(target.shape)}")

    def _weight(self, pair: Tensor, places: Tensor) -> Tensor:
        """a of pairs (..., A), all but r_l and the two ReLUs; ``places`` is their last but one."""
        if self.of_place is not None:
            # As embeddings: CUDA adds up the gradient of a place that many items share in parts,
            # but that of an index one item after the other.
            places = places.clamp(max=self.max_len - 1)
            pair = pair + functional.embedding(places, self.of_place)
        weight: Tensor = self.weight(torch.relu(pair)).squeeze(-1)
        return torch.relu(weight) if self.sparse else weight

    def _scaled(self, pooled: Tensor, count: Tensor) -> Tensor:
        """n^-γ Σ of each row."""
        if self.length_power == 0:
            return pooled
        return pooled * count.clamp(min=1).to(pooled.dtype).pow(-self.length_power).unsqueeze(1)


class HistoryContrast(nn.Module):
    r"""Contrast of each row's history with its own target against the targets of other rows.

    A history's vector is :math:`u = \overline{A \, \mathrm{mean}_l h_l}`, an item's
    :math:`z = \overline{B t}`, both scaled to length 1. For a row with target :math:`t` and the
    negatives :math:`t_1 \dots t_K`, the first K targets of the batch that are other items,

    .. math:: \ell = -\log \frac{\exp(u \cdot z / \tau)}
                                {\exp(u \cdot z / \tau) + \sum_k \exp(u \cdot z_k / \tau)}

    It is InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) with negatives from the batch, as
    two-tower retrieval is trained. One label for a row tells whether its item was clicked; this
    tells from every clicked row that its item was, of all these.

    Args:
        dim: Width D of an item vector.
        units: Width of u and z.
        temperature: τ.
        negatives: K at most; a batch has as many as it has rows. Rows are shuffled, so the
            first are a sample.

    Raises:
        ValueError: If an argument is out of range.

    Shapes (B rows, T real history items of the batch, U distinct items):
        ``users``: target (B, D), items (U, D), rows (T,) and index (T,) as
        :meth:`GatedTargetAttention.packed` -> (B, units), 0 for rows without a history
        ``forward``: target ids (B,), target (B, D), users (C, units), and which C rows they are
        of, all if it is left out -> (C,), 0 where users are 0. Both are in float32 at least.

    Example:
        >>> contrast = HistoryContrast(4, units=2, temperature=1.0)
        >>> ids, items = torch.tensor([7, 9]), torch.randn(3, 4)
        >>> rows, index = torch.tensor([0, 0]), torch.tensor([1, 2])
        >>> users = contrast.users(items[:2], items, rows, index)
        >>> (contrast(ids, items[:2], users) > 0).tolist()
        [True, False]
    """

    def __init__(
        self, dim: int, *, units: int = 64, temperature: float = 0.1, negatives: int = 512
    ) -> None:
        super().__init__()
        if min(dim, units, negatives) < 1:
            raise ValueError(
                f"widths and negatives must be at least 1, got {dim=}, {units=}, {negatives=}"
            )
        if not temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature, self.negatives = temperature, negatives
        self.of_history = nn.Linear(dim, units, bias=False)
        self.of_target = nn.Linear(dim, units, bias=False)

    def users(self, target: Tensor, items: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """u of each row; of ``target`` only the number of rows counts."""
        count = rows.new_zeros(len(target)).index_add(0, rows, torch.ones_like(rows))  # (B,)
        starts = count.cumsum(0) - count
        # The sum, without a tensor of (T, D); u has length 1, so it is as good as the mean.
        pooled = functional.embedding_bag(index, items, starts, mode="sum")  # (B, D)
        return functional.normalize(_precise(self.of_history(pooled)), dim=1)

    def forward(
        self, target_ids: Tensor, target: Tensor, users: Tensor, of_rows: Tensor | None = None
    ) -> Tensor:
        """Loss of each row, or of some, against the first targets of the batch."""
        items = functional.normalize(_precise(self.of_target(target)), dim=1)  # (B, units)
        items = items / self.temperature
        first, first_ids = items[: self.negatives], target_ids[: self.negatives]  # (K, units)
        if of_rows is not None:
            items, target_ids = items.index_select(0, of_rows), target_ids[of_rows]
        own = (users * items).sum(dim=1, keepdim=True)  # (C, 1)
        same = target_ids.unsqueeze(1) == first_ids  # (C, K)
        with torch.autocast(users.device.type, enabled=False):
            others = (users @ first.T).masked_fill(same, -torch.inf)
        scores = torch.cat([own, others], dim=1)  # (C, 1 + K)
        return (scores.logsumexp(dim=1) - own.squeeze(1)) * users.any(dim=1)


def _precise(vectors: Tensor) -> Tensor:
    """In float32 at least: a score from bf16 vectors would be off by 0.04."""
    return vectors.float() if vectors.dtype == torch.bfloat16 else vectors
