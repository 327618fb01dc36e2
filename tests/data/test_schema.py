"""Every broken file gets a message that names file, column, row, value and expectation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.data.file_check import open_checked
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError

DEMO = Path("data/MicroLens_demo")


def dataset() -> DatasetSpec:
    return load_experiment("config", "QIN_test").dataset


def edit(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    path = DEMO / f"{name}.parquet"
    change(pl.read_parquet(path)).write_parquet(path)


def put(column: str, row: int, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Replace one value."""

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))

    return change


def in_list(column: str, row: int, index: int, value: object) -> Callable[..., pl.DataFrame]:
    """Replace one element of one list."""

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column][row].to_list()
        values[index] = value
        return put(column, row, values)(frame)

    return change


def problems() -> list[str]:
    with pytest.raises(InputError) as error:
        check_dataset(dataset())
    return error.value.problems


def test_the_demo_data_is_sound(workspace: Path) -> None:
    summaries = check_dataset(dataset())
    assert {split: summary.rows for split, summary in summaries.items()} == {
        "train": 600,
        "valid": 200,
        "test": 100,
    }
    assert [summary.labelled for summary in summaries.values()] == [True, True, False]
    labels = pl.read_parquet(DEMO / "train.parquet")["label"]
    assert summaries["train"].clicks == labels.sum()


def swapped(items: pl.DataFrame) -> pl.DataFrame:
    """All items but the padding, in reverse."""
    return pl.concat([items.head(1), items.tail(-1).reverse()])


ITEM = "an item id (0 is padding) in 0..119"


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("train", put("item_id", 7, 120), "column 'item_id', row 7: found 120, expected an item"),
        ("train", put("item_id", 7, 0), "'item_id', row 7: found 0, expected an item id"),
        ("train", put("item_id", 7, -1), "'item_id', row 7: found -1, expected"),
        ("train", put("item_id", 7, None), "'item_id', row 7: found None, expected a value"),
        ("valid", in_list("item_seq", 3, 99, 120), f"row 3: found 120, expected {ITEM}"),
        ("valid", in_list("item_seq", 3, 0, -4), f"row 3: found -4, expected {ITEM}"),
        ("valid", in_list("item_seq", 3, 0, None), "expected no null inside a list"),
        ("valid", put("item_seq", 3, [1, 2]), "row 3: found 2, expected a list of length 100"),
        ("valid", put("item_seq", 3, None), "'item_seq', row 3: found None, expected a value"),
        ("test", put("likes_level", 0, 11), "'likes_level', row 0: found 11, expected an id"),
        ("test", put("views_level", 9, -1), "'views_level', row 9: found -1"),
        ("train", put("label", 5, 0.5), "'label', row 5: found 0.5, expected 0 or 1"),
        ("train", put("label", 5, float("nan")), "'label', row 5: found nan, expected 0 or 1"),
        ("train", put("label", 5, None), "'label', row 5: found None, expected a value"),
        ("train", put("user_id", 5, None), "'user_id', row 5: found None, expected a value"),
        ("item_info", in_list("item_tags", 4, 4, 301), "'item_tags', row 4: found 301"),
        ("item_info", put("item_tags", 4, [1]), "row 4: found 1, expected a list of length 5"),
        ("item_info", put("item_emb_d128", 4, [1.0]), "found 1, expected a list of length 128"),
        ("item_info", in_list("item_emb_d128", 4, 9, float("nan")), "found nan, expected finite"),
        ("item_info", in_list("item_emb_d128", 4, 9, float("inf")), "found inf, expected finite"),
        ("item_info", in_list("item_emb_d128", 4, 9, None), "expected no null inside a list"),
        ("item_info", in_list("item_emb_d128", 0, 9, 1.0), "row 0: found [0.0"),
        ("item_info", in_list("item_tags", 0, 4, 1), "expected zeros: row 0 is padding"),
        ("item_info", put("item_id", 4, 5), "row 4: found 5, expected the row number"),
        ("item_info", swapped, "row 1: found 119, expected the row number: row k is item k (118"),
        ("item_info", lambda f: f.head(100), "100 rows, but item_id has vocab_size 120"),
        ("train", lambda f: f.drop("views_level"), "column 'views_level' is missing"),
        ("train", lambda f: f.drop("label"), "column 'label' is missing; train rows need a label"),
        ("train", lambda f: f.with_columns(age=1), "column 'age' is not among feature_cols"),
        (
            "train",
            lambda f: f.with_columns(pl.col("likes_level").cast(pl.Float32)),
            "column 'likes_level' has type Float32; expected integers",
        ),
        (
            "train",
            lambda f: f.with_columns(item_seq=pl.col("item_id")),
            "column 'item_seq' has type Int64; expected lists of integers",
        ),
        (
            "train",
            lambda f: f.with_columns(item_id=pl.col("item_seq")),
            "column 'item_id' has type List(Int64); expected integers",
        ),
        (
            "train",
            lambda f: f.with_columns(label=pl.lit("yes")),
            "column 'label' has type String; expected numbers",
        ),
        ("valid", lambda f: f.head(0), "no rows; expected at least one"),
        ("valid", lambda f: f.filter(label=0), "rows are 0; AUC and logloss need both classes"),
        ("valid", lambda f: f.filter(label=1), "rows are 1; AUC and logloss need both classes"),
    ],
)
def test_one_problem_one_message(
    workspace: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame], expected: str
) -> None:
    edit(name, change)
    (problem,) = problems()
    assert problem.startswith(f"./data/MicroLens_demo/{name}.parquet: ")
    assert expected in problem


def test_all_problems_of_all_files_at_once(workspace: Path) -> None:
    edit("train", put("item_id", 7, 120))
    edit("train", put("label", 8, 2.0))
    edit("valid", lambda f: f.drop("views_level"))
    edit("item_info", in_list("item_tags", 4, 4, 301))
    found = problems()
    assert len(found) == 4
    assert {re.match(r"\./data/MicroLens_demo/(\w+)", p)[1] for p in found} == {
        "train",
        "valid",
        "item_info",
    }


def test_rows_that_break_a_rule_are_counted(workspace: Path) -> None:
    edit("train", lambda f: f.with_columns(likes_level=pl.lit(99)))
    (problem,) = problems()
    assert "row 0: found 99" in problem
    assert "(600 such rows)" in problem


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt16, pl.Int32, pl.UInt64])
def test_any_integer_type_and_fixed_size_lists_are_accepted(
    workspace: Path, dtype: type[pl.DataType]
) -> None:
    for split in ("train", "valid", "test"):
        edit(
            split,
            lambda f: f.with_columns(
                pl.col("item_id", "likes_level").cast(dtype),
                pl.col("item_seq").cast(pl.Array(dtype, 100)),
            ),
        )
    edit("item_info", lambda f: f.with_columns(pl.col("item_emb_d128").list.to_array(128)))
    check_dataset(dataset())
    edit("valid", put("item_seq", 3, [7] * 99 + [120]))
    assert "row 3: found 120" in problems()[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"user,item\n1,2\n"])
def test_a_file_that_is_no_parquet(workspace: Path, content: bytes) -> None:
    (DEMO / "valid.parquet").write_bytes(content)
    assert "valid.parquet: not a readable parquet file" in problems()[0]


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_file(workspace: Path, kept: float) -> None:
    path = DEMO / "train.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "train.parquet: not a readable parquet file" in problems()[0]


def test_a_changed_byte_of_the_footer(tmp_path: Path) -> None:
    """Polars panics at some, which is no ``Exception``."""
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": ["a", "b"], "views": [1, 2]}).write_parquet(path)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    found: list[str] = []
    for place in range(len(content) - 8 - footer, len(content) - 8):
        path.write_bytes(content[:place] + b"\x11" + content[place + 1 :])
        found += open_checked(str(path), [], None)[1]
    assert found
    assert all(problem.startswith(f"{path}: not a readable parquet file: ") for problem in found)


def test_missing_files_are_all_named(workspace: Path) -> None:
    (DEMO / "train.parquet").unlink()
    (DEMO / "item_info.parquet").unlink()
    found = problems()
    assert len(found) == 2
    assert all("no such file" in problem for problem in found)


def test_the_download_page_is_named_where_there_is_one(workspace: Path) -> None:
    with pytest.raises(InputError) as error:
        check_dataset(load_experiment("config", "QIN_MicroLens_1M_x1").dataset)
    assert len(error.value.problems) == 4
    assert "recsys.westlake.edu.cn/MicroLens_1M_MMCTR" in error.value.problems[0]


def test_the_real_data_is_sound(
    shared: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "data" / "MicroLens_50k_x1").symlink_to(shared / "data" / "MicroLens_50k_x1")
    summaries = check_dataset(load_experiment("config", "QIN_MicroLens_50k_x1").dataset)
    assert {split: summary.rows for split, summary in summaries.items()} == {
        "train": 409_416,
        "valid": 10_000,
        "test": 100_000,
    }
