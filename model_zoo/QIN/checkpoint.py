"""Reading checkpoints of the original implementation by its parameter names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from model_zoo.core.training.weights import load_named_weights, read_state_dict

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


def load_published_checkpoint(
    model: QIN, checkpoint: str | os.PathLike[str] | Mapping[str, Tensor]
) -> None:
    """Load weights of the original implementation by their names.

    Args:
        model: A model of the same architecture.
        checkpoint: The state dict, or the path of a file that holds it.

    Raises:
        InputError: If the file is unreadable or does not fit the model.
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
    load_named_weights(model, renamed, source)
