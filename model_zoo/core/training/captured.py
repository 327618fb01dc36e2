"""Optimizer steps of fixed shapes, which a CUDA device can replay as one launch.

A CUDA graph is a recording: the same kernels on the same memory. So a recorded step has no size
that depends on the batch, no wait for a number, and no number of Python's that changes. The packed
histories of a batch are padded to the next of a few sizes, and the learning rate is a tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import Tensor
from torch.nn import functional

from model_zoo.core.data.ahead import send
from model_zoo.core.data.spec import LENGTH_SUFFIX
from model_zoo.core.errors import InputError, first_line
from model_zoo.core.training.processes import world_size

Batch = Mapping[str, Tensor]
Outputs = tuple[Tensor, ...]
Step = Callable[[Batch, Callable[[], None]], Outputs]

OPTIMIZERS = ("adam", "adamw")  # those of torch that take a rate as a tensor and are one kernel
SMALLEST = 256  # history items that a batch is padded to at least
WARM_UP = 3  # steps of a shape before it is recorded: torch allocates and chooses in them
MOST = 12  # recordings that are kept; further shapes run as they are


class Recorder(Protocol):
    """What records steps on a device and replays them."""

    def warm_up(self, run: Callable[[], Outputs]) -> Outputs:
        """Run a step where it would be recorded."""
        ...

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record a step without running it: what replays it, and where it leaves its outputs."""
        ...


class CudaRecorder:
    """torch's CUDA graphs, all in one pool of memory and recorded on one stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], Outputs]) -> Outputs:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            outputs = run()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return outputs

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on: those of a loader allocate pinned memory.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            outputs = run()
        return graph.replay, outputs


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}


class TensorRates:
    """An optimizer whose learning rates are tensors while it steps, and numbers otherwise.

    Args:
        optimizer: One of torch's that takes tensors for rates.
        device: Of its weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._groups = optimizer.param_groups
        self._optimizer = optimizer
        self._rates = [torch.zeros((), device=device) for _ in self._groups]
        self._known: list[float | None] = [None] * len(self._groups)

    def refresh(self) -> None:
        """Take what the rates are now into the tensors; before a step, outside of a recording."""
        for i, group in enumerate(self._groups):
            if group["lr"] != self._known[i]:
                self._known[i] = group["lr"]
                self._rates[i].fill_(group["lr"])

    def step(self, *, recorded: bool = False) -> None:
        """The optimizer's step.

        Args:
            recorded: torch records no step of an optimizer that is not ``capturable``, and warns
                of one that is and steps otherwise. Fused ones compute the same either way.
        """
        before = [{key: group[key] for key in ("lr", "capturable")} for group in self._groups]
        try:
            for group, rate in zip(self._groups, self._rates, strict=True):
                group.update(lr=rate, capturable=recorded)
            self._optimizer.step()
        finally:
            for group, values in zip(self._groups, before, strict=True):
                group.update(values)


class CapturedStep:
    """Runs a step on batches padded to few shapes, and from the fourth of a shape on replays it.

    On a device that records nothing (``RECORDERS``), the padded step runs as it is.

    Args:
        step: Computes a step on a batch on the device without a wait, calls its second argument
            where the optimizer is to step, and returns tensors.
        optimizer: For :class:`TensorRates`.
        device: Where it runs.
        history_col: Name of the packed histories in a batch.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        history_col: str,
    ) -> None:
        self._step, self._device, self._history_col = step, device, history_col
        self._rates = TensorRates(optimizer, device)
        make = RECORDERS.get(device.type)
        self._recorder = None if make is None else make(device)
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._recorded: dict[
            tuple[Any, ...], tuple[dict[str, Tensor], Callable[[], None], Outputs]
        ] = {}

    @property
    def recordings(self) -> int:
        """Shapes that are replayed by now."""
        return len(self._recorded)

    def __call__(self, batch: Batch) -> Outputs:
        """The step's outputs for a batch.

        Raises:
            InputError: If the step cannot be recorded on this device.
        """
        given = {
            name: send(tensor, self._device)
            for name, tensor in padded(batch, self._history_col).items()
        }
        self._rates.refresh()
        if self._recorder is None:
            return self._run(given)
        shape = tuple((name, tuple(value.shape), value.dtype) for name, value in given.items())
        if shape not in self._recorded:
            self._seen[shape] += 1
            if self._seen[shape] <= WARM_UP or self.recordings == MOST:
                return self._recorder.warm_up(lambda: self._run(given))
            inputs = {name: tensor.clone() for name, tensor in given.items()}
            try:
                recorded = self._recorder.record(lambda: self._run(inputs, recorded=True))
            except RuntimeError as error:
                raise InputError(
                    "cuda_graph: True: the step cannot be recorded here; train with "
                    f"cuda_graph=False ({first_line(_first_of(error))})"
                ) from error
            self._recorded[shape] = (inputs, *recorded)
        inputs, replay, outputs = self._recorded[shape]
        for name, tensor in given.items():
            inputs[name].copy_(tensor, non_blocking=True)
        replay()
        return tuple(output.clone() for output in outputs)  # the next replay writes there

    def _run(self, batch: Batch, *, recorded: bool = False) -> Outputs:
        return self._step(batch, partial(self._rates.step, recorded=recorded))


def _first_of(error: BaseException) -> BaseException:
    """What broke a recording: to end a broken one is an error too, which says nothing of it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def padded_size(items: int) -> int:
    """The next of a few sizes: eight between a power of two and the next.

    Example:
        >>> [padded_size(items) for items in (0, 200, 4096, 4097, 65_000)]
        [256, 256, 4096, 4608, 65536]
    """
    step = max(SMALLEST, 2 ** max(0, items.bit_length() - 4))
    return -(-max(items, 1) // step) * step


def padded(batch: Batch, history_col: str) -> dict[str, Tensor]:
    """The batch with history items of no row behind those of its rows.

    They have id 0, and their number is one length more than there are rows: that of a dummy row.

    Args:
        batch: With packed histories, (T,) and (B,).
        history_col: Their name.

    Raises:
        ValueError: If the histories are not packed.
    """
    items, lengths = batch[history_col], batch.get(history_col + LENGTH_SUFFIX)
    if lengths is None:
        raise ValueError(
            f"cuda_graph needs packed histories, {history_col} with {history_col}{LENGTH_SUFFIX}; "
            f"got {history_col} of shape {tuple(items.shape)}"
        )
    padding = padded_size(len(items)) - len(items)
    lengths = functional.pad(lengths, (0, 1), value=padding)
    padded_items = functional.pad(items, (0, padding))
    return {**batch, history_col: padded_items, history_col + LENGTH_SUFFIX: lengths}


def require_capturable(
    *,
    fixed_shapes: bool,
    model: str,
    optimizer: str,
    embedding_update: str,
    accumulation_steps: int,
    regularizers: list[float | str | None],
) -> None:
    """Refuse settings whose steps have no fixed shapes, or are more than one batch.

    Raises:
        ValueError: With the setting, its value and what was expected.
    """
    problems = [
        (not fixed_shapes, f"{model} has no steps of fixed shapes"),
        (
            optimizer.lower() not in OPTIMIZERS,
            f"optimizer is {optimizer}, expected adam or AdamW",
        ),
        (embedding_update != "dense", f"embedding_update is {embedding_update}, expected dense"),
        (accumulation_steps != 1, f"accumulation_steps is {accumulation_steps}, expected 1"),
    ]
    problems += [
        (norm != 2, f"a regularizer is {regularizer}, expected an L2 norm")
        for regularizer in regularizers
        for norm, _ in get_regularizer(regularizer)
    ]
    found = list(dict.fromkeys(text for wrong, text in problems if wrong))
    if found:
        raise ValueError(f"cuda_graph: True: {'; '.join(found)}; or use cuda_graph: False")


def require_cuda(model_id: str, device: torch.device) -> None:
    """Refuse to train with ``cuda_graph`` where nothing can be recorded.

    Raises:
        InputError: If the device is the CPU, or one of several processes trains.
    """
    if device.type == "cpu":
        raise InputError(
            f"experiment '{model_id}': cuda_graph: True needs a CUDA device, and this training "
            "would run on the CPU; use --gpu 0 where there is one, or --set cuda_graph=False"
        )
    if world_size() > 1:
        raise InputError(
            f"experiment '{model_id}': cuda_graph: True runs in one process, found "
            f"{world_size()}; use --set cuda_graph=False"
        )
