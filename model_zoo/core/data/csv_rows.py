"""Rows in csv as the parquet that everything else reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from model_zoo.core.data.cell_text import EXPECTED, LISTS, TYPES, read_lists, read_numbers, shown
from model_zoo.core.data.list_columns import expected_list
from model_zoo.core.data.readable import READER_ERRORS, unreadable
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.data.text_files import DELIMITERS, open_text, require_utf8, table_suffix
from model_zoo.core.errors import InputError

_BLOCK = 8 << 20  # bytes read at a time; a line is shorter


def csv_to_parquet(source: Path, target: Path, dataset: DatasetSpec) -> None:
    """Convert rows in csv; lists are text (:mod:`model_zoo.core.data.cell_text`).

    The file is streamed, so it may be larger than memory.

    Args:
        source: csv or tsv file with a header, compressed or not, as its name says.
        target: Parquet file to write.
        dataset: Says which columns are lists, and of what.

    Raises:
        InputError: If the file is unreadable, a row has too few or too many fields, or a
            value is not what its column says: the first of each column, and how many.
    """
    history = dataset.ids(dataset.history_col)
    lists: dict[str, str] = {history.name: history.dtype}
    separators = {history.name: history.splitter}
    kinds: dict[str, str] = {dataset.item_col: dataset.column(dataset.item_col).dtype}
    for feature in dataset.features(of_items=False):
        of_lists = feature.type in ("sequence", "embedding")
        (lists if of_lists else kinds)[feature.name] = feature.dtype
        separators[feature.name] = feature.splitter
    label = dataset.label_col.name
    found: dict[str, tuple[int, str, str, int]] = {}  # column -> first row, cell, problem, count
    try:
        found_names = csv_header(source)
        require_once(source, found_names, [*lists, *kinds])
        names = [name for name in found_names if found_names.count(name) == 1]
        empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        schema = _converted(empty, lists, separators, kinds, label)[0].to_arrow().schema
        with pq.ParquetWriter(target, schema) as writer:
            start = 0
            for text in csv_texts(source, names):
                table, problems = _converted(text, lists, separators, kinds, label)
                for name, rows in problems.items():
                    row = min(rows)
                    first = (start + row, str(text[name][row]), rows[row], 0)
                    before = found.get(name, first)
                    found[name] = (*before[:3], before[3] + len(rows))
                writer.write_table(table.to_arrow().cast(schema))
                start += len(text)
    except READER_ERRORS as error:
        raise unreadable(source, "csv", error) from None
    if found:
        raise InputError(
            [
                f"{source}: column '{name}', row {row}: found {shown(cell)}, expected "
                + (
                    EXPECTED[kinds[name]]
                    if name in kinds
                    else LISTS[lists[name]]
                    if separators[name] is None
                    else expected_list(separators[name])
                )
                + (f": {problem}" if name in lists else "")
                + (f" ({count} such rows)" if count > 1 else "")
                for name, (row, cell, problem, count) in found.items()
            ]
        )


def csv_header(source: Path) -> list[str]:
    """The names of a csv file's columns, also those that appear twice."""
    require_utf8(source)
    parse = _parsing(source, lambda row: "skip")
    with open_text(source) as text, pc.open_csv(text, _reading(), parse) as reader:
        names: list[str] = reader.schema.names
    return names


def require_once(source: Path, names: list[str], needed: Iterable[str]) -> None:
    """Refuse a needed column that the header names twice.

    Raises:
        InputError: For every such column.
    """
    twice = [name for name in dict.fromkeys(needed) if names.count(name) > 1]
    if twice:
        raise InputError(
            [
                f"{source}: column '{name}' appears {names.count(name)} times; expected once"
                for name in twice
            ]
        )


def _reading() -> pc.ReadOptions:
    # One thread: only then are lines numbered.
    return pc.ReadOptions(use_threads=False, block_size=_BLOCK)


def _parsing(source: Path, on_ragged: Callable[[Any], str]) -> pc.ParseOptions:
    return pc.ParseOptions(
        delimiter=DELIMITERS[table_suffix(source)],
        newlines_in_values=True,
        invalid_row_handler=on_ragged,
    )


def csv_texts(source: Path, names: list[str]) -> Iterator[pl.DataFrame]:
    """Columns of all rows as text, piece by piece; pyarrow counts the fields of every line.

    Raises:
        InputError: At the end, if a row has too few or too many fields.
    """
    ragged: list[tuple[int, int, int]] = []
    count = 0

    def note(line: Any) -> str:
        nonlocal count
        count += 1
        if not ragged:
            # From 1 and with the header; blank lines are not counted.
            ragged.append((line.number - 2, line.actual_columns, line.expected_columns))
        return "skip"

    convert = pc.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), include_columns=names
    )
    parse = _parsing(source, note)
    with open_text(source) as text, pc.open_csv(text, _reading(), parse, convert) as reader:
        for batch in reader:
            piece = pl.from_arrow(pa.Table.from_batches([batch]))
            assert isinstance(piece, pl.DataFrame)  # from_arrow makes a Series only of an array
            yield piece
    if ragged:
        row, fields, expected = ragged[0]
        others = f" ({count} such rows)" if count > 1 else ""
        raise InputError(
            f"{source}: row {row} (the first is 0): found {fields} fields, expected "
            f"{expected} separated by {DELIMITERS[table_suffix(source)]!r}{others}"
        )


def _converted(
    text: pl.DataFrame,
    lists: dict[str, str],
    separators: dict[str, str | None],
    kinds: dict[str, str],
    label: str,
) -> tuple[pl.DataFrame, dict[str, dict[int, str]]]:
    """Columns with their types, and what is wrong in them, by row."""
    columns, problems = [], {}
    for cells in text:
        name = cells.name
        wrong: dict[int, str] = {}
        if name in lists:
            cells, wrong = read_lists(cells, lists[name], separators[name])
        elif kinds.get(name, "str") != "str":
            cells, wrong = read_numbers(cells, kinds[name])
        else:
            cells = cells.replace("", None)
            if name == label:
                cells = cells.cast(TYPES["float"], strict=False)
        columns.append(cells)
        if wrong:
            problems[name] = wrong
    return pl.DataFrame(columns), problems
