"""Vocabularies of raw columns, built and applied by FuxiCTR."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import polars as pl

from model_zoo.core.data.parquet import scan_plain
from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.errors import InputError

# Between the tokens of a list, where FuxiCTR wants one string; no token may contain it.
SEPARATOR = "\x1f"
# FuxiCTR's special tokens.
PADDING, UNKNOWN = "__PAD__", "__OOV__"
Vocabularies = dict[str, dict[str, list[Any]]]


def fit_vocabularies(dataset: DatasetSpec) -> Vocabularies:
    """Vocabularies of a raw data set: feature -> tokens and their ids.

    Row features are counted in the train rows; item features in the items that these rows
    name, as targets and in histories. Group ids (meta columns) must be told apart in every
    split, so their vocabularies are those of all splits.

    Raises:
        InputError: If a feature has no value at all in training.
    """
    rows, items = (_with_vocabulary(dataset.features(of_items=of)) for of in (False, True))
    meta = [column for column in dataset.meta_columns() if column.dtype == "str"]
    target, history = dataset.ids(dataset.item_col), dataset.ids(dataset.history_col)
    key = target.name
    train = scan_plain(dataset.train_data, _distinct([target, history, *rows, *meta]))
    seen = pl.concat(
        [train.select(key), train.select(pl.col(history.name).explode().alias(key))],
        how="vertical_relaxed",
    )
    item_info = scan_plain(dataset.item_info, _distinct([target, *items]))
    # One type for the join; text is String already.
    if target.dtype == "int":
        seen, item_info = (f.with_columns(pl.col(key).cast(pl.Int128)) for f in (seen, item_info))
    shown = seen.join(item_info, on=key, how="inner")
    every_split = pl.concat(
        [
            scan_plain(path, meta).select(_prepared(meta))
            for name, path in dataset.sources().items()
            if name != "item_info" and meta
        ]
        or [pl.LazyFrame()]
    )
    as_text = _read_as_text(dataset, [*rows, *items])
    frame = pl.concat(
        [
            train.select(_prepared([*rows, *meta], as_text)),
            shown.select(_prepared(items, as_text)),
        ],
        how="diagonal",
    )
    _require_tokens(dataset, frame, [*rows, *items])
    columns = [*meta, *rows, *items]
    vocabularies = _count_tokens(dataset, columns, frame, every_split)
    return _shared(dataset, columns, vocabularies, as_text)


def _distinct(features: list[FeatureSpec]) -> list[FeatureSpec]:
    return list({feature.name: feature for feature in features}.values())


def _count_tokens(
    dataset: DatasetSpec, columns: list[FeatureSpec], frame: pl.LazyFrame, meta: pl.LazyFrame
) -> dict[str, list[Any]]:
    """The tokens of each column by itself that occur often enough, in the order of their ids."""
    # FuxiCTR imports Ray, which only raw data needs.
    from fuxictr.preprocess import FeatureProcessor

    class Processor(FeatureProcessor):  # type: ignore[misc]
        """FuxiCTR cannot build a vocabulary without a single token; such columns have none."""

        def fit_meta_col(self, col: dict[str, Any], *counts: Any, **settings: Any) -> None:
            if _is_there(col, *counts, min_categr_count=1):
                super().fit_meta_col(col, *counts, **settings)

        def fit_categorical_col(self, col: dict[str, Any], *counts: Any, **settings: Any) -> None:
            if _is_there(col, *counts, **settings):
                super().fit_categorical_col(col, *counts, **settings)

        def fit_sequence_col(self, col: dict[str, Any], *counts: Any, **settings: Any) -> None:
            if _is_there(col, *counts, **settings):
                super().fit_sequence_col(col, *counts, **settings)

        def save_pickle(self, pickle_file: str) -> None:
            """Nobody reads it, and a class made here cannot be pickled."""

    with tempfile.TemporaryDirectory() as folder:
        processor = Processor(
            feature_cols=[_fuxictr_column(column) for column in columns],
            label_col=dataset.label_col.model_dump(),
            dataset_id=dataset.dataset_id,
            data_root=folder,
        )
        processor.fit(frame, meta_ddf=meta, min_categr_count=dataset.min_categr_count)
    tokens: dict[str, list[Any]] = {column.name: [] for column in columns}
    for name in tokens:
        tokenizer = processor.processor_dict.get(f"{name}::tokenizer")
        if tokenizer is not None:
            tokens[name] = [word for word in tokenizer.vocab if word not in (PADDING, UNKNOWN)]
    return tokens


def _is_there(
    column: dict[str, Any], statistics: dict[str, Any], *, min_categr_count: int, **_: Any
) -> bool:
    """Whether any token of a column is as frequent as it has to be."""
    least = column.get("min_categr_count", min_categr_count)
    counts = statistics["value_counts"]
    return any(count >= least for token, count in counts.items() if token != "")


def _shared(
    dataset: DatasetSpec,
    columns: list[FeatureSpec],
    tokens: dict[str, list[Any]],
    as_text: set[str],
) -> Vocabularies:
    """Vocabularies; columns that share an embedding have one, the owner's tokens first."""
    owners = {column.name: dataset.embedding_owner(column.name) for column in columns}
    merged: dict[str, dict[Any, None]] = {}
    for column in sorted(columns, key=lambda c: owners[c.name] != c.name):
        merged.setdefault(owners[column.name], {}).update(dict.fromkeys(tokens[column.name]))
    vocabularies = {}
    for column in columns:
        words: list[Any] = list(merged[owners[column.name]])
        if column.name in as_text and column.type != "sequence":
            words = [int(word) for word in words]
        vocabularies[column.name] = {
            "tokens": [*words, PADDING, UNKNOWN],
            "ids": [*range(1, len(words) + 1), 0, len(words) + 1],
        }
    return vocabularies


def _read_as_text(dataset: DatasetSpec, features: list[FeatureSpec]) -> set[str]:
    """Integer columns that share an embedding with a list: tokens of lists are text."""
    lists = {dataset.embedding_owner(f.name) for f in features if f.type == "sequence"}
    return {
        f.name for f in features if f.dtype == "int" and dataset.embedding_owner(f.name) in lists
    }


def _fuxictr_column(column: FeatureSpec) -> dict[str, Any]:
    settings = column.model_dump(exclude_none=True, exclude={"share_embedding"})
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


def _prepared(features: list[FeatureSpec], as_text: Collection[str] = ()) -> list[pl.Expr]:
    """Columns as FuxiCTR's tokenizers take them: no null, lists as one string."""
    expressions = []
    for feature in features:
        column = pl.col(feature.name)
        if feature.type == "sequence":
            column = column.list.eval(pl.element().cast(pl.String)).list.join(SEPARATOR)
        elif feature.name in as_text:
            column = column.cast(pl.String)
        if feature.type == "sequence" or feature.dtype == "str" or feature.name in as_text:
            column = column.fill_null("")
        expressions.append(column.alias(feature.name))
    return expressions
