"""What a clean log may look like: ids of any alphabet, times of many kinds, tags in titles."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model_zoo.core.prepare.clicks import hashtags
from model_zoo.core.prepare.tables import parse_times
from tests.prepare.test_tables import ROWS, convert, frame, lines


def test_ids_of_any_alphabet_keep_inner_spaces_and_zeros(tmp_path: Path) -> None:
    rows = [f" Zoë {u} ,{item},{t}" for u in range(2) for t, item in enumerate(ITEMS)]
    out = convert(tmp_path, "log.csv", "\ufeff" + lines(*rows, "", "").replace("\n", "\r\n"))
    test = pl.read_parquet(out / "test.parquet")
    assert test["user_id"].to_list() == ["Zoë 0", "Zoë 1"]
    assert test["item_seq"].to_list() == [["007", "7", "a  b", 'say "x"']] * 2
    assert test["item_id"].to_list() == ["東京"] * 2


ITEMS = ["007", " 7", "a  b", '"say ""x"""', "東京"]


def test_integers_of_a_parquet_file_are_the_ids_of_a_csv_file(tmp_path: Path) -> None:
    users = pl.Series([int(row[1]) for row in ROWS], dtype=pl.UInt8)
    items = pl.Series([row.split(",")[1] for row in ROWS], dtype=pl.Categorical)
    test = pl.read_parquet(
        convert(tmp_path, "log.parquet", frame(user=users, item=items)) / "test.parquet"
    )
    numbered = [row[1:] for row in ROWS]
    again = pl.read_parquet(convert(tmp_path, "log.csv", lines(*numbered)) / "test.parquet")
    assert test.equals(again)


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-31", "2024-02-01", "2024-02-01 10:00", "2024-02-01T10:00:00.5Z"],
        [datetime.date(2024, 1, day) for day in (1, 2, 3, 4)],
        [datetime.datetime(1969, 1, day, tzinfo=datetime.timezone.utc) for day in (1, 2, 3, 4)],
        [0.25, 0.5, 1.0, 7.5],
    ],
)
def test_times_of_many_kinds(tmp_path: Path, times: list[Any]) -> None:
    log = frame(timestamp=times * 3).reverse()
    train = pl.read_parquet(convert(tmp_path, "log.parquet", log) / "train.parquet")
    assert train["item_id"].to_list() == ["i1", "i2", "i3"]


def test_dates_cut_the_log(tmp_path: Path) -> None:
    log = frame(timestamp=[f"2024-01-0{day}" for day in (1, 2, 3, 4)] * 3)
    out = convert(
        tmp_path,
        "log.parquet",
        log,
        split="time",
        valid_from="2024-01-03",
        test_from="2024-01-04T00:00:00Z",
    )
    assert [len(pl.read_parquet(out / f"{s}.parquet")) for s in ("train", "valid", "test")] == [
        3
    ] * 3


def test_offsets_of_dates() -> None:
    texts = ["2024-01-01 02:00:00+02:00", "2024-01-01T00:00:00Z", "2024-01-01", "x"]
    times, dated = parse_times(pl.Series(texts))
    assert dated
    assert times.to_list() == [1_704_067_200_000_000] * 3 + [None]


@pytest.mark.parametrize(
    ("title", "tags"),
    [
        ("no tags at all", []),
        (None, []),
        ("a #One#two, and #one again", ["one", "two"]),
        ("# Two Words # three more words!", ["two words", "three more words"]),
        ("# this goes on and on and on", []),
        ("#搞笑#日常", ["搞笑", "日常"]),
        ("## # #, #a #b #c #d", ["a", "b", "c"]),
    ],
)
def test_hashtags(title: str | None, tags: list[str]) -> None:
    titles = pl.Series(["#first", title, "#last"], dtype=pl.String)
    assert hashtags(titles, max_tags=3).to_list() == [["first"], tags, ["last"]]
