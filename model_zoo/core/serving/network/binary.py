"""The compact form of requests and answers: MessagePack, with arrays as their bytes.

An array is the map ``{"dtype": "int32", "shape": [1000], "data": bytes}``, little-endian and row by
row; it can stand wherever a list of numbers does, and is read without a loop in Python. Everything
else is as in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import msgpack
import torch
from torch import Tensor

from model_zoo.core.serving.network.refusals import Refusal

MEDIA_TYPE = "application/msgpack"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
        *(torch.float32, torch.float64),
    )
}
DIMENSIONS = 3
_KEYS = {"dtype", "shape", "data"}


def unpacked(body: bytes) -> Any:
    """What a body holds, arrays as tensors.

    Raises:
        Refusal: If it is not MessagePack, or an array is not what it says.
    """
    try:
        return msgpack.unpackb(body, object_hook=_read)
    except (ValueError, msgpack.UnpackException) as error:
        raise Refusal(400, f"no MessagePack: {error or type(error).__name__}") from None


def packed(content: Mapping[str, Any]) -> bytes:
    """A body, tensors in it as arrays."""
    body: bytes = msgpack.packb(content, default=_write)
    return body


def _read(found: dict[Any, Any]) -> Any:
    if found.keys() != _KEYS or not isinstance(found["data"], bytes):
        return found
    name, shape, data = found["dtype"], found["shape"], found["data"]
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"found an array of dtype {name!r}, expected {', '.join(DTYPES)}")
    sizes = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if not sizes or len(shape) > DIMENSIONS:
        raise ValueError(f"found an array of shape {shape!r}, expected up to {DIMENSIONS} sizes")
    dtype = DTYPES[name]
    expected = prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(
            f"found {len(data):,} bytes in an array of {name} {shape}, expected {expected:,}"
        )
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


def _write(value: Any) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise TypeError(f"found {type(value).__name__}, expected a tensor")
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "data": value.contiguous().numpy().tobytes(),
    }
