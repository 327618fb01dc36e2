"""DIN's attention over the real history items only, equal to FuxiCTR's over all slots."""

from __future__ import annotations

import torch
from fuxictr.pytorch.layers import Dice, DIN_Attention
from torch import Tensor, nn


class PackedDINAttention(nn.Module):
    """FuxiCTR's ``DIN_Attention`` without its network on every padded slot.

    A padded slot's weight is multiplied by 0, so its network output counts only in the batch
    statistics of Dice in training. It depends on nothing but the target there: one slot per
    row, weighted by their number, stands for all. Of 64 slots, 8 may be real.

    Layers with dropout, or with batch statistics of several processes, go through FuxiCTR's
    forward pass as they are.

    Args:
        attention: The layer whose weights are used, under their names.

    Shapes (B rows, L slots, D the item vector's width):
        target (B, D), history (B, L, D) with zeros as padding, mask (B, L) -> (B, D).
    """

    def __init__(self, attention: DIN_Attention) -> None:
        super().__init__()
        self.attention_layer = attention.attention_layer
        self._padded = [attention]  # not as a part of this module: it has the same weights

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        layers = self.attention_layer.mlp
        if not all(map(_is_known, layers)):
            result: Tensor = self._padded[0](target, history, mask)
            return result
        row, slot = mask.nonzero(as_tuple=True)
        t, h = target[row], history[row, slot]  # (T, D) of the real items
        count = None
        if self.training and any(isinstance(layer, Dice) for layer in layers):
            padded = mask.shape[1] - mask.sum(dim=1)
            count = torch.cat([mask.new_ones(len(row)), padded])
            t, h = torch.cat([t, target]), torch.cat([h, torch.zeros_like(target)])
        x = torch.cat([t, h, t - h, t * h], dim=-1)
        for layer in layers:
            x = _dice(layer, x, count) if isinstance(layer, Dice) else layer(x)
        weight = x[: len(row)].float()  # (T, 1)
        if self._padded[0].use_softmax:
            score = mask.new_full(mask.shape, -1e9).index_put((row, slot), weight.squeeze(1))
            weight = score.softmax(dim=-1)[row, slot].unsqueeze(1)
        return torch.zeros_like(target).index_add(0, row, (weight * h[: len(row)]).to(target.dtype))


def _is_known(layer: nn.Module) -> bool:
    """Whether a layer computes each slot for itself, or is a Dice of this process alone."""
    if isinstance(layer, Dice):
        return type(layer.bn) is nn.BatchNorm1d
    return not isinstance(layer, (nn.Dropout, nn.modules.batchnorm._BatchNorm))


def _dice(dice: Dice, x: Tensor, count: Tensor | None) -> Tensor:
    """Dice(x), where row i of x (n, d) stands for ``count[i]`` equal rows in the statistics.

    p = σ((x − E[x]) / √(Var[x] + ε)), result p·x + α·(1 − p)·x.
    """
    result: Tensor
    if count is None:
        result = dice(x)
        return result
    norm = dice.bn
    x = x.float()  # as batch normalisation computes under autocast
    total = count.sum()
    share = (count / total).unsqueeze(1)
    mean = (share * x).sum(dim=0)
    variance = (share * (x - mean) ** 2).sum(dim=0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * total / (total - 1), norm.momentum)
    p = torch.sigmoid((x - mean) * torch.rsqrt(variance + norm.eps))
    result = p * x + dice.alpha * (1 - p) * x
    return result
