"""What a clean log may look like: ids of any alphabet, times of many kinds, tags in titles."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from model_zoo.core.data.text_files import COMPRESSIONS
from model_zoo.core.errors import InputError
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


GENRES = ["a|b c", "", "d", "['e', 'f|g']", "(no genres listed)"]
GENRE_LISTS = [["a", "b c"], [], ["d"], ["e", "f|g"], ["(no genres listed)"]]


@pytest.mark.parametrize(
    ("cells", "lists"),
    [
        (GENRES, GENRE_LISTS),
        (["1|2", "3.0", "[4, 5]", "", "6"], [[1, 2], [3], [4, 5], [], [6]]),
        (["1|2.5", "3", "", "", "6"], [[1.0, 2.5], [3.0], [], [], [6.0]]),
        (['["1"]', "2|3", "", "", "6"], [["1"], ["2", "3"], [], [], ["6"]]),
        (["9" * 20, "2|3", "", "", ""], [["9" * 20], ["2", "3"], [], [], []]),
        (['["a", "b"]', '["c"]', "[]", "", ""], [["a", "b"], ["c"], [], [], []]),
        ([["a"], ["b", "c"], None, [], ["d"]], [["a"], ["b", "c"], [], [], ["d"]]),
        ([[1], [2, 3], None, [], [4]], [[1], [2, 3], [], [], [4]]),
        (pl.Series([[1.0, 2.0]] * 5, dtype=pl.Array(pl.Float32, 2)), [[1.0, 2.0]] * 5),
        (["a,b", "c", "d^e", "f", "[x] g"], ["a,b", "c", "d^e", "f", "[x] g"]),  # no list
    ],
)
def test_lists_of_metadata_and_log(tmp_path: Path, cells: Any, lists: list[Any]) -> None:
    names = [f"i{k}" for k in range(5)]
    info = pl.DataFrame({"item": names, "genres": cells})
    info.write_parquet(tmp_path / "items.parquet")
    log = (
        frame().join(info, on="item", how="left", maintain_order="left").rename({"genres": "seen"})
    )
    settings: dict[str, Any] = {"keep": ("seen",), "keep_items": ("genres",), "list_separator": "|"}
    files = [str(tmp_path / "items.parquet")]
    if info.schema["genres"] == pl.String:
        (tmp_path / "items.csv.gz").write_bytes(gzip.compress(info.write_csv().encode()))
        files.append(str(tmp_path / "items.csv.gz"))
    for file in files:
        out = convert(tmp_path, "log.parquet", log, items=file, **settings)
        kept = pl.read_parquet(out / "item_info.parquet")
        assert kept["genres"].to_list() == lists
        test = pl.read_parquet(out / "test.parquet")
        seen = dict(zip(names, lists, strict=True))
        assert test["seen"].to_list() == [seen[item] for item in test["item_id"]]


def test_lists_may_be_named(tmp_path: Path) -> None:
    log = frame(a=["x,y"] * 12, b=["x|y"] * 12)
    out = convert(tmp_path, "log.parquet", log, keep=("a", "b"), lists=("a",))
    test = pl.read_parquet(out / "test.parquet")
    assert test["a"].to_list() == [["x", "y"]] * 3
    assert test["b"].to_list() == ["x|y"] * 3


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.bz2", ".tsv.zst", ".CSV.GZ"])
def test_compressed_by_its_name(tmp_path: Path, suffix: str) -> None:
    plain = convert(tmp_path, "log.csv", lines(*ROWS)) / "test.parquet"
    expected = pl.read_parquet(plain)
    text = lines(*ROWS).replace(",", "\t" if "tsv" in suffix else ",")
    codec = COMPRESSIONS[suffix[4:].lower()]
    with pa.CompressedOutputStream(tmp_path / "packed", codec) as stream:
        stream.write(text.encode())
    packed = (tmp_path / "packed").read_bytes()
    assert pl.read_parquet(convert(tmp_path, f"log{suffix}", packed) / "test.parquet").equals(
        expected
    )


def test_ratings_become_clicks_from_the_threshold_on(tmp_path: Path) -> None:
    ratings = [1.0, 4.0, 3.5, 5.0] * 3
    how: dict[str, Any] = {"label": "stars", "min_history": 0}
    rated = convert(tmp_path, "log.parquet", frame(stars=ratings), label_threshold=3.5, **how)
    by_rating = pl.read_parquet(rated / "train.parquet")
    labels = [int(rating >= 3.5) for rating in ratings]
    labelled = convert(tmp_path, "log.parquet", frame(stars=labels), **how)
    assert pl.read_parquet(labelled / "train.parquet").equals(by_rating)
    assert by_rating["label"].to_list() == [0.0, 1.0] * 3


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        (
            "log.parquet",
            frame(seen=["a|b", "c|"] * 6),
            {"keep": ("seen",), "list_separator": "|"},
            "log.parquet: column 'seen', row 1 (the first is 0): found 'c|', expected a list with "
            "items separated by '|', or one in brackets: '' is not a text (6 such rows)",
        ),
        (
            "log.parquet",
            frame(seen=["[1, ..., 8]"] * 12),
            {"keep": ("seen",), "lists": ("seen",)},
            "column 'seen', row 0 (the first is 0): found '[1, ..., 8]', expected a list, or one "
            "in brackets: '...' is not a text",
        ),
        (
            "log.parquet",
            frame(seen=[1] * 12),
            {"keep": ("seen",), "lists": ("seen",)},
            "column 'seen' has type Int64; expected lists, as such or as text (--lists)",
        ),
        ("log.parquet", frame(), {"lists": ("x",)}, "--lists x: no such column in --keep or"),
        ("log.parquet", frame(), {"list_separator": ""}, "--list-separator: '' cannot separate"),
        ("log.parquet", frame(), {"list_separator": "a"}, "--list-separator: 'a' cannot separate"),
        (
            "log.parquet",
            frame(stars=["4", "", "5"] * 4),
            {"label": "stars", "label_threshold": 4.0},
            "column 'stars', row 1 (the first is 0): found nothing, expected a number, for",
        ),
        (
            "log.parquet",
            frame(),
            {"label_threshold": 4.0},
            "log.parquet: no column 'label'; --label-threshold needs --label COLUMN",
        ),
        (
            "log.parquet",
            frame(),
            {"label_threshold": float("nan")},
            "--label-threshold is nan, expected a number",
        ),
        (
            "log.csv.gz",
            gzip.compress(lines(*ROWS).encode(), mtime=0)[:-3],
            {},
            "log.csv.gz: not a readable csv file: Truncated compressed stream",
        ),
        ("log.csv.gz", lines(*ROWS), {}, "log.csv.gz: not a readable csv file: zlib inflate"),
        ("log.csv.zip", "PK", {}, "log.csv.zip: the suffix '.zip' tells no format; expected .csv"),
    ],
)
def test_what_is_no_list_no_rating_and_no_compressed_file(
    tmp_path: Path, name: str, content: Any, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as error:
        convert(tmp_path, name, content, **options)
    assert expected in str(error.value).replace(str(tmp_path) + "/", "")
