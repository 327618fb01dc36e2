"""A trained model becomes a folded file's content: the model and the ids of its data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from model_zoo import folding_models, get_model
from model_zoo.core.commands.config import Experiment
from model_zoo.core.data.encode import read_numbers, read_vocabularies
from model_zoo.core.data.encoded_files import item_keys
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.files import sha256
from model_zoo.core.folded import FoldedModel
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import OUT_OF_VOCABULARY, Ids
from model_zoo.core.training.history import read_evaluations


def folded_path(experiment: Experiment) -> Path:
    """``<model_root>/<dataset_id>/<expid>.folded``."""
    return experiment.folder / f"{experiment.run.model_id}.folded"


def require_folding(experiment: Experiment, what: str) -> None:
    """Refuse what only a model that folds can do.

    Raises:
        InputError: If the experiment's model has no folded form.
    """
    name = experiment.run.model
    if not hasattr(get_model(name), "fold"):
        raise InputError(
            f"experiment '{experiment.run.model_id}': {what}: model {name} has no folded form; "
            f"models that have one: {', '.join(folding_models())}"
        )


def fold_model(model: Any, raw: DatasetSpec, encoded: Experiment, **settings: Any) -> FoldedFile:
    """Fold a trained model together with the ids of its data set.

    Args:
        model: The model, with the weights of its checkpoint.
        raw: The data set as configured.
        encoded: The experiment on integer data.
        **settings: As the model's ``fold``.

    Raises:
        InputError: If a weight of the folded model is not finite.
    """
    folded = model.fold(**settings)
    broken = [name for name, t in folded.state_dict().items() if not t.isfinite().all()]
    if broken:
        raise InputError(
            f"{model.checkpoint}: found numbers that are not finite in {', '.join(broken[:3])} of "
            "the folded model, expected finite weights and inputs: its training diverged"
        )
    ids = Ids(item_col=raw.item_col)
    if raw.rebuild_dataset:
        ids = _raw_ids(raw, folded.num_items)
        add_unknown(folded, ids)
    return FoldedFile(
        folded,
        ids,
        encoded.run.max_len,
        checkpoint=sha256([model.checkpoint]),
        metrics=_best_evaluation(model),
    )


def add_unknown(folded: FoldedModel, ids: Ids) -> None:
    """Give the tables the item that no vocabulary has, where the data set has a rule for it.

    Its id is out of vocabulary, the rest is missing.
    """
    if ids.unknown is None:
        return
    oov = torch.tensor([ids.vocabularies[ids.item_col][OUT_OF_VOCABULARY]])
    zeros = folded.vectors.new_zeros(1, folded.dim)
    absent = ids.absent(folded.item_features, 1)
    unknown = folded.encode({ids.item_col: oov, **absent}, zeros)
    for name, table in folded.grown(ids.unknown + 1).items():
        folded.register_buffer(name, table)
    folded.write_items(torch.tensor([ids.unknown]), unknown)
    folded.num_items = ids.unknown + 1


def _best_evaluation(model: Any) -> dict[str, float]:
    """The metrics of the training's best evaluation on valid; none if it left none."""
    evaluations = read_evaluations(model.history_path)
    values = [model._monitor.get_value(evaluation) for evaluation in evaluations]
    if not any(map(math.isfinite, values)):
        return {}
    best = min(values) if model._monitor_mode == "min" else max(values)
    return {name: evaluations[values.index(best)][name] for name in model.validation_metrics}


def _raw_ids(dataset: DatasetSpec, num_items: int) -> Ids:
    features = [f for of_items in (True, False) for f in dataset.features(of_items=of_items)]
    names = {feature.name for feature in features}  # others, such as users, are for metrics
    vocabularies = {
        name: dict(zip(pairs["tokens"], pairs["ids"], strict=True))
        for name, pairs in read_vocabularies(dataset).items()
        if name in names
    }
    return Ids(
        item_col=dataset.item_col,
        rows={key: row for row, key in enumerate(item_keys(dataset), start=1)},
        unknown=num_items if dataset.item_col in vocabularies else None,
        vocabularies=vocabularies,
        missing={n: s["missing"] for n, s in read_numbers(dataset).items() if n in names},
        max_lens={f.name: f.max_len for f in features if f.type == "sequence" and f.max_len},
    )
