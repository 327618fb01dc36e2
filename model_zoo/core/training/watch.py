"""The loss and the gradient of a step, looked at without waiting for the device each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model_zoo.core.errors import InputError

if TYPE_CHECKING:
    from model_zoo.core.training.engine import TrainableModel

STEPS_BETWEEN_LOOKS = 100  # on CUDA, where a look waits for the device


def require_finite(model: TrainableModel, loss: Tensor, norm: Tensor) -> None:
    """Stop before a step that would destroy the weights.

    On CUDA only every hundredth step is looked at: what is not finite stays so.

    Raises:
        InputError: If loss or gradient norm is not finite; names the step, the learning rate
            and the largest gradients.
    """
    if model.device.type == "cuda" and model._total_steps % STEPS_BETWEEN_LOOKS:
        return
    if torch.isfinite(norm) and torch.isfinite(loss):
        return
    sizes = {
        name: float(parameter.grad.abs().max())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    worst = sorted(sizes, key=lambda name: -np.nan_to_num(sizes[name], nan=np.inf))[:5]
    raise InputError(
        f"{model.model_id}: step {model._total_steps}: loss {float(loss.detach())}, gradient "
        f"norm {float(norm)}, expected finite numbers; learning_rate "
        f"{model.optimizer.param_groups[0]['lr']:g}; largest gradients: "
        + ", ".join(f"{name} {sizes[name]:g}" for name in worst)
        + f"; the best weights so far are in {model.checkpoint}" * Path(model.checkpoint).is_file()
    )


class DeferredLoss:
    """A loss that FuxiCTR's loop can add up without waiting for the device.

    The loop calls ``item()`` at every step and prints the sum at an evaluation.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value

    def item(self) -> Tensor:
        """The value, still on its device; ``float()`` of it waits."""
        return self._value
