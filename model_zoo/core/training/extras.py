"""What may be missing on a machine: a compiler, TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from model_zoo.core.errors import InputError, first_line
from model_zoo.core.training.processes import is_main


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` works here, by trying it; if not, the log says why."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # a missing compiler shows in as many ways as there are compilers
        logging.warning("compile: True, but not possible here: %s", first_line(error))
        return False
    return True


def tensorboard_writer(checkpoint: str) -> Any:
    """A writer into ``<expid>.tensorboard`` beside the checkpoint.

    Raises:
        InputError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "tensorboard: True needs TensorBoard: pip install '.[tensorboard]'"
        ) from None
    return SummaryWriter(str(Path(checkpoint).with_suffix(".tensorboard"))) if is_main() else None
