"""Batches of integers for FuxiCTR's ``RankDataLoader(data_loader=HistoryLoader)``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch
from torch import Tensor

from model_zoo.QIN.data.item_table import to_tensor
from model_zoo.QIN.data.spec import DatasetSpec
from model_zoo.QIN.errors import InputError

LENGTH_SUFFIX = "_length"
ROWS_PER_READ = 65_536


class HistoryLoader:
    """One split in memory, cut into batches by slicing arrays.

    Histories are stored packed: the real items of all rows one after the other, oldest
    first, with a length per row. Padding is dropped while reading, whichever side it is on.
    No feature of an item is here, only its id; the model looks features up on its device.

    A batch of B rows is a dict of tensors:
        ``{history}`` (T,) int32, the history items of row 0, then of row 1, ...;
        ``{history}_length`` (B,) int64, how many belong to each row (T is their sum);
        ``{item}`` (B,) int32; every row feature and meta column the model or a group metric
        needs; ``{label}`` (B,) float32 where the split has labels.

    With ``shuffle``, the order depends on ``seed`` and the epoch, counted from the first
    iteration. A last batch of a single row joins the batch before it when training, since
    batch normalisation cannot learn from one row.

    Args:
        feature_map: FuxiCTR's feature map, for the label's name and the group id.
        data_path: A checked parquet file.
        split: ``train``, ``valid`` or ``test``.
        batch_size: Rows in a batch.
        shuffle: Whether every epoch has an order of its own.
        dataset: The data set's specification.
        max_len: How many of the most recent history items a row keeps.
        seed: Of the shuffle.
        **_: Whatever else FuxiCTR passes along from the experiment.

    Raises:
        InputError: If ``batch_size`` or ``max_len`` is below 1, or one row is to train.
    """

    def __init__(
        self,
        feature_map: Any,
        data_path: str | Path,
        *,
        split: str = "train",
        batch_size: int = 32,
        shuffle: bool = False,
        dataset: DatasetSpec,
        max_len: int = 64,
        seed: int = 0,
        **_: Any,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_len", max_len)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.num_blocks = 1
        self._history_col = dataset.history_col
        self._pin = torch.cuda.is_available()

        file = pq.ParquetFile(data_path)
        # Meta columns serve only a group metric; test rows may have no label.
        available = set(file.schema_arrow.names)
        wanted = {*feature_map.labels, feature_map.group_id} & available
        self._columns, self._items, self._lengths = _read(file, dataset, max_len, wanted)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self.num_samples = len(self._lengths)
        if split == "train" and self.num_samples < 2:
            raise InputError(f"{data_path}: {self.num_samples} row; training needs at least 2")
        self._join_last = split == "train" and batch_size > 1 and self.num_samples % batch_size == 1

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_samples // self.batch_size) - self._join_last

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = None
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.num_samples, generator=generator)
        self.epoch += 1
        for i in range(len(self)):
            start, stop = i * self.batch_size, (i + 1) * self.batch_size
            if i == len(self) - 1:
                stop = self.num_samples
            batch = self._rows(start, stop) if order is None else self._gather(order[start:stop])
            if self._pin:
                batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
            yield batch

    def _rows(self, start: int, stop: int) -> dict[str, Tensor]:
        """Neighbouring rows are slices of every array."""
        length = self._lengths[start:stop]
        first = int(self._starts[start])
        batch = {name: column[start:stop] for name, column in self._columns.items()}
        batch[self._history_col] = self._items[first : first + int(length.sum())]
        batch[self._history_col + LENGTH_SUFFIX] = length
        return batch

    def _gather(self, rows: Tensor) -> dict[str, Tensor]:
        length = self._lengths[rows]
        begin = length.cumsum(0) - length  # of each row, in the batch's packed history
        shift = torch.repeat_interleave(self._starts[rows] - begin, length)
        batch = {name: column[rows] for name, column in self._columns.items()}
        batch[self._history_col] = self._items[torch.arange(len(shift)) + shift]
        batch[self._history_col + LENGTH_SUFFIX] = length
        return batch


def _read(
    file: pq.ParquetFile, dataset: DatasetSpec, max_len: int, wanted: set[str]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Row columns, packed history items and history lengths of a parquet file."""
    context = [feature.name for feature in dataset.features(of_items=False)]
    names = list(dict.fromkeys([dataset.item_col, *context, *sorted(wanted)]))
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    items: list[Tensor] = []
    lengths: list[Tensor] = []
    read = [*names, dataset.history_col]
    # In pieces, so that the padding of only one piece is ever in memory.
    for record_batch in file.iter_batches(batch_size=ROWS_PER_READ, columns=read):
        frame = pl.from_arrow(record_batch)
        assert isinstance(frame, pl.DataFrame)  # from_arrow makes a Series only of an array
        for name in names:
            parts[name].append(_column(frame[name], name, dataset))
        packed, length = pack_histories(frame[dataset.history_col], max_len)
        items.append(packed)
        lengths.append(length)
    columns = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return columns, torch.cat(items), torch.cat(lengths)


def _column(values: pl.Series, name: str, dataset: DatasetSpec) -> Tensor:
    if name == dataset.label_col.name:
        return torch.from_numpy(values.cast(pl.Float32).to_numpy(writable=True))
    feature = dataset.column(name)
    if feature.type == "meta" and name != dataset.item_col:
        return torch.from_numpy(values.cast(pl.Int64).to_numpy(writable=True))
    return to_tensor(values, feature)


def pack_histories(histories: pl.Series, max_len: int) -> tuple[Tensor, Tensor]:
    """Drop padding and all but the most recent items.

    Args:
        histories: Lists of item ids of any length, oldest first; 0 is padding wherever it
            stands.
        max_len: How many of the last real items a row keeps.

    Returns:
        The items of all rows one after the other, (T,) int32, and how many each row has,
        (n,) int64.

    Example:
        >>> pack_histories(pl.Series([[0, 0, 7, 8], [5, 4, 3, 2], [0, 0, 0, 0]]), max_len=3)
        (tensor([7, 8, 4, 3, 2], dtype=torch.int32), tensor([2, 3, 0]))
    """
    if isinstance(histories.dtype, pl.Array):
        histories = histories.arr.to_list()
    slots = histories.list.len().to_numpy()
    items = histories.explode(empty_as_null=False).to_numpy()
    real = items != 0
    rows = np.repeat(np.arange(len(slots)), slots)[real]
    items = items[real].astype(np.int32)
    lengths = np.bincount(rows, minlength=len(slots))
    if items.size and lengths.max() > max_len:
        age = lengths.cumsum()[rows] - np.arange(len(items))  # 1 is a row's most recent item
        items = items[age <= max_len]
        lengths = np.minimum(lengths, max_len)
    return torch.from_numpy(items), torch.from_numpy(lengths)
