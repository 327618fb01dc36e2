"""Numbers as callers give them, as tensors: lists of Python, arrays, columns of tables."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.serving.keys import PLAIN, plain


def doubles(values: Any, missing: float | None) -> Any:
    """Numbers of Python as float64, which torch would make float32; ``None`` is filled."""
    if isinstance(values, (list, tuple)) or not _is_flat(values):
        values = plain(values)
    numbers = [values] if values is None or isinstance(values, float) else values
    if not isinstance(numbers, list):
        return values
    if missing is not None:
        numbers = [missing if number is None else number for number in numbers]
    kinds = {type(number) for number in numbers}
    exact = float in kinds and kinds <= {int, float}
    return packed(numbers, "d") if exact else numbers


def _is_flat(values: Any) -> bool:
    """Whether torch reads it well: no list, nor array, of arrays."""
    if isinstance(values, (list, tuple)):
        return not values or type(values[0]) in PLAIN
    return str(getattr(values, "dtype", None)) != "object"


def tensor_of(values: Any, what: str, expected: str) -> Tensor:
    """Numbers in any container as a tensor.

    Raises:
        InputError: If they are none.
    """
    try:
        if isinstance(values, list) and (quick := _of_list(values)) is not None:
            return quick
        if hasattr(values, "to_numpy"):  # a column of a table, which may have labels
            values = values.to_numpy().copy()
        return torch.as_tensor(values if _is_flat(values) else plain(values))
    except (TypeError, ValueError, RuntimeError, OverflowError, struct.error):
        raise InputError(f"{what}: expected {expected}") from None


def _of_list(values: list[Any]) -> Tensor | None:
    """Of numbers, or of lists of one length of these: ``torch.tensor`` takes much longer."""
    kinds = set(map(type, values))
    if kinds == {list}:
        width = len(values[0])
        if any(len(row) != width for row in values):
            return None
        flat = _of_list(list(chain.from_iterable(values)))
        return flat if flat is None else flat.view(len(values), width, *flat.shape[1:])
    if kinds == {int}:
        return packed(values, "q")
    return packed(values, "d") if kinds and kinds <= {int, float} else None


def packed(values: Sequence[Any], code: str) -> Tensor:
    """Python's integers (``q``) as int64, or numbers (``d``) as float64, (n,).

    Raises:
        struct.error: If one is neither, or too large.
    """
    dtype = torch.int64 if code == "q" else torch.float64
    if not values:
        return torch.empty(0, dtype=dtype)
    # Of all ways to read a list the fastest: torch.tensor takes some fifty times as long.
    return torch.frombuffer(bytearray(struct.pack(f"{len(values)}{code}", *values)), dtype=dtype)


def integers(values: Any, what: str, *, dim: int) -> Tensor:
    """Integers as an int64 tensor of ``dim`` dimensions; one is a list of one.

    Raises:
        InputError: If they are none, or of another shape.
    """
    if isinstance(values, (list, tuple)):
        kinds = set(map(type, values))
        if bool in kinds:
            raise InputError(f"{what}: expected integers, found torch.bool")
        if kinds == {int} and dim == 1:
            try:
                return packed(values, "q")
            except struct.error:
                raise InputError(f"{what}: expected integers") from None
    tensor = tensor_of(values, what, "integers")
    if tensor.numel() == 0:
        tensor = tensor.long()
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise InputError(f"{what}: expected integers, found {tensor.dtype}")
    if tensor.dim() == 0 and dim == 1:
        tensor = tensor.reshape(1)
    if tensor.dim() != dim:
        raise InputError(f"{what}: expected {dim} dimension(s), found shape {tuple(tensor.shape)}")
    return tensor.long()
