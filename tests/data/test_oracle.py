"""The best reachable AUC: of the split's rows alone, and a wrong file is refused in words."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model_zoo.core.data.oracle import best_auc
from model_zoo.core.errors import InputError

SOUND = {
    "split": ["train", "valid", "valid", "valid"],
    "label": [1.0, 0.0, 1.0, 1.0],
    "probability": [0.0, 0.5, 0.25, 0.75],
}


def written(folder: Path, **columns: list[object]) -> str:
    path = folder / "oracle.parquet"
    pl.DataFrame(SOUND | columns, strict=False).write_parquet(path)
    return str(path)


def test_only_the_rows_of_the_split_count(tmp_path: Path) -> None:
    assert best_auc(written(tmp_path)) == 0.5


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"split": [1, 2, 3, 4]}, "column 'split' has type Int64; expected text"),
        ({"label": [1, 0, 2, 1]}, "column 'label', row 2: found 2, expected 0 or 1"),
        ({"label": [1, 0, None, 1]}, "column 'label', row 2: found None, expected a value"),
        ({"label": [0, 1, 1, 1]}, "3 valid rows; expected some with label 0 and with 1"),
        ({"split": ["train"] * 4}, "0 valid rows; expected some with label 0 and with 1"),
        ({"probability": [0, 1, 1.5, 1]}, "row 2: found 1.5, expected a probability in 0..1"),
        ({"probability": [0, 1, float("nan"), 1]}, "row 2: found nan, expected a number"),
    ],
)
def test_a_wrong_value(tmp_path: Path, columns: dict[str, list[object]], expected: str) -> None:
    path = written(tmp_path, **columns)
    with pytest.raises(InputError) as error:
        best_auc(path)
    assert expected in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize("name", SOUND)
def test_a_column_that_is_missing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "oracle.parquet"
    pl.DataFrame(SOUND).drop(name).write_parquet(path)
    with pytest.raises(InputError, match=f"column '{name}' is missing"):
        best_auc(str(path))


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_no_parquet_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "oracle.parquet"
    if content is not None:
        path.write_bytes(content)
    expected = "no such file, but" if content is None else "not a readable parquet file"
    with pytest.raises(InputError, match=f"oracle.parquet: {expected}"):
        best_auc(str(path))
