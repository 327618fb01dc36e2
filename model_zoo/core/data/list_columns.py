"""Which columns of text hold lists, and lists of what, where a separator is declared."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.cell_text import read_lists, shown
from model_zoo.core.data.readable import readable

# A number of so many digits is an id: a float would not keep it.
_LONG = r"(?:^|[^0-9.])[0-9]{19,}"

_ROWS_PER_PIECE = 65_536


def separator_problem(separator: str) -> str | None:
    """Why a text cannot separate the items of a list, if it cannot."""
    blank = separator != " " and (not separator or any(c.isspace() for c in separator))
    if blank or any(c.isalnum() or c in "+-.'\"()[]{}\\" for c in separator):
        return (
            f"{separator!r} cannot separate items; expected a mark such as | that is no part of "
            "a number, quote or bracket, or one blank"
        )
    return None


def holds_lists(cells: pl.Series, separator: str) -> bool:
    """Whether the separator occurs in the cells, or all that are not empty stand in brackets."""
    text = cells.str.strip_chars()
    given = text.filter(text != "")
    return bool(len(given)) and bool(
        given.str.contains(separator, literal=True).any() or given.str.contains(r"^\[.*\]$").all()
    )


def guess_lists(cells: pl.Series, separator: str | None) -> tuple[pl.Series, dict[int, str]]:
    """Lists written as text, of integers if all items are, of floats if all are numbers, or texts.

    Quoted items are texts, and so are integers too long for 64 bits.

    Returns:
        The lists, empty where a cell is empty or cannot be read, and what is wrong there, by row.
    """
    quoted = bool(cells.str.contains("['\"]").any())
    long = bool(cells.str.contains(_LONG).any())
    for dtype in ("int", *(() if long else ("float",))):
        lists, problems = read_lists(cells, dtype, separator)
        if not quoted and not problems:
            return lists, problems
    return read_lists(cells, "str", separator)


def expected_list(separator: str | None) -> str:
    """For messages: what a cell of a list column should be."""
    declared = "" if separator is None else f" with items separated by {separator!r}"
    return f"a list{declared}, or one in brackets"


def text_list_problems(path: str, columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """What is wrong in lists written as text: the first row of each column, and how many.

    Args:
        path: A parquet file.
        columns: Name -> dtype of the items and separator.
    """
    found: dict[str, tuple[int, str, str, int]] = {}  # column -> first row, cell, problem, count
    start = 0
    with readable(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_PER_PIECE, columns=list(columns)):
            texts = pl.DataFrame(pa.Table.from_batches([batch]))
            for name, (dtype, separator) in columns.items():
                cells = texts[name].cast(pl.String)
                problems = read_lists(cells, dtype, separator)[1]
                if problems:
                    row = min(problems)
                    first = (start + row, str(cells[row]), problems[row], 0)
                    before = found.get(name, first)
                    found[name] = (*before[:3], before[3] + len(problems))
            start += len(batch)
    return [
        f"{path}: column '{name}', row {row}: found {shown(cell)}, expected "
        f"{expected_list(columns[name][1])}: {problem}"
        + (f" ({count} such rows)" if count > 1 else "")
        for name, (row, cell, problem, count) in found.items()
    ]
