"""A Transformer over pairs of history item and target: pure torch, usable without FuxiCTR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TargetAwareTransformer(nn.Module):
    r"""Self-attention among the items of a click history, each beside the target.

    With history items :math:`h_1 \dots h_L`, oldest first, and a target :math:`t`, the steps
    :math:`x_l = [h_l; t]` go through encoder layers with normalisation after each sum,

    .. math::
        x_l &\leftarrow \mathrm{LN}(x_l + \mathrm{Attention}(x_l, x_1 \dots x_L)) \\
        x_l &\leftarrow \mathrm{LN}(x_l + W_2\, \mathrm{ReLU}(W_1 x_l + b_1) + b_2)

    and the output is :math:`[x_{L-K+1}; \dots; x_L; W \max_l x_l + b]`: the K most recent
    steps in order, zeros before them where a history is shorter, and a projected maximum over
    all steps. Padding is no step. A history without any item has one, :math:`[0; t]`. There is
    no position code: order matters through the places of the last K steps only.

    Source: the Transformer of the first place in the WWW 2025 EReL@MIR multimodal CTR challenge,
    which has K = 16, two layers and one head.

    Args:
        dim: Width D of an item vector.
        num_layers: Encoder layers.
        num_heads: Attention heads; a divisor of the width E = 2 D of a step.
        feed_forward: Width of :math:`W_1 x_l`.
        dropout: On attention weights and on what is added to each step.
        num_last: K.

    Attributes:
        output_dim: (K + 1) E.

    Raises:
        ValueError: If an argument is out of range, or the inputs' shapes do not fit together.

    Shapes (B rows, L history slots, T = all real history items of the batch):
        ``forward``: target (B, D), history (B, L, D), mask (B, L) -> (B, (K + 1) E)
        ``packed``: target (B, D), history (T, D), rows (T,) -> (B, (K + 1) E), or with U
        distinct items: target (B, D), history (U, D), rows (T,), index (T,) -> (B, (K + 1) E)

    Example:
        >>> transformer = TargetAwareTransformer(4, num_last=3).eval()
        >>> target, history = torch.randn(2, 4), torch.randn(2, 5, 4)
        >>> mask = torch.tensor([[True] * 5, [False] * 4 + [True]])
        >>> output = transformer(target, history, mask)
        >>> output.shape, bool(output[1, :16].any())  # the second row has one step, not three
        (torch.Size([2, 32]), False)
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int = 2,
        num_heads: int = 1,
        feed_forward: int = 256,
        dropout: float = 0.2,
        num_last: int = 16,
    ) -> None:
        super().__init__()
        sizes = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "feed_forward": feed_forward,
            "num_last": num_last,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        width = 2 * dim
        if width % num_heads:
            raise ValueError(
                f"num_heads must divide the width of a step, twice that of an item: "
                f"got num_heads={num_heads}, width {width}"
            )
        self.dim = dim
        self.num_last = num_last
        self.output_dim = (num_last + 1) * width
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, feed_forward, dropout, batch_first=True, norm_first=False
            )
            for _ in range(num_layers)
        )
        self.projection = nn.Linear(width, width)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Encode padded histories.

        Args:
            target: Item vectors, (B, D).
            history: Item vectors, (B, L, D), the most recent in the last slot, so padding
                first; what stands in masked slots does not matter.
            mask: (B, L), True or 1 at real items.
        """
        if history.shape != (*target.shape[:1], history.shape[1], self.dim):
            raise ValueError(
                f"history must be (B, L, {self.dim}) with the B of target "
                f"{tuple(target.shape)}, got {tuple(history.shape)}"
            )
        if mask.shape != history.shape[:2]:
            raise ValueError(
                f"mask must be {tuple(history.shape[:2])} like the history, got {tuple(mask.shape)}"
            )
        padding = ~mask.bool()  # (B, L)
        history = history.masked_fill(padding.unsqueeze(2), 0.0)
        if history.shape[1] == 0:
            history, padding = (
                functional.pad(history, (0, 0, 1, 0)),
                functional.pad(padding, (1, 0)),
            )
        # The last slot is a step whatever it holds: softmax over nothing is not defined.
        padding = functional.pad(padding[:, :-1], (0, 1))
        x = torch.cat([history, target.unsqueeze(1).expand_as(history)], dim=2)  # (B, L, E)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        padding = padding.unsqueeze(2)
        largest = x.masked_fill(padding, -torch.inf).amax(dim=1)  # (B, E)
        # Padding by a negative number of slots cuts them off.
        last = functional.pad(x.masked_fill(padding, 0.0), (0, 0, self.num_last - x.shape[1], 0))
        return torch.cat([last.flatten(1), self.projection(largest)], dim=1)

    def packed(
        self,
        target: Tensor,
        history: Tensor,
        rows: Tensor,
        index: Tensor | None = None,
        *,
        longest: int,
    ) -> Tensor:
        """Encode histories without padding; equal to ``forward`` on the same items.

        Args:
            target: Item vectors, (B, D).
            history: Item vectors of all rows one after the other, (T, D); with ``index``
                those of the distinct items, (U, D).
            rows: Row of each history item, (T,) ascending integers in 0..B-1.
            index: Which of the U vectors each history item has, (T,) integers.
            longest: Items of the longest history, or more.
        """
        if index is not None:
            history = history.index_select(0, index)  # (T, D)
        lengths = rows.new_zeros(len(target)).index_add(0, rows, torch.ones_like(rows))  # (B,)
        age = lengths.cumsum(0)[rows] - torch.arange(len(rows), device=rows.device)  # 1: newest
        padded = history.new_zeros(len(target), longest, self.dim)
        padded = padded.index_put((rows, longest - age), history)  # (B, L, D)
        slots = torch.arange(longest, device=rows.device)
        output: Tensor = self(target, padded, slots >= longest - lengths.unsqueeze(1))
        return output
