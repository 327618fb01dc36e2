"""Counters of items as levels: 0 for unknown, else 1..10 by deciles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_zoo.core.prepare.rows import Bools, Floats, Ints

TOP_LEVEL = 10

Times = npt.NDArray[np.int64 | np.float64]


class Level(Protocol):
    """A counter's level for rows.

    Attributes:
        bounds: The deciles, ascending; a value's level is 1 + the number of them below it.
    """

    @property
    def bounds(self) -> Floats: ...

    def __call__(self, item: Ints, time: Times) -> Ints:
        """The level of each row, by its item code and its time."""
        ...


@dataclass(frozen=True)
class CounterLevel:
    """Of a counter in the metadata, which has one value per item at any time."""

    bounds: Floats
    levels: Ints  # one per item

    @classmethod
    def build(cls, values: Floats, reference: Bools) -> CounterLevel:
        """Of one value per item, NaN where unknown; the reference items make the deciles."""
        bounds = decile_bounds(values[reference])
        return cls(bounds, levels_of(values, bounds))

    def __call__(self, item: Ints, time: Times) -> Ints:
        return self.levels[item]


@dataclass(frozen=True)
class ViewsLevel:
    """Of the clicks of the training period that an item got strictly before a row's time.

    A row's own click is never among them, nor is another of the same moment. Level 0 is no
    click so far.

    Attributes:
        bounds: Deciles of the clicked items' counts at the end of the period.
        times: Times of clicks, each once, ascending.
        keys: ``item * (len(times) + 1) + place of its time`` of each click, ascending.
    """

    bounds: Floats
    times: Times
    keys: Ints

    @classmethod
    def build(cls, item: Ints, time: Times) -> ViewsLevel:
        """Of the clicks of the training period."""
        times, place = np.unique(time, return_inverse=True)
        counts = np.unique(item, return_counts=True)[1].astype(np.float64)
        return cls(decile_bounds(counts), times, np.sort(item * (len(times) + 1) + place))

    def __call__(self, item: Ints, time: Times) -> Ints:
        first = item * (len(self.times) + 1)
        until = first + np.searchsorted(self.times, time, side="left")
        views = np.searchsorted(self.keys, until) - np.searchsorted(self.keys, first)
        return levels_of(np.where(views > 0, views, np.nan), self.bounds)


def decile_bounds(values: Floats) -> Floats:
    """The ``ceil(k n / 10)``-th smallest of n values, k = 1..9; NaN is left out."""
    known = np.sort(values[~np.isnan(values)])
    # In integers: 0.7 * 10 need not be 7.
    places = -(-np.arange(1, TOP_LEVEL) * len(known) // TOP_LEVEL) - 1
    return known[places] if len(known) else known


def levels_of(values: Floats, bounds: Floats) -> Ints:
    """``1 + #{bounds < value}``, equal for equal values; 0 where a value is NaN."""
    level = 1 + np.searchsorted(bounds, values, side="left")
    return np.where(np.isnan(values), 0, level).astype(np.int64)
