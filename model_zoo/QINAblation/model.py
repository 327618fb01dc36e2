"""QIN with switches for what its paper takes away, as a FuxiCTR model."""

from __future__ import annotations

from typing import Any, Literal

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import MLP_Block
from torch import nn

from model_zoo import register
from model_zoo.core.training.items import ItemHistoryModel
from model_zoo.core.training.settings import (
    Count,
    Dropout,
    LearningRate,
    Widths,
    require_widths,
)
from model_zoo.QIN.layers import AdaptiveSparseTargetAttention, QuadraticNeuralNetwork
from model_zoo.QIN.model import QIN
from model_zoo.QINAblation.layers import Kind, QuadraticNetworkVariant, TargetAttentionVariant


@register("QINAblation")
class QINAblation(ItemHistoryModel):
    """QIN, part by part: with all defaults it is QIN, with the same weights from the same seed.

    It has no fold; what is served is QIN itself.

    Args:
        feature_map: FuxiCTR's feature map. Features with ``source: item`` form the item
            vector, in its order; all others describe the row.
        model_id: Experiment id; names the checkpoint.
        gpu: CUDA device, -1 for CPU.
        learning_rate: Initial learning rate.
        embedding_dim: Width of each feature's embedding.
        attention: The attention's weight; see :class:`TargetAttentionVariant`.
        attention_dropout: Dropout of the weights.
        residual: Whether the target is added to the interest.
        tied: Begin with equal maps of queries and keys, so that similar items score high.
        network: ``qnn``, or ``mlp`` in its place.
        activation: Of the quadratic network.
        qnn_norm: Batch normalisation ``after`` each product, or layer normalisation ``before``.
        num_layers: Quadratic layers N.
        num_row: Rows R of each quadratic layer.
        hidden_units: Widths of the MLP.
        net_dropout: Dropout in the network.
        batch_norm: Batch normalisation in the MLP, and after the quadratic products.
        **kwargs: Those of :class:`ItemHistoryModel`, of the training and of FuxiCTR.

    Raises:
        ValueError: If an argument is out of range, or no feature has ``source: item``.

    Shapes: as :class:`ItemHistoryModel`.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        model_id: str = "QINAblation",
        gpu: int = -1,
        learning_rate: LearningRate = 1e-3,
        embedding_dim: Count = 128,
        attention: Kind = "asta",
        attention_dropout: Dropout = 0.0,
        residual: bool = True,
        tied: bool = False,
        network: Literal["qnn", "mlp"] = "qnn",
        activation: Literal["prelu", "relu"] = "prelu",
        qnn_norm: Literal["after", "before"] = "after",
        num_layers: Count = 4,
        num_row: Count = 4,
        hidden_units: Widths = (1024, 512, 256),
        net_dropout: Dropout = 0.1,
        batch_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_map, embedding_dim=embedding_dim, model_id=model_id, gpu=gpu, **kwargs
        )
        if tied and attention in ("mean", "none"):
            raise ValueError(f"tied: True needs queries and keys; attention {attention} has none")
        if network not in ("qnn", "mlp"):
            raise ValueError(f"network must be qnn or mlp, got {network!r}")
        self.attention: nn.Module
        if (attention, attention_dropout, residual) == ("asta", 0.0, True):
            self.attention = AdaptiveSparseTargetAttention(self.item_dim)
        else:
            self.attention = TargetAttentionVariant(
                self.item_dim, kind=attention, dropout=attention_dropout, residual=residual
            )
        width = self.row_dim + 2 * self.item_dim
        quadratic = {
            "num_layers": num_layers,
            "num_row": num_row,
            "net_dropout": net_dropout,
            "batch_norm": batch_norm,
        }
        self.qnn: nn.Module
        if network == "mlp":
            require_widths("hidden_units", hidden_units)
            self.qnn = MLP_Block(
                width,
                output_dim=1,
                hidden_units=list(hidden_units),
                hidden_activations="ReLU",
                dropout_rates=net_dropout,
                batch_norm=batch_norm,
            )
        elif (activation, qnn_norm) == ("prelu", "after"):
            self.qnn = QuadraticNeuralNetwork(width, **quadratic)
        else:
            self.qnn = QuadraticNetworkVariant(
                width, activation=activation, norm=qnn_norm, **quadratic
            )
        self.make_ready(kwargs["optimizer"], kwargs["loss"], learning_rate)
        if tied:
            with torch.no_grad():
                self.attention.W_k.weight.copy_(self.attention.W_q.weight)

    logit = QIN.logit  # the same wiring of other parts
