"""The Quadratic Neural Network: each layer multiplies its input with a linear map of itself."""

from __future__ import annotations

from torch import Tensor, nn

from model_zoo.core.kernels import available
from model_zoo.QIN.layers import kernels


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
        if self.training and available(x):
            return kernels.quadratic_product(x, self.linear, self.num_row, self.dropout.p)
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
            if self.training and available(x):
                slope = activation.get_parameter("weight")
                x = kernels.add_activated(x, y, slope, self.dropout.p)
            else:
                x = self.dropout(activation(y)) + x
        logit: Tensor = self.output(x)
        return logit
