"""A data set folder is written all or not at all, and by one process at a time."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.locks import held
from model_zoo.core.prepare import raw_set
from model_zoo.core.prepare.convert import ConvertOptions, convert_log
from tests.prepare.test_convert import FILES, Event, convert, write_log


def test_long_histories_are_written_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tmp_path)
    whole = pl.read_parquet(tmp_path / "out" / "train.parquet")
    monkeypatch.setattr(raw_set, "_CHUNK", 10)
    convert(tmp_path)
    assert pq.ParquetFile(tmp_path / "out" / "train.parquet").num_row_groups > 10
    assert whole.equals(pl.read_parquet(tmp_path / "out" / "train.parquet"))


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "out" / raw_set.LOCK
    lock.parent.mkdir()
    with held(lock, "the data set"):
        with pytest.raises(InputError, match=rf"out is being written by process .*{lock}"):
            convert(tmp_path)
        assert [p.name for p in lock.parent.iterdir()] == [raw_set.LOCK]
    convert(tmp_path)
    assert {p.name for p in lock.parent.iterdir()} == FILES


def test_the_lock_file_of_a_process_that_is_gone_locks_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "out" / raw_set.LOCK
    lock.parent.mkdir()
    lock.write_text(f"1 {socket.gethostname()}")
    convert(tmp_path)
    assert {p.name for p in lock.parent.iterdir()} == FILES


def test_a_full_disk_leaves_the_earlier_set(tmp_path: Path) -> None:
    convert(tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    log = [Event(f"{u}", f"{u * t % 997}", t, True) for u in range(900) for t in range(1, 9)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_log(tmp_path / "big.csv", log, labels=False)
    try:
        # The same failing write as on a full disk, with another reason.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        with pytest.raises(InputError, match=r"out/train\.parquet: cannot be written: .*large"):
            convert_log(
                ConvertOptions(
                    interactions=str(tmp_path / "big.csv"), out=str(tmp_path / "out"), seed=1
                )
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_train_gets_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(tmp_path)
    named = []
    replace = os.replace

    def noting(source: Path, target: Path) -> None:
        named.append(Path(target).name)
        assert not (tmp_path / "out" / "train.parquet").exists()
        replace(source, target)

    monkeypatch.setattr(os, "replace", noting)
    convert(tmp_path)
    assert set(named) == FILES
    assert named[-1] == "train.parquet"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="out: cannot be written: File exists"):
        convert(tmp_path)
