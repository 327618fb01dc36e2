"""QIN+ in evaluation, with everything tabulated that does not depend on the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model_zoo import register_folded
from model_zoo.core.folded import FoldedFeature, FoldedModel, context_of
from model_zoo.core.kernels import linear, weighted_sums

ROWS = 2_048  # rows that go through the network together on a CPU
PAIRS = 2_048  # pairs of a target and a history item that are multiplied together, likewise


@register_folded("QIN+")
class FoldedQINPlus(FoldedModel):
    r"""The logit of a trained QIN+ as a smaller function, exactly equal.

    Of the gate, :math:`P t + b` and :math:`Q h` depend on one item each. The network's first
    layer is :math:`W_r r + W_t t + W_o o + W_p (t \odot o) + b_1`, of which :math:`W_r r` depends
    on a row feature's value and :math:`W_t t + b_1` on the item: all are tables. A row costs
    :math:`2 D H_1 + \sum_i H_i H_{i+1} + L (A + 1) D` multiplications.

    Args:
        item_features: Maps of an item's features; their outputs side by side are t.
        row_features: Maps of the row features; each gives its part of :math:`W_r r`, (H_1,).
        item_parts: ``vectors`` t (I, D), ``gate_targets`` P t + b (I, A), ``gate_items`` Q t
            (I, A) and ``first`` W_t t + b_1 (I, H_1), or without the last: then it is computed
            for each row.
        tensors: ``target_map`` P (A, D) with ``target_bias`` b (A,), ``history_map`` Q (A, D),
            ``first_map`` W_t (H_1, D) with ``first_bias`` b_1 (H_1,), ``product_map`` W (A, D),
            ``places`` r (max_len, A), ``gate_weight`` v (1, A) with ``gate_bias`` c (1,),
            ``crossed_map`` [W_o, W_p] (H_1, 2 D), and for each further layer ``weight_i``
            (H_i+1, H_i) and ``bias_i``.
        layers: Linear layers of the network after the first.
        length_power: γ of the attention.
        sparse: Whether its weights go through a ReLU.

    Shapes are those of :class:`FoldedModel`.
    """

    gate_targets: Tensor
    gate_items: Tensor
    first: Tensor
    target_map: Tensor
    target_bias: Tensor
    history_map: Tensor
    first_map: Tensor
    first_bias: Tensor
    product_map: Tensor
    places: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    crossed_map: Tensor

    def __init__(
        self,
        item_features: Sequence[FoldedFeature],
        row_features: Sequence[FoldedFeature],
        *,
        item_parts: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        layers: int,
        length_power: float,
        sparse: bool,
    ) -> None:
        super().__init__(item_features, row_features, item_parts)
        self.layers, self.length_power, self.sparse = layers, length_power, sparse
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def tabulates_first_layer(self) -> bool:
        return "first" in self._buffers

    def tables_of(self, vectors: Tensor) -> dict[str, Tensor]:
        tables = {
            "vectors": vectors,
            "gate_targets": vectors @ self.target_map.double().T + self.target_bias.double(),
            "gate_items": vectors @ self.history_map.double().T,
        }
        if self.tabulates_first_layer:
            tables["first"] = vectors @ self.first_map.double().T + self.first_bias.double()
        return tables

    def plain_values(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "length_power": self.length_power,
            "sparse": self.sparse,
            "item_tables": list(self.item_tables),
            "tensors": [name for name in self._buffers if name not in self.item_tables],
        }

    @classmethod
    def from_parts(
        cls,
        item_features: Sequence[FoldedFeature],
        row_features: Sequence[FoldedFeature],
        tensors: Mapping[str, Tensor],
        plain: Mapping[str, Any],
    ) -> FoldedQINPlus:
        return cls(
            item_features,
            row_features,
            item_parts={name: tensors[name] for name in plain["item_tables"]},
            tensors={name: tensors[name] for name in plain["tensors"]},
            layers=plain["layers"],
            length_power=plain["length_power"],
            sparse=plain["sparse"],
        )

    def attend(self, history: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """[o, t ⊙ o] (n, 2 D), and the weights (n, L); the pairs' products are one product."""
        real = history != 0  # (L,)
        after = real.flip(0).cumsum(0).flip(0) - real.long()  # real items that are newer
        vectors = self.vectors.index_select(0, history)  # (L, D)
        targets = self.vectors.index_select(0, candidates)  # (n, D)
        maps = (vectors.unsqueeze(1) * self.product_map).flatten(0, 1)  # (L A, D)
        own = self.gate_items.index_select(0, history) + self._of_places(after)  # (L, A)
        pair = linear(targets, maps, own.flatten())  # (n, L A)
        # Not len(): an export would take it for a constant.
        pair = pair.view(candidates.shape[0], history.shape[0], len(self.product_map))  # (n, L, A)
        pair = pair + self.gate_targets.index_select(0, candidates).unsqueeze(1)
        weight = self._weight(pair) * real.to(pair.dtype)  # (n, L)
        interest = weight @ vectors * self._scale(real.sum().view(1))
        return torch.cat([interest, targets * interest], dim=1), weight

    def rows(
        self, target: Tensor, history: Tensor, lengths: Tensor, context: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rows with a history each, packed one after the other."""
        owners = torch.arange(len(target), device=target.device)
        owners = owners.repeat_interleave(lengths, output_size=len(history))  # (T,)
        ends = lengths.cumsum(0).index_select(0, owners)
        places = ends - 1 - torch.arange(len(history), device=target.device)
        weights = []
        for some in self.pieces(len(history), PAIRS):
            items, targets = history[some], target.index_select(0, owners[some])
            both = self.vectors.index_select(0, items)  # (p, D)
            both *= self.vectors.index_select(0, targets)
            pair = functional.linear(both, self.product_map)  # (p, A)
            pair += self.gate_items.index_select(0, items)
            pair += self.gate_targets.index_select(0, targets)
            pair += self._of_places(places[some])
            weights.append(self._weight(pair))
        weight = torch.cat(weights)  # (T,)
        active = weight.nonzero().squeeze(1)  # the others add nothing
        pooled = weighted_sums(
            self.vectors, history[active], weight[active], owners[active], len(target)
        )
        interest = pooled * self._scale(lengths)
        logits = []
        for some in self.pieces(len(target), ROWS):
            vectors = self.vectors.index_select(0, target[some])
            crossed = torch.cat([interest[some], vectors * interest[some]], dim=1)
            logits.append(self.predict(target[some], crossed, context_of(context, some)))
        return torch.cat(logits), weight

    def _of_places(self, places: Tensor) -> Tensor:
        return self.places.index_select(0, places.clamp(max=len(self.places) - 1))

    def _weight(self, pair: Tensor) -> Tensor:
        """a of pairs (..., A) before their ReLU."""
        weight = functional.linear(torch.relu(pair), self.gate_weight, self.gate_bias).squeeze(-1)
        return torch.relu(weight) if self.sparse else weight

    def _scale(self, lengths: Tensor) -> Tensor:
        """n^-γ, (n, 1)."""
        return lengths.clamp(min=1).unsqueeze(1).to(self.dtype).pow(-self.length_power)

    def predict(
        self, candidates: Tensor, attended: Tensor, context: Mapping[str, Tensor]
    ) -> Tensor:
        """From the interest o and its product with the item, [o, t ⊙ o] (n, 2 D), to the logit."""
        x = linear(attended, self.crossed_map)
        if self.tabulates_first_layer:
            x = x + self.first.index_select(0, candidates)
        else:
            vectors = self.vectors.index_select(0, candidates)
            x = x + linear(vectors, self.first_map, self.first_bias)
        for feature in self.row_features:
            x = x + feature(context[feature.name])
        for i in range(self.layers):
            x = linear(torch.relu(x), self.get_buffer(f"weight_{i}"))
            if i == self.layers - 1:
                x = x.float()  # as is the last bias
            x = x + self.get_buffer(f"bias_{i}")
        return x.squeeze(1)
