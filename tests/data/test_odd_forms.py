"""The same rows in every form that writers give them encode to the same values."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model_zoo.core.data.loader import make_loader
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.facts import describe_dataset
from tests.conftest import feature_map
from tests.data.odd_forms import (
    SPLITS,
    Tables,
    encoded,
    features,
    plain_tables,
    put,
    rows,
    spec,
    write,
)

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        write(plain_tables())
        values = encoded(spec())
        return {"encoded": values, "facts": describe_dataset(spec(), progress=False)}


def in_splits(change: Callable[[pa.Table], pa.Table]) -> Callable[[Tables], Tables]:
    return lambda tables: tables | {split: change(tables[split]) for split in SPLITS}


def cast(name: str, dtype: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: put(table, **{name: table[name].cast(dtype)})


def in_items(change: Callable[[pa.Table], pa.Table]) -> Callable[[Tables], Tables]:
    return lambda tables: tables | {"item_info": change(tables["item_info"])}


def fixed(name: str, width: int, dtype: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    """A two-dimensional array of a fixed width, nulls where a list is shorter."""

    def change(table: pa.Table) -> pa.Table:
        lists = [(v or []) + [None] * (width - len(v or [])) for v in table[name].to_pylist()]
        return put(table, **{name: pa.array(lists, pa.list_(dtype, width))})

    return change


def dictionary(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: put(table, **{name: table[name].dictionary_encode()})


def decimals(name: str, scale: int) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = [None if v is None else Decimal(int(v)) for v in table[name].to_pylist()]
        return put(table, **{name: pa.array(values, pa.decimal128(20, scale))})

    return change


# Each column in another form; an encoding takes long, so several at once.
FORMS: dict[str, list[Callable[[Tables], Tables]]] = {
    "narrow, fixed, boolean, category": [
        in_splits(cast("item", pa.int32())),
        in_splits(cast("seq", pa.list_(pa.int32()))),
        in_splits(dictionary("hour")),
        in_splits(cast("is_new", pa.bool_())),
        in_splits(cast("label", pa.bool_())),
        in_splits(decimals("price", 2)),
        in_items(dictionary("brand")),
        in_items(fixed("tags", 2, pa.string())),
        in_items(cast("vec", pa.list_(pa.float32(), 2))),
    ],
    "unsigned, large, half": [
        in_splits(cast("item", pa.uint64())),
        in_splits(cast("seq", pa.large_list(pa.uint64()))),
        in_splits(dictionary("user")),
        in_splits(cast("hour", pa.uint8())),
        in_splits(cast("label", pa.int8())),
        in_splits(cast("price", pa.uint8())),
        in_items(dictionary("item")),
        in_items(cast("brand", pa.large_string())),
        in_items(cast("tags", pa.large_list(pa.large_string()))),
        in_items(cast("vec", pa.list_(pa.float16()))),
    ],
    "decimals, lists of a fixed length with padding, another order": [
        in_splits(decimals("item", 0)),
        in_splits(decimals("user", 0)),
        in_splits(decimals("label", 0)),
        in_splits(fixed("seq", 4, pa.int32())),
        in_splits(lambda table: table.select(table.column_names[::-1])),
        in_items(decimals("item", 0)),
    ],
    "dictionaries of integers, unsigned item_info": [
        in_splits(dictionary("item")),
        in_items(cast("item", pa.uint64())),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_changes_no_value(form: str, expected: dict[str, Any]) -> None:
    tables = plain_tables()
    for change in FORMS[form]:
        tables = change(tables)
    write(tables)
    assert encoded(spec()) == expected["encoded"]
    assert describe_dataset(spec(), progress=False) == expected["facts"]


def test_parts_of_a_folder_may_differ(expected: dict[str, Any]) -> None:
    """Integer widths, labels, kinds of lists, empty parts, partitions, other files."""
    tables = plain_tables()
    write(tables)
    train = tables["train"]
    narrow = train.slice(8, 8)
    kinds = {"item": pa.int32(), "hour": pa.uint64(), "label": pa.int32(), "price": pa.float32()}
    for name, dtype in kinds.items():
        narrow = cast(name, dtype)(narrow)
    parts = {
        "date=2025-01-30/part-0": train.slice(0, 8),
        "date=2025-01-31/hour=1/part-0": narrow.select(narrow.column_names[::-1]),
        "date=2025-01-31/hour=2/part-0": put(
            train.slice(0, 0), seq=pa.array([], pa.list_(pa.null()))
        ),
        "part-3": cast("label", pa.bool_())(train.slice(16)),
        "_temporary/part-9": train,
        ".hidden/part-9": train,
        "_part-9": train,
        "._part-3": train,
    }
    for name, table in parts.items():
        file = Path("raw/train", f"{name}.parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
    Path("raw/train/_SUCCESS").write_text("")
    Path("raw/train/._part-4.parquet").write_bytes(b"no parquet")
    dataset = spec(train_data="raw/train")
    assert encoded(dataset) == expected["encoded"]
    assert describe_dataset(dataset, progress=False) == expected["facts"]


def test_a_part_whose_histories_are_all_empty() -> None:
    write(plain_tables())
    empty = rows(8)
    Path("raw/train").mkdir()
    pq.write_table(rows(24), "raw/train/a.parquet")
    values = []
    for kind in (pa.int64(), pa.null()):
        part = put(empty, seq=pa.array([[]] * 8, pa.list_(kind)))
        pq.write_table(part, "raw/train/b.parquet")
        values.append(encoded(spec(train_data="raw/train", data_root=f"data{kind}")))
    assert values[0] == values[1]


def test_a_folder_of_another_kind_in_a_folder_of_parts() -> None:
    write(plain_tables())
    Path("raw/train/old").mkdir(parents=True)
    for name in ("a", "old/b"):
        pq.write_table(rows(24), f"raw/train/{name}.parquet")
    with pytest.raises(InputError, match=r"raw/train/old: a folder with parquet files"):
        check_dataset(spec(train_data="raw/train"))


def test_a_part_that_is_gone_leaves_no_encoded_rows() -> None:
    write(plain_tables())
    Path("raw/test").mkdir()
    for k in range(2):
        pq.write_table(rows(6, k), f"raw/test/{k}.parquet")
    dataset = spec(test_data="raw/test")
    assert len(encoded(dataset)["test"]["label"]) == 12
    Path("raw/test/1.parquet").unlink()
    assert encoded(dataset)["test"]["hour"] == encoded(spec())["train"]["hour"][:6]


def test_ids_beyond_signed_integers() -> None:
    """Unsigned 64-bit ids in one column, signed ones of the same items in another."""
    tables = plain_tables()
    high = {99: 2**63 + 9}

    def raised(table: pa.Table) -> pa.Table:
        ids = [high.get(k, k) for k in table["item"].to_pylist()]
        return put(table, item=pa.array(ids, pa.uint64()))

    write(tables | {"item_info": raised(tables["item_info"])})
    with pytest.raises(InputError, match="found 99, expected an item of"):
        encoded(spec())
    for split in SPLITS:
        tables[split] = tables[split].filter(
            pa.array([99 not in ids for ids in tables[split]["seq"].to_pylist()])
        )
    write(tables | {"item_info": raised(tables["item_info"])})
    unsigned = encoded(spec())
    write(tables)
    assert encoded(spec(data_root="signed")) == unsigned


def test_columns_with_names_that_the_code_uses(expected: dict[str, Any]) -> None:
    names = {"hour": "row", "is_new": "item_row", "price": "seq_length", "user": "rows"}
    names |= {"brand": "label_", "tags": "clicks", "vec": "value"}
    columns = [{**c, "name": names.get(c["name"], c["name"])} for c in features()]
    write(
        {
            name: table.rename_columns([names.get(c, c) for c in table.column_names])
            for name, table in plain_tables().items()
        }
    )
    found = encoded(spec(columns))
    back = {new: old for old, new in names.items()} | {"item_row_": "item_row", "seq_": "seq"}
    found = {
        name: {back.get(column, column): values for column, values in table.items()}
        for name, table in found.items()
    }
    assert found == expected["encoded"]
    with pytest.raises(ValueError, match="column 'seq_length': batches use this name"):
        spec([{**c, "vocab_size": 9} for c in columns], rebuild_dataset=False)
    facts = describe_dataset(spec(columns), progress=False)
    assert facts.splits == expected["facts"].splits


@pytest.mark.parametrize(
    ("ids", "value", "problem"),
    [
        ("int", None, "row 2: found [5, null], expected no null inside a list"),
        ("str", None, "row 2: found ['5', None], expected no null inside a list"),
        ("str", "", "row 2: found ['5', ''], expected no empty text inside a list"),
    ],
)
def test_a_missing_item_in_a_history_is_refused(ids: str, value: Any, problem: str) -> None:
    tables = plain_tables()
    if ids == "str":
        text = {"item": pa.string(), "seq": pa.list_(pa.string())}
        for name in tables:
            for column in set(text) & set(tables[name].column_names):
                tables[name] = cast(column, text[column])(tables[name])
    lists = tables["valid"]["seq"].to_pylist()
    lists[2] = ["5" if ids == "str" else 5, value]
    write(
        tables | {"valid": put(tables["valid"], seq=pa.array(lists, tables["valid"]["seq"].type))}
    )
    with pytest.raises(InputError) as caught:
        check_dataset(spec(features(ids)))
    assert re.match(r"raw/valid\.parquet: column 'seq', row 2: found", str(caught.value))
    assert problem.rpartition("expected ")[2] in str(caught.value)


def test_encoded_files_in_any_form() -> None:
    """Without encoding: the loader itself reads the forms."""
    columns = [
        {"name": "seq", "dtype": "int", "type": "meta"},
        {"name": "hour", "dtype": "int", "type": "categorical", "vocab_size": 4},
        {"name": "price", "dtype": "float", "type": "numeric"},
        {
            "name": "item",
            "dtype": "int",
            "type": "categorical",
            "source": "item",
            "vocab_size": 4,
        },
    ]
    plain = pa.table(
        {
            "seq": [[1, 2], [0, 3], [0, 0]],
            "hour": [1, 0, 1],
            "price": [1.0, 2.0, 3.0],
            "item": [1, 2, 3],
            "label": [1.0, 0.0, 1.0],
        }
    )
    odd = put(
        plain,
        seq=pa.array(plain["seq"].to_pylist(), pa.list_(pa.uint8(), 2)),
        hour=plain["hour"].cast(pa.bool_()),
        price=pa.array([Decimal(k) for k in (1, 2, 3)]),
        item=plain["item"].dictionary_encode(),
        label=plain["label"].cast(pa.bool_()),
    )
    none = put(odd.slice(0, 0), seq=pa.array([], pa.large_list(pa.null())))
    write({"plain": plain, "item_info": pa.table({"item": range(4)})})
    Path("raw/odd/x=1").mkdir(parents=True)
    pq.write_table(none, "raw/odd/a.parquet")
    pq.write_table(odd, "raw/odd/x=1/b.parquet")
    batches = []
    for path in ("raw/plain.parquet", "raw/odd"):
        dataset = spec(
            columns, rebuild_dataset=False, **{f"{split}_data": path for split in SPLITS}
        )
        check_dataset(dataset)
        (batch,) = make_loader(feature_map({}, 4), path, dataset=dataset, batch_size=8)
        batches.append(batch)
    assert list(batches[0]) == list(batches[1])
    for name, values in batches[0].items():
        torch.testing.assert_close(values, batches[1][name])
