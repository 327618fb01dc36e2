"""QIN in evaluation, with everything multiplied out that does not depend on the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model_zoo import register_folded
from model_zoo.core.folded import FoldedFeature, FoldedModel, context_of
from model_zoo.core.kernels import dots, linear, weighted_sums
from model_zoo.QIN.layers.kernels import grouped_dots

ROWS = 2_048  # that go through the network together on a CPU


@register_folded("QIN")
class FoldedQIN(FoldedModel):
    r"""The logit of a trained QIN (arXiv 2504.17699) as a smaller function, exactly equal.

    With BatchNorm as :math:`s \odot z + m` and a quadratic layer's rows summed, layer i is
    :math:`x \leftarrow \mathrm{PReLU}(x \odot (A_i x + b_i) + m_i) + x` with
    :math:`A_i = \mathrm{diag}(s_i) \sum_r W_{i,r}` and :math:`b_i = s_i \odot \sum_r b_{i,r}`.
    The attention is :math:`p = \sum_l \mathrm{ReLU}(h_l \cdot u)\, h_l` and :math:`o = M p + t`
    with :math:`u = W_k^\top W_q\, t / \sqrt{A}` and :math:`M = W_o W_v`. As
    :math:`x = [r; t; o]`, the first layer is
    :math:`A_1 x = A_r r + (A_t + A_o)\, t + A_o M p`.

    Of this, :math:`t`, :math:`u` and :math:`(A_t + A_o)\, t + b_1` depend on the item only and
    :math:`r` and :math:`A_r r` on a row feature's value only: all are tables. A row costs
    :math:`(F + D) D + (N - 1) F^2 + 2 L D` multiplications.

    Args:
        item_features: Maps of an item's features; their outputs side by side are t.
        row_features: Maps of the row features; each gives its part of r and then its part of
            :math:`A_r r`, which has width F.
        item_parts: ``vectors`` t (I, D), ``queries`` u (I, D) and ``first`` (I, F), or without
            the last: then it is computed for each row.
        query_map: t -> u, (D, D).
        first_map: t -> (A_t + A_o) t, (F, D), and ``first_bias`` b_1, (F,).
        pooled_map: p -> [M p; A_o M p], (D + F, D).
        weights: A_2 ... A_N, each (F, F), and ``biases`` b_2 ... b_N, each (F,).
        shifts: m_1 ... m_N, each (F,).
        slopes: Of the N PReLUs.
        output: w (1, F) and c (1,).

    Shapes are those of :class:`FoldedModel`.
    """

    queries: Tensor
    first: Tensor
    query_map: Tensor
    first_map: Tensor
    first_bias: Tensor
    pooled_map: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def __init__(
        self,
        item_features: Sequence[FoldedFeature],
        row_features: Sequence[FoldedFeature],
        *,
        item_parts: Mapping[str, Tensor],
        query_map: Tensor,
        first_map: Tensor,
        first_bias: Tensor,
        pooled_map: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        shifts: Sequence[Tensor],
        slopes: Sequence[float],
        output: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__(item_features, row_features, item_parts)
        self.slopes = list(slopes)
        self.width = first_map.shape[0]
        self.context_width = self.width - 2 * self.dim
        buffers = {
            "query_map": query_map,
            "first_map": first_map,
            "first_bias": first_bias,
            "pooled_map": pooled_map,
            "output_weight": output[0],
            "output_bias": output[1],
        }
        buffers |= {f"weight_{i}": tensor for i, tensor in enumerate(weights, start=1)}
        buffers |= {f"bias_{i}": tensor for i, tensor in enumerate(biases, start=1)}
        buffers |= {f"shift_{i}": tensor for i, tensor in enumerate(shifts)}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    @property
    def tabulates_first_layer(self) -> bool:
        return "first" in self._buffers

    def tables_of(self, vectors: Tensor) -> dict[str, Tensor]:
        tables = {"vectors": vectors, "queries": vectors @ self.query_map.double().T}
        if self.tabulates_first_layer:
            tables["first"] = vectors @ self.first_map.double().T + self.first_bias.double()
        return tables

    def plain_values(self) -> dict[str, Any]:
        return {"slopes": self.slopes}

    @classmethod
    def from_parts(
        cls,
        item_features: Sequence[FoldedFeature],
        row_features: Sequence[FoldedFeature],
        tensors: Mapping[str, Tensor],
        plain: Mapping[str, Any],
    ) -> FoldedQIN:
        layers = range(len(plain["slopes"]))
        return cls(
            item_features,
            row_features,
            item_parts={n: tensors[n] for n in ("vectors", "queries", "first") if n in tensors},
            query_map=tensors["query_map"],
            first_map=tensors["first_map"],
            first_bias=tensors["first_bias"],
            pooled_map=tensors["pooled_map"],
            weights=[tensors[f"weight_{i}"] for i in layers[1:]],
            biases=[tensors[f"bias_{i}"] for i in layers[1:]],
            shifts=[tensors[f"shift_{i}"] for i in layers],
            slopes=plain["slopes"],
            output=(tensors["output_weight"], tensors["output_bias"]),
        )

    def attend(self, history: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """[M p; A_o M p] (n, D + F), and the weights (n, L)."""
        vectors = self.vectors.index_select(0, history)  # (L, D)
        queries = self.queries.index_select(0, candidates)  # (n, D)
        weight = linear(queries, vectors).relu()  # (n, L)
        if not torch.compiler.is_compiling() and len(history) < len(candidates):
            # M Σ_l a_l h_l = Σ_l a_l (M h_l), and there are fewer h_l than candidates.
            return weight @ linear(vectors, self.pooled_map), weight
        return linear(weight @ vectors, self.pooled_map), weight

    def rows(
        self, target: Tensor, history: Tensor, lengths: Tensor, context: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rows with a history each, packed one after the other."""
        pooled, weight = self._pool(target, history, lengths)
        logits = []
        for some in self.pieces(len(target), ROWS):
            crossed = linear(pooled[some], self.pooled_map)
            logits.append(self.predict(target[some], crossed, context_of(context, some)))
        return torch.cat(logits), weight

    def predict(
        self, candidates: Tensor, attended: Tensor, context: Mapping[str, Tensor]
    ) -> Tensor:
        """From what the attention found, [M p; A_o M p] (n, D + F), to the logit (n,)."""
        dim = self.dim
        vector = self.vectors.index_select(0, candidates)  # (n, D)
        if self.tabulates_first_layer:
            h = self.first.index_select(0, candidates)  # (n, F)
        else:
            h = linear(vector, self.first_map, self.first_bias)
        h = h + attended[:, dim:]
        parts = [vector, attended[:, :dim] + vector]
        for feature in reversed(self.row_features):
            values = feature(context[feature.name])  # (n or 1, w + F)
            row, first = values.split([values.shape[1] - self.width, self.width], dim=1)
            parts.insert(0, row.expand(candidates.shape[0], -1))
            h += first
        x = torch.cat(parts, dim=1)  # (n, F)
        for i, slope in enumerate(self.slopes):
            if i > 0:
                h = linear(x, self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}"))
            h = torch.addcmul(self.get_buffer(f"shift_{i}"), x, h)
            x += functional.leaky_relu_(h, slope)
        logit: Tensor = functional.linear(x, self.output_weight).squeeze(1).float()
        return logit + self.output_bias

    def _pool(self, target: Tensor, history: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_l ReLU(h_l · u) h_l (B, D), and the weights of all history items (T,)."""
        queries = self.queries.index_select(0, target)  # (B, D)
        owners = torch.arange(len(target), device=target.device)
        owners = owners.repeat_interleave(lengths, output_size=len(history))  # (T,)
        if self.dtype == torch.bfloat16 and target.device.type == "cpu":
            weight = grouped_dots(queries, self.vectors, history, lengths).relu_()
        else:
            weight = dots(queries, owners, self.vectors, history).relu_()
        active = weight.nonzero().squeeze(1)  # the others add nothing
        pooled = weighted_sums(
            self.vectors, history[active], weight[active], owners[active], len(target)
        )
        return pooled, weight
