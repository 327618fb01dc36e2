"""Labels of a test split: all there, or none."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from model_zoo.core.data.schema import check_dataset
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.facts import describe_dataset
from tests.data.odd_forms import plain_tables, put, spec, write

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([0.0] * 9),
        pa.array([1.0] * 9),
        pa.array([-1] * 9),
        pa.array([None] * 9, pa.float64()),
        pa.nulls(9),
        pa.array([float("nan")] * 9),
        pa.array(["?"] * 9),
        pa.array([True] * 9),
    ],
)
def test_a_test_split_without_two_classes_counts_as_unlabelled(labels: pa.Array) -> None:
    tables = plain_tables()
    write(tables | {"test": put(tables["test"], label=labels)})
    summary = check_dataset(spec())["test"]
    assert not summary.labelled
    assert summary.unlabelled.startswith("raw/test.parquet: column 'label'")
    assert describe_dataset(spec(), progress=False).splits["test"].clicks is None
    write(tables | {"valid": put(tables["valid"].slice(0, 9), label=labels)})
    with pytest.raises(InputError):
        check_dataset(spec())


def test_some_wrong_labels_in_a_test_split_are_refused() -> None:
    tables = plain_tables()
    labels = pa.array([1.0, 0.0, None, *[1.0] * 6])
    write(tables | {"test": put(tables["test"], label=labels)})
    with pytest.raises(InputError, match="row 2: found None, expected a value"):
        check_dataset(spec())


def test_scored_rows_are_checked_without_labels_and_further_columns() -> None:
    tables = plain_tables()
    extra = pa.array(["x"] * 9)
    test = put(tables["test"], label=extra, __index_level_0__=extra)
    write(tables | {"test": test})
    assert check_dataset(spec(), splits=("test",), scoring=True)["test"].rows == 9
    with pytest.raises(InputError, match="'__index_level_0__' is not among feature_cols"):
        check_dataset(spec())
    frame = pl.from_arrow(test.drop(["hour"]))
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet("raw/test.parquet")
    with pytest.raises(InputError, match="column 'hour' is missing"):
        check_dataset(spec(), splits=("test",), scoring=True)
