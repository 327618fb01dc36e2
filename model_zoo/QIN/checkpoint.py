"""Reading weights: this project's checkpoints and those of the original implementation."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model_zoo.core.errors import InputError, first_line

if TYPE_CHECKING:
    from model_zoo.QIN.model import QIN

# The original's parameter names -> ours; embedding tables have FuxiCTR's names in both.
_PUBLISHED_NAMES = (
    (r"^attention_layers\.", "attention."),
    (r"^qnn\.layer\.(\d+)\.linear\.0\.", r"qnn.layers.\1.linear."),
    (r"^qnn\.norm\.", "qnn.norms."),
    (r"^qnn\.activation\.", "qnn.activations."),
    (r"^qnn\.fc\.", "qnn.output."),
)


def load_checkpoint(model: QIN, path: str | os.PathLike[str]) -> None:
    """Load weights that a training wrote.

    Raises:
        InputError: If the file is missing or unreadable, or does not fit the model; then all
            parameters that do not fit are listed.
    """
    _load(model, read_state_dict(path), str(path))


def load_published_checkpoint(
    model: QIN, checkpoint: str | os.PathLike[str] | Mapping[str, Tensor]
) -> None:
    """Load weights of the original implementation by their names.

    Args:
        model: A model of the same architecture.
        checkpoint: The state dict, or the path of a file that holds it.

    Raises:
        InputError: As :func:`load_checkpoint`.
    """
    if isinstance(checkpoint, Mapping):
        state, source = checkpoint, "published checkpoint"
    else:
        state, source = read_state_dict(checkpoint), str(checkpoint)
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    _load(model, renamed, source)


def read_state_dict(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """A state dict from a file, which is never unpickled beyond tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; train it first") from None
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a readable checkpoint: {first_line(error)}") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a state dict of tensors, found {type(state).__name__}")
    return state


def _load(model: QIN, state: Mapping[str, Tensor], source: str) -> None:
    expected = model.state_dict()
    problems = [f"{source}: {name} is missing" for name in expected if name not in state]
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
