"""Batches on their way to a device while the one before is computed with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Lane(Protocol):
    """A way from main memory to a device beside its other work."""

    def send(self, batch: Batch) -> Any:
        """Begin to copy; returns at once."""
        ...

    def receive(self, sent: Any) -> Batch:
        """The batch on the device, for what is queued there from now on; returns at once."""
        ...


class CudaLane:
    """A stream of its own, from pinned memory: only so is a copy beside the kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        pinned = {name: tensor.pin_memory() for name, tensor in batch.items()}
        with torch.cuda.stream(self._stream):
            copies = {n: t.to(self._device, non_blocking=True) for n, t in pinned.items()}
            return copies, self._stream.record_event()

    def receive(self, sent: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, event = sent
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)
        for tensor in batch.values():
            tensor.record_stream(stream)  # its memory is used there, too
        return batch


LANES: dict[str, Callable[[torch.device], Lane]] = {"cuda": CudaLane}


def ahead(batches: Iterable[Batch], device: torch.device, stay: Collection[str]) -> Iterator[Batch]:
    """The batches on the device, each sent before the one in front of it is used.

    Args:
        batches: In main memory.
        device: One that has a lane (``LANES``).
        stay: Names of tensors that stay in main memory.
    """
    lane = LANES[device.type](device)
    waiting: deque[tuple[Batch, Any]] = deque()

    def front() -> Batch:
        kept, sent = waiting.popleft()
        return lane.receive(sent) | kept

    for batch in batches:
        kept = {name: batch[name] for name in stay if name in batch}
        waiting.append((kept, lane.send({n: t for n, t in batch.items() if n not in kept})))
        if len(waiting) == 2:
            yield front()
    while waiting:
        yield front()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; to CUDA without a wait for what is queued there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
