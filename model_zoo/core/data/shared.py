"""Tables that several processes of one machine read: decoded once, mapped by all."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.files import write_aside
from model_zoo.core.locks import held

_folders: list[Path] = []


def share_through(folder: Path) -> None:
    """From now on, :func:`shared` keeps this process's tables in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _folders[:] = [folder]


def shared(
    files: Sequence[str | Path], settings: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors that ``make`` gives; of all processes that share a folder, one makes them.

    The others map its file: the kernel then holds one copy of it for all of them. What a process
    changes is its own. Without :func:`share_through` this is ``make()``.

    Args:
        files: What the tensors are made from; a changed file makes other ones.
        settings: Whatever else they depend on.
        make: Reads the files.
    """
    if not _folders:
        return make()
    stats = [(str(Path(file).resolve()), Path(file).stat()) for file in files]
    key = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    text = json.dumps([key, settings], sort_keys=True, default=str)
    path = _folders[0] / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.pt"
    while not path.exists():
        with ExitStack() as lock:
            try:
                lock.enter_context(held(path.with_suffix(".lock"), str(path)))
            except InputError:  # another process is making them
                time.sleep(0.05)
                continue
            if not path.exists():
                with write_aside(path) as partial:
                    torch.save(make(), partial)
    tensors: dict[str, Tensor] = torch.load(path, mmap=True, weights_only=True)
    return tensors
