"""Batches of integers for FuxiCTR's ``RankDataLoader(data_loader=make_loader)``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import torch
from torch import Tensor

from model_zoo.core.data.ahead import LANES, ahead
from model_zoo.core.data.block import Block, concatenate, read_block
from model_zoo.core.data.parquet import parquet_files
from model_zoo.core.data.shared import shared
from model_zoo.core.data.spec import BATCH_ROWS, LENGTH_SUFFIX, DatasetSpec
from model_zoo.core.errors import InputError

READERS = 2
_CPU = torch.device("cpu")


class HistoryLoader(ABC):
    """Cuts one split into batches; what the loaders below have in common.

    A batch of B rows is a dict of tensors:
        ``{history}`` (T,), the history items of row 0, then of row 1, ...;
        ``{history}_length`` (B,) int64, how many belong to each row (T is their sum);
        ``{item}`` (B,); every row feature and meta column the model or a group metric
        needs; ``{label}`` (B,) float32 where the split has labels.

    Ids have the smallest integer type that holds them. Histories are packed: padding is
    dropped while reading, whichever side it is on. No feature of an item is here, only its
    id; the model looks features up on its device.

    With ``shuffle``, the order depends on ``seed`` and the epoch, counted from the first
    iteration. A last batch with fewer than two rows for each process joins the batch before
    it when training, since batch normalisation cannot learn from one row.

    To a CUDA device each batch is copied while the one before is computed with, all but the
    lengths, which a model may need as numbers.

    Args:
        feature_map: FuxiCTR's feature map, for the label's name and the group id.
        data_path: A checked parquet file, or a folder of them.
        split: ``train``, ``valid`` or ``test``.
        batch_size: Rows in a batch.
        shuffle: Whether every epoch has an order of its own.
        dataset: The data set's specification.
        max_len: How many of the most recent history items a row keeps.
        seed: Of the shuffle.
        buffer_size: Rows that a streaming loader shuffles at a time.
        device: Where the model is.
        data_on_device: Whether an in-memory loader keeps its rows there, all but the lengths of
            their histories; ``auto``: on a CUDA device of which they take less than a fifth of
            the free memory.
        share: Number of this process and of all processes: each gets its part of every
            batch, and the batch's size as ``batch_rows``.
        inputs_only: Read neither labels nor groups, whatever the files hold.

    Raises:
        InputError: If a size is below 1, or fewer than two rows are to train.
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
        buffer_size: int = 262_144,
        device: torch.device = _CPU,
        data_on_device: bool | Literal["auto"] = "auto",
        share: tuple[int, int] = (0, 1),
        inputs_only: bool = False,
    ) -> None:
        sizes = {"batch_size": batch_size, "max_len": max_len, "buffer_size": buffer_size}
        problems = [f"{k} must be at least 1, got {v}" for k, v in sizes.items() if v < 1]
        if problems:
            raise InputError(problems)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._skipped = 0
        self.path = data_path
        self.files = parquet_files(data_path)
        self._device = device
        self._data_on_device = data_on_device
        self._sends = device.type in LANES
        self._dataset = dataset
        self._max_len = max_len
        self._num_items = pq.read_metadata(dataset.item_info).num_rows
        self._buffer_size = buffer_size
        self._stay = (dataset.history_col + LENGTH_SUFFIX, BATCH_ROWS)
        self._wanted = set() if inputs_only else {*feature_map.labels, feature_map.group_id}
        metadata = [pq.read_metadata(file) for file in self.files]
        self.num_samples: int = sum(m.num_rows for m in metadata)
        self.num_blocks: int = sum(m.num_row_groups for m in metadata)
        self._rank, self._processes = share
        if split == "train" and self.num_samples < 2 * self._processes:
            raise InputError(
                f"{data_path}: rows: {self.num_samples}; training needs at least 2 for each process"
            )
        if batch_size < 2 * self._processes and self._processes > 1:
            raise InputError(
                f"batch_size is {batch_size}, but {self._processes} processes need 2 rows each"
            )
        too_few = 2 * self._processes
        remainder = self.num_samples % batch_size
        self._join_last = (
            split == "train" and 0 < remainder < min(too_few, batch_size) < self.num_samples
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_samples // self.batch_size) - self._join_last

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        skipped, self._skipped = self._skipped, 0
        batches = self._made(islice(self._batches(generator), skipped, None))
        yield from ahead(batches, self._device, self._stay) if self._sends else batches

    def _made(self, blocks: Iterator[tuple[int, Block]]) -> Iterator[dict[str, Tensor]]:
        for rows, block in blocks:
            batch = block.batch()
            if self._processes > 1:
                batch[BATCH_ROWS] = torch.tensor(rows)
            if self._device.type == "cuda":
                # They stay in main memory, and a step copies them when it needs them.
                batch |= {name: batch[name].pin_memory() for name in self._stay if name in batch}
            yield batch

    def _bounds(self, rows: int) -> tuple[int, int]:
        """First and last row, exclusive, of this process's part of a batch."""
        return (
            rows * self._rank // self._processes,
            rows * (self._rank + 1) // self._processes,
        )

    def start_at(self, *, epoch: int, batch: int) -> None:
        """Let the next iteration be that of ``epoch``, from ``batch`` on (both from 0)."""
        self.epoch = epoch
        self._skipped = batch

    @abstractmethod
    def _batches(self, generator: torch.Generator) -> Iterator[tuple[int, Block]]:
        """Rows of each batch of an epoch, and this process's part of them.

        ``generator`` decides their order.
        """

    def _row_groups(self) -> list[tuple[Path, int]]:
        return [(file, group) for file in self.files for group in _filled_groups(file)]

    def _read(self, row_groups: Sequence[tuple[Path, int]]) -> Iterator[Block]:
        """Row groups in this order, read ahead in threads: decoding holds no Python lock."""

        def read(file: Path, group: int) -> Block:
            return read_block(
                file,
                self._dataset,
                num_items=self._num_items,
                max_len=self._max_len,
                wanted=self._wanted,
                row_group=group,
            )

        waiting = iter(row_groups)
        with ThreadPoolExecutor(READERS) as pool:
            pending = deque(pool.submit(read, *group) for group in islice(waiting, READERS + 1))
            while pending:
                block = pending.popleft().result()
                pending.extend(pool.submit(read, *group) for group in islice(waiting, 1))
                yield block


def _filled_groups(file: Path) -> list[int]:
    """Row groups that have rows: a part of a folder may have none."""
    metadata = pq.read_metadata(file)
    return [k for k in range(metadata.num_row_groups) if metadata.row_group(k).num_rows]


class InMemoryLoader(HistoryLoader):
    """Holds all rows and cuts batches by slicing; the choice for a single file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows = self._all_rows()
        on_device = self._data_on_device
        if on_device == "auto":
            on_device = self._device.type == "cuda" and (
                self._rows.nbytes < torch.cuda.mem_get_info(self._device)[0] / 5
            )
        if on_device:
            self._rows = self._rows.to(self._device)
            self._sends = False

    def _all_rows(self) -> Block:
        """Every row, of which the processes of one search have one copy."""
        history = self._dataset.history_col

        def read() -> dict[str, Tensor]:
            block = concatenate(list(self._read(self._row_groups())))
            return {
                **{f"column {name}": column for name, column in block.columns.items()},
                **{"items": block.items, "lengths": block.lengths},
            }

        settings = {
            "dataset": self._dataset.model_dump(mode="json"),
            "max_len": self._max_len,
            "wanted": sorted(map(str, self._wanted)),
            "items": self._num_items,
        }
        tensors = shared(self.files, settings, read)
        items, lengths = tensors.pop("items"), tensors.pop("lengths")
        columns = {name.removeprefix("column "): tensor for name, tensor in tensors.items()}
        return Block(columns, items, lengths, history)

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[int, Block]]:
        order = torch.randperm(self.num_samples, generator=generator) if self.shuffle else None
        for i in range(len(self)):
            start, stop = i * self.batch_size, (i + 1) * self.batch_size
            if i == len(self) - 1:
                stop = self.num_samples
            low, high = self._bounds(stop - start)
            if order is None:
                yield stop - start, self._rows.slice(start + low, start + high)
            else:
                yield stop - start, self._rows.gather(order[start + low : start + high])


class StreamingLoader(HistoryLoader):
    """Reads row groups in the background; memory does not depend on the size of the data.

    An epoch reads the row groups in a random order and shuffles ``buffer_size`` rows at a
    time, so that every row comes once. Rows of row groups that are read far apart never
    share a batch: a folder of many small row groups is shuffled best. The choice for a folder.
    """

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[int, Block]]:
        left: list[Block] = []
        emitted = 0
        groups = self._row_groups()
        if self.shuffle:
            groups = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
        for block in self._read(groups):
            left.append(block)
            if sum(map(len, left)) >= self._buffer_size:
                buffer = self._shuffled(left, generator)
                # One batch stays, so that the end of the epoch can be one batch or join it.
                count = max(0, len(buffer) // self.batch_size - 1)
                for i in range(count):
                    yield self._cut(buffer, i * self.batch_size, (i + 1) * self.batch_size)
                emitted += count
                left = [buffer.slice(count * self.batch_size, len(buffer))]
        buffer = self._shuffled(left, generator)
        count = len(self) - emitted
        for i in range(count):
            stop = (i + 1) * self.batch_size if i < count - 1 else len(buffer)
            yield self._cut(buffer, i * self.batch_size, stop)

    def _cut(self, buffer: Block, start: int, stop: int) -> tuple[int, Block]:
        low, high = self._bounds(stop - start)
        return stop - start, buffer.slice(start + low, start + high)

    def _shuffled(self, blocks: list[Block], generator: torch.Generator) -> Block:
        rows = concatenate(blocks)
        if not self.shuffle:
            return rows
        return rows.gather(torch.randperm(len(rows), generator=generator))


def make_loader(feature_map: Any, data_path: str | Path, **settings: Any) -> HistoryLoader:
    """The loader for a path: streaming for a folder, in memory for a file.

    Takes whatever FuxiCTR passes along from an experiment and uses what is a loader's.
    """
    names = ["split", "batch_size", "shuffle", "dataset", "max_len", "seed", "buffer_size"]
    names += ["share", "device", "data_on_device"]
    used = {name: settings[name] for name in names if name in settings}
    loader = StreamingLoader if Path(data_path).is_dir() else InMemoryLoader
    return loader(feature_map, data_path, **used)
