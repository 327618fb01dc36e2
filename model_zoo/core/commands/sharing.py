"""Features that share an embedding table, in the order in which FuxiCTR can build them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from fuxictr.features import FeatureMap
from torch import nn

from model_zoo.core.errors import InputError


def owners_first(columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of ``feature_cols``, each behind the one whose table it shares.

    The order is otherwise kept: it is that of a model's weights.
    """
    entries = {column["name"]: dict(column) for column in columns}
    ordered: dict[str, dict[str, Any]] = {}

    def place(name: str) -> None:
        owner = entries[name].get("share_embedding")
        if owner is not None and owner in entries and owner not in ordered:
            place(owner)
        ordered.setdefault(name, entries[name])

    for name in entries:
        place(name)
    return list(ordered.values())


def share_embeddings(feature_map: FeatureMap, columns: Sequence[Mapping[str, Any]]) -> None:
    """Let the used features of each table name the first of them as its owner.

    FuxiCTR shares a table only with a feature that stands before, and leaves that of a feature
    whose owner is not used as torch initialises it.

    Args:
        feature_map: Its features are put into order.
        columns: All entries of ``feature_cols``.

    Raises:
        InputError: If features that share a table differ in ``embedding_dim``, or a feature has
            a name that torch does not give to a module.
    """
    features = feature_map.features
    shared = {column["name"]: column.get("share_embedding") for column in columns}
    place = {column["name"]: k for k, column in enumerate(owners_first(columns))}
    used = [name for name in features if features[name]["type"] != "meta"]
    problems = [
        f"feature '{name}': a module of torch cannot have this name; rename the column"
        for name in used
        if "." in name or not name or hasattr(nn.ModuleDict(), name)
    ]
    owners: dict[str, str] = {}
    for name in sorted(used, key=place.__getitem__):
        table = name
        while (shares := shared[table]) is not None:
            table = shares
        owner = owners.setdefault(table, name)
        features[name].pop("share_embedding", None)
        if owner == name:
            continue
        features[name]["share_embedding"] = owner
        widths = [features[n].get("embedding_dim") for n in (name, owner)]
        if widths[0] != widths[1]:
            problems.append(
                f"{name} shares the embedding of {owner}, but embedding_dim is {widths[0]} and "
                f"{widths[1]}; expected the same"
            )
    if problems:
        raise InputError(problems)
    entries = [{"name": name, **spec} for name, spec in features.items()]
    ordered = [entry["name"] for entry in owners_first(entries)]
    feature_map.features = OrderedDict((name, features[name]) for name in ordered)
    feature_map.set_column_index()
