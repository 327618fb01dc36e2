"""Optimizers and the L2 penalty."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from fuxictr.pytorch.layers import FeatureEmbeddingDict
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import Tensor, nn

# torch's optimizers that need parameters and a rate, and take gradients of any shape. LBFGS
# wants a closure, Muon matrices only, SparseAdam sparse gradients.
OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
    *("RMSprop", "Rprop", "SGD"),
)


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


def make_lazy(model: nn.Module) -> list[nn.Parameter]:
    """Let embedding tables have gradients of the rows in the batch only; the tables."""
    tables = {
        id(module.weight): module
        for owner in model.modules()
        if isinstance(owner, FeatureEmbeddingDict)
        for module in owner.modules()
        if isinstance(module, nn.Embedding)
    }
    for table in tables.values():
        table.sparse = True
    return [table.weight for table in tables.values()]


class LazyAdam:
    """Adam for all weights, of which embedding tables are updated only in the batch's rows.

    torch's SparseAdam for the tables and its fused Adam for the rest, as one optimizer. A
    row's moments stand still while it is in no batch; dense Adam lets them decay and moves
    the row along at every step.

    Args:
        model: The model; its tables are made lazy.
        lr: Learning rate.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        tables = make_lazy(model)
        known = {id(table) for table in tables}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
        self._parts: list[torch.optim.Optimizer] = [build_optimizer("Adam", rest, lr)]
        if tables:
            self._parts.append(torch.optim.SparseAdam(tables, lr=lr))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients, sparse ones too, to a global norm; the norm before.

    torch's own clipping takes dense gradients only.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


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
        self._lazy = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, nn.Embedding) and module.sparse
        }
        norms = [norm for pairs in terms.values() for norm, _ in pairs]
        self.supported = all(norm == 2 for norm in norms)
        self._weights: dict[float, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            for _, weight in terms[id(parameter) in embeddings] if parameter.requires_grad else []:
                if weight != 0:
                    self._weights.setdefault(weight, []).append(parameter)

    @torch.no_grad()
    def value(self) -> Tensor | float:
        """The penalty itself, for the reported loss; without that of lazy tables."""
        total: Tensor | float = 0.0
        for weight, parameters in self._weights.items():
            dense = [parameter for parameter in parameters if id(parameter) not in self._lazy]
            if dense:
                norms = torch.stack(torch._foreach_norm(dense))
                total = total + (weight / 2) * norms.square().sum()
        return total

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add λw to every gradient; of a lazy table, to its rows in the batch."""
        for weight, parameters in self._weights.items():
            dense = []
            for parameter in parameters:
                if id(parameter) in self._lazy:
                    if parameter.grad is not None:
                        parameter.grad = parameter.grad.coalesce()
                        rows = parameter.index_select(0, parameter.grad.indices()[0])
                        parameter.grad.values().add_(rows, alpha=weight)
                elif parameter.grad is None:
                    parameter.grad = parameter * weight
                else:
                    dense.append(parameter)
            if dense:
                gradients = [parameter.grad for parameter in dense]
                torch._foreach_add_(gradients, dense, alpha=weight)
