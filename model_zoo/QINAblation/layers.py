"""What can stand in the place of QIN's attention and quadratic network: torch only."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model_zoo.QIN.layers import QuadraticLayer

Kind = Literal["asta", "softmax", "relu2", "silu", "mean", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class TargetAttentionVariant(nn.Module):
    r"""Attention of one target item over a click history, with a choice of the weight.

    For a target :math:`t` and history items :math:`h_1 \dots h_n`

    .. math::
        s_l = h_l \cdot W_k^\top W_q\, t / \sqrt{A}, \qquad
        o = W_o\, W_v \sum_l \mathrm{Dropout}(a_l)\, h_l + t

    with :math:`a_l` by ``kind``: ``asta`` ReLU(s_l), ``softmax`` exp(s_l) / Σ exp(s), ``relu2``
    ReLU(s_l)², ``silu`` s_l sigmoid(s_l). ``mean`` is the plain mean of the history, without any
    of the four maps, and ``none`` looks at no history: o = t, or 0 without the residual. Rows
    without an item have a sum of 0.

    Source: the rows of the ablation in arXiv 2504.17699, section 4.

    Args:
        dim: Width D of an item vector.
        kind: The weight.
        attention_dim: Width A of query, key and value; ``None`` takes 2 D.
        dropout: Probability of dropping a weight, in [0, 1).
        residual: Whether t is added.

    Raises:
        ValueError: If an argument is out of range.

    Shapes (B rows, T history items of the batch, U distinct items):
        ``packed``: target (B, D), items (U, D), rows (T,), index (T,) -> (B, D)

    Example:
        >>> attention = TargetAttentionVariant(4, kind="softmax")
        >>> target, items = torch.randn(2, 4), torch.randn(3, 4)
        >>> rows, index = torch.tensor([1, 1]), torch.tensor([0, 2])
        >>> torch.equal(attention.packed(target, items, rows, index)[0], target[0])
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        kind: Kind = "asta",
        attention_dim: int | None = None,
        dropout: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        width = 2 * dim if attention_dim is None else attention_dim
        if dim < 1 or width < 1:
            raise ValueError(f"widths must be at least 1, got dim={dim}, attention_dim={width}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.kind, self.residual = kind, residual
        self.scale = 1.0 / math.sqrt(width)
        self.dropout = nn.Dropout(dropout)
        if kind not in ("mean", "none"):
            self.W_q = nn.Linear(dim, width, bias=False)
            self.W_k = nn.Linear(dim, width, bias=False)
            self.W_v = nn.Linear(dim, width, bias=False)
            self.W_o = nn.Linear(width, dim, bias=False)

    def packed(self, target: Tensor, items: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """Attend over histories without padding.

        Args:
            target: Item vectors, (B, D).
            items: Vectors of distinct items, (U, D).
            rows: Row of each history item, (T,) integers in 0..B-1.
            index: Which of ``items`` each is, (T,).
        """
        interest = torch.zeros_like(target)
        if self.kind != "none":
            history = items.index_select(0, index)  # (T, D)
            weight = self.dropout(self._weight(target, history, rows))  # (T,)
            weighted = weight.unsqueeze(1) * history
            interest = torch.zeros_like(target, dtype=weighted.dtype).index_add(0, rows, weighted)
            if self.kind != "mean":
                interest = self.W_o(self.W_v(interest))
        return interest + target if self.residual else interest

    def _weight(self, target: Tensor, history: Tensor, rows: Tensor) -> Tensor:
        """a of all history items, (T,)."""
        if self.kind == "mean":
            ones = history.new_ones(len(rows))
            count = ones.new_zeros(len(target)).index_add(0, rows, ones)
            return ones / count.index_select(0, rows)
        # As in QIN: h · (W_kᵀ W_q t), which needs no keys.
        query = nn.functional.linear(self.W_q(target), self.W_k.weight.t()) * self.scale
        score = (history * query.index_select(0, rows)).sum(dim=1)  # (T,)
        if self.kind == "asta":
            return torch.relu(score)
        if self.kind == "relu2":
            return torch.relu(score).square()
        if self.kind == "silu":
            return nn.functional.silu(score)
        largest = score.new_full((len(target),), -math.inf)
        largest = largest.scatter_reduce(0, rows, score.detach(), "amax")  # (B,)
        grown = torch.exp(score - largest.index_select(0, rows))
        total = grown.new_zeros(len(target)).index_add(0, rows, grown)
        return grown / total.index_select(0, rows)


class QuadraticNetworkVariant(nn.Module):
    r"""QIN's quadratic network with another activation, or normalised before its products.

    .. math::
        x \leftarrow \mathrm{Dropout}(\phi(\mathrm{BatchNorm}(z(x)))) + x
        \qquad\text{or}\qquad
        x \leftarrow \mathrm{Dropout}(\phi(z(\mathrm{LayerNorm}(x)))) + x

    N times, with :math:`\phi` PReLU or ReLU and z a :class:`QuadraticLayer`; then
    :math:`w \cdot x + c`.

    Args:
        dim: Width F of the input.
        num_layers: Quadratic layers N, at least 1.
        num_row: Rows R of each layer.
        net_dropout: Dropout probability here and in each layer, in [0, 1).
        batch_norm: Whether z is batch-normalised, where ``norm`` is ``after``.
        activation: ``prelu`` (one slope a layer) or ``relu``.
        norm: ``after`` the product, or ``before`` it.

    Raises:
        ValueError: If an argument is out of range.

    Shape: (B, F) -> (B, 1).

    Example:
        >>> QuadraticNetworkVariant(8, num_layers=2, norm="before")(torch.randn(5, 8)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int = 4,
        num_row: int = 4,
        net_dropout: float = 0.1,
        batch_norm: bool = True,
        activation: Literal["prelu", "relu"] = "prelu",
        norm: Literal["after", "before"] = "after",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if activation not in ("prelu", "relu"):
            raise ValueError(f"activation must be prelu or relu, got {activation!r}")
        if norm not in ("after", "before"):
            raise ValueError(f"norm must be after or before, got {norm!r}")
        count = range(num_layers)
        self.layers = nn.ModuleList(
            QuadraticLayer(dim, num_row=num_row, dropout=net_dropout) for _ in count
        )
        before, after = norm == "before", norm == "after" and batch_norm
        self.norms_before = nn.ModuleList(
            nn.LayerNorm(dim) if before else nn.Identity() for _ in count
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) if after else nn.Identity() for _ in count)
        self.activations = nn.ModuleList(
            nn.PReLU() if activation == "prelu" else nn.ReLU() for _ in count
        )
        self.dropout = nn.Dropout(net_dropout)
        self.output = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.norms_before, self.layers, self.norms, self.activations, strict=True)
        for before, layer, after, activation in parts:
            x = self.dropout(activation(after(layer(before(x))))) + x
        logit: Tensor = self.output(x)
        return logit
