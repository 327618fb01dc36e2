"""What must not stand in a training step: models that do it, to show that it is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Mistake = Callable[[type], type]  # a model class -> one that does something wrong


def number_in_step(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def train_step(self, batch: Any) -> Any:
            loss = super().train_step(batch)
            self.last = loss.item().item()
            return loss

    return Planted


def number_in_forward(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def forward(self, inputs: Any) -> Any:
            output = super().forward(inputs)
            if output["logit"].mean() > 1e6:
                raise RuntimeError("cannot be")
            return output

    return Planted


def size_in_backward(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def forward(self, inputs: Any) -> Any:
            output = super().forward(inputs)
            output["y_pred"] = _Sized.apply(output["y_pred"])
            return output

    return Planted


class _Sized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad.nonzero()
        return grad


def mask_in_forward(kind: type) -> type:
    """The gradient of a selection by mask waits too, in torch's own code."""

    class Planted(kind):  # type: ignore[misc, valid-type]
        def forward(self, inputs: Any) -> Any:
            output = super().forward(inputs)
            mask = output["y_pred"] >= 0
            output["y_pred"] = output["y_pred"][mask].view(-1, 1)
            return output

    return Planted


def blocking_copy(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def get_labels(self, inputs: Any) -> Tensor:
            return inputs["label"].to(self.device).view(-1, 1)

    return Planted


def tensor_of_the_cpu(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def add_loss(self, output: Any, y_true: Tensor) -> Tensor:
            loss = super().add_loss(output, y_true)
            return loss + (output["y_pred"] * torch.ones(len(y_true), 1)).mean() * 0

    return Planted


PLANTED: dict[str, Mistake] = {
    mistake.__name__: mistake
    for mistake in (
        number_in_step,
        number_in_forward,
        size_in_backward,
        mask_in_forward,
        blocking_copy,
        tensor_of_the_cpu,
    )
}
