"""Changes of items, without what later ones make void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def compacted(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fewer changes that leave all items as these do, in the same order.

    A feature is left out of a change if each of its items gets another value of it later, and a
    change without features if none of its items is in it for the first time: then it has added
    none. So there is at most one change for each item and feature, and one for each item. Values
    and ids stay as they were given: what they mean is the scorer's to say, and two that are
    spelt differently count as two items.
    """
    seen: set[tuple[type, Any]] = set()
    marked = []
    for record in records:
        items = {(type(item), item) for item in record["ids"]}  # 7, 7.0 and "7" may be three
        marked.append((record, items, not items <= seen))
        seen |= items
    later: dict[str, set[tuple[type, Any]]] = {}  # feature -> items that get another value
    kept = []
    for record, items, is_first in reversed(marked):
        features = {}
        for name, values in record["features"].items():
            replaced = later.setdefault(name, set())
            if not items <= replaced:
                features[name] = values
                replaced |= items
        if features or is_first:
            kept.append({"ids": record["ids"], "features": features})
    return kept[::-1]
