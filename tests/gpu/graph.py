"""CUDA graphs on the stand-in: a step's operators, noted once and run again on the same memory.

As on CUDA, a recording has no effect of its own, and what Python computed in it is part of it: a
number that changes later, or a tensor made anew for each batch, is not seen by a replay. A wait in
a recording is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from tests.gpu.device import DeviceTensor, StandIn, values


class Noted:
    """The operators of a recording."""

    def __init__(self) -> None:
        self._operators: list[tuple[Any, Any, Any, Any]] = []
        self._undo: list[tuple[Tensor, Tensor]] = []

    def before(self, function: Any, args: Any, kwargs: Any) -> None:
        """Keep what the operator is going to write over."""
        # Which arguments, a schema does not say of lists; of running statistics it says nothing.
        if function._schema.is_mutable or "batch_norm" in function.name():
            written = [x for x in tree_leaves((args, kwargs)) if isinstance(x, DeviceTensor)]
            self._undo.extend((leaf.value, leaf.value.clone()) for leaf in written)

    def after(self, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._operators.append((function, args, kwargs, output))

    def undo(self) -> None:
        for value, before in reversed(self._undo):
            value.copy_(before)
        self._undo.clear()

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, output in self._operators:
            result = function(*values(args), **values(kwargs))
            for kept, new in zip(tree_leaves(output), tree_leaves(result), strict=True):
                if isinstance(kept, DeviceTensor):
                    kept.value.copy_(new)  # of a view or in place: onto itself


class StandInRecorder:
    """A recorder of ``model_zoo.core.training.captured`` for the stand-in."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def warm_up(self, run: Callable[[], Any]) -> Any:
        return run()

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        mode = _get_current_dispatch_mode()
        assert isinstance(mode, StandIn)
        noted = Noted()
        mode.recording = noted
        try:
            outputs = run()
        finally:
            mode.recording = None
        noted.undo()
        return noted.replay, outputs
