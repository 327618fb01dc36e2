"""The loss and the gradient of a step, looked at without waiting for the device each time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from model_zoo.core.errors import InputError
from model_zoo.core.training.origins import origin_of

STEPS_BETWEEN_LOOKS = 100  # on a GPU, where a look waits for the device


def require_finite(
    model: nn.Module,
    loss: Tensor,
    norm: Tensor,
    step: int,
    learning_rate: float,
    checkpoint: str | Path,
) -> None:
    """Stop before a step that would destroy the weights.

    On a GPU only every hundredth step is looked at: what is not finite stays so.

    Args:
        model: The model, with its gradients.
        loss: Of the step.
        norm: Of all gradients.
        step: Number of the step, from 1.
        learning_rate: For the message.
        checkpoint: Where the best weights so far are, if there are any; it names the experiment.

    Raises:
        InputError: If loss or gradient norm is not finite; names the step, the learning rate
            and the largest gradients.
    """
    if loss.device.type != "cpu" and step % STEPS_BETWEEN_LOOKS:
        return
    if torch.isfinite(norm) and torch.isfinite(loss):
        return
    sizes = {
        name: float(parameter.grad.abs().max())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    worst = sorted(sizes, key=lambda name: -np.nan_to_num(sizes[name], nan=np.inf))[:5]
    checkpoint = Path(checkpoint)
    raise InputError(
        f"{checkpoint.stem}: step {step}: loss {float(loss.detach())}, gradient norm "
        f"{float(norm)}, expected finite numbers; learning_rate {learning_rate:g}"
        + "; largest gradients: " * bool(worst)
        + ", ".join(f"{name} {sizes[name]:g}" for name in worst)
        + f"; the best weights so far are in {checkpoint}" * checkpoint.is_file()
    )


def require_finite_output(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    predictions: Tensor,
    place: str,
    learning_rate: float,
    checkpoint: str | Path,
) -> None:
    """Stop before a loss that torch refuses on a CPU, without a word on where it comes from.

    On a GPU a look would wait for the device at every step.

    Args:
        model: The model, as it computed the predictions.
        batch: The batch.
        predictions: What the model made of it.
        place: Step and batch, for the message.
        learning_rate: For the message.
        checkpoint: Where the best weights so far are, if there are any; it names the experiment.

    Raises:
        InputError: If a prediction is not finite; names the place, and the feature, weights or
            layer that it comes from.
    """
    if predictions.device.type != "cpu" or torch.isfinite(predictions).all():
        return
    wrong = int((~torch.isfinite(predictions)).sum())
    checkpoint = Path(checkpoint)
    raise InputError(
        f"{checkpoint.stem}: {place}: {wrong} of {predictions.numel()} predictions are not finite: "
        f"{origin_of(model, batch)}; learning_rate {learning_rate:g}"
        + f"; the best weights so far are in {checkpoint}"
        * checkpoint.is_file()
    )


def require_finite_predictions(
    name: str,
    predictions: npt.NDArray[np.float64],
    learning_rate: float,
    origin: Callable[[], str | None],
) -> None:
    """Stop at an evaluation of a model that diverged.

    Args:
        name: Of the experiment.
        predictions: Of all rows, (n,).
        learning_rate: For the message.
        origin: Finds the batch, and the feature, weights or layer that they come from.

    Raises:
        InputError: If a prediction is not finite; says how many, and of which experiment.
    """
    wrong = np.count_nonzero(~np.isfinite(predictions))
    if wrong:
        place = origin()
        raise InputError(
            f"{name}: {wrong} of {len(predictions)} predictions are not finite: training "
            f"diverged; try a lower learning_rate (now {learning_rate:g})"
            + ("" if place is None else f"; {place}")
        )


def epoch_bar(epoch: int, rows: int, done: int, *, shown: bool) -> tqdm[Any]:
    """The progress bar of an epoch, counted from 0, of which some rows may be done already."""
    return tqdm(
        desc=f"Epoch {epoch + 1}",
        total=rows,
        initial=done,
        unit=" rows",
        unit_scale=True,
        mininterval=1.0,
        file=sys.stdout,
        disable=not shown,
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
