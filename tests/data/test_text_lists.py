"""Lists written as text in a raw data set are the lists that they say, or are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from model_zoo.core.data.csv_rows import csv_to_parquet
from model_zoo.core.data.encode import encode_dataset
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.facts import describe_dataset

ITEMS = ["bread", "früh stück", "a,b;c", "new 1"]
HISTORY = [[], ["bread"], ["a,b;c", "bread"], ["bread", "früh stück"]]
TAGS = [["food"], ["food", "late"], [], ["late", "un heard"]]
SIZES = [[7, 8], [9], [], [7]]
VECTORS = [[0.5, 1.0], [1.5, 2.0], [2.5, 3.0], [3.5, 4.0]]
MIXED = ["", "bread", '["a,b;c", "bread"]', "bread|früh stück"]  # of HISTORY


def joined(lists: list[list[Any]]) -> list[str]:
    return ["|".join(map(str, items)) for items in lists]


def column(name: str, dtype: str, type: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "type": type, **more}


def data_set(folder: Path, *, text: bool, **more: Any) -> DatasetSpec:
    """A raw data set of four rows a split, with its lists as such or as text."""
    folder.mkdir(exist_ok=True)
    as_text = joined if text else list
    rows = pl.DataFrame(
        {
            "item": [ITEMS[0], ITEMS[1]] * 2,
            "clicked": MIXED if text else HISTORY,
            "sizes": as_text(SIZES),
            "label": [1.0, 0.0] * 2,
        }
    )
    for split in ("train", "valid", "test"):
        rows.write_parquet(folder / f"{split}.parquet")
    items = {"item": ITEMS, "tags": as_text(TAGS), "vector": as_text(VECTORS)}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    columns = [
        column("clicked", "str", "meta"),
        column("item", "str", "categorical", source="item"),
        column("sizes", "int", "sequence", max_len=2),
        column("tags", "str", "sequence", source="item", max_len=2),
        column("vector", "float", "embedding", source="item", pretrain_dim=2),
    ]
    entry = {
        "dataset_id": "Shop",
        "data_root": str(folder / "data"),
        "data_format": "parquet",
        **{
            f"{split}_data": str(folder / f"{split}.parquet")
            for split in ("train", "valid", "test")
        },
        "item_info": str(folder / "items.parquet"),
        "rebuild_dataset": True,
        "item_col": "item",
        "history_col": "clicked",
        "feature_cols": columns,
        "label_col": {"name": "label"},
    }
    return DatasetSpec.model_validate(entry | more)


def encoded_tables(dataset: DatasetSpec) -> dict[str, pl.DataFrame]:
    check_dataset(dataset)
    encoded = encode_dataset(dataset, progress=False)
    check_dataset(encoded)
    return {name: pl.read_parquet(path) for name, path in encoded.sources().items()}


@pytest.mark.parametrize("per_column", [False, True])
def test_text_and_lists_are_the_same_data_set(tmp_path: Path, per_column: bool) -> None:
    expected = data_set(tmp_path / "lists", text=False)
    dataset = data_set(tmp_path / "text", text=True, list_separator="|")
    if per_column:  # FuxiCTR's key
        columns = [c.model_dump(exclude_none=True) for c in dataset.feature_cols]
        for entry in columns:
            entry |= {} if entry["name"] == "item" else {"splitter": "|"}
        dataset = data_set(tmp_path / "text", text=True, feature_cols=columns)
    tables, wanted = encoded_tables(dataset), encoded_tables(expected)
    for name, table in tables.items():
        assert table.equals(wanted[name])
    assert describe_dataset(dataset, progress=False) == describe_dataset(expected, progress=False)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            ["a|b", "c", "d||e", "f|"],
            "row 2: found 'd||e', expected a list with items separated by "
            "'|', or one in brackets: '' is not a text (2 such rows)",
        ),
        (["a", "b", "c", "[d, ..., e]"], "row 3: found '[d, ..., e]', expected a list"),
    ],
)
def test_a_cell_that_is_no_list_is_refused(tmp_path: Path, cells: list[str], expected: str) -> None:
    dataset = data_set(tmp_path, text=True, list_separator="|")
    items = pl.read_parquet(dataset.item_info).with_columns(pl.Series("tags", cells))
    items.write_parquet(dataset.item_info)
    with pytest.raises(InputError) as error:
        check_dataset(dataset)
    assert f"{dataset.item_info}: column 'tags', {expected}" in str(error.value)


def test_text_without_a_separator_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_dataset(data_set(tmp_path, text=True))
    assert "column 'tags' has type String; expected lists of text; lists written as text need " in (
        str(error.value)
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"list_separator": "a"}, "'a' cannot separate items"),
        ({"list_separator": "|", "rebuild_dataset": False}, "list_separator and splitter need"),
    ],
)
def test_a_wrong_separator(tmp_path: Path, key: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        data_set(tmp_path, text=False, **key)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.TSV.gz"])
def test_rows_to_score(tmp_path: Path, name: str) -> None:
    """With a separator declared no other mark separates, in rows to score too."""
    dataset = data_set(tmp_path, text=True, list_separator="|")
    rows = pl.read_parquet(dataset.train_data)
    separator = "\t" if "TSV" in name else ","
    text = rows.write_csv(separator=separator).encode()
    source = tmp_path / name
    source.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    csv_to_parquet(source, tmp_path / "rows.parquet", dataset)
    read = pl.read_parquet(tmp_path / "rows.parquet")
    assert read["clicked"].to_list() == HISTORY
    assert read["sizes"].to_list() == SIZES
    wrong = rows.with_columns(sizes=pl.lit("7^8"))
    source.write_bytes(wrong.write_csv(separator=separator).encode())
    if name == "rows.csv":
        with pytest.raises(InputError, match="found '7\\^8', expected a list with items separated"):
            csv_to_parquet(source, tmp_path / "rows.parquet", dataset)
    else:
        with pytest.raises(InputError, match=f"{name}: not a readable csv file"):
            csv_to_parquet(source, tmp_path / "rows.parquet", dataset)


def test_the_separator_belongs_to_the_vocabularies(tmp_path: Path) -> None:
    dataset = data_set(tmp_path, text=True, list_separator="|")
    encode_dataset(dataset, progress=False)
    state = json.loads((tmp_path / "data" / "Shop" / "encoding.json").read_text())
    assert state["configuration"]["list_separator"] == "|"
    changed = data_set(tmp_path, text=True, list_separator="/")
    with pytest.raises(InputError, match="list_separator was \\|, is /"):
        encode_dataset(changed, progress=False)
