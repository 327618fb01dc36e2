"""Optimizers and the L2 penalty."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from fuxictr.pytorch.layers import FeatureEmbeddingDict
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import Tensor, nn


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """A torch optimizer by its class name (FuxiCTR's ``adam`` too), fused where torch can.

    Fused optimizers make one pass over the weights and compute what the others compute.
    """
    kind = torch.optim.Adam if name.lower() == "adam" else getattr(torch.optim, name)
    fused = "fused" in inspect.signature(kind).parameters
    optimizer: torch.optim.Optimizer = kind(parameters, lr=lr, **({"fused": True} if fused else {}))
    return optimizer


class L2Penalty:
    """(λ/2)·‖w‖² of FuxiCTR's regularizers, as a term of the gradient.

    FuxiCTR adds the norms to the loss, which builds a graph over whole tables at every
    step. The gradient of (λ/2)·‖w‖² is λw, so it is added directly.

    Args:
        model: The model; the weights of its ``FeatureEmbeddingDict`` are embeddings.
        embedding_regularizer: λ for embeddings, as in FuxiCTR.
        net_regularizer: λ for all other weights.

    Attributes:
        supported: Whether all norms are L2. If not, FuxiCTR's loss has to be used.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding_regularizer: float | str | None,
        net_regularizer: float | str | None,
    ) -> None:
        embeddings = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, FeatureEmbeddingDict)
            for parameter in module.parameters()
        }
        terms = {
            True: get_regularizer(embedding_regularizer),
            False: get_regularizer(net_regularizer),
        }
        norms = [norm for pairs in terms.values() for norm, _ in pairs]
        self.supported = all(norm == 2 for norm in norms)
        self._weights: list[tuple[nn.Parameter, float]] = [
            (parameter, weight)
            for parameter in model.parameters()
            if parameter.requires_grad
            for _, weight in terms[id(parameter) in embeddings]
            if weight != 0
        ]

    @torch.no_grad()
    def value(self) -> Tensor | float:
        """The penalty itself, for the reported loss."""
        if not self._weights:
            return 0.0
        norms = torch._foreach_norm([parameter for parameter, _ in self._weights])
        return sum(
            (weight / 2) * norm**2 for norm, (_, weight) in zip(norms, self._weights, strict=True)
        )

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add λw to every gradient."""
        for parameter, weight in self._weights:
            if parameter.grad is None:
                parameter.grad = parameter * weight
            else:
                parameter.grad.add_(parameter, alpha=weight)
