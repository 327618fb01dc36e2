"""Rows of a data set through a folded model, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model_zoo.core.commands.config import Experiment
from model_zoo.core.data.block import LENGTH_SUFFIX
from model_zoo.core.data.loader import StreamingLoader
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.QIN.folded import FoldedQIN


class Scored(NamedTuple):
    """A batch that was scored.

    Attributes:
        batch: As the loader gave it.
        logit: (B,)
        weight: Attention weight of each history item of the batch, (T,).
    """

    batch: Mapping[str, Tensor]
    logit: Tensor
    weight: Tensor


def open_rows(
    experiment: Experiment, feature_map: Any, path: str | Path, *, split: str = "test"
) -> StreamingLoader:
    """A checked split as batches in file order."""
    return StreamingLoader(
        feature_map,
        path,
        split=split,
        batch_size=experiment.run.batch_size,
        dataset=experiment.dataset,
        max_len=experiment.run.max_len,
    )


def score_rows(
    folded: FoldedQIN, loader: StreamingLoader, dataset: DatasetSpec, *, progress: bool = True
) -> Iterator[Scored]:
    """Score batch after batch.

    Args:
        folded: The model, on its device.
        loader: The rows.
        dataset: The data set on integer data.
        progress: Show a progress bar, if standard output is a terminal.
    """
    device = folded.vectors.device
    with (
        torch.inference_mode(),
        tqdm(
            total=loader.num_samples,
            desc="Scoring",
            unit=" rows",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):
        for batch in loader:
            ids = {
                name: batch[name].to(device, non_blocking=True)
                for name in (
                    dataset.item_col,
                    dataset.history_col,
                    dataset.history_col + LENGTH_SUFFIX,
                    *(feature.name for feature in folded.row_features),
                )
            }
            values = {n: v if v.dtype.is_floating_point else v.long() for n, v in ids.items()}
            logit, weight = folded.rows(
                values[dataset.item_col],
                values[dataset.history_col],
                values[dataset.history_col + LENGTH_SUFFIX],
                values,
            )
            yield Scored(batch, logit, weight)
            bar.update(len(logit))


def logits_and_labels(
    folded: FoldedQIN, loader: StreamingLoader, dataset: DatasetSpec, *, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of all rows, (n,) each, float64."""
    logits, labels = [], []
    for scored in score_rows(folded, loader, dataset, progress=progress):
        logits.append(scored.logit.double().cpu().numpy())
        labels.append(scored.batch[dataset.label_col.name].double().numpy())
    return np.concatenate(logits), np.concatenate(labels)
