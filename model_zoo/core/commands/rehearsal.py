"""A model on made-up features, before any work: what its settings cannot do together shows here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from model_zoo import get_model
from model_zoo.core.commands.config import Experiment
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.training.processes import world_size

# They only take time here; what they need is found when the model itself is built.
_LEFT_OUT = {"compile": False, "tensorboard": False}


def rehearse(experiment: Experiment, build_feature_map: Callable[[Mapping[str, Any]], Any]) -> None:
    """Refuse settings with which the experiment's model cannot be built or trained.

    The model is built as for the data set, but on vocabularies of two ids: widths, heads and
    layers are what they will be, and no data is needed.

    Args:
        experiment: The experiment as configured.
        build_feature_map: Makes FuxiCTR's feature map of an experiment's parameters.

    Raises:
        InputError: If the model refuses a hyper-parameter, or a batch has too few rows.
    """
    dataset = _made_up(experiment.dataset)
    params = {**Experiment(dataset, experiment.run).params, **_LEFT_OUT}
    problems = []
    model_class = get_model(experiment.run.model)
    with _quiet():
        feature_map = build_feature_map(params)
        features = [f for f in dataset.features(of_items=True) if f.name in feature_map.features]
        widths = {f.name: f.pretrain_dim or f.max_len for f in features}
        vectors = {f.name for f in features if f.type in ("numeric", "embedding")}
        table = ItemTable(
            {
                name: torch.zeros(
                    (2, width) if width else 2,
                    dtype=torch.float32 if name in vectors else torch.int64,
                )
                for name, width in widths.items()
            }
        )
        try:
            model = model_class(feature_map, gpu=-1, item_table=table, **params)
        except ValueError as error:
            problems.append(str(error))
        else:
            problems += _too_few_rows(model, experiment.run.batch_size)
    if experiment.params["embedding_update"] == "lazy" and world_size() > 1:
        problems.append("embedding_update: lazy runs in one process; use dense")
    if problems:
        where = f"experiment '{experiment.run.model_id}'"
        raise InputError([f"{where}: {problem}" for problem in problems])


def require_device(gpu: int) -> None:
    """Refuse a device that is not there; without CUDA at all, the CPU takes its place.

    Raises:
        InputError: If CUDA is there, but not that device.
    """
    if gpu < -1:
        raise InputError(f"--gpu {gpu}: expected a device from 0 on, or -1 for the CPU")
    if torch.cuda.is_available() and gpu >= torch.cuda.device_count():
        raise InputError(f"--gpu {gpu}: expected 0..{torch.cuda.device_count() - 1}, or -1")


def _made_up(dataset: DatasetSpec) -> DatasetSpec:
    """The data set as if it were encoded, with as few ids as there can be."""
    columns = [
        column.model_copy(
            update={"dtype": "int" if column.dtype == "str" else column.dtype}
            | ({"vocab_size": 2} if column.type in ("categorical", "sequence") else {})
        )
        for column in dataset.feature_cols
    ]
    return dataset.model_copy(update={"feature_cols": columns, "rebuild_dataset": False})


def _too_few_rows(model: torch.nn.Module, batch_size: int) -> list[str]:
    normalised = any(
        isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()
    )
    least = 2 * world_size() if normalised or world_size() > 1 else 1
    if batch_size >= least:
        return []
    reason = "the model normalises over the rows of a batch" if normalised else "it is shared out"
    return [
        f"batch_size is {batch_size}, expected at least {least}: {reason} "
        f"({world_size()} process{'es' if world_size() > 1 else ''})"
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """FuxiCTR's news would go into the log of what ran before in this process."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
