"""A log in a folder of parts is the log of one file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.convert import convert_log
from model_zoo.core.prepare.convert_options import ConvertOptions
from model_zoo.core.prepare.raw_set import FILES

LOG = pl.DataFrame(
    {
        "user": [k % 5 for k in range(40)],
        "item": [(k * 7) % 11 for k in range(40)],
        "timestamp": [1_000 + k for k in range(40)],
        "label": [k % 3 != 0 for k in range(40)],
        "device": ["phone", "tv"] * 20,
    }
)
WIDTHS = [pl.Int8, pl.UInt16, pl.Int64, pl.UInt64]
LABELS = [pl.Boolean, pl.Int8, pl.Float32]
TEXTS = [pl.String, pl.Categorical]


def converted(log: Path, out: Path, **options: Any) -> dict[str, list[tuple[Any, ...]]]:
    keep = ["device"] if "keep" not in options else options.pop("keep")
    convert_log(ConvertOptions(interactions=str(log), out=str(out), keep=keep, **options))
    files = [name for name in FILES if name.endswith(".parquet")]
    return {name: pl.read_parquet(out / name).rows() for name in files}


def parts(folder: Path, log: pl.DataFrame = LOG, sizes: tuple[int, ...] = (13, 27)) -> Path:
    folder.mkdir(parents=True)
    start = 0
    for k, size in enumerate(sizes):
        log.slice(start, size).write_parquet(folder / f"part-{k}.parquet")
        start += size
    return folder


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 40), max_size=4),
    types=st.lists(
        st.tuples(st.sampled_from(WIDTHS), st.sampled_from(LABELS), st.sampled_from(TEXTS)),
        min_size=5,
        max_size=5,
    ),
)
def test_a_folder_of_parts_is_its_log(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], types: list[tuple[Any, Any, Any]]
) -> None:
    """However it is cut, also into parts without rows, and whatever writers chose for types."""
    folder = tmp_path_factory.mktemp("log")
    LOG.write_parquet(folder / "whole.parquet")
    (folder / "parts").mkdir()
    bounds = [0, *sorted(cuts), 40]
    for k, (ids, label, text) in enumerate(types[: len(bounds) - 1]):
        part = LOG.slice(bounds[k], bounds[k + 1] - bounds[k])
        part = part.with_columns(pl.col("user", "item").cast(ids), pl.col("label").cast(label))
        part.with_columns(pl.col("device").cast(text)).write_parquet(
            folder / "parts" / f"part-{k}.parquet"
        )
    whole = converted(folder / "whole.parquet", folder / "one")
    assert converted(folder / "parts", folder / "other") == whole
    assert len(whole["train.parquet"]) > 5


def test_partitions_belong_to_it_and_marks_do_not(tmp_path: Path) -> None:
    LOG.write_parquet(tmp_path / "whole.parquet")
    log = parts(tmp_path / "log" / "date=1")
    shutil.move(log / "part-1.parquet", parts(tmp_path / "log" / "date=2", sizes=()))
    (tmp_path / "log" / "_SUCCESS").touch()
    (tmp_path / "log" / ".part.crc").touch()
    whole = converted(tmp_path / "whole.parquet", tmp_path / "one")
    assert converted(tmp_path / "log", tmp_path / "other") == whole


def refused(log: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        converted(log, log.parent / "out", **options)
    return str(error.value).replace(f"{log.parent}/", "")


def test_a_row_is_named_by_its_part(tmp_path: Path) -> None:
    bad = LOG.with_columns(
        user=pl.when(pl.int_range(40) == 15).then(None).otherwise("user"),
        timestamp=pl.when(pl.int_range(40) == 20).then(10**13).otherwise("timestamp"),
    )
    found = refused(parts(tmp_path / "log", bad))
    assert "log/part-1.parquet: column 'user', row 2 (the first is 0): found nothing" in found
    assert "row 7 (the first is 0) of log/part-1.parquet holds 10000000000000" in found
    assert "log: column 'timestamp' mixes units: row 0 (the first is 0) of log/part-0" in found


def test_parts_of_two_kinds_are_refused(tmp_path: Path) -> None:
    log = parts(tmp_path / "log")
    LOG.with_columns(pl.col("user").cast(pl.String)).write_parquet(log / "z.parquet")
    assert refused(log) == (
        "log: column 'user' is numbers in log/part-0.parquet and text in log/z.parquet; expected "
        "one kind in all parts"
    )
    LOG.drop("item").write_parquet(log / "z.parquet")
    assert refused(log).startswith("log/z.parquet: column 'item' (--item) is missing")
    LOG.with_columns(user=pl.lit(2**63, pl.UInt64)).write_parquet(log / "z.parquet")
    assert refused(log).startswith("log: its parts do not fit together: conversion from `u64`")


def test_what_is_no_folder_of_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    LOG.write_csv(tmp_path / "log" / "log.csv")
    expected = "log: a folder; expected parquet parts in it, or a file"
    assert refused(tmp_path / "log") == expected
    assert refused(parts(tmp_path / "other"), format="csv").endswith(expected[3:])
    assert (
        refused(parts(tmp_path / "empty", LOG.clear())) == "empty: no rows; expected at least one"
    )


def test_a_data_set_is_not_written_into_its_log(tmp_path: Path) -> None:
    log = parts(tmp_path / "log")
    with pytest.raises(InputError, match="lies in --interactions"):
        converted(log, log / "out")
    assert sorted(path.name for path in log.iterdir()) == ["part-0.parquet", "part-1.parquet"]
