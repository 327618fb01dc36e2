"""Two models that see no history: item popularity, and a logistic regression on the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from model_zoo.core.commands.config import Experiment, parse_overrides
from model_zoo.core.commands.experiment import prepare_dataset
from model_zoo.core.commands.score_files import write_zip
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.training.metrics import evaluate_metrics

PREDICTIONS = "prediction.zip"
GROUP = "user_id"
_Floats = npt.NDArray[np.float64]


@dataclass
class Baseline:
    """A fitted baseline.

    Attributes:
        result: Metrics on valid, and number of parameters.
        test: Click probabilities of the test rows; ``None`` without a test split.
    """

    result: dict[str, Any]
    test: _Floats | None

    def write_predictions(self, folder: Path) -> None:
        """Write the test rows' probabilities as a submission, into a folder that is made."""
        if self.test is not None:
            write_zip(folder / PREDICTIONS, [self.test], "Task2")


def fit_baseline(kind: str, experiment: Experiment, settings: Sequence[str]) -> Baseline:
    """Fit a baseline on the experiment's data set.

    Args:
        kind: ``popularity``: clicks on the item in train, as c / (c + 1), which has no log loss;
            ``logistic_regression``: L2-regularised, on the one-hot item id, all other features of
            the item (tags as their mean, vectors divided by the root of their mean squared norm)
            and the row features.
        experiment: Names the data set.
        settings: ``C=...`` of scikit-learn's regression; 1 if absent.
    """
    dataset = prepare_dataset(experiment)[0].dataset
    paths = [dataset.train_data, dataset.valid_data, dataset.test_data]
    train, valid, test = (None if path is None else pl.read_parquet(path) for path in paths)
    assert train is not None and valid is not None  # every data set has both
    label = dataset.label_col.name
    if kind == "popularity":
        scores = [_popularity(dataset, train, rows) for rows in (valid, test)]
        parameters, metrics = train[dataset.item_col].n_unique(), ["AUC"]
    else:
        items = _item_matrix(dataset)
        model = LogisticRegression(C=parse_overrides(settings).get("C", 1.0), max_iter=1000)
        model.fit(_matrix(dataset, items, train), train[label].to_numpy())
        scores = [
            None if rows is None else model.predict_proba(_matrix(dataset, items, rows))[:, 1]
            for rows in (valid, test)
        ]
        parameters, metrics = model.coef_.size + 1, ["AUC", "logloss"]
    groups = valid[GROUP].to_numpy() if GROUP in valid.columns else None
    found = evaluate_metrics(
        valid[label].to_numpy().astype(np.float64),
        scores[0],
        [*metrics, *(["gAUC", "avgAUC"] if groups is not None else [])],
        groups,
    )
    return Baseline({"metrics": found, "parameters": int(parameters)}, scores[1])


def _popularity(dataset: DatasetSpec, train: pl.DataFrame, rows: pl.DataFrame | None) -> Any:
    if rows is None:
        return None
    clicked = train.filter(pl.col(dataset.label_col.name) == 1)
    counts = clicked.group_by(dataset.item_col).len(name="clicks")
    joined = rows.select(dataset.item_col).join(
        counts, on=dataset.item_col, how="left", maintain_order="left"
    )
    clicks = joined["clicks"].fill_null(0).to_numpy().astype(np.float64)
    return clicks / (clicks + 1)


def _item_matrix(dataset: DatasetSpec) -> sparse.csr_matrix:
    """Features of all items, (I, width); row k is item k."""
    frame = pl.read_parquet(dataset.item_info)
    return sparse.hstack(
        [_columns(feature, frame) for feature in dataset.features(of_items=True)], format="csr"
    )


def _matrix(
    dataset: DatasetSpec, items: sparse.csr_matrix, rows: pl.DataFrame
) -> sparse.csr_matrix:
    """Features of the rows and their target items."""
    own = [_columns(feature, rows) for feature in dataset.features(of_items=False)]
    return sparse.hstack([items[rows[dataset.item_col].to_numpy()], *own], format="csr")


def _columns(feature: FeatureSpec, frame: pl.DataFrame) -> sparse.csr_matrix:
    """One feature as columns of a matrix; id 0 is padding."""
    values = frame[feature.name]
    if feature.type == "numeric":
        column = values.to_numpy().astype(np.float64)
        return sparse.csr_matrix(((column - column.mean()) / (column.std() or 1.0))[:, None])
    if feature.type == "embedding":
        vectors = np.array(values.to_list(), dtype=np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        return sparse.csr_matrix(vectors / (np.sqrt(np.mean(norms[norms > 0] ** 2)) or 1.0))
    lists = values if feature.type == "sequence" else values.reshape((len(values), 1))
    ids = np.array(lists.to_list(), dtype=np.int64)
    owners = np.repeat(np.arange(len(ids)), ids.shape[1])
    real = ids.ravel() != 0
    counts = np.maximum((ids != 0).sum(axis=1), 1)
    weights = (1.0 / counts)[owners]
    shape = (len(ids), int(feature.vocab_size or ids.max() + 1))
    return sparse.csr_matrix((weights[real], (owners[real], ids.ravel()[real])), shape=shape)
