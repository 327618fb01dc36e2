"""Raw data with string ids: vocabularies from training, items that keep what is theirs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import (
    build_feature_map,
    build_model,
    prepare_dataset,
    run_experiment,
)
from model_zoo.core.commands.submission import score_file
from model_zoo.core.data.encode import encode_dataset
from model_zoo.core.data.encoded_spec import ITEM_ROW
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from tests.conftest import ROOT, edit_yaml

COLUMNS = [
    {"name": "user", "active": True, "dtype": "str", "type": "meta"},
    {"name": "clicked", "active": True, "dtype": "str", "type": "meta"},
    {"name": "hour", "active": True, "dtype": "int", "type": "categorical"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "item", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {
        "name": "tags",
        "active": True,
        "dtype": "str",
        "type": "sequence",
        "source": "item",
        "max_len": 3,
    },
    {
        "name": "vector",
        "active": True,
        "dtype": "float",
        "type": "embedding",
        "source": "item",
        "pretrain_dim": 2,
    },
]
ITEMS = ["bread", "früh stück", "a/b^c", "new 1", "new 2"]
ROWS = {
    "user": ["ann", "ann", "böb", "böb"],
    "clicked": [[], ["bread"], ["a/b^c", "bread"], ["bread", "früh stück"]],
    "hour": [7, 9, 9, 7],
    "city": ["Ulm", None, "Ulm", "Aix"],
    "item": ["bread", "früh stück", "bread", "früh stück"],
    "label": [1.0, 0.0, 1.0, 0.0],
}


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetSpec:
    """A raw data set of four rows a split; 'new 1' and 'new 2' are not in train."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    folder.mkdir()
    write_items(ITEMS)
    pl.DataFrame(ROWS).write_parquet("raw/train.parquet")
    pl.DataFrame(ROWS | {"user": ["cem", "dan", "ann", "eve"]}).write_parquet("raw/valid.parquet")
    test = ROWS | {"item": ["new 1", "new 2", "bread", "new 1"], "city": ["Rom", "Ulm", "", None]}
    pl.DataFrame(test).drop("label").write_parquet("raw/test.parquet")
    entry = {
        "data_root": "data",
        "data_format": "parquet",
        **{f"{split}_data": f"raw/{split}.parquet" for split in ("train", "valid", "test")},
        "item_info": "raw/item_info.parquet",
        "rebuild_dataset": True,
        "item_col": "item",
        "history_col": "clicked",
        "feature_cols": COLUMNS,
        "label_col": {"name": "label", "dtype": "float"},
    }
    models = yaml.safe_load((ROOT / "config" / "model_config.yaml").read_text())
    models["QIN_test"] |= {"dataset_id": "Shop", "batch_size": 2}
    Path("config").mkdir()
    Path("config/dataset_config.yaml").write_text(yaml.safe_dump({"Shop": entry}))
    Path("config/model_config.yaml").write_text(yaml.safe_dump(models))
    return spec()


def spec(*overrides: str) -> DatasetSpec:
    return load_experiment("config", "QIN_test", overrides).dataset


def write_items(names: list[str]) -> None:
    pl.DataFrame(
        {
            "item": names,
            "tags": [["food"], ["food", "late"], [], ["late", "unheard"], ["food", "unheard"]]
            + [["food"]] * (len(names) - 5),
            "vector": [[0.1 * i, 1.0] for i in range(len(names))],
        }
    ).write_parquet("raw/item_info.parquet")


def test_items_are_numbered_by_their_row_and_ids_by_the_vocabulary(raw: DatasetSpec) -> None:
    encoded = encode_dataset(raw)
    check_dataset(encoded)
    items = pl.read_parquet(encoded.item_info)
    assert items[ITEM_ROW].to_list() == [0, 1, 2, 3, 4, 5]
    ids = dict(zip(["padding", *ITEMS], items["item"].to_list(), strict=True))
    assert ids["padding"] == 0
    # Three items occur in training, one of them only in a history; the others are unknown.
    assert sorted(ids[name] for name in ITEMS[:3]) == [1, 2, 3]
    assert ids["new 1"] == ids["new 2"] == 4 == encoded.column("item").vocab_size - 1
    assert items["vector"].to_list()[1:] == [[0.1 * i, 1.0] for i in range(5)]
    tags = items["tags"].to_list()
    food, late, unknown = tags[1][0], tags[2][1], tags[4][1]
    assert tags == [
        [0, 0, 0],
        [food, 0, 0],
        [food, late, 0],
        [0, 0, 0],
        [late, unknown, 0],
        [food, unknown, 0],
    ]
    assert unknown == encoded.column("tags").vocab_size - 1  # not a tag of an item in training


def test_rows_are_encoded_like_training(raw: DatasetSpec) -> None:
    encoded = encode_dataset(raw)
    train, test = pl.read_parquet(encoded.train_data), pl.read_parquet(encoded.test_data)
    assert train[ITEM_ROW].to_list() == [1, 2, 1, 2]
    assert train["clicked"].to_list() == [[], [1], [3, 1], [1, 2]]
    assert test[ITEM_ROW].to_list() == [4, 5, 1, 4]
    ulm, missing, _, aix = train["city"].to_list()
    assert (missing, len({ulm, aix, 0})) == (0, 3)
    rome = encoded.column("city").vocab_size - 1
    assert test["city"].to_list() == [rome, ulm, 0, 0]
    assert train["label"].to_list() == ROWS["label"]
    assert "label" not in test.columns


def test_groups_are_told_apart_in_every_split(raw: DatasetSpec) -> None:
    encoded = encode_dataset(raw)
    valid = pl.read_parquet(encoded.valid_data)["user"].to_list()
    train = pl.read_parquet(encoded.train_data)["user"].to_list()
    assert len(set(valid)) == 4
    assert valid[2] == train[0]


def test_new_items_are_scored_by_their_own_vectors(raw: DatasetSpec) -> None:
    """The same id and no tags: only the vectors of the two new items differ."""
    run_experiment("config", "QIN_test")
    experiment, _ = prepare_dataset(load_experiment("config", "QIN_test"))
    feature_map = build_feature_map(experiment.params)
    model = build_model(experiment, feature_map, -1).eval()
    model.load_weights(model.checkpoint)
    batch = {
        ITEM_ROW: torch.tensor([4, 5]),
        "clicked": torch.tensor([[1, 2], [1, 2]]),
        "hour": torch.tensor([1, 1]),
        "city": torch.tensor([1, 1]),
    }
    columns = model.item_table(torch.tensor([4, 5]))
    assert columns["item"][0] == columns["item"][1]
    first, second = model(batch)["logit"].tolist()
    assert first != second
    model.item_table.get_buffer("column_2")[5] = columns["vector"][0]
    model.item_table.get_buffer("column_1")[5] = columns["tags"][0]
    first, second = model(batch)["logit"].tolist()
    assert first == pytest.approx(second)


def test_an_item_that_arrives_later_is_added_with_the_same_vocabulary(raw: DatasetSpec) -> None:
    encoded = encode_dataset(raw)
    before = pl.read_parquet(encoded.item_info)
    write_items([*ITEMS, "newest"])
    test = ROWS | {"item": ["newest"] * 4}
    pl.DataFrame(test).drop("label").write_parquet("raw/test.parquet")
    again = encode_dataset(spec())
    assert again == encoded
    after = pl.read_parquet(encoded.item_info)
    assert after.head(6).equals(before)
    assert after["item"][6] == before["item"][4]
    assert pl.read_parquet(encoded.test_data)[ITEM_ROW].to_list() == [6] * 4


def test_encoding_is_done_once(raw: DatasetSpec) -> None:
    encoded = encode_dataset(raw)
    times = {p: p.stat().st_mtime_ns for p in Path("data/Shop").iterdir()}
    assert {p.name for p in times} == {
        "encoding.json",
        *(f"{name}.parquet" for name in ("item_info", "train", "valid", "test")),
    }
    assert encode_dataset(raw) == encoded
    assert {p: p.stat().st_mtime_ns for p in Path("data/Shop").iterdir()} == times


def test_a_changed_configuration_is_noticed(raw: DatasetSpec) -> None:
    encode_dataset(raw)

    def change(config: dict) -> None:
        columns = config["Shop"]["feature_cols"]
        columns[5]["max_len"] = 2
        columns[3]["active"] = False

    edit_yaml(Path("config/dataset_config.yaml"), change)
    with pytest.raises(InputError) as error:
        encode_dataset(spec("min_categr_count=2"))
    message = str(error.value)
    assert "feature_cols[tags].max_len was 3, is 2" in message
    assert "feature_cols[city].active was True, is False" in message
    assert "min_categr_count was 1, is 2" in message
    assert "delete data/Shop/encoding.json to encode again" in message
    Path("data/Shop/encoding.json").unlink()
    assert encode_dataset(spec("min_categr_count=2")).column("tags").max_len == 2


@pytest.mark.parametrize("content", ["[1", "[]", '{"files": {}}'])
def test_a_damaged_state_is_refused(raw: DatasetSpec, content: str) -> None:
    Path("data/Shop").mkdir(parents=True)
    Path("data/Shop/encoding.json").write_text(content)
    with pytest.raises(InputError, match=r"encoding\.json: .*; delete it to encode again"):
        encode_dataset(raw)


def test_changed_training_data_is_noticed(raw: DatasetSpec) -> None:
    encode_dataset(raw)
    pl.DataFrame(ROWS | {"hour": [1, 2, 3, 4]}).write_parquet("raw/train.parquet")
    with pytest.raises(InputError, match=r"raw/train\.parquet has another content"):
        encode_dataset(raw)


def test_raw_data_is_not_overwritten(raw: DatasetSpec) -> None:
    Path("raw").rename("data_raw")
    Path("data").mkdir()
    Path("data_raw").rename("data/Shop")
    paths = [f"{n}_data=data/Shop/{n}.parquet" for n in ("train", "valid", "test")]
    with pytest.raises(InputError, match="raw data lies where the encoded goes"):
        encode_dataset(spec(*paths, "item_info=data/Shop/item_info.parquet"))


def test_items_that_are_not_in_item_info(raw: DatasetSpec) -> None:
    rows = {"item": ["bread", "ghost", "bread", "spook"], "clicked": [[], [], ["ghost"], []]}
    pl.DataFrame(ROWS | rows).write_parquet("raw/valid.parquet")
    with pytest.raises(InputError) as error:
        encode_dataset(raw)
    assert error.value.problems == [
        "raw/valid.parquet: column 'item', row 1: found 'ghost', expected an item of "
        "raw/item_info.parquet (2 such values)",
        "raw/valid.parquet: column 'clicked', row 2: found 'ghost', expected an item of "
        "raw/item_info.parquet (1 such values)",
    ]
    assert not Path("data/Shop/valid.parquet").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"item": [1, 2, 3, 4]}, "column 'item' has type Int64; expected text"),
        ({"item": ["bread", None, "bread", "bread"]}, "row 1: found None, expected a value"),
        ({"clicked": ["a", "b", "c", "d"]}, "column 'clicked' has type String; expected lists of"),
        ({"label": [0.0, 1.0, 2.0, 1.0]}, "row 2: found 2.0, expected 0 or 1"),
        ({"hour": ["7", "9", "9", "7"]}, "column 'hour' has type String; expected integers"),
    ],
)
def test_raw_files_are_checked(
    raw: DatasetSpec, change: dict[str, list[object]], expected: str
) -> None:
    pl.DataFrame(ROWS | change).write_parquet("raw/train.parquet")
    with pytest.raises(InputError) as error:
        check_dataset(raw)
    assert any(expected in problem for problem in error.value.problems)


@pytest.mark.parametrize(("name", "column"), [("train", "city"), ("item_info", "tags")])
def test_damage_in_a_column_of_any_value_is_found(raw: DatasetSpec, name: str, column: str) -> None:
    path = Path(f"raw/{name}.parquet")
    group = pq.read_metadata(path).row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunk = next(c for c in chunks if c.path_in_schema.split(".")[0] == column)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=rf"{name}\.parquet: not a readable parquet file"):
        check_dataset(raw)


def test_csv_rows_with_text_ids_are_scored_or_named(raw: DatasetSpec) -> None:
    """Ids with blanks and separators; a message names the file that was given."""
    run_experiment("config", "QIN_test")
    same = {"source": "rows.parquet", "target": "expected.csv"}
    rows = pl.DataFrame(ROWS).drop("user", "label")
    rows.write_parquet("rows.parquet")
    score_file("config", "QIN_test", **same, explain=True)
    texts = pl.Series("clicked", ["", "bread", '["a/b^c", "bread"]', "bread|früh stück"])
    rows.with_columns(texts).write_csv("rows.csv")
    score_file("config", "QIN_test", source="rows.csv", target="scores.csv", explain=True)
    assert Path("scores.csv").read_text() == Path("expected.csv").read_text()
    Path("packed.csv.gz").write_bytes(gzip.compress(Path("rows.csv").read_bytes()))
    score_file("config", "QIN_test", source="packed.csv.gz", target="scores.csv", explain=True)
    assert Path("scores.csv").read_text() == Path("expected.csv").read_text()
    histories = pl.read_csv("scores.csv", infer_schema=False)["history"]
    assert [json.loads(text) for text in histories] == ROWS["clicked"]
    for cell, problem in (
        ("bread früh", "found 'bread früh', expected an item of raw/item_info.parquet"),
        ("bread|nan", "found 'bread|nan', expected texts such as a^b or ['a', 'b']: 'nan' is not"),
    ):
        rows.with_columns(texts.replace("bread", cell)).write_csv("rows.csv")
        with pytest.raises(InputError) as caught:
            score_file("config", "QIN_test", source="rows.csv", target="other.csv")
        assert str(caught.value).startswith(f"rows.csv: column 'clicked', row 1: {problem}")
    assert not Path("other.csv").exists()


def test_an_item_twice_in_item_info(raw: DatasetSpec) -> None:
    write_items([*ITEMS, "bread"])
    with pytest.raises(InputError, match="row 0: found bread, expected each item once"):
        check_dataset(raw)


def test_integer_ids_are_encoded_as_well(raw: DatasetSpec) -> None:
    numbers = {name: i * 1000 for i, name in enumerate(ITEMS, 1)}
    for name in ("train", "valid", "test", "item_info"):
        path = f"raw/{name}.parquet"
        frame = pl.read_parquet(path).with_columns(pl.col("item").replace_strict(numbers))
        if "clicked" in frame.columns:
            as_numbers = pl.element().replace_strict(numbers, return_dtype=pl.Int64)
            frame = frame.with_columns(pl.col("clicked").list.eval(as_numbers))
        frame.write_parquet(path)

    def change(config: dict) -> None:
        for column in config["Shop"]["feature_cols"]:
            if column["name"] in ("item", "clicked"):
                column["dtype"] = "int"

    edit_yaml(Path("config/dataset_config.yaml"), change)
    encoded = encode_dataset(spec())
    assert pl.read_parquet(encoded.train_data)["clicked"].to_list() == [[], [1], [3, 1], [1, 2]]
    assert pl.read_parquet(encoded.item_info)["item"].to_list() == [0, 1, 2, 3, 4, 4]


def test_a_feature_without_values_in_training(raw: DatasetSpec) -> None:
    pl.DataFrame(
        ROWS | {"city": [None, "", None, ""]}, schema_overrides={"city": pl.String}
    ).write_parquet("raw/train.parquet")
    with pytest.raises(InputError, match="column 'city' has no value in training"):
        encode_dataset(raw)


def test_missing_numbers_are_padding(raw: DatasetSpec) -> None:
    pl.DataFrame(ROWS | {"hour": [7, None, 9, 7]}).write_parquet("raw/train.parquet")
    assert pl.read_parquet(encode_dataset(raw).train_data)["hour"].to_list()[1] == 0


def test_encoding_does_not_start_ray(raw: DatasetSpec) -> None:
    encode_dataset(raw)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("file", "column", "values", "message"),
    [
        (
            "valid",
            "item",
            ["", "bread", "bread", "bread"],
            "column 'item', row 0: found , expected an id",
        ),
        (
            "item_info",
            "item",
            [*ITEMS[:3], "", "x"],
            "column 'item', row 3: found , expected an id",
        ),
    ],
)
def test_an_empty_id_is_refused(
    raw: DatasetSpec, file: str, column: str, values: list[str], message: str
) -> None:
    path = Path("raw") / f"{file}.parquet"
    pl.read_parquet(path).with_columns(pl.Series(column, values)).write_parquet(path)
    with pytest.raises(InputError, match=message):
        check_dataset(raw)


def test_an_item_info_without_rows_is_refused(raw: DatasetSpec) -> None:
    path = Path("raw/item_info.parquet")
    pl.read_parquet(path).head(0).write_parquet(path)
    with pytest.raises(InputError, match=r"item_info\.parquet: no rows; expected an item in each"):
        check_dataset(raw)
