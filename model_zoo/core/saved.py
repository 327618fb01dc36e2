"""Files that ``torch.save`` wrote: tensors and plain values are read, nothing is executed."""

from __future__ import annotations

import os
import pickle
import struct
from typing import Any

import torch

from model_zoo.core.errors import InputError, first_line

# What torch.load raises at a changed byte, by where in the file that is.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, pickle.UnpicklingError, struct.error),
)


def read_saved(path: str | os.PathLike[str], kind: str, device: str | torch.device = "cpu") -> Any:
    """What a file holds.

    Args:
        path: The file.
        kind: What it should be, for the message.
        device: Where its tensors go.

    Raises:
        FileNotFoundError: It is not there.
        InputError: It is damaged, or no such file.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{path}: not a readable {kind}: {first_line(error)}") from None
