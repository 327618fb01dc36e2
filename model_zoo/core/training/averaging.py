"""An average of the weights over the steps of a training, which is evaluated in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model_zoo.core.training.numbers import numbers_state

WARM_UP = 4  # the decay after s steps is at most s / (s + WARM_UP)


class WeightAverage:
    r"""Exponential moving average :math:`\bar\theta \leftarrow \beta_s \bar\theta + (1 - \beta_s)\,
    \theta` after step s, with :math:`\beta_s = \min(\beta,\ s / (s + 4))`.

    So it averages about the last quarter of all steps, and later the last
    :math:`1 / (1 - \beta)` steps. Weights
    and floating-point buffers (batch statistics) are averaged alike.

    Args:
        model: The model that is trained.
        decay: β, in (0, 1).

    Raises:
        ValueError: If the decay is not in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay must be in (0, 1), got {decay}")
        self._decay, self._steps = decay, 0
        fixed = numbers_state(model)
        self._weights: list[Tensor] = [
            value
            for name, value in model.state_dict().items()
            if value.is_floating_point() and name not in fixed
        ]
        self._averages = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after an optimizer step into the average."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + WARM_UP))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, self._steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages for its weights, and its own again at the end."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, Any]:
        """For a training that is to be resumed."""
        return {"steps": self._steps, "averages": self._averages}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._steps = state["steps"]
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy_(saved)
