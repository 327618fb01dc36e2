"""TransformerDCN as a FuxiCTR model: a Transformer over the history, a DCNv2 over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, MLP_Block
from torch import Tensor

from model_zoo import register
from model_zoo.core.training.extras import can_compile
from model_zoo.core.training.items import ItemHistoryModel
from model_zoo.core.training.settings import (
    Count,
    Dropout,
    LearningRate,
    Widths,
    require_dropout,
    require_widths,
)
from model_zoo.TransformerDCN.layers import TargetAwareTransformer


@register("TransformerDCN")
class TransformerDCN(ItemHistoryModel):
    """The network of the first place in the WWW 2025 EReL@MIR multimodal CTR challenge.

    A Transformer reads the history with the target beside every item; its most recent steps
    and a projected maximum over all, the target and the row features are crossed by a cross
    network (DCNv2, arXiv 2008.13535) beside an MLP, and a second MLP makes one logit of both.

    Args:
        feature_map: FuxiCTR's feature map. Features with ``source: item`` form the item
            vector, in its order; all others describe the row.
        model_id: Experiment id; names the checkpoint.
        gpu: CUDA device, -1 for CPU.
        learning_rate: Initial learning rate.
        embedding_dim: Width of each feature's embedding.
        num_layers: Layers of the Transformer.
        num_heads: Its attention heads; a divisor of twice the item vector's width.
        feed_forward: Width of its feed-forward networks.
        transformer_dropout: Dropout in the Transformer.
        num_last: How many of the most recent steps are crossed one by one.
        cross_layers: Layers of the cross network.
        hidden_units: Widths of the MLP beside the cross network.
        output_units: Hidden widths of the MLP after both.
        net_dropout: Dropout in both MLPs.
        batch_norm: Batch normalisation in both MLPs.
        compile: Compile cross network and MLPs with ``torch.compile``, where a compiler is.
        **kwargs: Those of :class:`ItemHistoryModel`, of the training and of FuxiCTR.

    Raises:
        ValueError: If an argument is out of range, or no feature has ``source: item``.

    Shapes: as :class:`ItemHistoryModel`.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        model_id: str = "TransformerDCN",
        gpu: int = -1,
        learning_rate: LearningRate = 1e-3,
        embedding_dim: Count = 64,
        num_layers: Count = 2,
        num_heads: Count = 1,
        feed_forward: Count = 256,
        transformer_dropout: Dropout = 0.2,
        num_last: Count = 16,
        cross_layers: Count = 3,
        hidden_units: Widths = (1024, 512, 256),
        output_units: Widths = (64, 32),
        net_dropout: Dropout = 0.0,
        batch_norm: bool = False,
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
        if cross_layers < 1:
            raise ValueError(f"cross_layers must be at least 1, got {cross_layers}")
        require_widths("hidden_units", hidden_units)
        require_widths("output_units", output_units)
        require_dropout("net_dropout", net_dropout)
        self.transformer = TargetAwareTransformer(
            self.item_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward=feed_forward,
            dropout=transformer_dropout,
            num_last=num_last,
        )
        width = self.row_dim + self.item_dim + self.transformer.output_dim
        mlp = {"dropout_rates": net_dropout, "batch_norm": batch_norm}
        self.cross = CrossNetV2(width, cross_layers)
        self.deep = MLP_Block(width, hidden_units=list(hidden_units), **mlp)
        self.output = MLP_Block(
            width + hidden_units[-1], hidden_units=list(output_units), output_dim=1, **mlp
        )
        self.make_ready(kwargs["optimizer"], kwargs["loss"], learning_rate)
        if compile and can_compile(self.device):
            for module in (self.cross, self.deep, self.output):
                module.compile()

    def logit(self, inputs: Mapping[str, Tensor]) -> Tensor:
        target_ids = self.on_device(inputs[self.item_col]).long()
        history_ids, rows = self.packed_history(inputs)
        items, index = self.encode_items(target_ids, history_ids)  # (U, D), (B + T,)
        target = items.index_select(0, index[: len(target_ids)])  # (B, D)
        steps = self.transformer.packed(
            target, items, rows, index[len(target_ids) :], longest=self.longest_history(inputs)
        )  # (B, (K + 1) E)
        x = torch.cat([*self.encode_row(inputs), target, steps], dim=1)  # (B, F)
        logit: Tensor = self.output(torch.cat([self.cross(x), self.deep(x)], dim=1))  # (B, 1)
        return logit
