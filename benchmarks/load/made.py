"""A folded file of an experiment's sizes, and requests to it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_json
from torch import Tensor

from benchmarks.plus import build, item_columns, values
from model_zoo.core.commands.config import Experiment
from model_zoo.core.serving.file import FoldedFile, save_folded
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.network.binary import MEDIA_TYPE, packed
from model_zoo.core.serving.users import UserRequest

LONGEST = 64  # items of a history, drawn from 1 on
DISTINCT = 128  # requests, sent over and over
JSON = "application/json"


def write_folded(experiment: Experiment, path: Path) -> Path:
    """Random items and weights."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model = build(experiment, item_columns(experiment), "fp32", folder).eval()
        dataset = experiment.dataset
        file = FoldedFile(model.fold(), Ids(dataset.item_col), experiment.run.max_len)
        save_folded(path, file)
    return path


@dataclass(frozen=True)
class Requests:
    """The same users in each form.

    Attributes:
        candidates: Of each.
        lists: For the scorer, as JSON gives them.
        tensors: For the scorer, as the binary form gives them.
    """

    candidates: int
    lists: Sequence[UserRequest]
    tensors: Sequence[UserRequest]

    def bodies(self, media_type: str) -> list[bytes]:
        """Of ``POST /score``."""
        if media_type == MEDIA_TYPE:
            return [packed(_body(one)) for one in self.tensors]
        return [to_json(_body(one)) for one in self.lists]


def draw_requests(experiment: Experiment, candidates: int) -> Requests:
    """Users with 1 to ``LONGEST`` history items, and context of each candidate."""
    torch.manual_seed(0)
    dataset = experiment.dataset
    items = next(
        f.vocab_size for f in dataset.features(of_items=True) if f.name == dataset.item_col
    )
    lists, tensors = [], []
    for _ in range(DISTINCT):
        length = int(torch.randint(1, LONGEST + 1, ()))
        request = UserRequest(
            torch.randint(1, items, (length,)).int(),
            torch.randint(1, items, (candidates,)).int(),
            {f.name: values(f, candidates) for f in dataset.features(of_items=False)},
        )
        tensors.append(request)
        lists.append(
            UserRequest(
                _list(request.history),
                _list(request.candidates),
                {name: _list(value) for name, value in request.context.items()},
            )
        )
    return Requests(candidates, lists, tensors)


def _list(value: Tensor) -> list[Any]:
    return value.tolist()


def _body(request: UserRequest) -> dict[str, Any]:
    return {
        "history": request.history,
        "candidates": request.candidates,
        "context": request.context,
    }
