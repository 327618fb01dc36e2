"""Sizes, models, batches and the clock of the GPU benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.official import NUM_ITEMS, NUM_TAGS, Batch, build, draw_batch, item_columns
from model_zoo.core.data.spec import LENGTH_SUFFIX

LENGTHS = "item_seq" + LENGTH_SUFFIX


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        items: Of the catalogue.
        tags: Their vocabulary.
        dim: Embedding width.
        rows: Of a batch.
        larger: Further batch sizes for the fastest variant.
        checked: Rows that are compared with float64 on the CPU.
        epoch: Rows of an epoch with loading.
        steps: Between two events.
        rounds: Of each of two measurements.
        requests: To the scorer.
        candidates: Of a request.
        product: Side of the largest product; a copy has as many bytes as 16 such matrices.
    """

    items: int = NUM_ITEMS
    tags: int = NUM_TAGS
    dim: int = 128
    rows: int = 8192
    larger: tuple[int, ...] = (16_384, 32_768, 65_536)
    checked: int = 512
    epoch: int = 1_000_000
    steps: int = 20
    rounds: int = 5
    requests: int = 1000
    candidates: int = 1000
    product: int = 8192


QUICK = Size(300, 50, 8, 64, (128,), 32, 600, 2, 2, 5, 50, 64)


def model_of(folder: str, size: Size, columns: Batch, device: torch.device, **settings: Any) -> Any:
    """QIN in the paper's configuration, or another ``model``, on the device, for ``train_step``."""
    gpu = -1 if device.type == "cpu" else device.index or 0
    precision = settings.pop("precision", "fp32")
    return build(folder, precision, columns, gpu=gpu, embedding_dim=size.dim, **settings)


def catalogue(size: Size) -> Batch:
    torch.manual_seed(0)
    return item_columns(size.items, size.tags)


def batches_of(size: Size, rows: int, device: torch.device, count: int = 4) -> list[Batch]:
    """Different packed batches as a loader gives them that keeps its rows on the device."""
    torch.manual_seed(rows)
    drawn = [draw_batch(rows, "challenge", size.items)[1] for _ in range(count)]
    return [placed(batch, device) for batch in drawn]


def placed(batch: Batch, device: torch.device) -> Batch:
    def place(name: str, tensor: Tensor) -> Tensor:
        if name != LENGTHS:
            return tensor.to(device)
        return tensor.pin_memory() if device.type == "cuda" else tensor

    return {name: place(name, tensor) for name, tensor in batch.items()}


class Turns:
    """Runs a step on one batch after the other, again and again."""

    def __init__(self, step: Callable[[Batch], object], batches: list[Batch]) -> None:
        self._step, self._batches, self._next = step, batches, 0

    def __call__(self) -> None:
        self._step(self._batches[self._next])
        self._next = (self._next + 1) % len(self._batches)


def seconds(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Of one run, between two events around ``times`` of them; on a CPU by the clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - start) / times
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(times):
        run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3 / times


def in_turn(
    runs: dict[str, Callable[[], object]], size: Size, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Median seconds of each in two measurements; in each round all take their turn."""
    taken: dict[str, list[list[float]]] = {name: [[], []] for name in runs}
    for _ in range(size.rounds):
        for half in range(2):
            for name, run in runs.items():
                taken[name][half].append(seconds(run, size.steps, device))
    return {name: (median(one), median(other)) for name, (one, other) in taken.items()}
