"""item_info as tensors: after this, an item's features are one row look-up on the device."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from model_zoo.core.data.readable import readable
from model_zoo.core.data.shared import shared
from model_zoo.core.data.spec import FeatureSpec


class ItemTable(nn.Module):
    """The features of every item; row k is item k, row 0 is padding.

    A module without parameters: it follows the model to its device, and its columns are
    non-persistent, so a checkpoint stays as small as one without the table. The factors of
    rescaled columns are part of a checkpoint: with items added later they stay as they were.

    Args:
        columns: Feature name -> tensor whose first dimension is the item,
            (I,) for scalar features and (I, width) for lists and vectors.
        rescaled: Columns of vectors that are divided by the root of their mean squared norm
            over all items that have one. So a model need not know what scale they come in.

    Raises:
        ValueError: If there is no column or the columns differ in their number of items.

    Example:
        >>> table = ItemTable({"item_id": torch.arange(3), "tags": torch.zeros(3, 5)})
        >>> {name: tuple(rows.shape) for name, rows in table(torch.tensor([2, 2])).items()}
        {'item_id': (2,), 'tags': (2, 5)}
    """

    def __init__(self, columns: dict[str, Tensor], rescaled: Collection[str] = ()) -> None:
        super().__init__()
        sizes = {name: column.shape[0] for name, column in columns.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"an item table needs columns of one length, got {sizes}")
        self.num_items = next(iter(sizes.values()))
        # Buffers are named by position: a feature's name may be no identifier.
        self._names = list(columns)
        for i, column in enumerate(columns.values()):
            self.register_buffer(f"column_{i}", column, persistent=False)
        for name in rescaled:
            norms = columns[name].double().norm(dim=1)
            mean = norms[norms > 0].square().mean() if norms.any() else torch.tensor(1.0)
            factor = torch.rsqrt(mean).to(columns[name].dtype)
            self.register_buffer(f"factor_{self._names.index(name)}", factor)

    def factor(self, name: str) -> Tensor | None:
        """What a rescaled column is multiplied by, a scalar; ``None`` for any other."""
        return self._buffers.get(f"factor_{self._names.index(name)}")

    def columns(self, ids: Tensor | None) -> dict[str, Tensor]:
        """As :meth:`forward`, with all columns as they are in the file."""
        columns = {name: self.get_buffer(f"column_{i}") for i, name in enumerate(self._names)}
        if ids is None:
            return columns
        return {name: column.index_select(0, ids) for name, column in columns.items()}

    def forward(self, ids: Tensor | None) -> dict[str, Tensor]:
        """Features of the items ``ids`` (n,), or of all, by name, each with first dimension n."""
        columns = self.columns(ids)
        factors = ((name, self.factor(name)) for name in columns)
        return columns | {
            name: columns[name] * factor for name, factor in factors if factor is not None
        }


def load_item_table(
    path: str | Path, features: list[FeatureSpec], *, rescale: bool = False
) -> ItemTable:
    """Read the ``source: item`` features of a checked item_info file.

    Args:
        path: Parquet file, row k = item k.
        features: The features to read.
        rescale: Whether columns of vectors are rescaled.
    """

    def read() -> dict[str, Tensor]:
        # As a file: pq.read_table would make columns of what a folder's name says.
        with readable(path), pq.ParquetFile(path) as file:
            table = file.read(columns=[feature.name for feature in features])
        return {
            feature.name: to_tensor(table.column(feature.name).combine_chunks(), feature)
            for feature in features
        }

    settings = {"features": [feature.model_dump(mode="json") for feature in features]}
    return ItemTable(
        shared([path], settings, read),
        rescaled=[f.name for f in features if rescale and f.type == "embedding"],
    )


def id_type(vocab_size: int | None) -> np.dtype[Any]:
    """Smallest integer type, of those torch can index with, for ids below ``vocab_size``.

    Example:
        >>> [str(id_type(size)) for size in (11, 2_000, 91_718, None)]
        ['uint8', 'int16', 'int32', 'int64']
    """
    kinds = (np.uint8, np.int16, np.int32)
    fitting = (k for k in kinds if vocab_size is not None and vocab_size - 1 <= np.iinfo(k).max)
    return np.dtype(next(fitting, np.int64))


def without_dictionary(values: pa.Array) -> pa.Array:
    """A column that a writer stored as a dictionary, as its values; any other as it is."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def to_tensor(values: pa.Array, feature: FeatureSpec) -> Tensor:
    """A checked column as a tensor, (n,) or (n, width).

    Vectors become float32, ids the smallest integers that hold the vocabulary. Numbers become
    float64: they are of any scale until a model standardises them.
    """
    values = without_dictionary(values)
    kinds: dict[str, type[np.floating[Any]]] = {"numeric": np.float64, "embedding": np.float32}
    kind = kinds.get(feature.type)
    dtype = id_type(feature.vocab_size) if kind is None else np.dtype(kind)
    # astype copies: arrow's memory is read-only, and torch wants memory it may write.
    if feature.type in ("sequence", "embedding"):
        flat = values.flatten().to_numpy(zero_copy_only=False).astype(dtype)
        width = feature.pretrain_dim if feature.type == "embedding" else feature.max_len
        return torch.from_numpy(flat.reshape(len(values), width or -1))
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).astype(dtype))
