"""Every mistake in a log or its metadata gets a message that says where and what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.convert import ConvertOptions, convert_log

HEADER = "user,item,timestamp"
ROWS = [f"u{u},i{(u + t) % 5},{t}" for u in range(3) for t in range(4)]


def convert(folder: Path, name: str, content: str | bytes | pl.DataFrame, **options: Any) -> Path:
    """Convert a log with this content; without negatives, as most logs here are tiny."""
    path = folder / name
    if isinstance(content, pl.DataFrame):
        content.write_parquet(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    out = folder / "out"
    settings = {"negatives": 0} | options
    convert_log(ConvertOptions(interactions=str(path), out=str(out), **settings))
    return out


def refused(folder: Path, name: str, content: str | bytes | pl.DataFrame, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        convert(folder, name, content, **options)
    assert list((folder / "out").iterdir()) == []
    return str(error.value).replace(str(folder) + "/", "")


def lines(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def with_row(row: str, *, at: int = 4, header: str = HEADER) -> str:
    return lines(*ROWS[:at], row, *ROWS[at:], header=header)


def frame(**columns: Any) -> pl.DataFrame:
    usual = {
        "user": [row.split(",")[0] for row in ROWS],
        "item": [row.split(",")[1] for row in ROWS],
        "timestamp": [int(row.split(",")[2]) for row in ROWS],
    }
    return pl.DataFrame(usual | columns)


def whole_parquet(folder: Path) -> bytes:
    frame().write_parquet(folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


def test_the_usual_log_converts(tmp_path: Path) -> None:
    train = pl.read_parquet(convert(tmp_path, "log.csv", lines(*ROWS)) / "train.parquet")
    assert train.rows() == [
        (f"u{u}", [f"i{u}"], f"i{u + 1}", level, 1.0) for u, level in enumerate([1, 1, 0])
    ]


FIRST = "(the first is 0)"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "log.csv: not a readable csv file: Empty CSV file"),
        (lines(), "log.csv: no rows; expected at least one"),
        (
            "us\xe0r,item\n".encode("latin1"),
            "log.csv: not a readable csv file: 'utf-8' codec can't decode",
        ),
        (
            lines(*ROWS).encode() + b"\xe0,i1,3\n",
            "log.csv: not a readable csv file: 'utf-8' codec can't decode byte 0xe0 in line 14",
        ),
        (
            with_row("u1,i1,7,9"),
            f"log.csv: row 4 {FIRST}: found 4 fields, expected 3 separated by ','",
        ),
        (
            lines("u1,i1", *ROWS, "u1,i1,8,1"),
            f"row 0 {FIRST}: found 2 fields, expected 3 separated by ',' (2 such rows)",
        ),
        (
            lines(*ROWS).replace(",", ";"),
            "log.csv: the header 'user;item;timestamp' is one column; "
            "expected columns separated by ',' (csv), found ';'",
        ),
        (
            lines(*ROWS, header="user_id,Item,time"),
            "log.csv: column 'user' (--user) is missing; "
            "found columns user_id, Item, time; did you mean --user user_id?\n"
            "log.csv: column 'item' (--item) is missing; "
            "found columns user_id, Item, time; did you mean --item Item?\n"
            "log.csv: column 'timestamp' (--timestamp) is missing; "
            "found columns user_id, Item, time; did you mean --timestamp time?",
        ),
        (
            lines(*ROWS, header="user,item,item"),
            "log.csv: column 'item' appears 2 times; expected once",
        ),
        (
            with_row(",i1,7"),
            f"log.csv: column 'user', row 4 {FIRST}: found nothing, expected an id",
        ),
        (with_row("u1,  ,7"), f"column 'item', row 4 {FIRST}: found '  ', expected an id"),
        (
            with_row("u1,i1,"),
            f"column 'timestamp', row 4 {FIRST}: found nothing, expected a number >= 0",
        ),
        (
            with_row("u1,i1,soon"),
            f"column 'timestamp', row 4 {FIRST}: found 'soon', expected a number >= 0",
        ),
        (
            with_row("u1,i1,inf"),
            f"column 'timestamp', row 4 {FIRST}: found 'inf', expected a number >= 0",
        ),
        (
            with_row("u1,i1,-1"),
            f"column 'timestamp', row 4 {FIRST}: found '-1', expected a number >= 0",
        ),
        (
            lines("u,a,2024-01-01", "u,b,2024-01-02T10:00:00", "u,c,170", "u,d,x"),
            f"column 'timestamp', row 2 {FIRST}: found '170', "
            "expected an ISO date, as in most rows (2 such rows)",
        ),
        (
            lines("u,a,1700000000", "u,b,1700000001000", "u,c,1700000002", "u,d,1700000002000000"),
            f"log.csv: column 'timestamp' mixes units: row 0 {FIRST} holds '1700000000' (seconds, "
            f"2 such rows), row 1 {FIRST} holds '1700000001000' (milliseconds, 1 such rows), "
            f"row 3 {FIRST} holds '1700000002000000' (microseconds, 1 such rows); "
            "expected one unit",
        ),
        (
            lines("u,a,1,1", "u,b,2,0.5", "u,c,3,", "u,d,4,0", header=HEADER + ",label"),
            f"column 'label', row 1 {FIRST}: found '0.5', expected 0 or 1; --label-threshold 4 "
            "makes clicks of ratings from 4 on (2 such rows)",
        ),
        (
            lines("u,a,1,0", "u,b,2,0", header=HEADER + ",label"),
            "log.csv: no click for train and valid and test; --split leave-last-out with "
            "--min-history 1 gives 0 for train, 0 for valid, 0 for test "
            "(1 of 1 users have fewer than two clicks; times 1 to 2)",
        ),
        (
            lines("a,i1,1", "b,i2,2", "c,i3,3"),
            "no click for train and valid and test; --split leave-last-out with --min-history 1 "
            "gives 0 for train, 0 for valid, 0 for test (3 of 3 users have fewer than two clicks",
        ),
    ],
)
def test_a_wrong_csv_log(tmp_path: Path, content: str | bytes, expected: str) -> None:
    assert expected in refused(tmp_path, "log.csv", content)


def test_all_problems_of_both_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,likes\ni1,3\n,4\ni1,many\n")
    message = refused(
        tmp_path,
        "log.csv",
        lines("u,a,1,1", ",b,-2,3", "u,,3,0", header=HEADER + ",label"),
        items=str(tmp_path / "items.csv"),
    )
    assert message.splitlines() == [
        f"log.csv: column 'timestamp', row 1 {FIRST}: found '-2', "
        "expected a number >= 0, or ISO dates in every row",
        f"log.csv: column 'user', row 1 {FIRST}: found nothing, expected an id",
        f"log.csv: column 'item', row 2 {FIRST}: found nothing, expected an id",
        f"log.csv: column 'label', row 1 {FIRST}: found '3', expected 0 or 1; --label-threshold 4 "
        "makes clicks of ratings from 4 on",
        f"items.csv: column 'item', row 1 {FIRST}: found nothing, expected an id",
        f"items.csv: column 'item', row 2 {FIRST}: found 'i1', expected each item once",
        f"items.csv: column 'likes', row 2 {FIRST}: found 'many', expected a number >= 0",
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"user": [["a"]] * 12},
            "log.parquet: column 'user' has type List(String); expected text or integers",
        ),
        (
            {"item": [{"a": 1}] * 12},
            "column 'item' has type Struct({'a': Int64}); expected text or integers",
        ),
        ({"item": [0.5] * 12}, "column 'item' has type Float64; expected text or integers"),
        (
            {"user": [1, None] * 6},
            f"column 'user', row 1 {FIRST}: found nothing, expected an id (6 such rows)",
        ),
        (
            {"item": pl.Series([None] * 12, dtype=pl.Int64)},
            f"column 'item', row 0 {FIRST}: found nothing, expected an id (12 such rows)",
        ),
        (
            {"timestamp": [True] * 12},
            "column 'timestamp' has type Boolean; expected numbers or dates",
        ),
        (
            {"timestamp": [1.0, float("nan")] * 6},
            f"column 'timestamp', row 1 {FIRST}: found nan, expected a number >= 0",
        ),
        (
            {"timestamp": [1_600_000_000_000, 1_600_000_000] * 6},
            f"row 1 {FIRST} holds 1600000000 (seconds, 6 such rows), "
            f"row 0 {FIRST} holds 1600000000000 (milliseconds, 6 such rows)",
        ),
        ({"label": [[1]] * 12}, "column 'label' has type List(Int64); expected 0 and 1"),
        (
            {"more": [{"a": 1}] * 12},
            "column 'more' has type Struct({'a': Int64}); expected numbers, text, or lists of them",
        ),
        ({"more": [[1], None, [1, None]] * 4}, f"row 2 {FIRST}: found [1, None], expected a value"),
        ({"more": [["a", " "]] * 12}, f"'more', row 0 {FIRST}: found ['a', ' '], expected a value"),
    ],
)
def test_a_wrong_parquet_log(tmp_path: Path, columns: dict[str, Any], expected: str) -> None:
    keep = ("more",) if "more" in columns else ()
    assert expected in refused(tmp_path, "log.parquet", frame(**columns), keep=keep)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_an_empty_or_truncated_parquet_log(tmp_path: Path, keep: int) -> None:
    content = whole_parquet(tmp_path)[:keep]
    message = refused(tmp_path, "log.parquet", content)
    assert message.startswith("log.parquet: not a readable parquet file: ")


def test_a_parquet_log_without_rows(tmp_path: Path) -> None:
    assert refused(tmp_path, "log.parquet", frame().clear()) == (
        "log.parquet: no rows; expected at least one"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1\t5 6 7 8\n2\t5 6\t7\n", f"log.tsv: row 1 {FIRST}: found 3 fields, expected 2"),
        ("1\t5 6 7 8\n2\n", f"log.tsv: row 1 {FIRST}: found 1 fields, expected 2"),
        (
            "1\t5 6 7 8\n2\t \n",
            f"log.tsv: column 'items', row 1 {FIRST}: found ' ', expected items separated by",
        ),
        ("1\t5 6 7 8\n\t5\n", f"column 'user', row 1 {FIRST}: found nothing, expected an id"),
        ("1\t5 6 7\n1\t5\n", f"column 'user', row 1 {FIRST}: found '1', expected one line per"),
    ],
)
def test_a_wrong_pairs_log(tmp_path: Path, content: str, expected: str) -> None:
    assert expected in refused(tmp_path, "log.tsv", content)


PAIRS = "a\t1 2 3\nb\t3 2 1 4\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"keep": ("x",)},
            "log.tsv: a pairs file has no columns; --keep, --label and --label-threshold need some",
        ),
        (
            {"label_threshold": 4.0},
            "log.tsv: a pairs file has no columns; --keep, --label and --label-threshold need some",
        ),
        (
            {"split": "time", "valid_from": "1", "test_from": "2"},
            "log.tsv: a pairs file has no times; expected --split leave-last-out",
        ),
    ],
)
def test_what_pairs_cannot_do(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    assert refused(tmp_path, "log.tsv", PAIRS, **options) == expected


def test_a_kept_column_may_not_be_a_level(tmp_path: Path) -> None:
    message = refused(tmp_path, "log.parquet", frame(views_level=[3] * 12), keep=("views_level",))
    assert message.startswith("--keep views_level: the data set has a column of this name already")


def test_files_that_are_not_there_or_of_no_known_kind(tmp_path: Path) -> None:
    assert "log.txt: the suffix '.txt' tells no format; expected .csv" in refused(
        tmp_path, "log.txt", lines(*ROWS)
    )
    assert "none.csv: no such file" in refused(
        tmp_path, "log.csv", lines(*ROWS), items=str(tmp_path / "none.csv")
    )
    convert(tmp_path, "log.txt", lines(*ROWS), format="csv")


@pytest.mark.parametrize(
    ("items", "options", "expected"),
    [
        ("id,title\ni1,x\n", {}, "items.csv: column 'item' (--items-id) is missing; found"),
        ("item\nj1\nj2\n", {}, "none of its 2 items is in log.csv; its first is 'j1', that of"),
        ("item,likes\ni1,-1\n", {}, f"column 'likes', row 0 {FIRST}: found '-1', expected a num"),
        ("item,views\ni1,1\n", {"levels": ("plays",)}, "column 'plays' (--levels) is missing"),
        ("item\ni1\n", {"title": "name"}, "column 'name' (--title) is missing"),
        ("item\ni1\n", {"keep_items": ("size",)}, "column 'size' (--keep-items) is missing"),
    ],
)
def test_wrong_metadata(tmp_path: Path, items: str, options: dict[str, Any], expected: str) -> None:
    (tmp_path / "items.csv").write_text(items)
    options = {"items": str(tmp_path / "items.csv"), **options}
    assert expected in refused(tmp_path, "log.csv", lines(*ROWS), **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"max_history": 0, "min_history": -1, "negatives": -1, "alpha": float("nan")},
            [
                "--max-history is 0, expected at least 1",
                "--min-history is -1, expected at least 0",
                "--negatives is -1, expected at least 0",
                "--alpha is nan, expected at least 0",
            ],
        ),
        (
            {"max_history": 2, "min_history": 3},
            ["--min-history is 3, expected at most --max-history, 2"],
        ),
        (
            {"user": "item"},
            ["user, item, timestamp and label name a column twice: ['item', 'item', 'timestamp']"],
        ),
        (
            {"split": "time", "valid_from": "3"},
            ["--test-from is None, but --split is time; expected it with --split time, and only"],
        ),
        ({"test_from": "3"}, ["--test-from is 3, but --split is leave-last-out; expected it"]),
        (
            {"keep": ("label", "x", "x"), "levels": ("a", "a")},
            [
                "--levels needs the metadata file of --items",
                "--keep label: the data set has a column of this name already",
                "--keep x: the data set has a column of this name already",
                "--levels a: the data set has a column of this name already",
            ],
        ),
        ({"keep": ("views_level",)}, ["log.csv: column 'views_level' (--keep) is missing; "]),
        ({"title": "title"}, ["--title needs the metadata file of --items"]),
        (
            {"split": "time", "valid_from": "3", "test_from": "2"},
            ["--valid-from is 3, expected a time before --test-from, 2"],
        ),
        (
            {"split": "time", "valid_from": "2024-01-01", "test_from": "later"},
            [
                "--valid-from is '2024-01-01', expected a number, like the log's timestamps",
                "--test-from is 'later', expected a number, like the log's timestamps",
            ],
        ),
        (
            {"split": "time", "valid_from": "2", "test_from": "9"},
            ["log.csv: no click for test; --split time with --min-history 1 gives 3 for train, "],
        ),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], expected: Sequence[str]) -> None:
    (tmp_path / "out").mkdir()
    found = refused(tmp_path, "log.csv", lines(*ROWS), **options).splitlines()
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)
