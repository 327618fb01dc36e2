"""Steps of fixed shapes: padded batches change nothing, and what has no such steps is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_zoo import get_model
from model_zoo.core.errors import InputError
from model_zoo.core.training import captured
from model_zoo.core.training.captured import CapturedStep, padded, padded_size
from tests.gpu.models import MODELS, build, rows

FIXED = [name for name in MODELS if get_model(name).fixed_shapes]
CPU = torch.device("cpu")


def step(model: Any, batch: dict[str, Tensor], number: int = 1) -> float:
    model._steps_per_epoch, model._max_gradient_norm = 9, 1.0  # such that it clips
    model._batch_index, model._total_steps = number - 1, number
    return float(model.train_step(batch).item())


def test_sizes_are_few_and_near() -> None:
    sizes = {padded_size(items) for items in range(70_000)}
    assert all(padded_size(size) == size for size in sizes)
    assert all(0 <= padded_size(n) - n <= max(256, n / 8) for n in range(1, 70_000, 7))
    assert len({size for size in sizes if 2**15 < size <= 2**16}) == 8


@pytest.mark.parametrize("extra", [{}, {"precision": "bf16"}, {"weight_average": 0.9}])
@pytest.mark.parametrize("name", FIXED)
def test_a_padded_step_is_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: dict[str, Any]
) -> None:
    """Losses, gradients (by SGD-like first steps of Adam too) and weights of three steps."""
    monkeypatch.setattr(captured, "SMALLEST", 32)
    plain, fixed = (build(name, tmp_path, gpu=-1, cuda_graph=on, **extra) for on in (False, True))
    for model in (plain, fixed):
        model.train()
    for number in range(1, 4):
        batch = rows(24).batch() if number < 3 else rows(17).batch()
        losses = [step(model, batch, number) for model in (plain, fixed)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        plain.lr_decay()
        assert plain.lr_decay() == fixed.lr_decay(0.25)
    for (key, one), other in zip(
        plain.state_dict().items(), fixed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=key)
