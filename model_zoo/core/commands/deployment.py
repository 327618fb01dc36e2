"""What ``…core.commands.serving`` does: fold an experiment's checkpoint, export it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.commands.folding import fold_model, folded_path, require_folding
from model_zoo.core.commands.places import writing_experiment
from model_zoo.core.files import require_writable
from model_zoo.core.serving.export import SUFFIX, export_folded
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded


def fold_experiment(
    config_dir: str,
    expid: str,
    overrides: Sequence[str] = (),
    *,
    dtype: torch.dtype = torch.float32,
    tabulate_first_layer: bool = True,
) -> tuple[Experiment, FoldedFile]:
    """Fold an experiment's checkpoint.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        overrides: ``key=value`` strings that replace settings.
        dtype: Of the tables, as in :class:`model_zoo.core.model.Foldable`.
        tabulate_first_layer: As in the model's ``fold``.

    Returns:
        The experiment on integer data, and its folded model.

    Raises:
        InputError: If a setting, a file or the checkpoint is wrong.
    """
    raw = load_experiment(config_dir, expid, overrides)
    require_folding(raw, "fold and export")
    encoded, _ = prepare_dataset(raw, splits=())
    model = build_model(encoded, build_feature_map(encoded.params), gpu=-1)
    model.load_weights(model.checkpoint)
    return encoded, fold_model(
        model, raw.dataset, encoded, dtype=dtype, tabulate_first_layer=tabulate_first_layer
    )


def write_folded(
    config_dir: str, expid: str, overrides: Sequence[str] = (), **settings: Any
) -> Path:
    """Write ``<expid>.folded`` beside the checkpoint; a calibration map that is there stays.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        overrides: ``key=value`` strings that replace settings.
        **settings: As :func:`fold_experiment`.

    Raises:
        InputError: If a setting, a file or the checkpoint is wrong, or another process is
            writing this experiment.
    """
    experiment = load_experiment(config_dir, expid, overrides)
    with _writing(experiment):
        path = folded_path(experiment)
        require_writable([path])
        _, file = fold_experiment(config_dir, expid, overrides, **settings)
        if path.exists():
            before = load_folded(path)
            if before.checkpoint == file.checkpoint:
                file.calibration = before.calibration
        save_folded(path, file)
    return path


def export_experiment(
    config_dir: str, expid: str, overrides: Sequence[str] = (), *, kind: str, **settings: Any
) -> tuple[Path, float]:
    """Write the experiment's program for another runtime, beside the checkpoint.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        overrides: ``key=value`` strings that replace settings.
        kind: ``torch``, ``aoti`` or ``onnx``.
        **settings: As :func:`fold_experiment`.

    Returns:
        The file, and the largest difference of a probability from the folded model's.

    Raises:
        InputError: If a setting, a file or the checkpoint is wrong, something is missing that
            the format needs, the program differs from the model, or another process is writing
            this experiment.
    """
    experiment = load_experiment(config_dir, expid, overrides)
    with _writing(experiment):
        path = folded_path(experiment).with_suffix(SUFFIX[kind])
        require_writable([path])
        _, file = fold_experiment(config_dir, expid, overrides, **settings)
        return path, export_folded(file.folded, path, kind)


def _writing(experiment: Experiment) -> contextlib.AbstractContextManager[None]:
    """The experiment's lock, where its folder is; without one there is no checkpoint either."""
    if not experiment.folder.is_dir():
        return contextlib.nullcontext()
    return writing_experiment(experiment)
