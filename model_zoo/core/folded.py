"""The folded form of a model: the written contract between a model and what serves it.

A model that folds registers a subclass of :class:`FoldedModel` under its own name, in the module
``folded`` of its package. It needs torch only, so that a service needs no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["categorical", "sequence", "numeric", "embedding"]
FEW = 4  # candidates of a user, on average, up to which a row for each is faster
MANY = 2**22  # rows or pairs that are computed together where no cache is to hold them


class FoldedFeature(nn.Module):
    r"""One input as a linear map of its value: a table's row, a pooling of rows, a projection.

    Args:
        name: The column.
        kind: ``categorical`` (an id), ``sequence`` (ids, 0 is padding), ``numeric`` (a number)
            or ``embedding`` (a vector).
        weight: A row for each id (V, w), the number's factor (1, w), or the matrix (p, w).
        mode: How a sequence's rows are pooled, ``mean`` or ``sum``.
        scale: Center c and factor f of a number x, which counts as (x - c) f, computed in
            float64; ``None`` where it counts as it is.

    Shapes: values (n,), or (n, m) for a sequence and (n, p) for an embedding -> (n, w).
    """

    weight: Tensor
    center_and_factor: Tensor

    def __init__(
        self,
        name: str,
        kind: Kind,
        weight: Tensor,
        *,
        mode: str = "mean",
        scale: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.name, self.kind, self.mode = name, kind, mode
        self.register_buffer("weight", weight)
        if scale is not None:
            # Tensors: a program's constants that are Python's numbers may become float32.
            exact = torch.tensor(scale, dtype=torch.float64, device=weight.device)
            self.register_buffer("center_and_factor", exact, persistent=False)

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
        if self.scale is not None:
            center, factor = self.center_and_factor.unbind()
            values = (values.double() - center) * factor
        values = values.to(self.weight.dtype)
        return values.unsqueeze(1) * self.weight if self.kind == "numeric" else values @ self.weight

    def exact(self, values: Tensor) -> Tensor:
        """The same in float64: a float32 product would depend on how many rows there are."""
        if self.kind == "embedding":
            return values.double() @ self.weight.double()
        output: Tensor = self(values)
        return output.double()


def context_of(context: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Row features (n, ...) of some of n rows, by name; (1, ...), which holds for all, stays."""
    return {name: values if len(values) == 1 else values[rows] for name, values in context.items()}


class FoldedModel(nn.Module, ABC):
    """A trained model's logit in evaluation, with tables of what depends on the item only.

    Args:
        item_features: Maps of an item's features; their outputs side by side are its vector.
        row_features: Maps of the row features.
        item_tables: The tables with a row for each item, padding included, by name. ``vectors``
            (I, D), the item vectors, is one of them; all others follow from it.

    Shapes (B rows, T history items of all rows, n candidates, L items of one history):
        ``rows``: target (B,), history (T,), lengths (B,) -> logit (B,), weight (T,)
        ``forward``: history (L,), candidates (n,) -> logit (n,), weight (n, L)
        ``users``: histories U × (L_u,), candidates U × (n_u,) -> logit (Σ n_u,), weights
        U × (n_u, L_u)
        Row features are (B, ...) or (n, ...); a first dimension of 1 holds for all. Item ids
        are rows of the tables; 0 is padding. Histories are oldest first. A weight says how much
        a history item counts for the score; of padding it is 0.
    """

    item_features: Sequence[FoldedFeature]  # module lists, which have no type of their items
    row_features: Sequence[FoldedFeature]
    vectors: Tensor

    def __init__(
        self,
        item_features: Sequence[FoldedFeature],
        row_features: Sequence[FoldedFeature],
        item_tables: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.item_features = nn.ModuleList(item_features)  # type: ignore[assignment]
        self.row_features = nn.ModuleList(row_features)  # type: ignore[assignment]
        self._tables = list(item_tables)
        for name, table in item_tables.items():
            self.register_buffer(name, table)
        self.num_items = len(self.vectors)  # padding included; the tables may have room for more

    # --- what a model writes

    @abstractmethod
    def tables_of(self, vectors: Tensor) -> dict[str, Tensor]:
        """All item tables' rows, ``vectors`` among them, of items with these vectors.

        Args:
            vectors: (n, D) float64, rounded to the tables' dtype.
        """

    @abstractmethod
    def attend(self, history: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes of one user's history (L,) for each of the candidates (n,).

        Returns:
            That, with a row for each candidate (n, ...), and the weights (n, L).
        """

    @abstractmethod
    def predict(
        self, candidates: Tensor, attended: Tensor, context: Mapping[str, Tensor]
    ) -> Tensor:
        """From what :meth:`attend` found for candidates (n,) to their logits (n,)."""

    @abstractmethod
    def rows(
        self, target: Tensor, history: Tensor, lengths: Tensor, context: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rows with a history each, packed one after the other."""

    @abstractmethod
    def plain_values(self) -> dict[str, Any]:
        """What the tensors do not say, as numbers, texts and lists, for a file."""

    @classmethod
    @abstractmethod
    def from_parts(
        cls,
        item_features: Sequence[FoldedFeature],
        row_features: Sequence[FoldedFeature],
        tensors: Mapping[str, Tensor],
        plain: Mapping[str, Any],
    ) -> FoldedModel:
        """The model again, from its features, its buffers by name and its plain values."""

    # --- what serves it uses

    def forward(
        self, history: Tensor, candidates: Tensor, context: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One user, many candidates; the history's vectors are gathered once."""
        attended, weight = self.attend(history, candidates)
        return self.predict(candidates, attended, context), weight

    def users(
        self,
        histories: Sequence[Tensor],
        candidates: Sequence[Tensor],
        context: Mapping[str, Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """Several users, each with candidates; all rows go through the network together."""
        target = torch.cat(list(candidates))
        if len(target) > FEW * len(candidates):
            pairs = zip(histories, candidates, strict=True)
            found = [self.attend(history, some) for history, some in pairs]
            attended = torch.cat([one for one, _ in found])
            return self.predict(target, attended, context), [weight for _, weight in found]
        counts = [len(some) for some in candidates]
        real = [history.nonzero().squeeze(1) for history in histories]
        packed = [history[kept] for history, kept in zip(histories, real, strict=True)]
        lengths = [len(one) for one, n in zip(packed, counts, strict=True) for _ in range(n)]
        repeated = [one.repeat(n) for one, n in zip(packed, counts, strict=True)]
        logit, weight = self.rows(
            target, torch.cat(repeated), torch.tensor(lengths, device=target.device), context
        )
        weights, start = [], 0
        for history, kept, n in zip(histories, real, counts, strict=True):
            own = weight.new_zeros(n, len(history))
            own[:, kept] = weight[start : start + n * len(kept)].view(n, len(kept))
            weights.append(own)
            start += n * len(kept)
        return logit, weights

    def pieces(self, count: int, on_cpu: int) -> Iterator[slice]:
        """Slices of ``count`` rows or pairs, at least one, that are computed together.

        Args:
            count: How many there are.
            on_cpu: How many at a time on a CPU, so few that they stay in its cache.
        """
        step = on_cpu if self.vectors.device.type == "cpu" else MANY
        for start in range(0, max(count, 1), step):
            yield slice(start, start + step)

    @property
    def dim(self) -> int:
        """Width D of an item vector."""
        return self.vectors.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the tables, and of all matrices that a row goes through."""
        return self.vectors.dtype

    @property
    def item_tables(self) -> dict[str, Tensor]:
        """The tables with a row for each item, by name."""
        return {name: self.get_buffer(name) for name in self._tables}

    @torch.no_grad()
    def encode(
        self, features: Mapping[str, Tensor], vectors: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the tables hold of items with these features: name -> (n, width), float64.

        All follows from the vectors as they are stored. So the parts of features that are not
        given may come from a table, and an item's tables do not depend on how it got there.

        Args:
            features: Values of item features by name, each with first dimension n, on any device.
            vectors: Where the parts of features that are not given come from, (n, D).
        """
        parts, start = [], 0
        for feature in self.item_features:
            stop = start + feature.weight.shape[1]
            if feature.name in features:
                values = features[feature.name].to(feature.weight.device)
                parts.append(feature.exact(values))
            elif vectors is not None:
                parts.append(vectors[:, start:stop].double())
            else:
                raise ValueError(f"no values of item feature {feature.name}")
            start = stop
        return self.tables_of(torch.cat(parts, dim=1).to(self.dtype).double())

    @torch.inference_mode()  # so that the tables may have been made in one
    def write_items(self, rows: Tensor, tables: Mapping[str, Tensor]) -> None:
        """Replace rows (n,) of the tables by those that :meth:`encode` computed."""
        for name, values in tables.items():
            table = self.get_buffer(name)
            table.index_copy_(0, rows.to(table.device), values.to(table.dtype))

    def grown(self, rows: int) -> dict[str, Tensor]:
        """Copies of the item tables with so many rows, those that are new all zeros."""
        return {
            name: functional.pad(table, (0, 0, 0, rows - len(table)))
            for name, table in self.item_tables.items()
        }
