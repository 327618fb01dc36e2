"""Columns of a file to score that go into the output beside the scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.csv_rows import csv_header, csv_texts, require_once
from model_zoo.core.data.parquet import element_type, scan_file
from model_zoo.core.data.readable import READER_ERRORS, readable, unreadable
from model_zoo.core.data.text_files import DELIMITERS, table_suffix
from model_zoo.core.errors import InputError, suggestion


class KeptColumns:
    """The columns, in the order of the rows: cells of a csv file as the text they are.

    Args:
        source: Parquet or csv file.
        names: Its columns to keep.
        target: Parquet or csv file that they go to.
        taken: Columns that the output has anyway.

    Raises:
        InputError: If a column is not there or more than once, its name is taken, or csv has no
            form for its values.
    """

    def __init__(
        self, source: Path, names: Sequence[str], target: Path, taken: Sequence[str]
    ) -> None:
        self.source, self.names = source, list(dict.fromkeys(names))
        self.from_csv, self.to_csv = table_suffix(source) in DELIMITERS, target.suffix == ".csv"
        if self.names:
            self._check(taken)

    def beside(self, tables: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The tables, which have the rows of the file in its order, with the columns added."""
        if not self.names:
            yield from tables
            return
        pieces = self._pieces()
        waiting = next(pieces)
        for table in tables:
            while len(waiting) < len(table):
                waiting = pl.concat([waiting, next(pieces)])
            yield table.hstack(waiting.head(len(table)))
            waiting = waiting.slice(len(table))

    def _check(self, taken: Sequence[str]) -> None:
        try:
            if self.from_csv:
                found = csv_header(self.source)
                schema = pl.Schema(dict.fromkeys(found, pl.String()))
            else:
                schema = scan_file(self.source).collect_schema()
                found = schema.names()
        except READER_ERRORS as error:
            raise unreadable(self.source, table_suffix(self.source)[1:], error) from None
        problems = []
        for name in self.names:
            if name not in found:
                problems.append(
                    f"{self.source}: --keep: no column '{name}'; found {', '.join(found)}"
                    f"{suggestion(name, found)}"
                )
            elif name in taken:
                problems.append(
                    f"{self.source}: --keep: column '{name}' has the name of a column of the "
                    f"output ({', '.join(taken)}); rename it"
                )
            elif self.to_csv and not _has_text(schema[name]):
                problems.append(
                    f"{self.source}: --keep: column '{name}' has type {schema[name]}, which csv "
                    "cannot hold; name a parquet file for --output"
                )
        if problems:
            raise InputError(problems)
        require_once(self.source, found, self.names)

    def _pieces(self) -> Iterator[pl.DataFrame]:
        if self.from_csv:
            for texts in csv_texts(self.source, self.names):
                piece = texts.select(self.names)
                # An empty cell is written as it is read, not as two quotes.
                yield piece.with_columns(pl.all().replace("", None)) if self.to_csv else piece
            return
        with readable(self.source), pq.ParquetFile(self.source) as file:
            for batch in file.iter_batches(columns=self.names):
                piece = pl.DataFrame(pa.Table.from_batches([batch])).select(self.names)
                yield piece.with_columns(_as_lists(piece)) if self.to_csv else piece


def _has_text(dtype: pl.DataType) -> bool:
    return not element_type(dtype).is_nested() and element_type(dtype) not in (
        pl.Binary,
        pl.Object,
    )


def _as_lists(piece: pl.DataFrame) -> list[pl.Expr]:
    """Lists of fixed length as lists, and lists of dictionary entries as lists of text."""
    columns = []
    for name, dtype in piece.schema.items():
        column = pl.col(name).arr.to_list() if isinstance(dtype, pl.Array) else pl.col(name)
        inner = element_type(dtype)
        if isinstance(dtype, (pl.List, pl.Array)):
            kept = pl.String() if inner in (pl.Categorical, pl.Enum) else inner
            columns.append(column.cast(pl.List(kept)))
    return columns
