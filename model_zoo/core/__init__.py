"""What any model needs beside itself: data, training, the commands, serving.

The public surface, imported when it is first asked for (``Scorer`` needs torch only):

>>> from model_zoo.core import Scorer, load_experiment, run_experiment, write_submission
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_zoo.core.commands.config import load_experiment
    from model_zoo.core.commands.deployment import fold_experiment
    from model_zoo.core.commands.experiment import run_experiment
    from model_zoo.core.commands.submission import score_file, write_submission
    from model_zoo.core.errors import InputError
    from model_zoo.core.serving.scorer import Scorer

__all__ = [
    "InputError",
    "Scorer",
    "fold_experiment",
    "load_experiment",
    "run_experiment",
    "score_file",
    "write_submission",
]

_HOMES = {
    "InputError": "errors",
    "Scorer": "serving.scorer",
    "fold_experiment": "commands.deployment",
    "load_experiment": "commands.config",
    "run_experiment": "commands.experiment",
    "score_file": "commands.submission",
    "write_submission": "commands.submission",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
