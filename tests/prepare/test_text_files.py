"""A byte-order mark, ends of lines and blanks around an id belong to no id, in any text file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.join import join
from model_zoo.core.prepare.manifest import read_manifest
from model_zoo.core.prepare.vectors import open_vectors
from tests.prepare.test_tables import ROWS, convert, lines

MARK = "\ufeff"


def ids_of(folder: Path, text: str, count: int) -> list[str]:
    np.save(folder / "v.npy", np.ones((count, 2)))
    (folder / "ids.txt").write_bytes(text.encode())
    return open_vectors(folder / "v.npy", ids_file=folder / "ids.txt").ids


@pytest.mark.parametrize("mark", ["", MARK])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \t\r\n"])
@pytest.mark.parametrize("last", ["", "end", "end end", "end \n  "])
def test_a_list_of_ids(tmp_path: Path, mark: str, end: str, last: str) -> None:
    ids = ["7", "new york", "a\u2028b", "é\x0bè", "NA"]
    text = mark + end.join(f"  {name}" for name in ids) + last.replace("end", end)
    assert ids_of(tmp_path, text, len(ids)) == ids


def test_an_empty_line_among_ids_is_refused(tmp_path: Path) -> None:
    for text in ("1\n\n2\n", "\n1\n2", f"{MARK}1\n  \r\n2"):
        with pytest.raises(InputError, match=r"ids\.txt: line [12] is empty; expected an id"):
            ids_of(tmp_path, text, 3)


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_table_of_metadata(tmp_path: Path, kind: str, end: str, quote: str) -> None:
    text = end.join([f"{quote}item_id{quote},level", "01,3", "2,4"]) + end
    text = MARK + (text.replace(",", "\t") if kind == "tsv" else text)
    (tmp_path / f"m.{kind}").write_bytes(text.encode())
    info = tmp_path / "item_info.parquet"
    pl.DataFrame({"item_id": ["2", "01"]}).write_parquet(info)
    join(info, metadata=tmp_path / f"m.{kind}", columns=["level"])
    assert pl.read_parquet(info).rows() == [("2", 4), ("01", 3)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_logs_and_titles(tmp_path: Path, kind: str, end: str) -> None:
    def written(text: str) -> str:
        text = MARK + text.replace("\n", end)
        return text.replace(",", "\t") if kind == "tsv" else text

    titles = written("item,title\ni0,one #red\ni1, two #green \n")
    (tmp_path / f"titles.{kind}").write_bytes(titles.encode())
    options: Any = {"items": str(tmp_path / f"titles.{kind}"), "min_history": 0}
    out = convert(tmp_path, f"log.{kind}", written(lines(*ROWS)), **options)
    info = pl.read_parquet(out / "item_info.parquet").select("item_id", "item_tags")
    assert dict(info.rows()) == {"i0": ["red"], "i1": ["green"], "i2": [], "i3": [], "i4": []}
    assert set(pl.read_parquet(out / "train.parquet")["user_id"]) == {"u0", "u1", "u2"}


def test_a_pairs_file(tmp_path: Path) -> None:
    text = f"{MARK}007\t1 2 3 4\r\n8\t2 3 4 1 \r\n"
    out = convert(tmp_path, "log.tsv", text, min_history=0)
    assert set(pl.read_parquet(out / "train.parquet")["user_id"]) == {"007", "8"}
    assert set(pl.read_parquet(out / "item_info.parquet")["item_id"]) == {"1", "2", "3", "4"}


def test_a_manifest(tmp_path: Path) -> None:
    entries = {"a.parquet": {"size": 1, "sha256": "0", "url": None}}
    text = MARK + json.dumps({"files": entries})
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    assert read_manifest(tmp_path) == entries
