"""What models of a target item, a history of items and row features have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding, MaskedAveragePooling, MaskedSumPooling
from torch import Tensor, nn

from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.data.spec import LENGTH_SUFFIX
from model_zoo.core.layers import PooledEmbedding
from model_zoo.core.training.engine import TrainableModel

# Encode every item if there are at most so many times as many as ids in the batch.
WHOLE_TABLE = {True: 2.0, False: 0.5}  # on CUDA, elsewhere


class ItemHistoryModel(TrainableModel):
    """One embedding of an item, for the target and for every history item of a row.

    A subclass adds its layers, ends its constructor with :meth:`make_ready` and computes
    :meth:`logit`. The distinct items of a batch are encoded once and gathered, however often
    they occur.

    Args:
        feature_map: FuxiCTR's feature map. Features with ``source: item`` form the item
            vector, in its order; all others describe the row.
        embedding_dim: Width of each feature's embedding.
        item_col: Name of the column with the target's item id.
        history_col: Name of the column with the history's item ids.
        item_table: The item features of every item.
        **kwargs: Arguments of :class:`TrainableModel`.

    Attributes:
        item_dim: Width D of an item vector.
        row_dim: Width of the row features' embeddings together.
        row_features: Their names.

    Raises:
        ValueError: If an argument is out of range, or no feature has ``source: item``.

    Shapes (B rows, T history items of the whole batch):
        Input batch: ``item_col`` (B,), row features (B, ...), and the history either packed,
        ``history_col`` (T,) with ``history_col + "_length"`` (B,), or padded with zeros on
        any side, ``history_col`` (B, L). Output: ``y_pred`` and ``logit``, (B, 1).
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        *,
        embedding_dim: int,
        item_col: str = "item_id",
        history_col: str = "item_seq",
        item_table: ItemTable,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, **kwargs)
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        self.item_dim: int = feature_map.sum_emb_out_dim(feature_source="item")
        if self.item_dim == 0:
            raise ValueError("no feature has source: item, so there is no item vector")
        self.row_dim: int = feature_map.sum_emb_out_dim() - self.item_dim
        self.item_col = item_col
        self.history_col = history_col
        self.row_features = [
            name
            for name, spec in feature_map.features.items()
            if spec["type"] != "meta" and spec["source"] != "item"
        ]
        self.item_table = item_table
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        for module in self.embedding_layer.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(_in_dtype_of_weight)

    def make_ready(self, optimizer: str, loss: str, learning_rate: float) -> None:
        """Initialise all weights and move them to the device; when every layer is there."""
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self._pool_lists()
        self.model_to_device()

    @abstractmethod
    def logit(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The logit (B, 1) of a batch; computed under autocast."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self.autocast():
            logit = self.logit(inputs)
        if logit.dtype == torch.bfloat16:
            logit = logit.float()  # probability and loss are float32 whatever the precision
        return {"y_pred": self.output_activation(logit), "logit": logit}

    def encode_items(self, target_ids: Tensor, history_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the distinct items (U, D), and which each id has, targets first (B + T,)."""
        distinct, index = self._distinct(torch.cat([target_ids, history_ids]))
        return self.embedding_layer(self.item_table(distinct), flatten_emb=True), index

    def encode_row(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Embeddings of the row features side by side, [(B, row_dim)]; [] if there are none."""
        if not self.row_features:
            return []
        row = {name: self.on_device(inputs[name]) for name in self.row_features}
        return [self.embedding_layer(row, flatten_emb=True)]

    def packed_history(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Ids of the real history items (T,) and the batch row of each (T,)."""
        history = self.on_device(inputs[self.history_col]).long()
        if history.dim() == 2:
            rows, slots = history.nonzero(as_tuple=True)
            return history[rows, slots], rows
        length = self.on_device(inputs[self.history_col + LENGTH_SUFFIX])
        # output_size spares a CUDA device the wait for the sum of the lengths.
        rows = torch.arange(len(length), device=self.device)
        return history, rows.repeat_interleave(length, output_size=len(history))

    def attend(
        self,
        attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        target: Tensor,
        items: Tensor,
        rows: Tensor,
        index: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Interests (B, D) by ``attention(target, items, rows, index)`` on packed histories.

        History items of no row attend to a target of zeros in a row of their own, which is cut
        off: they change neither an output nor a gradient.
        """
        lengths = inputs.get(self.history_col + LENGTH_SUFFIX)
        if lengths is None or len(lengths) == len(target):
            return attention(target, items, rows, index)
        dummy = nn.functional.pad(target, (0, 0, 0, len(lengths) - len(target)))
        return attention(dummy, items, rows, index)[: len(target)]

    def longest_history(self, inputs: Mapping[str, Tensor]) -> int:
        """Items of the longest history; a wait for the device only if the batch comes from it."""
        history = inputs[self.history_col]
        if history.dim() == 2:
            return history.shape[1]
        return int(inputs[self.history_col + LENGTH_SUFFIX].max())

    def on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _distinct(self, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        """Items to encode for a batch (``None``: all there are), and where each id is in them.

        A small catalogue is encoded whole: that costs less than to find the distinct ids,
        and spares a CUDA device the wait for their number. Not with lazy updates, for
        which the items of the batch are what counts.
        """
        whole = WHOLE_TABLE[ids.device.type == "cuda"] * len(ids)
        if self.embedding_update == "dense" and self.item_table.num_items <= whole:
            return None, ids
        if self.cuda_graph and self.training:  # how many are distinct is no fixed shape
            return ids, torch.arange(len(ids), device=ids.device)
        distinct, index = torch.unique(ids, return_inverse=True)
        return distinct, index

    def _pool_lists(self) -> None:
        """Replace FuxiCTR's poolings of id lists by equal ones that make no (n, m, d) tensor."""
        modes = {MaskedAveragePooling: "mean", MaskedSumPooling: "sum"}
        encoders = self.embedding_layer.embedding_layer.feature_encoders
        tables = self.embedding_layer.embedding_layer.embedding_layers
        for name, encoder in encoders.items():
            mode = modes.get(type(encoder))
            if mode is not None and tables[name].padding_idx == 0:
                tables[name] = PooledEmbedding(tables[name], mode=mode)
                encoders[name] = nn.Identity()


def _in_dtype_of_weight(module: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """FuxiCTR casts numbers to float32; this lets ``model.double()`` compute in float64."""
    return (inputs[0].to(module.weight.dtype),)
