"""QIN as a FuxiCTR model: wires embeddings, attention and quadratic network together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding, MaskedAveragePooling, MaskedSumPooling
from torch import Tensor, nn

from model_zoo import register
from model_zoo.core.data.block import LENGTH_SUFFIX
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.training.engine import TrainableModel
from model_zoo.core.training.extras import can_compile
from model_zoo.QIN.fold import fold
from model_zoo.QIN.folded import FoldedQIN
from model_zoo.QIN.layers import (
    AdaptiveSparseTargetAttention,
    PooledEmbedding,
    QuadraticNeuralNetwork,
)

# FuxiCTR's notation for norms other than the default (λ/2)·‖·‖².
Regularizer = Annotated[
    str, pydantic.Field(pattern=r"^(l[12]\([^,()]+\)|l1_l2\([^,()]+,[^,()]+\))$")
]

# Encode every item if there are at most so many times as many as ids in the batch.
WHOLE_TABLE = {True: 2.0, False: 0.5}  # on CUDA, elsewhere


@register("QIN")
class QIN(TrainableModel):
    """Quadratic Interest Network (arXiv 2504.17699) for multimodal CTR prediction.

    The features of the target item and of each history item go through the same embedding
    tables; adaptive sparse target attention pools the history; the quadratic neural network
    crosses ``[row features; target; interest]`` into one logit. The distinct items of a
    batch are encoded once and gathered, however often they occur.

    Args:
        feature_map: FuxiCTR's feature map. Features with ``source: item`` form the item
            vector, in its order; all others describe the row.
        model_id: Experiment id; names the checkpoint.
        gpu: CUDA device, -1 for CPU.
        learning_rate: Initial learning rate.
        embedding_dim: Width of each feature's embedding.
        num_layers: Quadratic layers N.
        num_row: Rows R of each quadratic layer; the authors advise 3 where 4 is unstable.
        net_dropout: Dropout in the quadratic network.
        batch_norm: Batch normalisation in the quadratic network.
        accumulation_steps: Batches whose gradients are averaged into one optimizer step.
        factor: The learning rate is multiplied by this after an evaluation that did not
            improve the monitor (floor 1e-6).
        precision: ``bf16`` computes the forward pass under autocast.
        compile: Compile the quadratic network with ``torch.compile``, where a compiler is.
        embedding_update: ``lazy`` updates only the embedding rows that are in the batch.
        checkpoint_minutes: Minutes between two saved states of the training.
        tensorboard: Write every evaluation for TensorBoard too.
        embedding_regularizer: λ of (λ/2)·‖table‖², over every table and projection.
        net_regularizer: The same over all other weights.
        item_col: Name of the column with the target's item id.
        history_col: Name of the column with the history's item ids.
        item_table: The item features of every item.
        **kwargs: FuxiCTR's own arguments (``optimizer``, ``loss``, ``metrics``, ...).

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
        model_id: str = "QIN",
        gpu: int = -1,
        learning_rate: float = 1e-3,
        embedding_dim: int = 128,
        num_layers: int = 4,
        num_row: int = 4,
        net_dropout: float = 0.1,
        batch_norm: bool = True,
        accumulation_steps: int = 1,
        factor: float = 0.5,
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        embedding_update: Literal["dense", "lazy"] = "dense",
        checkpoint_minutes: float | None = 10.0,
        tensorboard: bool = False,
        embedding_regularizer: float | Regularizer | None = None,
        net_regularizer: float | Regularizer | None = None,
        item_col: str = "item_id",
        history_col: str = "item_seq",
        *,
        item_table: ItemTable,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_map,
            model_id=model_id,
            gpu=gpu,
            embedding_regularizer=embedding_regularizer,
            net_regularizer=net_regularizer,
            accumulation_steps=accumulation_steps,
            factor=factor,
            precision=precision,
            embedding_update=embedding_update,
            checkpoint_minutes=checkpoint_minutes,
            tensorboard=tensorboard,
            **kwargs,
        )
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        item_dim = feature_map.sum_emb_out_dim(feature_source="item")
        if item_dim == 0:
            raise ValueError("no feature has source: item, so there is no item vector")
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
        self.attention = AdaptiveSparseTargetAttention(item_dim)
        self.qnn = QuadraticNeuralNetwork(
            feature_map.sum_emb_out_dim() + item_dim,
            num_layers=num_layers,
            num_row=num_row,
            net_dropout=net_dropout,
            batch_norm=batch_norm,
        )
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self._pool_lists()
        self.model_to_device()
        if compile and can_compile(self.device):
            self.qnn.compile()

    def fold(self, **settings: Any) -> FoldedQIN:
        """See :func:`model_zoo.QIN.fold.fold`."""
        return fold(self, **settings)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self.autocast():
            logit = self._logit(inputs)
        if logit.dtype == torch.bfloat16:
            logit = logit.float()  # probability and loss are float32 whatever the precision
        return {"y_pred": self.output_activation(logit), "logit": logit}

    def _logit(self, inputs: Mapping[str, Tensor]) -> Tensor:
        target_ids = self._on_device(inputs[self.item_col]).long()
        history_ids, rows = self._packed_history(inputs)
        ids = torch.cat([target_ids, history_ids])
        distinct, index = self._distinct(ids)
        items = self.embedding_layer(self.item_table(distinct), flatten_emb=True)  # (U, D)
        target = items.index_select(0, index[: len(target_ids)])  # (B, D)
        interest = self.attention.packed(target, items, rows, index[len(target_ids) :])  # (B, D)
        parts = [target, interest]
        if self.row_features:
            row = {name: self._on_device(inputs[name]) for name in self.row_features}
            parts.insert(0, self.embedding_layer(row, flatten_emb=True))
        logit: Tensor = self.qnn(torch.cat(parts, dim=1))  # (B, 1)
        return logit

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

    def _distinct(self, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        """Items to encode for a batch (``None``: all there are), and where each id is in them.

        A small catalogue is encoded whole: that costs less than to find the distinct ids,
        and spares a CUDA device the wait for their number. Not with lazy updates, for
        which the items of the batch are what counts.
        """
        whole = WHOLE_TABLE[ids.device.type == "cuda"] * len(ids)
        if self.embedding_update == "dense" and self.item_table.num_items <= whole:
            return None, ids
        distinct, index = torch.unique(ids, return_inverse=True)
        return distinct, index

    def _packed_history(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Ids of the real history items (T,) and the batch row of each (T,)."""
        history = self._on_device(inputs[self.history_col]).long()
        if history.dim() == 2:
            rows, slots = history.nonzero(as_tuple=True)
            return history[rows, slots], rows
        length = self._on_device(inputs[self.history_col + LENGTH_SUFFIX])
        # output_size spares a CUDA device the wait for the sum of the lengths.
        rows = torch.arange(len(length), device=self.device)
        return history, rows.repeat_interleave(length, output_size=len(history))

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def _in_dtype_of_weight(module: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """FuxiCTR casts numbers to float32; this lets ``model.double()`` compute in float64."""
    return (inputs[0].to(module.weight.dtype),)
