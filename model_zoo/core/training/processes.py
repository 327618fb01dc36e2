"""Several processes on one or more machines, started by ``torchrun``: torch's own tools.

Each process computes its share of every batch; torch's DistributedDataParallel averages the
gradients. Everything here does the plain thing in a single process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model_zoo.core.errors import InputError


@contextmanager
def joined(gpu: int) -> Iterator[int]:
    """Join the other processes that torchrun started, if it did.

    Args:
        gpu: The device asked for; below 0 is the CPU.

    Yields:
        The device of this process: on CUDA, each process of a machine has one of its own.

    Raises:
        InputError: If there are more processes than CUDA devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield gpu
        return
    on_cuda = gpu >= 0 and torch.cuda.is_available()
    if on_cuda:
        gpu = int(os.environ["LOCAL_RANK"])
        if gpu >= torch.cuda.device_count():
            raise InputError(
                f"process {gpu} of this machine has no CUDA device of its own: there are "
                f"{torch.cuda.device_count()}; start fewer, or use --gpu -1"
            )
        torch.cuda.set_device(gpu)
    store, this_rank, processes = next(dist.rendezvous("env://"))
    # torchrun keeps its store over a restart, and with it the addresses of processes that are
    # gone; without a prefix for each attempt the new ones would call them.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt-{attempt}", store)
    backend = "nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=this_rank, world_size=processes)
    try:
        yield gpu
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def max_over_processes(numbers: list[int], device: torch.device) -> list[int]:
    """The largest of each number over all processes."""
    if not dist.is_initialized():
        return numbers
    tensor = torch.tensor(numbers, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def mean_over_processes(value: Tensor) -> Tensor:
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: np.ndarray | None) -> np.ndarray | None:
    """The rows of all processes, or ``None`` where no process has any."""
    parts = [part for part in gather(rows) if part is not None]
    return np.concatenate(parts) if parts else None


def from_main(module: nn.Module) -> None:
    """Give every process the weights and statistics of the main one."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Let batch normalisation see the rows of all processes, where torch can.

    Replaces the batch-norm layers of ``module`` on CUDA; torch's SyncBatchNorm has no CPU
    path, so there each process normalises by the statistics of its own rows.
    """
    has_batch_norm = any(isinstance(m, nn.BatchNorm1d) for m in module.modules())
    if not dist.is_initialized() or not has_batch_norm:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
    elif is_main():
        logging.info(
            "Batch normalisation: on CPU, each of %d processes has the statistics of its own rows",
            world_size(),
        )


class ParallelForward:
    """A model's forward pass; with several processes, gradients meet in the backward pass.

    Args:
        model: The model, on its device.
        device: The device.
        lazy: Whether embedding tables have sparse gradients.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, lazy: bool) -> None:
        self._model, self._device, self._lazy = model, device, lazy
        self._wrapped: nn.parallel.DistributedDataParallel | None = None

    def __call__(self, batch: Mapping[str, Tensor], *, synchronise: bool) -> dict[str, Tensor]:
        """The model's output.

        Raises:
            InputError: If several processes are to share sparse gradients.
        """
        if world_size() == 1:
            output: dict[str, Tensor] = self._model.forward(batch)
            return output
        if self._wrapped is None:
            if self._lazy:
                raise InputError("embedding_update: lazy runs in one process; use dense")
            synchronise_batch_norm(self._model, self._device)
            self._wrapped = nn.parallel.DistributedDataParallel(
                self._model, broadcast_buffers=False
            )
        with nullcontext() if synchronise else self._wrapped.no_sync():
            output = self._wrapped(batch)
        return output
