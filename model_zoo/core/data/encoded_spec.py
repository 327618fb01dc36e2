"""The specification of an encoded data set: names of its columns, vocabularies as integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_zoo.core.data.spec import LENGTH_SUFFIX, DatasetSpec, FeatureSpec
from model_zoo.core.data.vocabulary import Vocabularies

ITEM_ROW = "item_row"


def item_row_column(dataset: DatasetSpec) -> str:
    """``item_row``, or a longer name where the data set has a column of that name."""
    name = ITEM_ROW
    while name in _names(dataset):
        name += "_"
    return name


def history_column(dataset: DatasetSpec) -> str:
    """The history's name in encoded files: longer where a column has that of its lengths."""
    name = dataset.history_col
    while name + LENGTH_SUFFIX in _names(dataset):
        name += "_"
    return name


def _names(dataset: DatasetSpec) -> set[str]:
    return {dataset.label_col.name, *(column.name for column in dataset.feature_cols)}


def encoded_spec(
    dataset: DatasetSpec, vocabulary: Vocabularies, targets: dict[str, Path]
) -> DatasetSpec:
    """Of a raw data set, once encoded.

    Args:
        dataset: The raw data set.
        vocabulary: What its ids were encoded with.
        targets: Its encoded files, by name.
    """
    item_row = item_row_column(dataset)
    columns = [
        FeatureSpec(name=item_row, type="meta", dtype="int"),
        FeatureSpec(name=history_column(dataset), type="meta", dtype="int"),
    ]
    for column in [*dataset.meta_columns(), *dataset.features(of_items=False)]:
        columns.append(_encoded_column(column, vocabulary))
    for column in dataset.features(of_items=True):
        columns.append(_encoded_column(column, vocabulary))
    return dataset.model_copy(
        update={
            "rebuild_dataset": False,
            "list_separator": None,
            "feature_cols": [c.model_copy(update={"splitter": None}) for c in columns],
            "item_col": item_row,
            "history_col": history_column(dataset),
            "item_info": str(targets["item_info"]),
            "train_data": str(targets["train"]),
            "valid_data": str(targets["valid"]),
            "test_data": str(targets["test"]) if "test" in targets else None,
        }
    )


def _encoded_column(column: FeatureSpec, vocabulary: Vocabularies) -> FeatureSpec:
    if column.name not in vocabulary:
        return column
    size = max(vocabulary[column.name]["ids"]) + 1
    update: dict[str, Any] = {"dtype": "int"}
    if column.type != "meta":
        update["vocab_size"] = size
    return column.model_copy(update=update)
