"""Layers that more than one model uses: torch only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PooledEmbedding(nn.Embedding):
    """An embedding table that pools the rows of each list of ids, without a tensor of them.

    Equal to a look-up of every id followed by the mean (or sum) over those that are not
    padding; a list of padding only gives zeros.

    Args:
        table: The table to read; its weight is shared, not copied.
        mode: ``mean`` or ``sum``.

    Shape: (n, m) integers -> (n, d).

    Example:
        >>> import torch
        >>> table = nn.Embedding(4, 2, padding_idx=0)
        >>> pooled = PooledEmbedding(table, mode="mean")
        >>> torch.equal(pooled(torch.tensor([[3, 0]])), table(torch.tensor([3])))
        True
    """

    def __init__(self, table: nn.Embedding, *, mode: str) -> None:
        if mode not in ("mean", "sum"):
            raise ValueError(f"mode must be mean or sum, got {mode!r}")
        rows, dim = table.weight.shape
        # With a weight given, torch allocates none; then the parameter itself is shared.
        super().__init__(
            rows,
            dim,
            padding_idx=table.padding_idx,
            sparse=table.sparse,
            _weight=table.weight.detach(),
        )
        self.weight = table.weight
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" and not self.sparse and self.padding_idx is not None:
            return self._with_padding_spread(input, self.padding_idx)
        return nn.functional.embedding_bag(
            input,
            self.weight,
            mode=self.mode,
            sparse=self.sparse,
            padding_idx=self.padding_idx,
        )

    def _with_padding_spread(self, ids: Tensor, padding: int) -> Tensor:
        """The same, with each padding as some row, evenly, at a weight of 0.

        torch's gradient on a GPU adds up what one row gets one part after the other, by a few
        threads; padding, the most frequent id, then takes longer than all others together.
        """
        real = ids.ne(padding)
        share = real.to(self.weight.dtype)
        if self.mode == "mean":
            share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
        some = torch.arange(ids.numel(), device=ids.device) % self.num_embeddings
        return nn.functional.embedding_bag(
            torch.where(real, ids, some.view_as(ids)),
            self.weight,
            mode="sum",
            per_sample_weights=share,
        )
