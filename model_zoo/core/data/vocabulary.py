"""Vocabularies of raw columns, built and applied by FuxiCTR."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from model_zoo.core.data.schema import parquet_files
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.errors import InputError

# Between the tokens of a list, where FuxiCTR wants one string; no token may contain it.
SEPARATOR = "\x1f"
Vocabularies = dict[str, dict[str, list[Any]]]


def fit_vocabularies(dataset: DatasetSpec) -> Vocabularies:
    """Vocabularies of a raw data set: feature -> tokens and their ids.

    Row features are counted in the train rows; item features in the items that these rows
    name, as targets and in histories. Group ids (meta columns) must be told apart in every
    split, so their vocabularies are those of all splits.

    Raises:
        InputError: If a feature has no value at all in training.
    """
    # FuxiCTR imports Ray, which only raw data needs.
    from fuxictr.preprocess import FeatureProcessor

    rows, items = (_with_vocabulary(dataset.features(of_items=of)) for of in (False, True))
    meta = [column for column in dataset.meta_columns() if column.dtype == "str"]
    train = pl.scan_parquet(parquet_files(dataset.train_data))
    key, history = dataset.item_col, dataset.history_col
    seen = pl.concat([train.select(key), train.select(pl.col(history).explode().alias(key))])
    item_info = pl.scan_parquet(dataset.item_info)
    shown = seen.join(item_info, on=key, how="inner")
    every_split = pl.concat(
        [
            pl.scan_parquet(parquet_files(path)).select(_prepared(meta))
            for name, path in dataset.sources().items()
            if name != "item_info"
        ]
    )
    frame = pl.concat(
        [train.select(_prepared([*rows, *meta])), shown.select(_prepared(items))], how="diagonal"
    )
    _require_tokens(dataset, frame, [*rows, *items])
    with tempfile.TemporaryDirectory() as folder:
        processor = FeatureProcessor(
            feature_cols=[_fuxictr_column(column) for column in [*meta, *rows, *items]],
            label_col=dataset.label_col.model_dump(),
            dataset_id=dataset.dataset_id,
            data_root=folder,
        )
        processor.fit(frame, meta_ddf=every_split, min_categr_count=dataset.min_categr_count)
    vocabularies = {}
    for column in [*meta, *rows, *items]:
        vocabulary = processor.processor_dict[f"{column.name}::tokenizer"].vocab
        vocabularies[column.name] = {
            "tokens": list(vocabulary),
            "ids": [int(index) for index in vocabulary.values()],
        }
    return vocabularies


def _fuxictr_column(column: FeatureSpec) -> dict[str, Any]:
    settings = column.model_dump(exclude_none=True)
    return settings | ({"splitter": SEPARATOR} if column.type == "sequence" else {})


def _require_tokens(dataset: DatasetSpec, frame: pl.LazyFrame, features: list[FeatureSpec]) -> None:
    """FuxiCTR cannot build a vocabulary of nothing."""
    found = frame.select(
        (pl.col(f.name).is_not_null() & (pl.col(f.name).cast(pl.String) != "")).any()
        for f in features
    ).collect(engine="streaming")
    problems = [
        f"{dataset.train_data}: column '{name}' has no value in training; expected some"
        for name, any_value in zip(found.columns, found.row(0), strict=True)
        if not any_value
    ]
    if problems:
        raise InputError(problems)


class Encoder:
    """One raw column to ids, through FuxiCTR's tokenizer.

    Args:
        column: Specification of the raw column.
        vocabulary: Its tokens and their ids; the last id is for all other tokens, 0 is
            padding and a missing value.
    """

    def __init__(self, column: FeatureSpec, vocabulary: dict[str, list[Any]]) -> None:
        from fuxictr.preprocess.tokenizer import Tokenizer

        self.column = column
        self.tokenizer = Tokenizer(splitter=SEPARATOR, max_len=column.max_len or 0, padding="post")
        self.tokenizer.vocab = dict(zip(vocabulary["tokens"], vocabulary["ids"], strict=True))
        if column.type != "sequence":
            missing = "" if column.dtype == "str" else None
            self.tokenizer.vocab.setdefault(missing, 0)  # padding, not out of vocabulary

    def __call__(self, values: pl.Series) -> pl.Series:
        if self.column.type == "sequence":
            padded = self.tokenizer.encode_sequence(values.to_list())
            return pl.Series(values.name, padded, dtype=pl.Array(pl.Int32, self.column.max_len))
        return pl.Series(values.name, self.tokenizer.encode_category(values.to_list()), pl.Int32)


def encode_features(
    frame: pl.DataFrame,
    features: list[FeatureSpec],
    encoders: Mapping[str, Callable[[pl.Series], pl.Series]],
) -> list[pl.Series]:
    """The features of raw rows, encoded; those without an encoder stay as they are."""
    encoded = [feature for feature in features if feature.name in encoders]
    prepared = frame.select(_prepared(encoded))
    return [
        encoders[feature.name](prepared[feature.name])
        if feature.name in encoders
        else frame[feature.name]
        for feature in features
    ]


def _with_vocabulary(features: list[FeatureSpec]) -> list[FeatureSpec]:
    return [feature for feature in features if feature.type in ("categorical", "sequence")]


def _prepared(features: list[FeatureSpec]) -> list[pl.Expr]:
    """Columns as FuxiCTR's tokenizers take them: no null, lists as one string."""
    expressions = []
    for feature in features:
        column = pl.col(feature.name)
        if feature.type == "sequence":
            column = column.list.eval(pl.element().cast(pl.String)).list.join(SEPARATOR)
        if feature.type == "sequence" or feature.dtype == "str":
            column = column.fill_null("")
        expressions.append(column.alias(feature.name))
    return expressions
