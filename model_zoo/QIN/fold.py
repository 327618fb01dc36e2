"""From a trained QIN to a :class:`FoldedQIN`: all products are formed in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.core.folded import FoldedFeature, Kind
from model_zoo.QIN.folded import FoldedQIN
from model_zoo.QIN.layers import AdaptiveSparseTargetAttention, PooledEmbedding, QuadraticLayer

ITEMS_AT_A_TIME = 65_536  # items whose parts are computed in float64 at once


@torch.no_grad()
def fold(
    model: Any, *, dtype: torch.dtype = torch.float32, tabulate_first_layer: bool = True
) -> FoldedQIN:
    """Fold a trained model.

    The result is the model in evaluation as a smaller function: exact but for rounding to
    ``dtype``.

    Args:
        model: A trained QIN; it is not changed.
        dtype: float32 or bfloat16, of the tables and the products with them.
        tabulate_first_layer: Keep each item's part of the first layer, F numbers an item;
            without it the tables take 2 D numbers an item, and a row costs F D more
            multiplications.

    Raises:
        ValueError: If the dtype is another, or a layer is one that fold does not know.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")
    network, attention = model.qnn, model.attention
    products, biases, shifts = zip(
        *map(_summed, network.layers, network.norms),
        strict=True,
    )
    query_map, output_map = _attention_maps(attention)
    dim, width = len(query_map), len(products[0])
    context = width - 2 * dim
    to_row, to_target, to_interest = products[0].split([context, dim, dim], dim=1)
    first_map = to_target + to_interest
    pooled_map = torch.cat([output_map, to_interest @ output_map])
    item_features = [
        _feature(model, name)
        for name, spec in model.feature_map.features.items()
        if spec["type"] != "meta" and spec["source"] == "item"
    ]
    row_features, start = [], 0
    for name in model.row_features:
        feature = _feature(model, name)
        own = to_row[:, start : start + feature.weight.shape[1]]
        start += own.shape[1]
        feature.weight = torch.cat([feature.weight, feature.weight @ own.T], dim=1)
        row_features.append(feature)
    folded = FoldedQIN(
        item_features,
        row_features,
        item_parts={name: torch.empty(0, dim) for name in _parts(tabulate_first_layer)},
        query_map=query_map,
        first_map=first_map,
        first_bias=biases[0],
        pooled_map=pooled_map,
        weights=products[1:],
        biases=biases[1:],
        shifts=shifts,
        slopes=[float(activation.get_parameter("weight")) for activation in network.activations],
        output=(network.output.weight.detach().double(), network.output.bias.detach().double()),
    )
    # What only encodes items (or is added to a float32 logit) stays precise.
    precise = {"query_map", "output_bias"}
    precise |= {"first_map", "first_bias"} if tabulate_first_layer else set()
    for name, buffer in list(folded.named_buffers()):
        exact = name in precise or name.startswith("item_features.")
        owner, _, leaf = name.rpartition(".")
        cast = buffer.to(torch.float32 if exact else dtype)
        folded.get_submodule(owner).register_buffer(leaf, cast)
    for name, table in _item_tables(model, folded, dtype).items():
        folded.register_buffer(name, table)
    folded.num_items = model.item_table.num_items
    return folded.eval()


def _parts(tabulate_first_layer: bool) -> list[str]:
    return ["vectors", "queries", *(["first"] if tabulate_first_layer else [])]


def _summed(layer: QuadraticLayer, norm: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """A (F, F), b (F,) and m (F,) of a layer and its batch normalisation."""
    weight = layer.linear.weight.double().view(layer.num_row, layer.dim, layer.dim).sum(dim=0)
    bias = layer.linear.bias.double().view(layer.num_row, layer.dim).sum(dim=0)
    if not isinstance(norm, nn.BatchNorm1d):
        return weight, bias, torch.zeros_like(bias)
    assert norm.running_mean is not None and norm.running_var is not None  # QIN tracks them
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return weight * scale.unsqueeze(1), bias * scale, shift


def _attention_maps(attention: AdaptiveSparseTargetAttention) -> tuple[Tensor, Tensor]:
    """W_kᵀ W_q / √A and W_o W_v, both (D, D)."""
    query = attention.W_k.weight.double().T @ attention.W_q.weight.double()
    return query * attention.scale, attention.W_o.weight.double() @ attention.W_v.weight.double()


def _feature(model: Any, name: str) -> FoldedFeature:
    """The map of FuxiCTR's embedding layer for one feature, in float64."""
    kind: Kind = model.feature_map.features[name]["type"]
    module = model.embedding_layer.embedding_layer.embedding_layers[name]
    if kind == "embedding":
        module = model.embedding_layer.embedding_layer.feature_encoders[name]
    known: dict[Kind, type[nn.Module]] = {
        "categorical": nn.Embedding,
        "sequence": PooledEmbedding,
        "numeric": nn.Linear,
        "embedding": nn.Linear,
    }
    if not isinstance(module, known[kind]):
        raise ValueError(f"{name}: {kind} of {type(module).__name__} cannot be folded")
    weight = module.get_parameter("weight").detach().double()
    mode = module.mode if isinstance(module, PooledEmbedding) else "mean"
    return FoldedFeature(
        name, kind, weight.T if isinstance(module, nn.Linear) else weight, mode=mode
    )


def _item_tables(model: Any, folded: FoldedQIN, dtype: torch.dtype) -> dict[str, Tensor]:
    """t, u and the first layer's part of every item; those of padding are zero."""
    pieces: dict[str, list[Tensor]] = {}
    items = torch.arange(model.item_table.num_items, device=model.device)
    for ids in torch.split(items, ITEMS_AT_A_TIME):
        features = {
            name: values if values.dtype.is_floating_point else values.long()
            for name, values in model.item_table(ids).items()
        }
        for name, table in folded.encode(features).items():
            table[ids == 0] = 0
            pieces.setdefault(name, []).append(table.to(dtype))
    return {name: torch.cat(tables) for name, tables in pieces.items()}
