"""QIN+ as a FuxiCTR model: a gate in place of the bilinear score, and a plain network after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import MLP_Block
from torch import Tensor

from model_zoo import register
from model_zoo.core.training.items import ItemHistoryModel
from model_zoo.core.training.settings import (
    Count,
    Dropout,
    LearningRate,
    LossWeight,
    Power,
    Temperature,
    Widths,
    require_dropout,
    require_widths,
)
from model_zoo.QINPlus.fold import fold
from model_zoo.QINPlus.folded import FoldedQINPlus
from model_zoo.QINPlus.layers import GatedTargetAttention, HistoryContrast


@register("QIN+")
class QINPlus(ItemHistoryModel):
    """QIN changed by what lifts it on real data.

    The target and each history item have one vector each, as in QIN. A gate
    (:class:`GatedTargetAttention`) pools the history into an interest o; the quadratic part is
    the product ``t * o``, and an MLP makes one logit of ``[row features; t; o; t * o]``. In
    training a contrastive loss (:class:`HistoryContrast`) may teach the item vectors besides.
    ``model_zoo/QINPlus/README.md`` says what each part adds.

    Args:
        feature_map: FuxiCTR's feature map. Features with ``source: item`` form the item
            vector, in its order; all others describe the row.
        model_id: Experiment id; names the checkpoint.
        gpu: CUDA device, -1 for CPU.
        learning_rate: Initial learning rate.
        embedding_dim: Width of each feature's embedding.
        gate_units: Hidden units of the gate.
        length_power: The interest is divided by the history's length to this power.
        order: Whether the gate sees how recent an item is.
        sparse: Whether attention weights go through a ReLU.
        product: Whether the network sees ``t * o``.
        hidden_units: Widths of the MLP.
        net_dropout: Dropout in the MLP.
        batch_norm: Batch normalisation after each linear layer of the MLP.
        max_len: Most recent history items a row keeps.
        contrast: Weight of :class:`HistoryContrast`'s mean over the clicked rows in the loss;
            0 for none. It trains the item vectors and has no part in the logit.
        contrast_temperature: Its τ.
        contrast_negatives: Its most negatives of a row.
        **kwargs: Those of :class:`ItemHistoryModel`, of the training and of FuxiCTR.

    Raises:
        ValueError: If an argument is out of range, or no feature has ``source: item``.

    Shapes: as :class:`ItemHistoryModel`.
    """

    rescales_vectors = True
    fixed_shapes = True

    def __init__(
        self,
        feature_map: FeatureMap,
        model_id: str = "QINPlus",
        gpu: int = -1,
        learning_rate: LearningRate = 1e-3,
        embedding_dim: Count = 64,
        gate_units: Count = 32,
        length_power: Power = 0.5,
        order: bool = True,
        sparse: bool = True,
        product: bool = True,
        hidden_units: Widths = (256, 128),
        net_dropout: Dropout = 0.3,
        batch_norm: bool = False,
        max_len: int = 64,
        contrast: LossWeight = 0.0,
        contrast_temperature: Temperature = 0.1,
        contrast_negatives: Count = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_map, model_id=model_id, gpu=gpu, embedding_dim=embedding_dim, **kwargs
        )
        require_widths("hidden_units", hidden_units)
        require_dropout("net_dropout", net_dropout)
        self.attention = GatedTargetAttention(
            self.item_dim,
            units=gate_units,
            max_len=max_len,
            length_power=length_power,
            order=order,
            sparse=sparse,
        )
        self.product = product
        self.network = MLP_Block(
            self.row_dim + (3 if product else 2) * self.item_dim,
            output_dim=1,
            hidden_units=list(hidden_units),
            hidden_activations="ReLU",
            dropout_rates=net_dropout,
            batch_norm=batch_norm,
        )
        if contrast < 0.0:
            raise ValueError(f"contrast must be at least 0, got {contrast}")
        self.contrast_weight = contrast
        self.contrast: HistoryContrast | None = None
        self._contrasts: Tensor | None = None
        if contrast:
            self.contrast = HistoryContrast(
                self.item_dim,
                units=embedding_dim,
                temperature=contrast_temperature,
                negatives=contrast_negatives,
            )
        self.make_ready(kwargs["optimizer"], kwargs["loss"], learning_rate)

    def fold(self, **settings: Any) -> FoldedQINPlus:
        """See :func:`model_zoo.QINPlus.fold.fold`."""
        return fold(self, **settings)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :class:`ItemHistoryModel`; in training also ``contrast`` (B,), if it has a weight."""
        output = super().forward(inputs)
        if self._contrasts is not None:
            output["contrast"], self._contrasts = self._contrasts, None
        return output

    def add_loss(self, return_dict: dict[str, Tensor], y_true: Tensor) -> Tensor:
        """FuxiCTR's loss and the contrast of the clicked rows."""
        loss: Tensor = super().add_loss(return_dict, y_true)
        if "contrast" in return_dict:
            clicked = y_true.squeeze(1)
            mean = (return_dict["contrast"] * clicked).sum() / clicked.sum().clamp(min=1)
            loss = loss + self.contrast_weight * mean
        return loss

    def logit(self, inputs: Mapping[str, Tensor]) -> Tensor:
        target_ids = self.on_device(inputs[self.item_col]).long()
        history_ids, rows = self.packed_history(inputs)
        items, index = self.encode_items(target_ids, history_ids)  # (U, D), (B + T,)
        target = items.index_select(0, index[: len(target_ids)])  # (B, D)
        history = rows, index[len(target_ids) :]  # (T,), (T,)
        interest = self.attend(self.attention.packed, target, items, *history, inputs)  # (B, D)
        if self.contrast is not None and self.training:
            self._contrasts = self._contrast_of(target_ids, target, items, *history, inputs)
        parts = [*self.encode_row(inputs), target, interest]
        if self.product:
            parts.append(target * interest)
        logit: Tensor = self.network(torch.cat(parts, dim=1))  # (B, 1)
        return logit

    def _contrast_of(
        self,
        target_ids: Tensor,
        target: Tensor,
        items: Tensor,
        rows: Tensor,
        index: Tensor,
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """The contrast of each row (B,); on a CPU 0 for rows with label 0.

        These have no part in the loss. To leave them out takes a wait on any other device.
        """
        assert self.contrast is not None
        label = inputs.get(self.feature_map.labels[0])
        if label is None or self.device.type != "cpu" or self.cuda_graph:
            users = self.attend(self.contrast.users, target, items, rows, index, inputs)
            return self.contrast(target_ids, target, users)
        counts = label.view(-1) != 0  # (B,)
        clicked = counts.nonzero().squeeze(1)  # (C,)
        place = counts.cumsum(0) - 1
        kept = counts.index_select(0, rows).nonzero().squeeze(1)
        users = self.contrast.users(
            clicked, items, place[rows.index_select(0, kept)], index.index_select(0, kept)
        )
        found = self.contrast(target_ids, target, users, clicked)
        return found.new_zeros(len(target)).index_copy(0, clicked, found)
