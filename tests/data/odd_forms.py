"""A small raw data set, and the same rows as other writers store them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.encode import encode_dataset
from model_zoo.core.data.parquet import parquet_files
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.data.spec import DatasetSpec

SPLITS = ("train", "valid", "test")
ITEMS = [5, 1000, 7, 70_000, 12, 99]
Tables = dict[str, pa.Table]


def features(ids: str = "int") -> list[dict[str, Any]]:
    item = {"type": "categorical", "source": "item"}
    return [
        {"name": "user", "dtype": "int", "type": "meta"},
        {"name": "seq", "dtype": ids, "type": "meta"},
        {"name": "hour", "dtype": "int", "type": "categorical"},
        {"name": "is_new", "dtype": "int", "type": "categorical"},
        {"name": "price", "dtype": "float", "type": "numeric"},
        {"name": "item", "dtype": ids, **item},
        {"name": "brand", "dtype": "str", **item},
        {"name": "tags", "dtype": "str", "type": "sequence", "source": "item", "max_len": 3},
        {"name": "vec", "dtype": "float", "type": "embedding", "source": "item", "pretrain_dim": 2},
    ]


def spec(columns: list[dict[str, Any]] | None = None, **changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "dataset_id": "D",
            "data_root": "data",
            "data_format": "parquet",
            "rebuild_dataset": True,
            **{f"{split}_data": f"raw/{split}.parquet" for split in SPLITS},
            "item_info": "raw/item_info.parquet",
            "item_col": "item",
            "history_col": "seq",
            "feature_cols": columns or features(),
            "label_col": {"name": "label"},
            **changes,
        }
    )


def rows(count: int, start: int = 0) -> pa.Table:
    n = range(start, start + count)
    return pa.table(
        {
            "user": [k % 5 for k in n],
            "seq": [[ITEMS[(k + j) % 6] for j in range(k % 4)] for k in n],
            "item": [ITEMS[(3 * k + 1) % 5] for k in n],
            "hour": [None if k % 7 == 6 else k % 4 for k in n],
            "is_new": [k % 2 for k in n],
            "price": [float(k % 6) for k in n],
            "label": [float(k % 3 == 0) for k in n],
        }
    )


def plain_tables() -> Tables:
    info = pa.table(
        {
            "item": ITEMS,
            "brand": ["a", "b", None, "a", "c", "b"],
            "tags": [["x", "y"], [], ["y"], ["z", "x"], None, ["x"]],
            "vec": [[0.5 * k, 1.0] for k in range(6)],
        }
    )
    return {"train": rows(24), "valid": rows(12, 5), "test": rows(9, 3), "item_info": info}


def put(table: pa.Table, **columns: Any) -> pa.Table:
    """The table with columns replaced, or added."""
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


def write(tables: Tables) -> None:
    Path("raw").mkdir(exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, f"raw/{name}.parquet")


def encoded(dataset: DatasetSpec) -> dict[str, dict[str, list[Any]]]:
    """What a training on the raw set would read: the values of all encoded files."""
    check_dataset(dataset)
    made = encode_dataset(dataset, progress=False)
    check_dataset(made)
    files = {name: parquet_files(path) for name, path in made.sources().items()}
    return {
        name: pl.concat(map(_values, parts), how="vertical_relaxed").to_dict(as_series=False)
        for name, parts in files.items()
    }


def _values(file: Path) -> pl.DataFrame:
    frame = pl.read_parquet(file, glob=False)
    return frame.with_columns(
        pl.col(pl.Array).arr.to_list(), pl.col(pl.Int32, pl.UInt32, pl.Int64).cast(pl.Int64)
    ).with_columns(pl.col(pl.List(pl.Int32)).cast(pl.List(pl.Int64)))
