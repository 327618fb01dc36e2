"""Vectors, files of them, and what the tests of embed compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.embed import embed

ITEMS = 60
IDS = np.arange(1, ITEMS + 1)


def vectors(width: int = 12, seed: int = 0, rows: int = ITEMS) -> npt.NDArray[np.float32]:
    """Four directions and some noise: ``rows`` vectors of length ``width``."""
    random = np.random.default_rng(seed)
    basis = random.standard_normal((4, width))
    noise = 0.1 * random.standard_normal((rows, width))
    return (3 + random.standard_normal((rows, 4)) @ basis + noise).astype(np.float32)


def h5(path: Path, ids: Any = IDS, values: Any = None, **more: Any) -> Path:
    """An HDF5 file with the ids "item" and the vectors "title"."""
    with h5py.File(path, "w") as file:
        file["item"] = ids
        file["title"] = vectors() if values is None else values
        for name, content in more.items():
            file[name] = content
    return path


def column(path: Path, name: str) -> npt.NDArray[np.float32]:
    return np.array(pl.read_parquet(path)[name].to_list(), dtype=np.float32)


def problem(*arguments: Any, **options: Any) -> str:
    """What embed refuses the arguments with; it must leave all files as they were."""
    before = {p: p.read_bytes() for p in Path(arguments[0]).parent.iterdir() if p.is_file()}
    with pytest.raises(InputError) as error:
        embed(*arguments, **options)
    after = {p: p.read_bytes() for p in Path(arguments[0]).parent.iterdir() if p.is_file()}
    assert after == before  # nothing written, nothing left behind
    return "\n".join(error.value.problems)


def standard(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    x = x.astype(np.float64)
    result: npt.NDArray[np.float64] = (x - x.mean(0)) / x.std(0)
    return result
