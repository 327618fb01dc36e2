"""Metadata columns become item_info columns, aligned by id, or the file stays as it was."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from model_zoo.core.data.spec import FeatureSpec
from model_zoo.core.errors import InputError
from model_zoo.core.prepare import join as module
from model_zoo.core.prepare.join import join
from model_zoo.core.prepare.manifest import check_manifest


@pytest.fixture
def info(tmp_path: Path) -> Path:
    """Encoded: row k is item k, row 0 is padding."""
    path = tmp_path / "item_info.parquet"
    pl.DataFrame({"item_id": [0, 1, 2, 3], "item_tags": [[0], [1], [2], [1]]}).write_parquet(path)
    return path


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "item_feature.parquet"
    pl.DataFrame(
        {
            "item_id": ["3", "1", "2", "0", "77"],
            "item_title": ["c", "a", "b", "pad", "x"],
            "likes_level": pl.Series([7, 0, 10, 9, 99], dtype=pl.UInt8),
            "price": [0.5, 1.5, -2.5, 9.0, float("nan")],
            "tags": [[5, 0], [6, 7], [0, 0], [9, 9], [1]],
            "emb": pl.Series(
                [[0.1, 0.2], [1, 2], [3, 4], [9, 9], [8, 8]], dtype=pl.Array(pl.Float64, 2)
            ),
            "change": [-1, 0, 2, 9, 9],
        }
    ).write_parquet(path)
    return path


def edit(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


def problem(info: Path, **options: Any) -> str:
    before = info.read_bytes()
    files = sorted(info.parent.iterdir())
    with pytest.raises(InputError) as error:
        join(info, **options)
    assert info.read_bytes() == before
    assert sorted(info.parent.iterdir()) == files
    return "\n".join(error.value.problems)


def test_columns_of_every_type(info: Path, metadata: Path) -> None:
    before = pl.read_parquet(info)
    columns = ["likes_level", "price", "tags", "emb", "change"]
    done = join(info, metadata=metadata, columns=columns)
    frame = pl.read_parquet(info)
    assert frame.select("item_id", "item_tags").equals(before)
    assert frame["likes_level"].to_list() == [0, 0, 10, 7]
    assert frame["price"].to_list() == [0.0, 1.5, -2.5, 0.5]
    assert frame["tags"].to_list() == [[0, 0], [6, 7], [0, 0], [5, 0]]
    assert frame["emb"].to_list()[:3] == [[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]
    assert frame["change"].to_list() == [0, 0, 2, -1]
    assert frame.schema["emb"] == pl.List(pl.Float32)
    assert (done.items, done.filled, done.unused) == (3, 0, 1)
    specs = [FeatureSpec.model_validate(yaml.safe_load(line)[0]) for line in done.feature_cols]
    assert [spec.name for spec in specs] == columns
    assert all(spec.source == "item" and spec.active for spec in specs)
    assert [spec.type for spec in specs] == [
        "categorical",
        "numeric",
        "sequence",
        "embedding",
        "numeric",  # negative numbers are no ids
    ]
    assert (specs[0].vocab_size, specs[2].vocab_size, specs[2].max_len) == (11, 8, 2)
    assert specs[3].pretrain_dim == 2


def test_raw_ids_keep_their_order_and_have_no_padding(tmp_path: Path) -> None:
    info, table = tmp_path / "item_info.parquet", tmp_path / "items.csv"
    pl.DataFrame({"item_id": ["007", "b", "7"]}).write_parquet(info)
    table.write_text('item,title,views\n 7,"one, two",1\n007 ,"line\nbreak",2\nb,x,3\n')
    join(info, metadata=table, metadata_id="item", columns=["views"], prefix="item_")
    assert pl.read_parquet(info).to_dict(as_series=False) == {
        "item_id": ["007", "b", "7"],
        "item_views": [2, 3, 1],
    }


def test_tsv(info: Path, tmp_path: Path) -> None:
    table = tmp_path / "items.tsv"
    table.write_text("item_id\tviews\n3\t1.5\n2\t2\n1\t3\n")
    join(info, metadata=table, columns=["views"])
    assert pl.read_parquet(info)["views"].to_list() == [0.0, 3.0, 2.0, 1.5]


RAW = ["007", "b", "7"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """With ids as they are, and no padding."""
    path = tmp_path / "raw_info.parquet"
    pl.DataFrame({"item_id": RAW}).write_parquet(path)
    return path


TEXTS: list[tuple[list[Any], list[Any], str]] = [  # cells of items 7, 007, b; values of 007, b, 7
    (["x", " y z ", "x"], ["y z", "x", "x"], "dtype: str, type: categorical, source: item"),
    (["a|b c", "", "d"], [[], ["d"], ["a", "b c"]], "dtype: str, type: sequence"),
    (['["a|b"]', "(none at all)", "c|d"], [["(none at all)"], ["c", "d"], ["a|b"]], "max_len: 2}"),
    (["1|2", "3", "[4, 5, 6]"], [[3], [4, 5, 6], [1, 2]], "dtype: int, type: sequence"),
    (["1|2", "3|0", "4|5"], [[3, 0], [4, 5], [1, 2]], "vocab_size: 6, max_len: 2}"),
    (["0.5|1", "2|3", "4|5"], [[2.0, 3.0], [4.0, 5.0], [0.5, 1.0]], "type: embedding"),
    ([["a"], ["b", "c"], []], [["b", "c"], [], ["a"]], "max_len: 2}"),
    ([[1], [2, 3], []], [[2, 3], [], [1]], "dtype: int, type: sequence, source: item, max_len: 2}"),
    ([True, False, True], [0, 1, 1], "vocab_size: 2}"),
]


@pytest.mark.parametrize(("cells", "values", "line"), TEXTS)
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv.gz"])
def test_texts_and_lists_of_raw_items(
    raw: Path, tmp_path: Path, cells: list[Any], values: list[Any], line: str, suffix: str
) -> None:
    table = pl.DataFrame({"item_id": ["7", "007", "b"], "x": cells})
    file = tmp_path / f"m{suffix}"
    if suffix == ".parquet":
        table.write_parquet(file)
    elif table.schema["x"] == pl.List:
        pytest.skip("a text file holds no such lists")
    elif suffix == ".csv":
        table.write_csv(file)
    else:
        file.write_bytes(gzip.compress(table.write_csv(separator="\t").encode()))
    done = join(raw, metadata=file, columns=["x"], separator="|")
    frame = pl.read_parquet(raw)
    assert frame["item_id"].to_list() == RAW
    assert frame["x"].to_list() == values
    assert line in done.feature_cols[0]
    FeatureSpec.model_validate(yaml.safe_load(done.feature_cols[0])[0])


def test_a_category_is_text_and_a_separator_has_to_be_declared(raw: Path, tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "item_id": ["7", "007", "b"],
            "x": pl.Series(["u", "v", "u"], dtype=pl.Categorical),
            "y": ["a|b", "c", "d"],
        }
    )
    table.write_parquet(tmp_path / "m.parquet")
    join(raw, metadata=tmp_path / "m.parquet", columns=["x", "y"])
    assert pl.read_parquet(raw)["x"].to_list() == ["v", "u", "u"]
    assert pl.read_parquet(raw)["y"].to_list() == ["c", "d", "a|b"]


def test_text_is_filled(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("item_id,x,y\n7,a,b|c\nb,,d\n")
    options: dict[str, Any] = {"metadata": tmp_path / "m.csv", "columns": ["x", "y"]}
    assert "1 of 3 items" in problem(raw, **options)
    join(raw, **options, fill="none", separator="|")
    frame = pl.read_parquet(raw)
    assert frame["x"].to_list() == ["none", "none", "a"]
    assert frame["y"].to_list() == [[], ["d"], ["b", "c"]]


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        (["a", "", "b"], {}, "column 'x', item 007, row 1: no value (1 such items)"),
        (["a|b", "c||d", "b"], {}, "column 'x', row 1: found 'c||d', expected a list with items"),
        (["1|2", "[1 ... 9]", "b"], {}, "column 'x', row 1: found '[1 ... 9]', expected a list"),
        (['"1,234"', "5", "6"], {}, "column 'x', row 0: found '1,234'; expected numbers without"),
        (["1", "2", "3"], {"fill": "none"}, "column 'x' holds numbers; --fill 'none' is none"),
        (["1|2", "-3", "4"], {}, "column 'x', item 007: found [-3]; expected integers from 0 up"),
        (["1", "2", "3"], {"separator": "7"}, "--list-separator: '7' cannot separate items"),
    ],
)
def test_text_that_is_refused(
    raw: Path, tmp_path: Path, cells: list[str], options: dict[str, Any], expected: str
) -> None:
    rows = [f"{item},{cell}" for item, cell in zip(["7", "007", "b"], cells, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join(["item_id,x", *rows]))
    options = {"separator": "|"} | options
    assert expected in problem(raw, metadata=tmp_path / "m.csv", columns=["x"], **options)


def test_fill(info: Path, metadata: Path) -> None:
    edit(metadata, lambda f: f.filter(pl.col("item_id") != "2"))
    edit(
        metadata,
        lambda f: f.with_columns(
            likes_level=pl.when(pl.col("item_id") == "1").then(None).otherwise("likes_level"),
            price=pl.when(pl.col("item_id") == "1").then(float("nan")).otherwise("price"),
        ),
    )
    done = join(info, metadata=metadata, columns=["likes_level", "price", "emb", "tags"], fill=4)
    frame = pl.read_parquet(info)
    assert frame["likes_level"].to_list() == [0, 4, 4, 7]  # padding stays 0
    assert frame["price"].to_list() == [0.0, 4.0, 4.0, 0.5]
    assert frame["emb"].to_list()[2] == [0.0, 0.0]
    assert frame["tags"].to_list()[2] == [0, 0]
    assert done.filled == 1


def test_replace_keeps_the_place_of_a_column(info: Path, metadata: Path) -> None:
    edit(info, lambda f: f.select("item_id", pl.lit(5).alias("price"), "item_tags"))
    assert "column 'price' is there already; --replace" in problem(
        info, metadata=metadata, columns=["price"]
    )
    edit(info, lambda f: f.with_columns(price=pl.when(pl.col("item_id") == 0).then(0).otherwise(5)))
    join(info, metadata=metadata, columns=["price"], replace=True)
    frame = pl.read_parquet(info)
    assert frame.columns == ["item_id", "price", "item_tags"]
    assert frame["price"].to_list() == [0.0, 1.5, -2.5, 0.5]


def put(column: str, row: int, value: Any, dtype: Any = None) -> Callable[..., pl.DataFrame]:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, dtype=dtype or frame.schema[column]))

    return change


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (None, {"columns": ["likes_levl"]}, "no column 'likes_levl'; found item_id, item_title"),
        (None, {"columns": ["likes_levl"]}, "did you mean 'likes_level'?"),
        (None, {"columns": ["price", "price"]}, "a column is named twice: price, price"),
        (None, {"metadata_id": "itemid"}, "did you mean 'item_id'?"),
        (None, {"item_id": "id"}, "item_info.parquet: no column 'id'; found item_id, item_tags"),
        (None, {"columns": ["item_title"]}, "string; expected numbers or lists of numbers"),
        (None, {"columns": ["item_id"]}, "'item_id' is the column of the ids"),
        (None, {"columns": ["item_title", "nowhere"]}, "no column 'nowhere'"),
        (None, {"fill": 0.5}, "holds integers; --fill 0.5 is none"),
        (None, {"fill": float("nan")}, "--fill is nan; expected a finite number"),
        (put("item_id", 4, "1"), {}, "item 1 stands in rows 1 and 4; expected each id once"),
        (put("item_id", 4, None), {}, "column 'item_id', row 4: no value"),
        (lambda f: f[3:], {}, "none of its ids is in"),
        (lambda f: f[:2], {}, "1 of 3 items"),
        (
            lambda f: f[1:],
            {},
            "are not in it: 3; --fill 0 gives them a value (the ids of",
        ),
        (put("likes_level", 1, None), {}, "'likes_level', item 1, row 1: no value (1 such items)"),
        (put("price", 2, float("nan")), {"columns": ["price"]}, "'price', item 2, row 2: no value"),
        (put("price", 2, float("inf")), {"columns": ["price"]}, "item 2: found inf; expected fin"),
        (put("tags", 1, None), {"columns": ["tags"]}, "'tags', item 1, row 1: no value"),
        (
            put("tags", 1, [1]),
            {"columns": ["tags"]},
            "item 2: a list of length 2; expected 1, as item 1",
        ),
        (put("tags", 1, [1, None]), {"columns": ["tags"]}, "item 1: a null in the list"),
        (put("tags", 1, [1, -3]), {"columns": ["tags"]}, "item 1: found -3; expected integers"),
        (put("emb", 0, [1e60, 0]), {"columns": ["emb"]}, "item 3: found 1e+60; expected finite"),
        (
            put("likes_level", 0, 2**63, pl.UInt64),
            {},
            "item 3: found 9223372036854775808; expected integers",
        ),
    ],
)
def test_what_is_refused(
    info: Path,
    metadata: Path,
    change: Callable[[pl.DataFrame], pl.DataFrame] | None,
    options: dict[str, Any],
    expected: str,
) -> None:
    if change is not None:
        edit(metadata, change)
    options = {"columns": ["likes_level"]} | options
    assert expected in problem(info, metadata=metadata, **options)


def test_all_problems_at_once(info: Path, metadata: Path) -> None:
    found = problem(info, metadata=metadata, columns=["likes", "views"])
    assert len(found.splitlines()) == 2
    edit(metadata, put("tags", 1, None))
    found = problem(info, metadata=metadata, columns=["tags", "price", "item_title"])
    assert len(found.splitlines()) == 2


@pytest.mark.parametrize("name", ["m.parquet", "m.csv"])
@pytest.mark.parametrize(
    "content", [None, b"", b"PAR1", b"item_id,views\n1,2\n1,2,3\n", b"item_id,views,\x9e\n1,2,3\n"]
)
def test_files_that_are_none(info: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    found = problem(info, metadata=file, columns=["views"])
    assert ("no such file" if content is None else "not a readable ") in found


def test_the_manifest_follows(info: Path, metadata: Path) -> None:
    stale = {"size": 1, "sha256": "0" * 64, "url": "https://example.org/item_info.parquet"}
    manifest = info.parent / "manifest.json"
    manifest.write_text(json.dumps({"files": {"item_info.parquet": stale}}))
    join(info, metadata=metadata, columns=["price"])
    assert check_manifest(info.parent) == []
    entry = json.loads(manifest.read_text())["files"]["item_info.parquet"]
    assert entry["changed_by"] == "qin-data join"
    manifest.write_text("{")
    assert "not a manifest" in problem(info, metadata=metadata, columns=["emb"])


def test_a_full_disk_leaves_the_old_file(info: Path, metadata: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        found = problem(info, metadata=metadata, columns=["price"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "item_info.parquet: cannot be written: " in found


def test_the_command(info: Path, metadata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert "track 2" in parser.format_help()
    argv = ["--item-info", str(info), "--metadata", str(metadata)]
    module.run(parser.parse_args([*argv, "--columns", "likes_level", "--fill", "0"]))
    printed = capsys.readouterr().out
    assert "1 columns for 3 items" in printed
    assert "1 rows of" in printed
    assert (
        "- {name: likes_level, active: True, dtype: int, type: categorical, source: item, "
        "vocab_size: 11}" in printed
    )
