"""NA, null and nan are texts like others, reported and dropped if asked; no id is no text."""

from __future__ import annotations

import argparse
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.convert import ConvertOptions, add_arguments, convert_log, run
from tests.prepare.test_tables import FIRST, HEADER, ROWS, convert, frame, lines, refused

NAMES = ["NA", "null", "None", "nan", "NaN", "N/A"]
SPLITS = ("train", "valid", "test")


def ids_of(out: Path, column: str) -> set[str]:
    frames = [pl.read_parquet(out / f"{split}.parquet") for split in SPLITS]
    return {value for f in frames for value in f[column].explode().to_list()}


def report(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "convert.json").read_text())
    return content


def log_of(names: list[str]) -> list[str]:
    """Four clicks of each name as a user, and each name as an item of user u0."""
    rows = [f"{name},i{t},{t}" for name in names for t in range(4)]
    return [*ROWS, *rows, *(f"u0,{name},{5 + t}" for t, name in enumerate(names))]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_they_stay_what_they_are_and_are_reported(tmp_path: Path, kind: str) -> None:
    rows = log_of(NAMES)
    content: Any = lines(*rows)
    if kind == "tsv":
        content = content.replace(",", "\t")
    if kind == "parquet":
        fields = zip(*(row.split(",") for row in rows), strict=True)
        content = pl.DataFrame(dict(zip(HEADER.split(","), fields, strict=True)))
    out = convert(tmp_path, f"log.{kind}", content, min_history=0)
    assert ids_of(out, "user_id") == {"u0", "u1", "u2", *NAMES}
    assert ids_of(out, "item_id") == {"i0", "i1", "i2", "i3", "i4", *NAMES}
    found = report(out)["placeholders"]
    assert {(e["column"], e["value"], e["rows"]) for e in found} == {
        *(("user", name, 4) for name in NAMES),
        *(("item", name, 1) for name in NAMES),
    }
    assert {e["share"] for e in found} == {4 / len(rows), 1 / len(rows)}
    assert {e["what"] for e in found} == {"id"}


def test_dropped_ids_leave_log_and_metadata(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,likes\nNA,1\nNA,bad\ni0,1\ni1,2\nnull,4\nnan,5\n,6\n")
    rows = [*log_of(NAMES), ",i1,7", "NA,i1,never", "u1,,8"]
    options = {"min_history": 0, "items": str(tmp_path / "items.csv")}
    out = convert(tmp_path, "log.csv", lines(*rows), drop_ids=("NA", "null", ""), **options)
    assert ids_of(out, "user_id") == {"u0", "u1", "u2", "None", "nan", "NaN", "N/A"}
    assert not {"NA", "null", ""} & (ids_of(out, "item_id") | ids_of(out, "item_seq"))
    info = pl.read_parquet(out / "item_info.parquet")
    assert not {"NA", "null", ""} & set(info["item_id"])
    counts = report(out)["counts"]
    assert counts["log_rows"] == len(rows)
    assert counts["dropped_rows"] == 4 + 4 + 2 + 3
    assert counts["dropped_items"] == 4
    # The same as a log in which they never were.
    left = [r for r in rows if not {"NA", "null", ""} & set(r.split(",")[:2])]
    (tmp_path / "items.csv").write_text("item,likes\ni0,1\ni1,2\nnan,5\n")
    (tmp_path / "again").mkdir()
    again = convert(tmp_path / "again", "log.csv", lines(*left), **options)
    for name in ("train", "valid", "test", "item_info"):
        whole, other = (pl.read_parquet(o / f"{name}.parquet") for o in (out, again))
        assert whole.equals(other)


def test_a_pairs_file_drops_users_and_items(tmp_path: Path) -> None:
    pairs = "\ufeffa\t1 NA 2 3 4\r\nNA\t5 6 7\r\nnull\t5 6\r\n\r\n"
    out = convert(tmp_path, "log.tsv", pairs, drop_ids=("NA",), min_history=0)
    assert ids_of(out, "user_id") == {"a", "null"}
    assert ids_of(out, "item_id") == {"1", "2", "3", "4", "5", "6"}
    assert report(out)["counts"]["dropped_rows"] == 4
    with pytest.raises(InputError, match="--drop-ids drops all 3 clicks"):
        convert(tmp_path, "log.tsv", "a\tNA NA NA\nb\t\n"[:-3], drop_ids=("NA",))


def test_all_rows_dropped_is_an_error(tmp_path: Path) -> None:
    message = refused(tmp_path, "log.csv", lines("NA,a,1", "NA,b,2"), drop_ids=("NA",))
    assert message == "log.csv: --drop-ids drops all 2 rows"


def test_the_order_of_problems_counts_dropped_rows(tmp_path: Path) -> None:
    content = lines("NA,a,1", "u,b,x", "NA,c,y", *ROWS)
    assert f"row 1 {FIRST}: found 'x'" in refused(tmp_path, "log.csv", content, drop_ids=("NA",))


@pytest.mark.parametrize(
    ("users", "dtype"),
    [
        ([0.0, 1.0, 2.0], pl.Float64),
        ([0.0, 1.0, 2.0], pl.Float32),
        ([Decimal(0), Decimal(1), Decimal(2)], pl.Decimal(38, 0)),
        ([b"0", b"1", b"2"], pl.Binary),
    ],
)
def test_ids_that_are_exact_in_another_type(tmp_path: Path, users: list[Any], dtype: Any) -> None:
    """As pandas writes integers beside a missing one, databases numbers, Impala text."""
    column = pl.Series([user for user in users for _ in range(4)], dtype=dtype)
    out = convert(tmp_path, "log.parquet", frame(user=column), min_history=0)
    assert ids_of(out, "user_id") == {"0", "1", "2"}


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_ids_are_refused_or_dropped(tmp_path: Path, missing: float | None) -> None:
    users = pl.Series([0.0, 0.0, 0.0, missing] * 3, dtype=pl.Float64, strict=False)
    message = refused(tmp_path, "log.parquet", frame(user=users))
    assert "column 'user', row 3" in message
    assert "expected an id (3 such rows)" in message
    log = frame(user=users, timestamp=list(range(12)))
    out = convert(tmp_path, "log.parquet", log, min_history=0, drop_ids=("",))
    assert ids_of(out, "user_id") == {"0"}
    assert report(out)["counts"]["dropped_rows"] == 3


@pytest.mark.parametrize(
    "users",
    [
        pl.Series([2.0**53] * 12),
        pl.Series([2**24] * 12, dtype=pl.Float32),
        pl.Series([b"\xff"] * 12),
        pl.Series([Decimal("1.5")] * 12),
        pl.Series([True] * 12),
    ],
)
def test_ids_that_are_not_exact_are_refused(tmp_path: Path, users: pl.Series) -> None:
    message = refused(tmp_path, "log.parquet", frame(user=users))
    assert message == (
        f"log.parquet: column 'user' has type {users.dtype}; expected text or integers"
    )


def test_kept_columns_keep_them_and_are_reported(tmp_path: Path) -> None:
    """A text nan among numbers does not become the number NaN."""
    rows = [f"{row},{'NA' if k else 'x'},{'nan' if k < 3 else k}" for k, row in enumerate(ROWS)]
    content = lines(*rows, header=f"{HEADER},place,age")
    (tmp_path / "items.csv").write_text("item,brand\ni0,null\ni1,Ulm\n")
    out = convert(
        tmp_path,
        "log.csv",
        content,
        keep=("place", "age"),
        items=str(tmp_path / "items.csv"),
        keep_items=("brand",),
        min_history=0,
    )
    assert ids_of(out, "place") == {"x", "NA"}
    assert ids_of(out, "age") == {"nan", *(str(k) for k in range(3, 12))}
    brand = pl.read_parquet(out / "item_info.parquet").select("item_id", "brand")
    assert dict(brand.rows()) == {"i0": "null", "i1": "Ulm", "i2": None, "i3": None, "i4": None}
    found = [(e["what"], e["column"], e["value"], e["rows"]) for e in report(out)["placeholders"]]
    assert found == [
        ("value", "place", "NA", 11),
        ("value", "age", "nan", 3),
        ("value", "brand", "null", 1),
    ]


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text(lines(*log_of(["NA", "<NA>"])))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--interactions", str(log), "--out", str(tmp_path / "out"), "--min-history", "0"]
    run(parser.parse_args(words))
    shown = capsys.readouterr().out.splitlines()
    assert (
        f"warning: {log}: column 'user': 4 rows (18.18%) have 'NA', one id like others; "
        "if it means none: --drop-ids NA"
    ) in shown
    assert sum("--drop-ids '<NA>'" in line for line in shown) == 2
    run(parser.parse_args([*words, "--drop-ids", "NA", "<NA>", ""]))
    shown = capsys.readouterr().out.splitlines()
    assert "dropped rows: 10" in shown
    assert not any(line.startswith("warning") for line in shown)


def test_only_the_whole_id_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(lines(*log_of(["NA", "Na", "NAN1", "0"])))
    counts = convert_log(
        ConvertOptions(interactions=str(path), out=str(tmp_path / "out"), drop_ids=("NA",))
    )
    assert counts["dropped_rows"] == 5
