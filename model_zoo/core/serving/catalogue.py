"""The items of a folded model, which grow and change while it is scored."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.folded import FoldedModel
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.inputs import feature_values
from model_zoo.core.serving.shared_lock import SharedLock

SPARE_ROWS = 8  # a table that has to grow gets room for an eighth more items


@dataclass(frozen=True)
class _Change:
    rows: Tensor  # (n,) of the tables
    tables: dict[str, Tensor]  # what they hold then
    added: list[Any]  # ids of the items if they are new, else none


class Catalogue:
    """Adds and replaces items; whoever scores holds ``lock.shared()`` meanwhile.

    Args:
        folded: The model, whose tables and number of items change.
        ids: The ids of its data set, which grow.
    """

    def __init__(self, folded: FoldedModel, ids: Ids) -> None:
        self._folded, self._ids = folded, ids
        self.lock = SharedLock()
        self.changing = threading.Lock()  # one change prepares its rows at a time

    def add(self, ids: Any, features: Mapping[str, Any]) -> None:
        """As :meth:`Scorer.add_items`."""
        with self.changing:
            ids = self._ids.stored(ids, "add_items")
            self._require_new(ids, "add_items")
            self._write([self._addition(ids, self._encodable(ids, features))])

    def update(self, ids: Any, features: Mapping[str, Any]) -> None:
        """As :meth:`Scorer.update_items`."""
        with self.changing:
            ids = self._ids.stored(ids, "update_items")
            if self._ids.rows is not None:
                absent = [key for key in ids if key not in self._ids.rows]
                if absent:
                    raise InputError(f"update_items: item {absent[0]!r} is not there")
            rows = self._rows(ids, "update_items")
            _require_once(ids, "update_items")
            self._write([self._replacement(rows, self._values(features, len(ids)))])

    @contextmanager
    def putting(self, ids: Any, features: Mapping[str, Any]) -> Iterator[int]:
        """As :meth:`Scorer.putting_items`."""
        with self.changing:
            ids = self._ids.stored(ids, "items")
            _require_once(ids, "items")
            known = [self._is_known(key) for key in ids]
            new = [key for key, there in zip(ids, known, strict=True) if not there]
            old = [key for key, there in zip(ids, known, strict=True) if there]
            self._require_new(new, "items")
            values = self._values(features, len(ids))
            there = torch.tensor(known, dtype=torch.bool, device=self._device)
            changes = []
            if old:
                part = {name: tensor[there] for name, tensor in values.items()}
                changes.append(self._replacement(self._rows(old, "items"), part))
            if new:
                part = {name: tensor[~there] for name, tensor in values.items()}
                changes.append(self._addition(new, self._completed(new, part)))
            yield len(new)
            self._write(changes)

    def _is_known(self, key: Any) -> bool:
        if self._ids.rows is not None:
            return key in self._ids.rows
        return 0 < int(key) < self._folded.num_items

    def _require_new(self, ids: list[Any], what: str) -> None:
        first = self._folded.num_items
        if self._ids.rows is None:
            expected = list(range(first, first + len(ids)))
            if ids != expected:
                raise InputError(f"{what}: ids {ids}, expected the next ones: {expected}")
        elif len(set(ids)) < len(ids) or not self._ids.rows.keys().isdisjoint(ids):
            counts = Counter(ids)
            known = next(key for key in ids if key in self._ids.rows or counts[key] > 1)
            raise InputError(f"{what}: item {known!r} is there already")

    def _rows(self, ids: list[Any], what: str) -> Tensor:
        rows = self._ids.items(ids, self._folded.num_items, what)
        return rows.to(self._device)

    def _encodable(self, ids: list[Any], features: Mapping[str, Any]) -> dict[str, Tensor]:
        return self._completed(ids, self._values(features, len(ids)))

    def _completed(self, ids: list[Any], values: dict[str, Tensor]) -> dict[str, Tensor]:
        """With what missing features of new items count as."""
        own = self._ids.item_col
        if own in self._ids.vocabularies and own not in values:
            values = self._values({own: ids}, len(ids)) | values
        return {**self._ids.absent(self._folded.item_features, len(ids)), **values}

    def _values(self, features: Mapping[str, Any], rows: int) -> dict[str, Tensor]:
        given = [f for f in self._folded.item_features if f.name in features]
        return feature_values(self._ids, given, features, rows, "item feature", self._device)

    def _addition(self, ids: list[Any], values: dict[str, Tensor]) -> _Change:
        empty = self._folded.vectors.new_zeros(len(ids), self._folded.dim)
        tables = self._folded.encode(values, empty)
        first = self._folded.num_items
        rows = torch.arange(first, first + len(ids))
        return _Change(rows, tables, ids)

    def _replacement(self, rows: Tensor, values: dict[str, Tensor]) -> _Change:
        tables = self._folded.encode(values, self._folded.vectors[rows])
        return _Change(rows, tables, [])

    def _write(self, changes: Sequence[_Change]) -> None:
        """All at once for whoever scores."""
        needed = self._folded.num_items + sum(len(change.added) for change in changes)
        room, grown = len(self._folded.vectors), {}
        if needed > room:
            # Copied beside the old tables; scoring waits only for the exchange.
            grown = self._folded.grown(needed + room // SPARE_ROWS)
        with self.lock.exclusive():
            for name, table in grown.items():
                self._folded.register_buffer(name, table)
            for change in changes:
                self._folded.write_items(change.rows, change.tables)
                self._folded.num_items += len(change.added)
                if self._ids.rows is not None and change.added:
                    self._ids.rows.update(zip(change.added, change.rows.tolist(), strict=True))

    @property
    def _device(self) -> torch.device:
        return self._folded.vectors.device


def _require_once(ids: list[Any], what: str) -> None:
    counts = Counter(ids)
    if len(counts) < len(ids):
        twice = next(key for key in ids if counts[key] > 1)
        raise InputError(f"{what}: item {twice!r} is given twice")
