"""Ids in arrays are found as ids in lists are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from model_zoo.core.errors import InputError
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.lookup import IntegerRows

KNOWN = [7, -3, 1_000_001, 12, 2**62, -(2**63)]
TYPES = [np.array, torch.tensor]


def make(unknown: int | None = None, known: list[Any] = KNOWN) -> Ids:
    return Ids("item", rows={key: row for row, key in enumerate(known, start=1)}, unknown=unknown)


@pytest.mark.parametrize("make_array", TYPES)
def test_arrays_are_read_as_lists_are(make_array: Any) -> None:
    draw = random.Random(0)
    ids, listed = make(unknown=99), make(unknown=99)
    for step in range(40):
        given = [draw.choice([*listed.rows, 8, 2**63 - 1]) for _ in range(draw.randrange(20))]
        found = ids.items(make_array(given, dtype=make_array([1]).dtype), 100, "history")
        assert found.dtype == torch.int64
        assert found.tolist() == listed.items(given, 100, "history").tolist()
        for one in (ids, listed):  # few at first, then more than what was there
            one.rows.update({100 * step + i + 50: 200 + step + i for i in range(step // 8 + 1)})
    assert ids._index is not None and listed._index is None


def test_the_index_is_not_made_anew_for_every_new_id() -> None:
    ids = make(known=list(range(80)))
    ids.items(np.array([3]), 100, "history")
    index = ids._index
    ids.rows.update({1_000 + i: 80 + i for i in range(10)})
    assert ids.items(np.array([1_009, 3]), 100, "history").tolist() == [89, 4]
    assert ids._index is index
    ids.rows[2_000] = 90
    assert ids.items(np.array([2_000]), 100, "history").tolist() == [90]
    assert ids._index is not index


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.uint64])
def test_every_integer_type_is_read(dtype: Any) -> None:
    assert make().items(np.array([12, 7], dtype), 100, "history").tolist() == [4, 1]


@pytest.mark.parametrize("make_array", TYPES)
def test_an_unknown_id_is_named_as_in_a_list(make_array: Any) -> None:
    with pytest.raises(InputError, match=r"candidates: position 1: item 8 is unknown"):
        make().items(make_array([7, 8]), 100, "candidates")
    with pytest.raises(InputError, match="found lists in it"):
        make().items(make_array([[7, 8]]), 100, "candidates")


@pytest.mark.parametrize("known", [["7", "12"], [7, "12"], [7, 2**70]])
def test_other_ids_are_looked_up_one_by_one(known: list[Any]) -> None:
    ids = make(known=known)
    assert ids.items(np.array([7]), 100, "history").tolist() == [1]
    assert ids._index is None


def test_an_index_needs_ids() -> None:
    with pytest.raises(ValueError, match="no ids"):
        IntegerRows({})
    assert make(known=[], unknown=5).items(np.array([7]), 100, "history").tolist() == [5]
