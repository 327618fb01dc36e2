"""QIN as a FuxiCTR model: wires embeddings, attention and quadratic network together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from fuxictr.features import FeatureMap
from torch import Tensor

from model_zoo import register
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.training.extras import can_compile
from model_zoo.core.training.items import ItemHistoryModel
from model_zoo.core.training.optimizer import Regularizer
from model_zoo.QIN.layers import AdaptiveSparseTargetAttention, QuadraticNeuralNetwork


@register("QIN")
class QIN(ItemHistoryModel):
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
            embedding_dim=embedding_dim,
            item_col=item_col,
            history_col=history_col,
            item_table=item_table,
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
        self.attention = AdaptiveSparseTargetAttention(self.item_dim)
        self.qnn = QuadraticNeuralNetwork(
            self.row_dim + 2 * self.item_dim,
            num_layers=num_layers,
            num_row=num_row,
            net_dropout=net_dropout,
            batch_norm=batch_norm,
        )
        self.make_ready(kwargs["optimizer"], kwargs["loss"], learning_rate)
        if compile and can_compile(self.device):
            self.qnn.compile()

    def logit(self, inputs: Mapping[str, Tensor]) -> Tensor:
        target_ids = self.on_device(inputs[self.item_col]).long()
        history_ids, rows = self.packed_history(inputs)
        items, index = self.encode_items(target_ids, history_ids)  # (U, D), (B + T,)
        target = items.index_select(0, index[: len(target_ids)])  # (B, D)
        interest = self.attention.packed(target, items, rows, index[len(target_ids) :])  # (B, D)
        x = torch.cat([*self.encode_row(inputs), target, interest], dim=1)  # (B, F)
        logit: Tensor = self.qnn(x)  # (B, 1)
        return logit
