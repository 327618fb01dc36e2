"""From a trained QIN+ to a :class:`FoldedQINPlus`: all products are formed in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.core.fold import completed, fold_feature, item_feature_names, require_table_dtype
from model_zoo.QINPlus.folded import FoldedQINPlus


@torch.no_grad()
def fold(
    model: Any, *, dtype: torch.dtype = torch.float32, tabulate_first_layer: bool = True
) -> FoldedQINPlus:
    """Fold a trained model.

    The result is the model in evaluation as a smaller function: exact but for rounding to
    ``dtype``.

    Args:
        model: A trained QIN+; it is not changed.
        dtype: float32 or bfloat16, of the tables and the products with them.
        tabulate_first_layer: Keep each item's part of the network's first layer, H_1 numbers an
            item; without it the tables take D + 2 A numbers an item, and a row costs D H_1 more
            multiplications.

    Raises:
        ValueError: If the dtype is another, or a layer is one that fold does not know.
    """
    require_table_dtype(dtype)
    attention, dim, context = model.attention, model.item_dim, model.row_dim
    (first, first_bias), *others = _linear_maps(model.network.mlp)
    to_row, to_target, to_crossed = first.tensor_split([context, context + dim], 1)
    if not model.product:
        to_crossed = torch.cat([to_crossed, torch.zeros_like(to_crossed)], dim=1)
    places = attention.of_place
    tensors = {
        "target_map": attention.of_target.weight,
        "target_bias": attention.of_target.bias,
        "history_map": attention.of_history.weight,
        "first_map": to_target,
        "first_bias": first_bias,
        "product_map": attention.of_product.weight,
        "places": torch.zeros_like(attention.weight.weight) if places is None else places,
        "gate_weight": attention.weight.weight,
        "gate_bias": attention.weight.bias,
        "crossed_map": to_crossed,
    }
    for i, (weight, bias) in enumerate(others):
        tensors |= {f"weight_{i}": weight, f"bias_{i}": bias}
    row_features, start = [], 0
    for name in model.row_features:
        feature = fold_feature(model, name)
        width = feature.weight.shape[1]
        feature.weight = feature.weight @ to_row[:, start : start + width].T
        start += width
        row_features.append(feature)
    parts = ["vectors", "gate_targets", "gate_items", *(["first"] if tabulate_first_layer else [])]
    folded = FoldedQINPlus(
        [fold_feature(model, name) for name in item_feature_names(model)],
        row_features,
        item_parts={name: torch.empty(0, dim) for name in parts},
        tensors={name: tensor.detach().double() for name, tensor in tensors.items()},
        layers=len(others),
        length_power=attention.length_power,
        sparse=attention.sparse,
    )
    # What only encodes items (or is added to a float32 logit) stays precise.
    precise = ["target_map", "target_bias", "history_map", f"bias_{len(others) - 1}"]
    precise += ["first_map", "first_bias"] if tabulate_first_layer else []
    return completed(folded, model, dtype, precise=precise)


def _linear_maps(layers: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Weight (H_i+1, H_i) and bias of each linear layer and the batch normalisation after it."""
    maps: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            maps.append((layer.weight.double(), layer.bias.double()))
        elif isinstance(layer, nn.BatchNorm1d):
            weight, bias = maps.pop()
            assert layer.running_mean is not None and layer.running_var is not None
            scale = layer.weight.double() / torch.sqrt(layer.running_var.double() + layer.eps)
            shifted = (bias - layer.running_mean.double()) * scale + layer.bias.double()
            maps.append((weight * scale.unsqueeze(1), shifted))
        elif not isinstance(layer, (nn.ReLU, nn.Dropout)):
            raise ValueError(f"cannot fold a layer of type {type(layer).__name__}")
    return maps
