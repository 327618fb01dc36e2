"""A stand-in for a GPU: a device of its own whose tensors are computed on the CPU.

torch lets Python register a device. A :class:`DeviceTensor` is on it for all that torch and the
model can see, and keeps its numbers in a tensor on the CPU. Every operator comes past
:class:`StandIn`, which

- refuses tensors of two devices in one operation, as CUDA does, and also an index on the CPU,
  which CUDA would first copy;
- notes a :class:`Wait` wherever the CPU would have to wait for a GPU: for a number
  (``item()``, ``bool(tensor)``), for a size (``nonzero``, ``unique``), or for a copy between
  devices that is not ``non_blocking``. That also holds for copies to the device: CUDA first
  finishes what was queued before.

The numbers are real, so what waits goes on, and results can be compared with the CPU's.

What it is not: its type is ``standin``. So code for the CPU only is not run, as on a GPU, but
neither is code for ``cuda`` only: pinned memory, the share of a card's memory that rows may take,
and CUDA's own size of a catalogue that is encoded whole. Kernels are the CPU's; what a CUDA
kernel does inside, such as a sort that waits, is not seen. Time means nothing.

Registering changes a process for good; see ``tests/gpu/conftest.py``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from tests.gpu.autocast import cast_as_on_cuda

NAME = "standin"
ROOT = Path(__file__).resolve().parent.parent.parent
# Where a place in the code is looked for: here, or in FuxiCTR; not in torch or in this file.
_OURS = re.compile(
    rf"{re.escape(str(ROOT))}/((?:model_zoo|tests)/.+)|.*/site-packages/(fuxictr/.+)"
)
_TRACED = re.compile(r'\s*File "(.+)", line (\d+), in (\S+)')
# On CUDA these need a number from the device before they can go on.
WAITING = {
    "_local_scalar_dense": "a number (item, bool, float, int, tolist)",
    "nonzero": "the number of non-zeros",
    "masked_select": "the size of a selection",
    "_unique": "the number of distinct values",
    "_unique2": "the number of distinct values",
    "unique_dim": "the number of distinct values",
    "unique_consecutive": "the number of distinct values",
    "bincount": "the largest value",
    "equal": "a number (equal)",
    "_coalesce": "the number of distinct rows of a sparse tensor",
}


class Wait(NamedTuple):
    """The CPU waited for the device.

    Attributes:
        place: ``file:function`` that called the operator; in a backward pass, the one whose
            forward pass it belongs to.
        operator: Of torch.
        reason: What it waited for.
        line: Of the place.
    """

    place: str
    operator: str
    reason: str
    line: int

    def __str__(self) -> str:
        return f"{self.place} (line {self.line}): {self.operator} waits for {self.reason}"


class MixedDevicesError(RuntimeError):
    """Tensors of two devices in one operation."""


class DeviceTensor(torch.Tensor):
    """A tensor on the stand-in; ``value`` has its numbers, on the CPU."""

    value: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor) -> DeviceTensor:
        layout: dict[str, Any] = {"layout": value.layout}
        if value.layout == torch.strided:
            layout |= {"strides": value.stride(), "storage_offset": value.storage_offset()}
        # A view of a tensor from outside of inference mode is none of inference mode either.
        with torch.inference_mode(value.is_inference()):
            made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, value.shape, dtype=value.dtype, device=torch.device(NAME, 0), **layout
            )
        made.value = value
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{function} of a tensor on {NAME} outside of StandIn")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.cpu().__reduce_ex__(protocol)  # torch.save

    def __format__(self, specification: str) -> str:
        return format(self.item(), specification) if self.dim() == 0 else repr(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.value!r})"


class Recording(Protocol):
    """What is told of every operator on the device."""

    def before(self, function: Any, args: Any, kwargs: Any) -> None: ...

    def after(self, function: Any, args: Any, kwargs: Any, output: Any) -> None: ...


class StandIn(TorchDispatchMode):
    """The device at work: computes, refuses mixed devices, and notes every wait.

    Attributes:
        waits: Those so far.
        recording: Gets every operator, while there is one; see ``tests/gpu/graph.py``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self.recording: Recording | None = None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        source = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
        named = kwargs.get("device")
        result = source if named is None else torch.device(named).type == NAME
        if not source and not result:
            return function(*args, **kwargs)
        if _is_composite(function):
            with self:
                return function.decompose(*args, **kwargs)
        self._watch(function, args, kwargs, tensors, result)
        plain = {**kwargs, "device": "cpu"} if named is not None else kwargs
        if self.recording is not None:
            self.recording.before(function, args, plain)
        output = function(*values(args), **values(plain))
        if not result:
            # Copied, as from one memory to another.
            return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output)
        wrapped = tree_map(lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x, output)
        if self.recording is not None:
            self.recording.after(function, args, plain, wrapped)
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
            return output
        return return_and_correct_aliasing(function, args, kwargs, wrapped)

    def _watch(
        self, function: Any, args: Any, kwargs: Any, tensors: list[Tensor], result: bool
    ) -> None:
        name = function.overloadpacket.__name__
        on_device = [isinstance(tensor, DeviceTensor) for tensor in tensors]
        if name in ("_to_copy", "copy_"):
            here, there = (
                (on_device[0], result) if name == "_to_copy" else (on_device[1], on_device[0])
            )
            deferred = kwargs.get("non_blocking", False) or (
                name == "copy_" and len(args) > 2 and args[2]
            )
            if here and not there:
                self._note(name, "a copy to the CPU")
            elif there and not here and not deferred:
                self._note(name, "a copy to the device that is not non_blocking")
            return
        masks = []
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [index for index in args[1] if index is not None]
            masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
            filled = name != "index" and args[2].numel() == 1 and len(indices) == 1
            if masks and not filled:
                self._note(name, "the number of non-zeros of a mask")
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self._note(name, "the sum of the repeats (give output_size)")
        if name in WAITING:
            self._note(name, WAITING[name])
        # A number may come from the CPU: it travels with the call.
        strangers = [
            tensor
            for tensor, here in zip(tensors, on_device, strict=True)
            if not here and tensor.dim() > 0
        ]
        if strangers:
            place, line = where()
            shapes = ", ".join(
                f"{'x'.join(map(str, tensor.shape))} on {tensor.device}" for tensor in tensors
            )
            raise MixedDevicesError(f"{place} (line {line}): {name} of tensors {shapes}")

    def _note(self, operator: str, reason: str) -> None:
        place, line = where()
        self.waits.append(Wait(place, operator, reason, line))
        if self.recording is not None:
            raise RuntimeError(f"{self.waits[-1]}, in a recording")


def _is_composite(function: Any) -> bool:
    """Whether torch computes it by other operators (seen as one in inference mode)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        function.name(), "CompositeImplicitAutograd"
    )


def values(arguments: Any) -> Any:
    return tree_map(lambda x: x.value if isinstance(x, DeviceTensor) else x, arguments)


def where() -> tuple[str, int]:
    """Place and line of the code at work; in a backward pass, of its forward pass."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_engine_run_backward":
        found = _OURS.fullmatch(frame.f_code.co_filename)
        if found is not None and frame.f_code.co_filename != __file__:
            return f"{found[1] or found[2]}:{frame.f_code.co_name}", frame.f_lineno
        frame = frame.f_back
    node = torch._C._current_autograd_node()
    for entry in reversed([] if node is None else node.metadata.get("traceback_", [])):
        file, line, function = _TRACED.match(entry).groups()  # type: ignore[union-attr]
        found = _OURS.fullmatch(file)
        if found is not None and file != __file__:
            return f"{found[1] or found[2]}:{function}, backward", int(line)
    return "outside of the repository", 0


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Make the device known to torch, once in a process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    cast_as_on_cuda()
    # A parameter that moves must stay the same object, as on CUDA: optimizers hold it.
    torch.__future__.set_swap_module_params_on_conversion(True)


@contextmanager
def running() -> Iterator[StandIn]:
    """The device is there, and ``gpu=0`` means it."""

    def get_device(gpu: int = -1) -> torch.device:
        return torch.device(NAME, gpu) if gpu >= 0 else torch.device("cpu")

    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) copies visibly
    try:
        with (
            mock.patch("fuxictr.pytorch.models.rank_model.get_device", get_device),
            mock.patch("model_zoo.core.commands.experiment.get_device", get_device),
            torch.autograd.set_detect_anomaly(True, check_nan=False),  # names backward's places
            StandIn() as device,
        ):
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
