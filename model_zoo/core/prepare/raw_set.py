"""A raw data set folder: its files, written all or none."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from model_zoo.core.data.schema import SPLITS
from model_zoo.core.files import through_link, write_aside, writing
from model_zoo.core.prepare.levels import Level
from model_zoo.core.prepare.rows import Events, Ints, Rows, spans

LOCK = ".convert.lock"
FILES = (*(f"{split}.parquet" for split in SPLITS), "item_info.parquet", "convert.json", LOCK)

_DICTIONARY_BYTES = 64 << 20  # beyond it a column chunk would be written as plain text
_CHUNK = 2_000_000  # history items written at a time: some 50 MB


@dataclass(frozen=True)
class RawSet:
    """Everything to write, in codes; text comes in when a chunk of rows is written."""

    users: pl.Series  # text of each user code
    items: pl.Series  # text of each item code
    events: Events
    splits: tuple[Rows, ...]
    levels: dict[str, Level]
    kept: pl.DataFrame  # row k belongs to row k of the log
    item_info: pl.DataFrame
    report: dict[str, Any]  # convert.json
    max_history: int
    test_labels: bool

    def write(self, folder: Path, *, on_file: Callable[[str], object]) -> None:
        """Write all files aside, then give them their names, train.parquet last.

        Args:
            folder: Files of an earlier set in it are replaced.
            on_file: Called with the name of each file before it is written.

        Raises:
            InputError: A file cannot be written; the message names it and says why.
        """
        writers: dict[str, Callable[[Path], None]] = {}
        for split, rows in zip(SPLITS, self.splits, strict=True):
            writers[f"{split}.parquet"] = functools.partial(
                self._write_rows, rows, split != "test" or self.test_labels
            )
        writers["item_info.parquet"] = self._write_items
        writers["convert.json"] = self._write_report
        with ExitStack() as stack:
            # The stack closes in reverse: train.parquet is first in, last out.
            partial = {name: stack.enter_context(write_aside(folder / name)) for name in writers}
            for name, write in writers.items():
                on_file(name)
                with writing(folder / name):
                    write(partial[name])
            # An earlier set must not look complete while its files are being replaced.
            through_link(folder / "train.parquet").unlink(missing_ok=True)

    def _write_rows(self, rows: Rows, labels: bool, path: Path) -> None:
        _write_tables(path, (self._table(rows, part, labels) for part in self._chunks(rows)))

    def _write_items(self, path: Path) -> None:
        _write_tables(path, iter([self.item_info.to_arrow()]))

    def _write_report(self, path: Path) -> None:
        text = json.dumps(self.report, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")

    def _history(self, event: Ints) -> tuple[Ints, Ints]:
        end = self.events.end[event]
        return np.maximum(self.events.begin[event], end - self.max_history), end

    def _chunks(self, rows: Rows) -> Iterator[slice]:
        """Runs of rows with about equally many history items."""
        begin, end = self._history(rows.event)
        chunk = np.cumsum(end - begin + 1) // _CHUNK
        bounds = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(chunk)]
        return (slice(a, b) for a, b in itertools.pairwise(bounds))

    def _table(self, rows: Rows, part: slice, labels: bool) -> pa.Table:
        event, item = rows.event[part], rows.item[part]
        begin, end = self._history(event)
        offsets = np.concatenate([[0], np.cumsum(end - begin)]).astype(np.int32)
        history = self.events.clicked[spans(begin, end)]
        columns = {
            "user_id": _text(self.users, self.events.user[event]),
            "item_seq": pa.ListArray.from_arrays(offsets, _text(self.items, history)),
            "item_id": _text(self.items, item),
            **{n: level(item, self.events.time[event]) for n, level in self.levels.items()},
        }
        row = self.events.row[event]
        columns |= {c.name: c.gather(row).to_arrow() for c in self.kept.iter_columns()}
        if labels:
            columns["label"] = rows.click[part].astype(np.float64)
        return pa.table(columns)


def _text(texts: pl.Series, codes: Ints) -> pa.Array:
    """Text for codes, as a dictionary of what occurs: parquet then hashes no text per value."""
    occurs = np.zeros(len(texts), dtype=np.bool_)
    occurs[codes] = True
    place = np.cumsum(occurs, dtype=np.int32) - 1
    used = texts.filter(pl.Series(occurs)).to_arrow().cast(pa.string())
    return pa.DictionaryArray.from_arrays(place[codes], used)


def _write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    writer = pq.ParquetWriter(
        path,
        first.schema,
        compression="zstd",
        store_schema=False,  # every reader sees plain text and lists of text
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
    )
    with writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
