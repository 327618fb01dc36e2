"""Rows of integer ids in arrays, found together and not one after the other."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.serving.tensors import packed

GROWTH = 8  # ids that came later are looked up one by one until they are an eighth


class IntegerRows:
    """Rows by bisection among the ids that are known when it is made.

    Args:
        rows: Id -> row; every id is an integer.

    Raises:
        ValueError: If there is no id, or one does not fit into 64 bits.
    """

    def __init__(self, rows: Mapping[int, int]) -> None:
        pairs = list(rows.items())
        if not pairs:
            raise ValueError("no ids")
        try:
            ids, found = (packed(values, "q") for values in zip(*pairs, strict=True))
        except struct.error:
            raise ValueError("an id does not fit into 64 bits") from None
        self._ids, order = ids.sort()
        self._rows = found[order]

    def is_of(self, count: int) -> bool:
        """Whether it has most of ``count`` known ids."""
        return count <= len(self._ids) + len(self._ids) // GROWTH

    def find(self, ids: Tensor) -> Tensor:
        """Rows (n,) of ids (n,) int64; -1 for those that it does not know."""
        place = torch.searchsorted(self._ids, ids).clamp_(max=len(self._ids) - 1)
        return torch.where(self._ids[place] == ids, self._rows[place], -1)


def integer_array(values: Any) -> Tensor | None:
    """An array or tensor of integers (n,) as int64; ``None`` for anything else."""
    if type(values).__name__ != "ndarray" and not isinstance(values, Tensor):
        return None
    kind = str(values.dtype).removeprefix("torch.")
    if values.ndim != 1 or kind not in ("int8", "int16", "int32", "int64", "uint8"):
        return None
    return torch.as_tensor(values).long().cpu()
