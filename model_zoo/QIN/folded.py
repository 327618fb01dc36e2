"""QIN in evaluation, with everything multiplied out that does not depend on the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.QIN.layers.kernels import dots, grouped_dots, linear, weighted_sums

Kind = Literal["categorical", "sequence", "numeric", "embedding"]

# Rows that go through the network together: on a CPU few enough to stay in its cache.
ROWS = {"cpu": 2_048}
MANY = 2**22


class FoldedFeature(nn.Module):
    r"""One input as a linear map of its value: a table's row, a pooling of rows, a projection.

    Args:
        name: The column.
        kind: ``categorical`` (an id), ``sequence`` (ids, 0 is padding), ``numeric`` (a number)
            or ``embedding`` (a vector).
        weight: A row for each id (V, w), the number's factor (1, w), or the matrix (p, w).
        mode: How a sequence's rows are pooled, ``mean`` or ``sum``.

    Shapes: values (n,), or (n, m) for a sequence and (n, p) for an embedding -> (n, w).
    """

    weight: Tensor

    def __init__(self, name: str, kind: Kind, weight: Tensor, *, mode: str = "mean") -> None:
        super().__init__()
        self.name, self.kind, self.mode = name, kind, mode
        self.register_buffer("weight", weight)

    def forward(self, values: Tensor) -> Tensor:
        if self.kind == "categorical":
            return self.weight.index_select(0, values)
        if self.kind == "sequence":
            if not torch.compiler.is_compiling():
                return functional.embedding_bag(values, self.weight, mode=self.mode, padding_idx=0)
            # The same, of operators that every runtime has.
            real = (values != 0).to(self.weight.dtype).unsqueeze(2)  # (n, m, 1)
            total = (functional.embedding(values, self.weight) * real).sum(dim=1)
            return total / real.sum(dim=1).clamp(min=1) if self.mode == "mean" else total
        values = values.to(self.weight.dtype)
        return values.unsqueeze(1) * self.weight if self.kind == "numeric" else values @ self.weight

    def exact(self, values: Tensor) -> Tensor:
        """The same in float64: a float32 product would depend on how many rows there are."""
        if self.kind == "embedding":
            return values.double() @ self.weight.double()
        output: Tensor = self(values)
        return output.double()


class FoldedQIN(nn.Module):
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

    Shapes (B rows, T history items of all rows, n candidates, L items of one history):
        ``rows``: target (B,), history (T,), lengths (B,) -> logit (B,), weight (T,)
        ``forward``: history (L,), candidates (n,) -> logit (n,), weight (n, L)
        Row features are (B, ...) or (n, ...); a first dimension of 1 holds for all. Item ids
        are rows of the tables; 0 is padding.
    """

    item_features: Sequence[FoldedFeature]  # module lists, which have no type of their items
    row_features: Sequence[FoldedFeature]
    vectors: Tensor
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
        super().__init__()
        self.item_features = nn.ModuleList(item_features)  # type: ignore[assignment]
        self.row_features = nn.ModuleList(row_features)  # type: ignore[assignment]
        self.slopes = list(slopes)
        self.dim, self.width = query_map.shape[0], first_map.shape[0]
        self.context_width = self.width - 2 * self.dim
        buffers = {
            **item_parts,
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
        self.num_items = len(self.vectors)  # padding included; the tables may have room for more

    @property
    def dtype(self) -> torch.dtype:
        """Of the tables, and of all matrices that a row goes through."""
        return self.vectors.dtype

    @property
    def tabulates_first_layer(self) -> bool:
        return "first" in self._buffers

    @torch.no_grad()
    def encode(
        self, features: Mapping[str, Tensor], vectors: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the tables hold of items with these features: name -> (n, width), float64.

        All follows from the vectors as they are stored. So the parts of features that are not
        given may come from a table, and an item's tables do not depend on how it got there.

        Args:
            features: Values of item features by name, each with first dimension n.
            vectors: Where the parts of features that are not given come from, (n, D).
        """
        parts, start = [], 0
        for feature in self.item_features:
            stop = start + feature.weight.shape[1]
            if feature.name in features:
                parts.append(feature.exact(features[feature.name]))
            elif vectors is not None:
                parts.append(vectors[:, start:stop].double())
            else:
                raise ValueError(f"no values of item feature {feature.name}")
            start = stop
        vectors = torch.cat(parts, dim=1).to(self.dtype).double()
        tables = {"vectors": vectors, "queries": vectors @ self.query_map.double().T}
        if self.tabulates_first_layer:
            tables["first"] = vectors @ self.first_map.double().T + self.first_bias.double()
        return tables

    @torch.inference_mode()  # so that the tables may have been made in one
    def write_items(self, rows: Tensor, tables: Mapping[str, Tensor]) -> None:
        """Replace rows (n,) of the tables by those that :meth:`encode` computed."""
        for name, values in tables.items():
            table = self.get_buffer(name)
            table.index_copy_(0, rows, values.to(table.dtype))

    @property
    def item_tables(self) -> dict[str, Tensor]:
        """The tables with a row for each item, by name."""
        names = ["vectors", "queries", *(["first"] if self.tabulates_first_layer else [])]
        return {name: self.get_buffer(name) for name in names}

    def grown(self, rows: int) -> dict[str, Tensor]:
        """Copies of the item tables with so many rows, those that are new all zeros."""
        return {
            name: functional.pad(table, (0, 0, 0, rows - len(table)))
            for name, table in self.item_tables.items()
        }

    def forward(
        self, history: Tensor, candidates: Tensor, context: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One user, many candidates; the history's vectors are gathered once."""
        vectors = self.vectors.index_select(0, history)  # (L, D)
        queries = self.queries.index_select(0, candidates)  # (n, D)
        weight = linear(queries, vectors).relu()  # (n, L)
        if not torch.compiler.is_compiling() and len(history) < len(candidates):
            # M Σ_l a_l h_l = Σ_l a_l (M h_l), and there are fewer h_l than candidates.
            crossed = weight @ linear(vectors, self.pooled_map)  # (n, D + F)
        else:
            crossed = linear(weight @ vectors, self.pooled_map)
        return self._network(candidates, context, crossed), weight

    def rows(
        self, target: Tensor, history: Tensor, lengths: Tensor, context: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rows with a history each, packed one after the other."""
        pooled, weight = self._pool(target, history, lengths)
        logits = []
        for some in self._pieces(len(target)):
            part = {
                name: values if len(values) == 1 else values[some]
                for name, values in context.items()
            }
            crossed = linear(pooled[some], self.pooled_map)
            logits.append(self._network(target[some], part, crossed))
        return torch.cat(logits), weight

    def _pieces(self, rows: int) -> Iterator[slice]:
        step = ROWS.get(self.vectors.device.type, MANY)
        for start in range(0, max(rows, 1), step):
            yield slice(start, start + step)

    def _network(self, target: Tensor, context: Mapping[str, Tensor], crossed: Tensor) -> Tensor:
        """From what the attention found, [M p; A_o M p] (n, D + F), to the logit (n,)."""
        dim = self.dim
        vector = self.vectors.index_select(0, target)  # (n, D)
        if self.tabulates_first_layer:
            h = self.first.index_select(0, target)  # (n, F)
        else:
            h = linear(vector, self.first_map, self.first_bias)
        h = h + crossed[:, dim:]
        parts = [vector, crossed[:, :dim] + vector]
        for feature in reversed(self.row_features):
            values = feature(context[feature.name])  # (n or 1, w + F)
            row, first = values.split([values.shape[1] - self.width, self.width], dim=1)
            parts.insert(0, row.expand(target.shape[0], -1))
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
