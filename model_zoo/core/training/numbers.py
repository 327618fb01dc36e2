"""Numeric inputs of a model, standardised before FuxiCTR's embedding layers see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fuxictr.pytorch.layers.embeddings.feature_embedding import FeatureEmbeddingDict
from torch import Tensor, nn

IDENTITY = {"center": 0.0, "factor": 1.0}


class NumericInputs(nn.Module):
    """Makes (x - center) · factor of each number x, in float64, and float32 of that.

    So seconds since 1970 are not rounded before they are centred. Centers and factors are
    buffers: checkpoints and states carry them, and a file of weights without them (that of a
    training which did not standardise) leaves every number as it is.

    Args:
        names: The numeric features.

    Example:
        >>> numbers = NumericInputs(["time"])
        >>> numbers.standardise_by({"time": (1.7e9, 1 / 3600)})
        >>> numbers({"time": torch.tensor([1.7e9 + 1800], dtype=torch.float64)})["time"]
        tensor([0.5000])
    """

    center: Tensor
    factor: Tensor

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        for key, value in IDENTITY.items():
            self.register_buffer(key, torch.full((len(names),), value, dtype=torch.float64))

    def standardise_by(self, scales: Mapping[str, tuple[float, float]]) -> None:
        """Take center and factor of each feature, by name."""
        for i, name in enumerate(self.names):
            self.center[i], self.factor[i] = scales[name]

    def scale(self, name: str) -> tuple[float, float] | None:
        """Center and factor of a feature; ``None`` where its numbers stay as they are."""
        if name not in self.names:
            return None
        place = self.names.index(name)
        scale = float(self.center[place]), float(self.factor[place])
        return None if scale == tuple(IDENTITY.values()) else scale

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a batch by name, with numbers standardised, all others as they are."""
        outputs = dict(inputs)
        for i, name in enumerate(self.names):
            if name in outputs:
                values = outputs[name].double()
                outputs[name] = ((values - self.center[i]) * self.factor[i]).float()
        return outputs

    def before(self, embedding: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The forward pre-hook of an embedding layer."""
        return self(args[0]), *args[1:]

    def _apply(self, fn: Any, recurse: bool = True) -> NumericInputs:
        """Follows the model to its device, but not to another precision."""
        exact = {key: buffer.clone() for key, buffer in self.named_buffers()}
        super()._apply(fn, recurse)
        for key, buffer in exact.items():
            self.register_buffer(key, buffer.to(self.get_buffer(key).device))
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for key, value in IDENTITY.items():
            state_dict.setdefault(prefix + key, torch.full_like(self.get_buffer(key), value))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def standardise_numbers(model: nn.Module, features: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a model its :class:`NumericInputs`, ``model.numbers``, before every embedding layer.

    Args:
        model: With all its layers.
        features: FuxiCTR's specifications by name.
    """
    names = [name for name, spec in features.items() if spec["type"] == "numeric"]
    embeddings = [module for module in model.modules() if isinstance(module, FeatureEmbeddingDict)]
    if not names:
        model.add_module("numbers", None)
        return
    numbers = NumericInputs(names)
    model.add_module("numbers", numbers)
    for embedding in embeddings:
        embedding.register_forward_pre_hook(numbers.before)


def numbers_state(model: nn.Module) -> set[str]:
    """Names in the model's state that a file of weights may lack."""
    return {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, NumericInputs)
        for key in IDENTITY
    }
