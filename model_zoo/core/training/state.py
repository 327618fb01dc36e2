"""The full state of a training, on disk: the last two are kept."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_zoo.core.data.fingerprint import Fingerprint, differences
from model_zoo.core.errors import InputError
from model_zoo.core.files import through_link, write_aside
from model_zoo.core.saved import read_saved

# Settings that may differ between a training and its continuation.
FREE_TO_CHANGE = {
    "verbose",
    "epochs",
    "model_root",
    "checkpoint_minutes",
    "debug_mode",
    "cuda_graph",
}
# Likewise, where the content of what lies there is known to be the same.
PLACES = {
    *("data_root", "train_data", "valid_data", "test_data", "item_info"),
    *("oracle", "download_page"),
}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state; the one before stays as ``<path>.previous``."""
    path = through_link(path)
    with write_aside(path) as partial:
        torch.save(dict(state), partial)
        if path.exists():
            os.replace(path, previous(path))


def previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def load_state(
    path: Path, settings: Mapping[str, Any], data: dict[str, Fingerprint] | None = None
) -> dict[str, Any] | None:
    """The last readable state, or ``None`` where there is none at all.

    An unreadable state is reported in the log and the one before it is used.

    Args:
        path: Where :func:`save_state` wrote.
        settings: The settings of the training that is to go on.
        data: What it would read.

    Raises:
        InputError: If no state is readable, or its settings or data differ: each is named.
    """
    unreadable = []
    path = through_link(path)
    for file in (path, previous(path)):
        if not file.exists():
            continue
        try:
            state = _read_state(file)
        except InputError as error:
            unreadable += error.problems
            logging.warning(unreadable[-1])
            continue
        _refuse_other_data(file, state.get("data"), data)
        same_data = None not in (state.get("data"), data)
        free = FREE_TO_CHANGE | (PLACES if same_data else set())
        _refuse_other_settings(file, state["settings"], settings, free)
        return state
    if unreadable:
        raise InputError([*unreadable, "no state is left to resume from; train without --resume"])
    return None


def _read_state(file: Path) -> dict[str, Any]:
    state = read_saved(file, "state")
    if not isinstance(state, dict) or "settings" not in state:
        raise InputError(f"{file}: not a readable state: it has no settings")
    return state


def _refuse_other_data(
    file: Path, before: dict[str, Fingerprint] | None, now: dict[str, Fingerprint] | None
) -> None:
    problems = [] if before is None or now is None else differences(before, now)
    if problems:
        raise InputError(
            [
                *(f"{file}: {problem}" for problem in problems),
                "a training resumes on the data it began with: bring that back, or train "
                "without --resume",
            ]
        )


def _refuse_other_settings(
    file: Path, before: Mapping[str, Any], now: Mapping[str, Any], free: set[str]
) -> None:
    keys = sorted({*before, *now} - free)
    problems = [
        f"{file}: {key} was {before.get(key)!r} and is {now.get(key)!r}; "
        "a training resumes with the settings it began with"
        for key in keys
        if before.get(key) != now.get(key)
    ]
    if problems:
        raise InputError(problems)


def random_states() -> dict[str, Any]:
    """States of every generator that a training draws from, as plain values and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *map(float, rest)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Continue every generator where :func:`random_states` saw it."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, gauss_value = states["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((name, keys, int(position), int(has_gauss), gauss_value))
    torch.set_rng_state(states["torch"])
    # A training may go on where there are more devices, fewer, or none.
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)
