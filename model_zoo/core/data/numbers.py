"""Statistics of numeric features over the train rows: what a model standardises them by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from model_zoo.core.data.parquet import parquet_files, plain_pieces, scan_plain
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.errors import InputError

Floats = npt.NDArray[np.float64]
_COUNT = "\x00count"  # of an item's occurrences; no column has this name

# Feature -> ``center``, ``spread`` and ``missing``: a number x becomes (x - center) / spread, or
# 0 where the spread is 0, and a missing one counts as ``missing``. All are of the raw scale.
Numbers = dict[str, dict[str, float]]


@dataclass
class Moments:
    """Count, mean, deviation and bounds of numbers that come in pieces (Chan et al., 1983).

    They are taken about the first number, and each piece is centred before it is squared: seconds
    since 1970 lose nothing.
    """

    count: float = 0.0
    least: float = np.inf
    most: float = -np.inf
    _first: float = field(default=0.0, repr=False)
    _mean: float = field(default=0.0, repr=False)  # of x - first
    _squares: float = field(default=0.0, repr=False)  # Σ (x - mean)²

    def add(self, values: Floats, counts: Floats | None = None) -> None:
        """Take in numbers (n,), each once or as often as ``counts`` (n,) says."""
        weights = np.ones_like(values) if counts is None else counts
        count = float(weights.sum())
        if not count:
            return
        if not self.count:
            self._first = float(values[0])
        shifted = values - self._first
        mean = float(np.average(shifted, weights=weights))
        delta, total = mean - self._mean, self.count + count
        self._squares += float((weights * (shifted - mean) ** 2).sum())
        self._squares += delta**2 * self.count * count / total
        self._mean += delta * count / total
        self.count = total
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))

    @property
    def mean(self) -> float:
        return self._first + self._mean

    @property
    def deviation(self) -> float:
        """Of the whole population, as scikit-learn's; exactly 0 if all numbers are equal."""
        if not self.least < self.most:
            return 0.0
        return float(np.sqrt(self._squares / self.count))


def fit_numbers(dataset: DatasetSpec) -> Numbers:
    """Statistics of the numeric features of a checked data set, raw or encoded.

    Row features are taken from the train rows, item features from the items of these rows, as
    often as they occur as target and in histories. They become mean and deviation, or for
    ``normalizer: MinMaxScaler`` minimum and range. The same files give the same numbers, to the
    last bit.

    Raises:
        InputError: If a feature has no number at all in training.
    """
    rows, items = (numeric_features(dataset, of_items=of) for of in (False, True))
    moments = row_moments(dataset.train_data, rows) | _item_moments(dataset, items)
    problems = [
        f"{dataset.train_data}: column '{name}' has no value in training; expected some"
        for name, found in moments.items()
        if not found.count
    ]
    if problems:
        raise InputError(problems)
    return {feature.name: _scale(feature, moments[feature.name]) for feature in [*rows, *items]}


def row_moments(path: str, features: list[FeatureSpec], *, skip: int = 0) -> dict[str, Moments]:
    """Moments of columns of a file or folder, nulls left out, in bounded memory.

    Args:
        path: The file or folder.
        features: The columns.
        skip: How many rows at the beginning do not count.
    """
    moments = {feature.name: Moments() for feature in features}
    for file in parquet_files(path) if moments else []:
        for _, piece in plain_pieces(file, features):
            counted = piece.slice(min(skip, len(piece)))
            skip -= len(piece) - len(counted)
            for name, found in moments.items():
                found.add(_floats(counted[name]))
    return moments


def moments_of_files(dataset: DatasetSpec) -> dict[str, dict[str, Moments]]:
    """Moments of the numeric features, by feature and file: the splits, or item_info's items."""
    found: dict[str, dict[str, Moments]] = {}
    for name, path in dataset.sources().items():
        of_items = name == "item_info"
        padding = 1 if of_items and not dataset.rebuild_dataset else 0
        features = numeric_features(dataset, of_items=of_items)
        for feature, moments in row_moments(path, features, skip=padding).items():
            found.setdefault(feature, {})[name] = moments
    return found


def _item_moments(dataset: DatasetSpec, features: list[FeatureSpec]) -> dict[str, Moments]:
    names = [feature.name for feature in features]
    if not names:
        return {}
    key = dataset.item_col
    target, history = dataset.ids(key), dataset.ids(dataset.history_col)
    others = [feature for feature in features if feature.name != key]
    items = scan_plain(dataset.item_info, [target, *others]).collect()
    train = scan_plain(dataset.train_data, [target, history])
    kind = items.schema[key]
    counts = (
        pl.concat(
            [
                train.select(pl.col(key).cast(kind)),
                train.select(pl.col(dataset.history_col).explode().cast(kind).alias(key)),
            ]
        )
        .group_by(key)
        .len(_COUNT)
        .collect(engine="streaming")
    )
    shown = items.join(counts, on=key, how="inner", maintain_order="left")
    if not dataset.rebuild_dataset:
        shown = shown.filter(pl.col(key) != 0)  # padding
    moments = {}
    for name in names:
        known = shown.filter(pl.col(name).is_not_null())
        moments[name] = Moments()
        moments[name].add(_floats(known[name]), _floats(known[_COUNT]))
    return moments


def numeric_features(dataset: DatasetSpec, *, of_items: bool) -> list[FeatureSpec]:
    """The active numeric features of rows, or of items."""
    return [f for f in dataset.features(of_items=of_items) if f.type == "numeric"]


def _floats(values: pl.Series) -> Floats:
    numbers: Floats = values.drop_nulls().cast(pl.Float64).to_numpy()
    return numbers


def _scale(feature: FeatureSpec, found: Moments) -> dict[str, float]:
    missing = found.mean if feature.fill_na is None else float(feature.fill_na)
    if feature.normalizer == "MinMaxScaler":
        center, spread = found.least, found.most - found.least
    else:
        center, spread = found.mean, found.deviation
    return {"center": center, "spread": spread, "missing": missing}


class NumberEncoder:
    """A raw numeric column as float64, with a number for each missing one.

    Args:
        column: Specification of the column.
        numbers: Statistics of the data set.
    """

    def __init__(self, column: FeatureSpec, numbers: Numbers) -> None:
        self.column = column
        # FuxiCTR fills with 0 where nothing else is said.
        self.missing = numbers.get(column.name, {"missing": column.fill_na or 0.0})["missing"]

    def __call__(self, values: pl.Series) -> pl.Series:
        return values.cast(pl.Float64).fill_null(self.missing)


def factor_of(scale: dict[str, float]) -> float:
    """What (x - center) is multiplied by; a number that was constant in training says nothing."""
    return 1.0 / scale["spread"] if scale["spread"] else 0.0
