"""The score products of bfloat16 against those of one pair after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.core.kernels import dots
from model_zoo.QIN.layers.kernels import grouped_dots


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), max_size=12), seed=st.integers(0, 10**6))
def test_grouping_changes_nothing(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    sizes = torch.tensor(lengths, dtype=torch.long)
    vectors = torch.randn(7, 3, dtype=torch.float64)
    queries = torch.randn(len(lengths), 3, dtype=torch.float64)
    history = torch.randint(0, 7, (int(sizes.sum()),))
    owners = torch.arange(len(lengths)).repeat_interleave(sizes)
    expected = dots(queries, owners, vectors, history)
    torch.testing.assert_close(grouped_dots(queries, vectors, history, sizes), expected)
    torch.testing.assert_close((queries[owners] * vectors[history]).sum(dim=1), expected)


def test_groups_smaller_than_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = torch.tensor([3, 0, 5, 5, 1])
    vectors, queries = torch.randn(6, 4), torch.randn(5, 4)
    history = torch.randint(0, 6, (14,))
    whole = grouped_dots(queries, vectors, history, lengths)
    monkeypatch.setattr("model_zoo.QIN.layers.kernels.SLOTS", 4)
    torch.testing.assert_close(grouped_dots(queries, vectors, history, lengths), whole)
