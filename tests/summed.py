"""In which precision a computation adds up vectors by index."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Summed(TorchDispatchMode):
    """Notes every sum by index of floating-point numbers, in forward and backward passes.

    Attributes:
        dtypes: Of what each adds to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        adds = name.startswith(("index_add", "embedding_dense_backward"))
        if adds and args[0].is_floating_point():
            self.dtypes.append(args[0].dtype)
        return function(*args, **(kwargs or {}))
