"""Scores as they are written: the leaderboard's zip, tables of parquet and csv."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from model_zoo.core.commands.scoring import Scored
from model_zoo.core.data.cell_text import write_lists
from model_zoo.core.data.spec import LENGTH_SUFFIX, DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside
from model_zoo.core.serving.calibration import Calibration

SCORE_COLUMNS, EXPLAINED = ("ID", "probability"), ("history", "attention")


def probabilities(rows: Scored, calibration: Calibration | None) -> npt.NDArray[np.float64]:
    """Click probabilities (n,) of scored rows, through the map if there is one."""
    apply = torch.sigmoid if calibration is None else calibration
    probability: npt.NDArray[np.float64] = apply(rows.logit).double().cpu().numpy()
    return probability


def score_tables(
    scored: Iterable[Scored],
    dataset: DatasetSpec,
    keys: pl.Series | None,
    calibration: Calibration | None,
) -> Iterator[pl.DataFrame]:
    """Scored rows as tables, numbered from 0.

    Args:
        scored: The rows, piece by piece.
        dataset: The encoded data set that they are of.
        keys: The data set's id of each row of the item tables, to write the history's items and
            their attention weights; ``None`` leaves both out.
        calibration: A map to apply.
    """
    start = 0
    for rows in scored:
        probability = probabilities(rows, calibration)
        table = pl.DataFrame(
            {"ID": np.arange(start, start + len(probability)), "probability": probability}
        )
        if keys is not None and rows.weight is not None:
            lengths = rows.batch[dataset.history_col + LENGTH_SUFFIX].cpu().numpy()
            offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int64())
            items = keys.gather(rows.batch[dataset.history_col].cpu().long().numpy())
            weights = pa.array(rows.weight.float().cpu().numpy())
            table = table.with_columns(
                pl.Series("history", _lists(offsets, items.to_arrow())),
                pl.Series("attention", _lists(offsets, weights)),
            )
        yield table
        start += len(probability)


def _lists(offsets: pa.Array, values: pa.Array) -> Any:
    return pl.from_arrow(pa.LargeListArray.from_arrays(offsets, values))


def write_zip(path: Path, pieces: Iterable[npt.NDArray[np.float64]], task: str) -> None:
    """Write ``prediction.csv`` (columns ID and ``task``) into a zip.

    Args:
        path: The zip to write.
        pieces: Click probabilities in file order, piece by piece.
        task: Name of the second column.

    Raises:
        InputError: If a value is not finite or not in [0, 1]; nothing is written then.
    """
    with (
        write_aside(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("prediction.csv", "w", force_zip64=True) as file,
    ):
        start = 0
        for probability in pieces:
            wrong = np.flatnonzero(~((probability >= 0) & (probability <= 1)))  # NaN is neither
            if wrong.size:
                raise InputError(
                    f"{path}: row {start + wrong[0]}: score {probability[wrong[0]]}, expected a "
                    f"probability in 0..1 ({wrong.size} such rows); nothing was written"
                )
            ids = np.arange(start, start + len(probability))
            frame = pl.DataFrame({"ID": ids, task: probability})
            frame.write_csv(file, include_header=start == 0)
            start += len(probability)


def write_tables(path: Path, tables: Iterable[pl.DataFrame]) -> None:
    """Write tables of the same columns one below the other, as parquet or csv."""
    with write_aside(path) as partial, ExitStack() as stack:
        writer: Any = None
        for table in tables:
            if path.suffix == ".csv":
                flat = table.with_columns(
                    write_lists(table[name])
                    for name, kind in table.schema.items()
                    if kind == pl.List
                )
                first = writer is None
                writer = writer or stack.enter_context(partial.open("wb"))
                flat.write_csv(writer, include_header=first)
            else:
                arrow = table.to_arrow()
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(partial, arrow.schema))
                writer.write_table(arrow)
