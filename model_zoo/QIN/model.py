"""QIN as a FuxiCTR model: wires embeddings, attention and quadratic network together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fuxictr.features import FeatureMap
from torch import Tensor

from model_zoo import register
from model_zoo.core.training.extras import can_compile
from model_zoo.core.training.items import ItemHistoryModel
from model_zoo.core.training.settings import Count, Dropout, LearningRate
from model_zoo.QIN.fold import fold
from model_zoo.QIN.folded import FoldedQIN
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
        compile: Compile the quadratic network with ``torch.compile``, where a compiler is.
        **kwargs: Those of :class:`ItemHistoryModel`, of the training and of FuxiCTR.

    Raises:
        ValueError: If an argument is out of range, or no feature has ``source: item``.

    Shapes (B rows, T history items of the whole batch):
        Input batch: ``item_col`` (B,), row features (B, ...), and the history either packed,
        ``history_col`` (T,) with ``history_col + "_length"`` (B,), or padded with zeros on
        any side, ``history_col`` (B, L). Output: ``y_pred`` and ``logit``, (B, 1).
    """

    fixed_shapes = True

    def __init__(
        self,
        feature_map: FeatureMap,
        model_id: str = "QIN",
        gpu: int = -1,
        learning_rate: LearningRate = 1e-3,
        embedding_dim: Count = 128,
        num_layers: Count = 4,
        num_row: Count = 4,
        net_dropout: Dropout = 0.1,
        batch_norm: bool = True,
        compile: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_map,
            embedding_dim=embedding_dim,
            model_id=model_id,
            gpu=gpu,
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

    def fold(self, **settings: Any) -> FoldedQIN:
        """See :func:`model_zoo.QIN.fold.fold`."""
        return fold(self, **settings)

    def logit(self, inputs: Mapping[str, Tensor]) -> Tensor:
        target_ids = self.on_device(inputs[self.item_col]).long()
        history_ids, rows = self.packed_history(inputs)
        items, index = self.encode_items(target_ids, history_ids)  # (U, D), (B + T,)
        target = items.index_select(0, index[: len(target_ids)])  # (B, D)
        index = index[len(target_ids) :]  # (T,)
        interest = self.attend(self.attention.packed, target, items, rows, index, inputs)  # (B, D)
        x = torch.cat([*self.encode_row(inputs), target, interest], dim=1)  # (B, F)
        logit: Tensor = self.qnn(x)  # (B, 1)
        return logit
