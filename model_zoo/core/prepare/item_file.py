"""item_info as a file that gets new columns: read whole, checked, replaced when complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside, writing
from model_zoo.core.prepare.arrow_tables import read_table, require, unique_ids
from model_zoo.core.prepare.manifest import recorded_change

OTHER_NUMBERING = (
    "the ids of item_info are row numbers, yet the file has ids beyond them; if it uses another "
    "numbering (the raw ids), equal ids are not equal items: translate them first"
)
_SHOWN = 5  # ids named in a message


@dataclass(frozen=True)
class ItemFile:
    """An item_info file in memory.

    Attributes:
        path: Where it is.
        table: All its columns.
        ids: The item ids as strings, unique, in row order.
        padding: Row 0 is padding: an integer id 0, and nothing but zeros beside it.
    """

    path: Path
    table: pa.Table
    ids: list[str]
    padding: bool

    @property
    def first(self) -> int:
        """The first row that is an item."""
        return int(self.padding)


def read_items(path: str | os.PathLike[str], item_id: str) -> ItemFile:
    """Read item_info.

    Raises:
        InputError: No such file, no parquet, no column ``item_id``, or ids that are null,
            of a wrong type or not unique.
    """
    file = Path(path)
    table = read_table(file, item_id, None)
    require(file, table.column_names, [item_id])
    ids = unique_ids(table[item_id], f"{file}: column '{item_id}'")
    if not ids:
        raise InputError(f"{file}: no rows; expected at least one item")
    row = table.slice(0, 1).to_pylist()[0]
    padding = row.pop(item_id) == 0 and all(_is_nothing(value) for value in row.values())
    return ItemFile(file, table, ids, padding)


def check_new_columns(items: ItemFile, item_id: str, names: Sequence[str], replace: bool) -> None:
    """Refuse to write over the ids, to write twice, and to write over a column unasked."""
    problems = [
        f"{items.path}: column '{name}' is there already; --replace writes over it"
        for name in names
        if name in items.table.column_names and not replace
    ]
    if item_id in names:
        problems = [f"{items.path}: '{item_id}' is the column of the ids; choose another name"]
    if len(set(names)) < len(names):
        problems.append(f"a column is named twice: {', '.join(names)}")
    if problems:
        raise InputError(problems)


def write_items(items: ItemFile, columns: Mapping[str, pa.Array], *, command: str) -> None:
    """Replace the file by one with ``columns`` added, or replaced where they stand.

    Raises:
        InputError: It cannot be written; the old file is as it was.
    """
    table = items.table
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    with (
        writing(items.path),
        # The last one ends first: the manifest then describes the new file.
        recorded_change(items.path, command=command),
        write_aside(items.path) as partial,
    ):
        pq.write_table(table, partial, compression="zstd")


def feature_col(name: str, values: npt.NDArray[Any]) -> str:
    """The entry of ``feature_cols`` that fits the values."""
    return feature_line(name, feature_kind(values))


def feature_line(name: str, kind: str) -> str:
    """An entry of ``feature_cols``: an item feature of this dtype and type."""
    quoted = name if name.isidentifier() else json.dumps(name)
    return f"- {{name: {quoted}, active: True, {kind}}}"


def feature_kind(values: npt.NDArray[Any]) -> str:
    """What an entry of ``feature_cols`` says of numbers (rows,) or lists (rows, length)."""
    integer = values.dtype.kind == "i"
    # A vocabulary has padding and at least one more entry.
    vocab_size = max(int(values.max()) + 1, 2) if integer else 0
    if values.ndim == 2 and integer:
        kind = f"dtype: int, type: sequence, source: item, vocab_size: {vocab_size}"
        kind += f", max_len: {values.shape[1]}"
    elif values.ndim == 2:
        kind = f"dtype: float, type: embedding, source: item, pretrain_dim: {values.shape[1]}"
    elif integer and values.min() >= 0:
        kind = f"dtype: int, type: categorical, source: item, vocab_size: {vocab_size}"
    else:
        kind = "dtype: float, type: numeric, source: item"
    return kind


def some(names: Sequence[str]) -> str:
    """The first few of many ids, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def no_common_id(items: ItemFile, path: str | Path, ids: Sequence[str]) -> str:
    """The message for a file none of whose ids is an item's."""
    return (
        f"{path}: none of its ids is in {items.path}: it has {some(ids) or 'none'}, item_info "
        f"has {some(items.ids[items.first :])}; is it the file of another data set?"
    )


def _is_nothing(value: Any) -> bool:
    """Whether a padding row may hold it."""
    if isinstance(value, list):
        return all(_is_nothing(element) for element in value)
    return value is None or value == 0 or value == ""
