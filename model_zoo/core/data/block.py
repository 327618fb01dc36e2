"""Rows in memory: integer columns and packed histories, cut into batches by slicing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from model_zoo.core.data.ahead import send
from model_zoo.core.data.item_table import id_type, to_tensor, without_dictionary
from model_zoo.core.data.readable import readable
from model_zoo.core.data.spec import LENGTH_SUFFIX, DatasetSpec

ROWS_PER_READ = 16_384


@dataclass(frozen=True)
class Block:
    """Some rows of a split.

    Attributes:
        columns: Name -> one value (or one list) for each of the n rows.
        items: The histories of all rows, one after the other, oldest item first, (T,).
        lengths: Items in each row's history, (n,) int64. Always in main memory, wherever the
            rest is: to cut a batch takes numbers, which a device would have to be waited for.
        history_col: Name that the history has in a batch.
    """

    columns: dict[str, Tensor]
    items: Tensor
    lengths: Tensor
    history_col: str

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """Position of each row's first item in ``items``, (n,)."""
        return self.lengths.cumsum(0) - self.lengths

    def slice(self, start: int, stop: int) -> Block:
        """Neighbouring rows: views, nothing is copied."""
        lengths = self.lengths[start:stop]
        first = int(self.starts[start]) if len(lengths) else 0
        return Block(
            {name: column[start:stop] for name, column in self.columns.items()},
            self.items[first : first + int(lengths.sum())],
            lengths,
            self.history_col,
        )

    def gather(self, rows: Tensor) -> Block:
        """The rows with these numbers (in main memory), in this order."""
        device = self.items.device
        lengths = self.lengths[rows]
        begin = lengths.cumsum(0) - lengths  # of each row, in the new packed history
        shift = torch.repeat_interleave(
            send(self.starts[rows] - begin, device),
            send(lengths, device),
            output_size=int(lengths.sum()),
        )
        rows = send(rows, device)
        return Block(
            {name: column[rows] for name, column in self.columns.items()},
            self.items[torch.arange(len(shift), device=shift.device) + shift],
            lengths,
            self.history_col,
        )

    @property
    def nbytes(self) -> int:
        tensors = [*self.columns.values(), self.items, self.lengths]
        return sum(tensor.nbytes for tensor in tensors)

    def to(self, device: torch.device) -> Block:
        """The same rows on a device, but for their lengths."""
        return Block(
            {name: column.to(device) for name, column in self.columns.items()},
            self.items.to(device),
            self.lengths,
            self.history_col,
        )

    def batch(self) -> dict[str, Tensor]:
        """The rows as a model takes them."""
        history = {self.history_col: self.items, self.history_col + LENGTH_SUFFIX: self.lengths}
        return self.columns | history


def concatenate(blocks: Sequence[Block]) -> Block:
    """Rows of all blocks, in their order."""
    first = blocks[0]
    return Block(
        {name: torch.cat([b.columns[name] for b in blocks]) for name in first.columns},
        torch.cat([b.items for b in blocks]),
        torch.cat([b.lengths for b in blocks]),
        first.history_col,
    )


def read_block(
    file: str | Path,
    dataset: DatasetSpec,
    *,
    num_items: int,
    max_len: int,
    wanted: set[str],
    row_group: int,
) -> Block:
    """One row group of a checked parquet file.

    It is decoded in pieces, so that the padding of one piece only is ever in memory.

    Args:
        file: The file.
        dataset: The data set's specification.
        num_items: Rows of item_info, which decides the type of item ids.
        max_len: How many of the last real items of a history are kept.
        wanted: Columns to read besides the target and the row features: labels, a group.
        row_group: Its number.
    """
    ids = torch.from_numpy(np.empty(0, id_type(num_items))).dtype
    context = [feature.name for feature in dataset.features(of_items=False)]
    with readable(file), pq.ParquetFile(file, pre_buffer=False) as source:
        # Meta columns serve only a group metric; test rows may have no label.
        extra = sorted(wanted & set(source.schema_arrow.names))
        names = list(dict.fromkeys([dataset.item_col, *context, *extra]))
        pieces = source.iter_batches(
            ROWS_PER_READ,
            row_groups=[row_group],
            columns=[*names, dataset.history_col],
            use_threads=False,
        )
        blocks = []
        for piece in pieces:
            columns = {name: _column(piece.column(name), name, dataset) for name in names}
            columns[dataset.item_col] = columns[dataset.item_col].to(ids)
            items, lengths = pack_histories(piece.column(dataset.history_col), max_len)
            blocks.append(Block(columns, items.to(ids), lengths, dataset.history_col))
    return concatenate(blocks)


def _column(values: pa.Array, name: str, dataset: DatasetSpec) -> Tensor:
    values = without_dictionary(values)
    if name == dataset.label_col.name:
        return torch.from_numpy(values.to_numpy(zero_copy_only=False).astype(np.float32))
    feature = dataset.column(name)
    if feature.type == "meta":
        return torch.from_numpy(values.to_numpy(zero_copy_only=False).astype(np.int64))
    return to_tensor(values, feature)


def pack_histories(histories: pa.Array, max_len: int) -> tuple[Tensor, Tensor]:
    """Drop padding and all but the most recent items.

    Args:
        histories: Lists of item ids of any length, oldest first; 0 is padding wherever it
            stands.
        max_len: How many of the last real items a row keeps.

    Returns:
        The items of all rows one after the other, (T,), and how many each row has, (n,) int64.

    Example:
        >>> pack_histories(pa.array([[0, 0, 7, 8], [5, 4, 3, 2], [0, 0, 0, 0]]), max_len=3)
        (tensor([7, 8, 4, 3, 2]), tensor([2, 3, 0]))
    """
    slots = pc.list_value_length(histories).to_numpy().astype(np.int64)
    # Where no history has an item, a writer may know no type for them.
    items = without_dictionary(histories.flatten()).to_numpy(zero_copy_only=False)
    real = items != 0
    if items.size and (slots == slots[0]).all():
        lengths = np.count_nonzero(real.reshape(len(slots), slots[0]), axis=1)
    else:
        before = np.concatenate([[0], real.cumsum()])  # real items before each slot
        ends = slots.cumsum()
        lengths = before[ends] - before[ends - slots]
    items = items[real].astype(np.int64, copy=False)
    if items.size and lengths.max() > max_len:
        rows = np.repeat(np.arange(len(lengths)), lengths)
        age = lengths.cumsum()[rows] - np.arange(len(items))  # 1 is a row's most recent item
        items = items[age <= max_len]
        lengths = np.minimum(lengths, max_len)
    return torch.from_numpy(items), torch.from_numpy(lengths)
