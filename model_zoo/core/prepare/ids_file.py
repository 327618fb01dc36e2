"""Files with the ids of an npy file's rows: text with an id in each line, csv or tsv."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from model_zoo.core.data.readable import unreadable
from model_zoo.core.data.text_files import DELIMITERS, read_lines, table_suffix
from model_zoo.core.errors import InputError

_INTEGER = re.compile(r"[+-]?[0-9]+")


def read_text_ids(
    path: Path, vectors: Path, rows: int, *, key: str | None, item_id: str
) -> list[str]:
    """The ids, in the order of the vectors; a header is passed over.

    A file of several columns has a header, which tells the column of the ids. In a single column
    the first line is a header if it is ``key`` or ``item_id``, or if it is no integer and all
    others are.

    Args:
        path: Text, csv or tsv, compressed or not.
        vectors: The npy file, for messages.
        rows: How many vectors it has.
        key: The header of the ids.
        item_id: What it is by default.

    Raises:
        InputError: It is unreadable, a line is empty or of another number of fields, several
            columns are there and none has that name, or there are not ``rows`` ids.
    """
    cells = _cells(path)
    header = None
    if cells and len(cells[0]) > 1:
        header = next((name for name in (key, item_id) if name in cells[0]), None)
        if header is None:
            raise InputError(
                f"{path}: the first line has {len(cells[0])} columns: {', '.join(cells[0])}; name "
                "that of the ids with --ids-key"
            )
        place = cells[0].index(header)
        ids = [line[place] for line in cells[1:]]
    else:
        ids = [line[0] for line in cells]
        if ids and (ids[0] in (key, item_id) or _is_odd_one(ids)):
            header, ids = ids[0], ids[1:]
    if len(ids) != rows:
        hint = ""
        if header is not None:
            hint = f" (its first line is the header '{header}')"
        elif len(ids) == rows + 1:
            hint = f"; if its first line '{ids[0]}' is a header, name it with --ids-key"
        raise InputError(
            f"{vectors}: {len(ids)} ids in '{path}', but {rows} vectors in '{vectors.name}'{hint}"
        )
    return ids


def _is_odd_one(ids: list[str]) -> bool:
    """Whether all but the first are integers."""
    odd = [_INTEGER.fullmatch(text) is None for text in ids]
    return len(ids) > 1 and odd[0] and not any(odd[1:])


def _cells(path: Path) -> list[list[str]]:
    """The fields of each line without white space around them."""
    delimiter = DELIMITERS.get(table_suffix(path))
    try:
        lines = read_lines(path)
        fields = (
            [[line] for line in lines]
            if delimiter is None
            else list(csv.reader(lines, delimiter=delimiter, strict=True))
        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, "text", error) from None
    cells = [[field.strip() for field in line] for line in fields]
    for number, line in enumerate(cells, 1):
        if not any(line):
            raise InputError(f"{path}: line {number} is empty; expected an id in each line")
        if len(line) != len(cells[0]):
            raise InputError(
                f"{path}: line {number}: found {len(line)} fields, expected {len(cells[0])}, as in "
                "the first line"
            )
    return cells
