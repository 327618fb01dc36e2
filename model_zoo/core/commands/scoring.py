"""Rows of a data set through a trained model, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model_zoo.core.commands.config import Experiment
from model_zoo.core.data.loader import StreamingLoader
from model_zoo.core.data.spec import LENGTH_SUFFIX, DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedModel
from model_zoo.core.training.origins import origin_of

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class ScoreBatch:
    """How batches are scored.

    Attributes:
        score: A batch as the loader gives it -> logits (B,), and the attention weight of each of
            its history items (T,), which a model that does not fold does not say.
        origin: Says of a batch what makes a logit infinite or NaN.
    """

    score: Callable[[Batch], tuple[Tensor, Tensor | None]]
    origin: Callable[[Batch], str]


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

    def values_of(batch: Batch) -> dict[str, Tensor]:
        ids = {name: batch[name].to(device, non_blocking=True) for name in names}
        return {n: v if v.dtype.is_floating_point else v.long() for n, v in ids.items()}

    def score(batch: Batch) -> tuple[Tensor, Tensor]:
        values = values_of(batch)
        return folded.rows(
            values[dataset.item_col], values[dataset.history_col], values[length_col], values
        )

    def origin(batch: Batch) -> str:
        values = values_of(batch)
        broken = [f.name for f in folded.row_features if not f(values[f.name]).isfinite().all()]
        if broken:
            return f"the first numbers that are not come from feature '{broken[0]}'"
        return "no feature of the rows alone makes it"

    return ScoreBatch(score, origin)


def by_model(model: Any) -> ScoreBatch:
    """Scores of a model that does not fold, through its own forward pass."""
    model.eval()

    def score(batch: Batch) -> tuple[Tensor, None]:
        output = model(batch)
        if "logit" in output:
            return output["logit"].squeeze(1), None
        # In float64 the way to the logit and back loses nothing that float32 has.
        return torch.logit(output["y_pred"].double().squeeze(1), eps=1e-12), None

    return ScoreBatch(score, partial(origin_of, model))


def score_rows(
    score: ScoreBatch,
    loader: StreamingLoader,
    *,
    source: str | Path | None = None,
    progress: bool = True,
) -> Iterator[Scored]:
    """Score batch after batch.

    Args:
        score: :func:`by_folded` or :func:`by_model`.
        loader: The rows.
        source: The user's file of these rows, for messages; ``None``: the loader's.
        progress: Show a progress bar, if standard output is a terminal.

    Raises:
        InputError: If a logit is not finite: names its row, and the feature, weights or layer
            that it comes from.
    """
    start = 0
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
            logit, weight = score.score(batch)
            wrong = (~logit.isfinite()).nonzero()
            if len(wrong):
                row, found = start + int(wrong[0]), float(logit[wrong[0]])
                raise InputError(
                    f"{source or loader.path}: row {row}: found the score {found}, expected a "
                    f"finite number ({len(wrong)} such rows in its batch): {score.origin(batch)}"
                )
            start += len(logit)
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
