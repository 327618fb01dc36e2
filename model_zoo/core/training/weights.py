"""Reading a model's weights from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from model_zoo.core.errors import InputError
from model_zoo.core.saved import read_saved
from model_zoo.core.training.numbers import numbers_state


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load weights that a training wrote.

    Raises:
        InputError: If the file is missing or unreadable, or does not fit the model; then all
            parameters that do not fit are listed.
    """
    load_named_weights(model, read_state_dict(path), str(path))


def read_state_dict(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """A state dict from a file.

    Raises:
        InputError: If the file is missing, unreadable, or holds something else.
    """
    try:
        state = read_saved(path, "checkpoint")
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; train it first") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a state dict of tensors, found {type(state).__name__}")
    return state


def load_named_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must be the model's.

    Args:
        model: The model.
        state: Its weights by name.
        source: Where they come from, for messages.

    Raises:
        InputError: With every parameter that does not fit.
    """
    expected = model.state_dict()
    needed = expected.keys() - numbers_state(model)
    problems = [f"{source}: {n} is missing" for n in expected if n in needed and n not in state]
    problems += [
        f"{source}: {name} is no parameter of this model" for name in state if name not in expected
    ]
    problems += [
        f"{source}: {name} has shape {tuple(state[name].shape)}, "
        f"the model expects {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise InputError(problems)
    model.load_state_dict(state)
