"""Files of torch's with changed bytes: read, or refused with a message."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model_zoo.core.errors import InputError
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import Ids
from model_zoo.core.training.state import load_state, save_state
from model_zoo.core.training.weights import read_state_dict
from tests.serving.made import make_model

HEAD = 900  # bytes, in which the structure is described


def write_weights(path: Path) -> None:
    torch.save({"a.weight": torch.randn(3, 4), "b": torch.zeros(2)}, path)


def write_state(path: Path) -> None:
    save_state(path, {"settings": {"a": 1}, "data": None, "weights": {"a": torch.zeros(3)}})


def write_folded(path: Path) -> None:
    save_folded(path, FoldedFile(make_model(path.parent).fold(), Ids("item_id"), 100))


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (write_weights, read_state_dict),
        (write_state, lambda path: load_state(path, {"a": 1})),
        (write_folded, load_folded),
    ],
)
def test_a_changed_byte_is_no_traceback(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], Any]
) -> None:
    path, draw, refused = tmp_path / "saved", random.Random(0), 0
    write(path)
    content = path.read_bytes()
    read(path)
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 2, 4])):
            changed[draw.randrange(HEAD)] = draw.randrange(256)
        path.write_bytes(bytes(changed))
        try:
            read(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused
