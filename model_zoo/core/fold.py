"""What the folds of all models share: FuxiCTR's embedding layer, and tables of every item."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from model_zoo.core.folded import FoldedFeature, FoldedModel, Kind
from model_zoo.core.layers import PooledEmbedding

ITEMS_AT_A_TIME = 65_536  # items whose parts are computed in float64 at once
_Folded = TypeVar("_Folded", bound=FoldedModel)


def require_table_dtype(dtype: torch.dtype) -> None:
    """Raise ValueError for another dtype than tables may have."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")


def item_feature_names(model: Any) -> list[str]:
    """Features of an item, in the order in which its vector has them."""
    return [
        name
        for name, spec in model.feature_map.features.items()
        if spec["type"] != "meta" and spec["source"] == "item"
    ]


def fold_feature(model: Any, name: str) -> FoldedFeature:
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
    factor = model.item_table.factor(name) if name in item_feature_names(model) else None
    if factor is not None:
        weight = weight * factor.double()
    mode = module.mode if isinstance(module, PooledEmbedding) else "mean"
    return FoldedFeature(
        name,
        kind,
        weight.T if isinstance(module, nn.Linear) else weight,
        mode=mode,
        scale=None if model.numbers is None else model.numbers.scale(name),
    )


def completed(
    folded: _Folded, model: Any, dtype: torch.dtype, *, precise: Iterable[str]
) -> _Folded:
    """The folded model in its dtype, with its item tables.

    Args:
        folded: With buffers in float64 and empty tables; it is changed.
        model: The model, whose item table and device are taken.
        dtype: Of the tables and the products with them.
        precise: Buffers that stay float32: what only encodes items, or is added to a logit.
            The maps of item features do too.
    """
    for name, buffer in list(folded.named_buffers()):
        exact = name in precise or name.startswith("item_features.")
        owner, _, leaf = name.rpartition(".")
        if leaf == "center_and_factor":
            continue  # of numbers, in float64 before they meet a weight
        cast = buffer.to(torch.float32 if exact else dtype)
        folded.get_submodule(owner).register_buffer(leaf, cast)
    for name, table in _item_tables(model, folded, dtype).items():
        folded.register_buffer(name, table)
    folded.num_items = model.item_table.num_items
    return folded.eval()


def _item_tables(model: Any, folded: FoldedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tables of every item; those of padding are zero."""
    pieces: dict[str, list[Tensor]] = {}
    items = torch.arange(model.item_table.num_items, device=model.device)
    for ids in torch.split(items, ITEMS_AT_A_TIME):
        features = {
            name: values if values.dtype.is_floating_point else values.long()
            for name, values in model.item_table.columns(ids).items()
        }
        for name, table in folded.encode(features).items():
            table[ids == 0] = 0
            pieces.setdefault(name, []).append(table.to(dtype))
    return {name: torch.cat(tables) for name, tables in pieces.items()}
