"""What embed refuses, without writing anything: bad files, ids, options, and a full disk."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.embed import embed
from model_zoo.core.prepare.vectors import open_vectors
from tests.prepare.embed_helpers import IDS, ITEMS, h5, problem, vectors

LINES = [str(i) for i in IDS]


def npz_of_objects(path: Path) -> Path:
    np.savez(path, item=IDS, title=np.array([[1.0], [1.0, 2.0]], dtype=object))
    return path


def truncated(path: Path) -> Path:
    content = h5(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("no such format")
    return path


def damaged(path: Path) -> Iterator[Path]:
    """A zip file that is cut short, one with another byte in it, and no zip file."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[content.index(b"NUMPY") + 200] ^= 255
    for part in (content[:-10], bytes(changed), b"no such format"):
        path.write_bytes(part)
        yield path


def ragged(path: Path) -> Path:
    values = [[1.0, 2.0]] * ITEMS
    values[7] = [1.0, 2.0, 3.0]
    pl.DataFrame({"item_id": IDS, "v": values}).write_parquet(path)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def with_value(value: float) -> npt.NDArray[np.float32]:
    values = vectors()
    values[8, 2] = value
    return values


@pytest.mark.parametrize(
    ("name", "make", "options", "expected"),
    [
        ("v.h5", h5, {"vectors_keys": ["emb"]}, "no 'emb' for the vectors; the file holds 'item'"),
        ("v.h5", h5, {"ids_keys": ["title"]}, "'title' is float32 (60, 12); expected one dim"),
        ("v.h5", lambda p: h5(p, image=vectors()), {}, "2 candidates for the vectors"),
        ("v.h5", lambda p: h5(p, IDS[:-1]), {}, "59 ids in 'item', but 60 vectors in 'title'"),
        ("v.h5", lambda p: h5(p, np.r_[IDS[:-1], 7]), {}, "item 7 stands in rows 6 and 59"),
        ("v.h5", lambda p: h5(p, values=with_value(np.nan)), {}, "item 9, row 8: found nan"),
        ("v.h5", lambda p: h5(p, values=with_value(-np.inf)), {}, "item 9, row 8: found -inf"),
        ("v.h5", lambda p: h5(p, IDS + 900), {}, "it has 901, 902, 903, 904, 905, ..., item_info"),
        ("v.h5", lambda p: h5(p, IDS / 1.0), {}, "0 candidates for the ids (one dimension of"),
        ("v.h5", truncated, {}, "v.h5: not a readable HDF5 file: "),
        ("v.h5", text, {}, "v.h5: not a readable HDF5 file: "),
        ("v.h5", lambda p: p, {}, "v.h5: no such file"),
        ("v.csv", text, {}, "vectors in a '.csv' file; expected .h5"),
        ("v.npz", text, {}, "v.npz: not a readable npz file: "),
        ("v.npz", lambda p: next(damaged(npz(p, a=IDS))), {}, "v.npz: not a readable npz file: "),
        ("v.npz", npz_of_objects, {}, "'title' (Python objects, which are never unpickled)"),
        ("v.npz", lambda p: npz(p, a=IDS), {}, "0 candidates for the vectors"),
        ("v.npy", text, {}, "v.npy: not a readable npy file: "),
        ("v.npy", lambda p: np.save(p, vectors()) or p, {}, "name a file of them with --ids-file"),
        ("v.npy", lambda p: np.save(p, vectors(rows=9)) or p, {"row_order": True}, "61 or 60"),
        ("v.npy", lambda p: np.save(p, IDS) or p, {"row_order": True}, "int64 (60,); expected two"),
        ("v.parquet", ragged, {}, "item 8: a list of length 3; expected 2, as item 1 has"),
        ("v.parquet", text, {}, "v.parquet: not a readable parquet file"),
        ("v.h5", h5, {"dim": 13}, "--dim is 13, but the vectors have 12 dimensions together"),
        ("v.h5", h5, {"dim": 0}, "--dim is 0; expected at least 1"),
        ("v.h5", lambda p: h5(p, IDS[:3], vectors()[:3]), {"dim": 4}, "only 3 items have a vector"),
        ("v.h5", lambda p: h5(p, values=np.ones((60, 5))), {}, "all vectors are equal"),
        ("v.h5", h5, {"column": "item_tags"}, "'item_tags' is there already; --replace"),
        ("v.h5", h5, {"column": "item_id"}, "'item_id' is the column of the ids"),
        ("v.h5", h5, {"item_id": "itemid"}, "no column 'itemid'; found item_id, item_tags (did"),
        ("v.h5", h5, {"names": ["a", "b"]}, "names a, b for 1 files"),
        ("v.h5", h5, {"vectors_keys": ["a", "b"]}, "--vectors-key has 2 values for 1 files"),
        ("v.h5", h5, {"projection": "none.npz"}, "none.npz: no such file"),
        ("v.h5", h5, {"memory_limit": 0}, "--memory-limit is 0"),
    ],
)
def test_what_is_refused(
    item_info: Path,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Path],
    options: dict[str, Any],
    expected: str,
) -> None:
    assert expected in problem(item_info, vectors=[make(tmp_path / name)], **({"dim": 2} | options))


def write_h5(path: Path) -> Path:
    return h5(path)


def write_npz(path: Path) -> Path:
    return npz(path, item_id=IDS, v=vectors())


def write_npy(path: Path) -> Path:
    np.save(path, vectors())
    return path


@pytest.mark.parametrize(
    ("name", "write"), [("v.h5", write_h5), ("v.npz", write_npz), ("v.npy", write_npy)]
)
def test_a_changed_byte_is_no_traceback(
    tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    path, draw, refused = write(tmp_path / name), random.Random(0), 0
    content = path.read_bytes()
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 2, 4])):
            changed[draw.randrange(min(2048, len(content)))] = draw.randrange(256)
        path.write_bytes(bytes(changed))
        try:
            open_vectors(path, row_ids={ITEMS: LINES}).read(0, ITEMS)
        except InputError:
            refused += 1
    assert refused


def test_all_zero_vectors_are_no_vectors(item_info: Path, tmp_path: Path) -> None:
    file = h5(tmp_path / "v.h5", values=np.zeros((ITEMS, 4)))
    assert "only 0 items have a vector" in problem(item_info, vectors=[file], dim=2)


def test_a_map_made_for_other_vectors(item_info: Path, tmp_path: Path) -> None:
    made = embed(item_info, vectors=[h5(tmp_path / "v.h5")], dim=4, column="e").saved
    wider = h5(tmp_path / "w.h5", values=vectors(13))
    assert "made for title (12), but the vectors are title (13)" in problem(
        item_info, vectors=[wider], projection=made, replace=True
    )
    assert "makes vectors of length 4" in problem(
        item_info, vectors=[wider], projection=made, dim=5, replace=True
    )
    other = npz(tmp_path / "other.npz", mean=IDS)
    assert "other.npz: not a saved projection" in problem(
        item_info, vectors=[wider], projection=other
    )
    for broken in damaged(made):
        assert f"{broken}: not a saved projection" in problem(
            item_info, vectors=[wider], projection=broken
        )


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "i.txt",
            ["asin", *map("b{}".format, LINES)],
            "v.npy: 61 ids in '{}', but 60 vectors in "
            "'v.npy'; if its first line 'asin' is a header, name it with --ids-key",
        ),
        (
            "i.txt",
            ["item_id", *LINES[1:]],
            "59 ids in '{}', but 60 vectors in 'v.npy' (its first line is the header 'item_id')",
        ),
        (
            "i.txt",
            ["asin", *LINES[1:]],
            "59 ids in '{}', but 60 vectors in 'v.npy' (its first line",
        ),
        ("i.txt", LINES[1:], "59 ids in '{}', but 60 vectors in 'v.npy'"),
        ("i.txt", [*LINES[:3], "", *LINES[3:]], "{}: line 4 is empty; expected an id in each line"),
        (
            "i.csv",
            ["asin,row", *(f"{i},1" for i in LINES)],
            "{}: the first line has 2 columns: asin, row; name that of the ids with --ids-key",
        ),
        ("i.csv", [*LINES[1:], "1,2"], "{}: line 60: found 2 fields, expected 1, as in the first"),
        ("i.csv.gz", LINES, "{}: not a readable text file: zlib inflate failed"),
    ],
)
def test_a_wrong_file_of_ids(
    item_info: Path, tmp_path: Path, name: str, lines: list[str], expected: str
) -> None:
    np.save(tmp_path / "v.npy", vectors(3))
    (tmp_path / name).write_text("\n".join(lines))
    found = problem(item_info, vectors=[tmp_path / "v.npy"], ids_files=[tmp_path / name], dim=3)
    assert expected.format(tmp_path / name) in found


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([1, 2, 2], "item 2 stands in rows 1 and 2"), ([1, None, 2], "row 1: no value")],
)
def test_bad_ids_in_item_info(tmp_path: Path, ids: list[int | None], expected: str) -> None:
    item_info = tmp_path / "item_info.parquet"
    pl.DataFrame({"item_id": ids}).write_parquet(item_info)
    assert expected in problem(item_info, vectors=[h5(tmp_path / "v.h5")], dim=2)


def test_a_full_disk_leaves_the_old_file(item_info: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = h5(tmp_path / "v.h5")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        found = problem(item_info, vectors=[file], dim=12, column="e")
        scratch = problem(item_info, vectors=[file], dim=12, column="e", memory_limit=1e-6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written: " in found
    assert os.strerror(27) in found
    assert "cannot be written: " in scratch
