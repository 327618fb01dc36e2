"""Levels are what plain counting gives; no row sees its own click."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model_zoo.core.prepare.levels import CounterLevel, ViewsLevel
from tests.prepare.test_convert import plain_level

TIMES = st.integers(0, 9) | st.sampled_from([0.5, 3.0, 3.25, 1e12])
CLICKS = st.lists(st.tuples(st.integers(0, 5), TIMES), min_size=1, max_size=40)


def plain_views(clicks: list[tuple[int, float]], item: int, time: float) -> int:
    before = sum(i == item and t < time for i, t in clicks)
    return plain_level(before or None, [float(n) for n in Counter(i for i, _ in clicks).values()])


def codes(pairs: list[tuple[int, float]]) -> Any:
    return np.array([i for i, _ in pairs]), np.array([t for _, t in pairs])


@given(clicks=CLICKS, rows=CLICKS)
def test_views_are_counted_strictly_before_the_row(
    clicks: list[tuple[int, float]], rows: list[tuple[int, float]]
) -> None:
    level = ViewsLevel.build(*codes(clicks))
    expected = [plain_views(clicks, item, time) for item, time in rows]
    assert level(*codes(rows)).tolist() == expected


@given(clicks=CLICKS, at=st.integers(0, 39))
def test_a_click_never_counts_for_its_own_row(clicks: list[tuple[int, float]], at: int) -> None:
    """Without it the count is the same; the deciles are those of all clicks."""
    at %= len(clicks)
    whole = ViewsLevel.build(*codes(clicks))
    left = clicks[:at] + clicks[at + 1 :]
    part = ViewsLevel.build(*codes(left)) if left else None
    level = whole(*codes(clicks[at : at + 1])).item()
    if part is None:
        assert level == 0
    else:
        again = ViewsLevel(whole.bounds, part.times, part.keys)
        assert again(*codes(clicks[at : at + 1])).item() == level


def test_a_counter_of_the_metadata_has_one_level_per_item() -> None:
    values = np.array([np.nan, 5.0, 1.0, 5.0, 90.0])
    level = CounterLevel.build(values, np.array([True, True, True, False, False]))
    items = np.array([4, 3, 2, 1, 0])
    assert level(items, np.arange(5)).tolist() == [
        plain_level(None if np.isnan(v) else v, [5.0, 1.0]) for v in values[items]
    ]
