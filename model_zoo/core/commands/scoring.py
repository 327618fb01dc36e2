"""Rows of a data set through a trained model, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from model_zoo.core.folded import FoldedModel

Batch = Mapping[str, Tensor]
# A batch as the loader gives it -> logits (B,), and the attention weight of each of its history
# items (T,), which a model that does not fold does not say.
ScoreBatch = Callable[[Batch], tuple[Tensor, Tensor | None]]


class Scored(NamedTuple):
    """A batch that was scored.

    Attributes:
        batch: As the loader gave it.
        logit: (B,)
        weight: Attention weight of each history item of the batch, (T,), or ``None``.
    """

    batch: Batch
    logit: Tensor
    weight: Tensor | None


def open_rows(
    experiment: Experiment,
    feature_map: Any,
    path: str | Path,
    *,
    split: str = "test",
    labelled: bool = False,
) -> StreamingLoader:
    """A checked split as batches in file order; without ``labelled`` no label is looked at."""
    return StreamingLoader(
        feature_map,
        path,
        split=split,
        batch_size=experiment.run.batch_size,
        dataset=experiment.dataset,
        max_len=experiment.run.max_len,
        inputs_only=not labelled,
    )


def by_folded(folded: FoldedModel, dataset: DatasetSpec) -> ScoreBatch:
    """Scores of a folded model, on its device.

    Args:
        folded: The model.
        dataset: The data set on integer data.
    """
    device = folded.vectors.device
    length_col = dataset.history_col + LENGTH_SUFFIX
    names = [dataset.item_col, dataset.history_col, length_col]
    names += [feature.name for feature in folded.row_features]

    def score(batch: Batch) -> tuple[Tensor, Tensor]:
        ids = {name: batch[name].to(device, non_blocking=True) for name in names}
        values = {n: v if v.dtype.is_floating_point else v.long() for n, v in ids.items()}
        return folded.rows(
            values[dataset.item_col], values[dataset.history_col], values[length_col], values
        )

    return score


def by_model(model: Any) -> ScoreBatch:
    """Scores of a model that does not fold, through its own forward pass."""
    model.eval()

    def score(batch: Batch) -> tuple[Tensor, None]:
        output = model(batch)
        if "logit" in output:
            return output["logit"].squeeze(1), None
        # In float64 the way to the logit and back loses nothing that float32 has.
        return torch.logit(output["y_pred"].double().squeeze(1), eps=1e-12), None

    return score


def score_rows(
    score: ScoreBatch, loader: StreamingLoader, *, progress: bool = True
) -> Iterator[Scored]:
    """Score batch after batch.

    Args:
        score: :func:`by_folded` or :func:`by_model`.
        loader: The rows.
        progress: Show a progress bar, if standard output is a terminal.
    """
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
            logit, weight = score(batch)
            yield Scored(batch, logit, weight)
            bar.update(len(logit))


def logits_and_labels(
    score: ScoreBatch, loader: StreamingLoader, dataset: DatasetSpec, *, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of all rows, (n,) each, float64."""
    logits, labels = [], []
    for scored in score_rows(score, loader, progress=progress):
        logits.append(scored.logit.double().cpu().numpy())
        labels.append(scored.batch[dataset.label_col.name].double().numpy())
    return np.concatenate(logits), np.concatenate(labels)
