"""Which columns of text hold lists, and lists of what, where a separator is declared."""

from __future__ import annotations

import polars as pl

from model_zoo.core.data.cell_text import read_lists

# A number of so many digits is an id: a float would not keep it.
_LONG = r"(?:^|[^0-9.])[0-9]{19,}"


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
