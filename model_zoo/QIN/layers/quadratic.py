"""The Quadratic Neural Network: each layer multiplies its input with a linear map of itself."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

# Rows that are multiplied at a time, and elements that go through pointwise steps together:
# few enough for what is reused to stay in the cache.
CHUNK = 4096
POINTWISE = 2**19
CONVOLVED = 256  # rows from which on a convolution pays for bringing W into its layout


class QuadraticLayer(nn.Module):
    r"""Sum over R rows of the input times a linear map of the input.

    .. math::
        h = \mathrm{Dropout}(W x + b) \in \mathbb{R}^{R \times F}, \qquad
        z = \sum_{r=1}^{R} x \odot h_r

    Every output is a quadratic form of the input (a row-wise Khatri–Rao product, summed).
    Nothing non-linear stands between the rows and their sum. So wherever dropout is not
    active (evaluation, or ``dropout=0``) the rows are summed before the product,
    :math:`z = x \odot \big((\sum_r W_r)\, x + \sum_r b_r\big)`: the same function and the
    same gradients for R times fewer multiplications. With active dropout each row sees a
    mask of its own and the full product is taken. Training on a CPU takes some rows of x at
    a time.

    Source: arXiv 2504.17699, section 3.3.

    Args:
        dim: Width F of the input and the output.
        num_row: Rows R, at least 1.
        dropout: Probability of dropping an element of h, in [0, 1).
        bias: Whether b exists; without it the layer scales by c² when its input scales by c.

    Raises:
        ValueError: If an argument is out of range.

    Shape: (B, F) -> (B, F).

    Example:
        >>> import torch
        >>> layer = QuadraticLayer(6, num_row=3, bias=False).double()
        >>> x = torch.randn(5, 6, dtype=torch.float64)
        >>> torch.allclose(layer(3 * x), 9 * layer(x))
        True
    """

    def __init__(
        self, dim: int, *, num_row: int = 4, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        if dim < 1 or num_row < 1:
            raise ValueError(f"dim and num_row must be at least 1, got {dim=}, {num_row=}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.num_row = num_row
        self.linear = nn.Linear(dim, num_row * dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _chunked(x):
            return _product(x, self.linear, self.num_row, self.dropout.p)
        if self.training and self.dropout.p > 0:
            h: Tensor = self.dropout(self.linear(x)).view(-1, self.num_row, self.dim)  # (B, R, F)
            return x * h.sum(dim=1)
        weight = self.linear.weight.view(self.num_row, self.dim, self.dim).sum(dim=0)  # (F, F)
        bias = None
        if self.linear.bias is not None:
            bias = self.linear.bias.view(self.num_row, self.dim).sum(dim=0)  # (F,)
        return x * nn.functional.linear(x, weight, bias)


class QuadraticNeuralNetwork(nn.Module):
    r"""N quadratic layers with residuals, then one logit.

    .. math::
        x \leftarrow \mathrm{Dropout}(\mathrm{PReLU}(\mathrm{BatchNorm}(z(x)))) + x
        \quad (N \text{ times}), \qquad \mathrm{logit} = w \cdot x + c

    One PReLU slope per layer. ``net_dropout`` acts here and inside each
    :class:`QuadraticLayer`.

    Source: arXiv 2504.17699, section 3.3. As in the published implementation there is a
    residual (equation 4 omits it) and batch normalisation.

    Args:
        dim: Width F of the input.
        num_layers: Quadratic layers N, at least 1.
        num_row: Rows R of each layer.
        net_dropout: Dropout probability, in [0, 1).
        batch_norm: Whether z is batch-normalised.

    Raises:
        ValueError: If an argument is out of range.

    Shape: (B, F) -> (B, 1).

    Example:
        >>> import torch
        >>> QuadraticNeuralNetwork(8, num_layers=2)(torch.randn(5, 8)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int = 4,
        num_row: int = 4,
        net_dropout: float = 0.1,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.layers = nn.ModuleList(
            QuadraticLayer(dim, num_row=num_row, dropout=net_dropout) for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(dim) if batch_norm else nn.Identity() for _ in range(num_layers)
        )
        self.activations = nn.ModuleList(nn.PReLU() for _ in range(num_layers))
        self.dropout = nn.Dropout(net_dropout)
        self.output = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm, activation in zip(self.layers, self.norms, self.activations, strict=True):
            y = norm(layer(x))
            if self.training and _chunked(x):
                x = _add_activated(x, y, activation.get_parameter("weight"), self.dropout.p)
            else:
                x = self.dropout(activation(y)) + x
        logit: Tensor = self.output(x)
        return logit


def _chunked(x: Tensor) -> bool:
    """Whether training goes through the functions below, which save memory traffic."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _keep_mask(shape: tuple[int, ...], p: float) -> tuple[Tensor, float]:
    """What dropout keeps, 0 or 1 as bytes, and the factor that preserves the expectation.

    Four elements share one 64-bit draw of torch's generator, which is much faster than
    ``bernoulli_``. So p is rounded to a multiple of 2⁻¹⁶, and the factor is that of the
    rounded p.
    """
    dropped = min(max(round(p * 65536), 1), 65535)
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64)
    bits.random_(torch.iinfo(torch.int64).min, None)  # all 64 bits
    keep = bits.view(torch.int16)[:count] >= dropped - 32768
    return keep.view(torch.uint8).view(shape), 65536 / (65536 - dropped)


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


def _product(x: Tensor, module: nn.Linear, num_row: int, p: float) -> Tensor:
    """x ⊙ Σ_r Dropout(W_r x + b_r): (B, F) -> (B, F), in autocast's precision if it is on."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    weight = module.weight.view(num_row, -1, module.in_features)
    bias = None if module.bias is None else module.bias.view(num_row, -1)
    if p == 0:  # the rows are one
        weight = weight.sum(dim=0, keepdim=True)
        bias = None if bias is None else bias.sum(dim=0, keepdim=True)
    with torch.autocast("cpu", enabled=False):
        product: Tensor = _Product.apply(x, weight, bias, p, dtype)  # type: ignore[no-untyped-call]
    return product


class _Product(torch.autograd.Function):
    """x ⊙ Σ_r Dropout(W_r x + b_r), for some rows of x and one r at a time.

    So the R·F outputs never exist at once. Matrix products and the sum over r are computed
    in ``dtype``; saved for the gradient are x, that sum, and the masks as bytes.

    Shapes: x (B, F), weight (R, F, F), bias (R, F) -> (B, F).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, p: float, dtype: torch.dtype
    ) -> Tensor:
        w = weight.to(dtype)
        b = [None] * len(w) if bias is None else bias.to(dtype)
        product, scale = torch.empty_like(x), 1.0
        sums, masks = [], []
        for start in range(0, len(x), CHUNK):
            some = slice(start, start + CHUNK)
            x_n = x[some].to(dtype)
            if p == 0:
                sum_n = linear(x_n, w[0], b[0])  # (n, F)
            else:
                sum_n = torch.zeros_like(x_n)
                for r in range(len(w)):
                    h = linear(x_n, w[r], b[r])  # (n, F)
                    keep, scale = _keep_mask(h.shape, p)
                    masks.append(keep)
                    sum_n.addcmul_(h, keep.to(dtype), value=scale)
            sums.append(sum_n)
            torch.mul(x[some], sum_n.to(x.dtype), out=product[some])
        ctx.save_for_backward(x, weight, *sums, *masks)
        ctx.scale, ctx.dtype, ctx.chunks, ctx.has_bias = scale, dtype, len(sums), bias is not None
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        dtype, sums, masks = ctx.dtype, saved[: ctx.chunks], iter(saved[ctx.chunks :])
        w = weight.to(dtype)
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        to_bias = weight.new_zeros(weight.shape[:2]) if ctx.has_bias else None
        for start, sum_n in zip(range(0, len(x), CHUNK), sums, strict=True):
            some = slice(start, start + CHUNK)
            x_n, to_x_n = x[some].to(dtype), to_x[some]
            to_sum = (grad[some] * x[some]).mul_(ctx.scale).to(dtype)
            torch.mul(grad[some], sum_n.to(x.dtype), out=to_x_n)
            for r in range(len(w)):
                keep = next(masks, None)
                to_h = to_sum if keep is None else keep.to(dtype).mul_(to_sum)  # (n, F)
                to_x_n += linear(to_h, w[r].t())
                to_weight[r] += outer(to_h, x_n)
                if to_bias is not None:
                    to_bias[r] += to_h.sum(dim=0)
        return to_x, to_weight, to_bias, None, None


def _add_activated(x: Tensor, y: Tensor, slope: Tensor, p: float) -> Tensor:
    """x + Dropout(PReLU(y)) with one slope, in the precision of x and y: (B, F) -> (B, F)."""
    with torch.autocast("cpu", enabled=False):
        total: Tensor = _AddActivated.apply(x, y, slope, p)  # type: ignore[no-untyped-call]
    return total


class _AddActivated(torch.autograd.Function):
    """x + Dropout(PReLU(y)), some rows at a time; saved are y and the masks as bytes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slope: Tensor, p: float) -> Tensor:
        ctx.slope, ctx.scale, ctx.rows = float(slope), 1.0, max(1, POINTWISE // y.shape[1])
        output, masks = torch.empty_like(x), []
        for x_n, y_n, out in zip(*(torch.split(t, ctx.rows) for t in (x, y, output)), strict=True):
            z = nn.functional.leaky_relu(y_n, ctx.slope)
            if p == 0:
                torch.add(x_n, z, out=out)
                continue
            keep, ctx.scale = _keep_mask(z.shape, p)
            masks.append(keep)
            torch.addcmul(x_n, z, keep.to(y.dtype), value=ctx.scale, out=out)
        ctx.save_for_backward(y, slope, *masks)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, slope, *masks = ctx.saved_tensors
        to_y, to_slope = torch.empty_like(y), torch.zeros_like(slope)
        for i, (g, y_n, out) in enumerate(
            zip(*(torch.split(t, ctx.rows) for t in (grad, y, to_y)), strict=True)
        ):
            to_z = masks[i].to(y.dtype).mul_(g).mul_(ctx.scale) if masks else g
            to_slope += y_n.clamp(max=0).mul_(to_z).sum()
            torch.ops.aten.leaky_relu_backward.grad_input(
                to_z, y_n, ctx.slope, False, grad_input=out
            )
        return grad, to_y, to_slope, None
