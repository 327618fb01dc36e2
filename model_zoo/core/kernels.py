"""Products and sums that more than one model computes fast on a CPU: torch only."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

CONVOLVED = 256  # rows from which on a convolution pays for bringing W into its layout


def available(x: Tensor) -> bool:
    """Whether a model computes on ``x`` by its kernels for a CPU."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b for x (n, i), W (o, i) and b (o,).

    In float32 on an AMD processor as a convolution: oneDNN's kernels use the widest vectors
    of every maker's processors; the library behind ``torch.mm`` only of its own maker's.
    """
    if not _convolves(x) or len(weight) == 0:
        return nn.functional.linear(x, weight, bias)
    image = nn.functional.conv2d(_pixels(x), weight[:, :, None, None], bias)
    return image.permute(0, 2, 3, 1)[0, 0]


def outer(y: Tensor, x: Tensor) -> Tensor:
    """yᵀ x for y (n, o) and x (n, i): the gradient of W in y = x Wᵀ."""
    if not _convolves(x):
        return torch.mm(y.t(), x)
    shape = (y.shape[1], x.shape[1], 1, 1)
    kernel: Tensor = conv2d_weight(_pixels(x), shape, _pixels(y))  # type: ignore[no-untyped-call]
    return kernel[:, :, 0, 0]


def _convolves(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    if len(x) < CONVOLVED or not _on_amd():
        return False
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


@cache
def _on_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")  # on Linux; elsewhere torch.mm is taken
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text(encoding="utf-8")


def _pixels(x: Tensor) -> Tensor:
    """(n, c) as one image of n pixels with c channels, (1, c, 1, n), without a copy."""
    return x[None, None].permute(0, 3, 1, 2)


def dots(left: Tensor, i: Tensor, right: Tensor, j: Tensor) -> Tensor:
    """left[i] · right[j] for each pair of i and j, (T,), without gathering the rows.

    As torch computes it for the gradient of an embedding bag's weights.
    """
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, j, j[:0], i, mode=0
    )
    return products


def weighted_sums(
    vectors: Tensor, index: Tensor, weight: Tensor, owners: Tensor, count: int
) -> Tensor:
    """Σ weight · vectors[index] for each of ``count`` owners; ``owners`` (T,) ascends."""
    sizes = torch.bincount(owners, minlength=count)
    starts = sizes.cumsum(0) - sizes
    return nn.functional.embedding_bag(
        index, vectors, starts, mode="sum", per_sample_weights=weight
    )
