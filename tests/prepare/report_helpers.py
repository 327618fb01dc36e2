"""The demo data in the working directory: read, changed, and as a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from model_zoo.core.commands.config import load_dataset
from model_zoo.core.data.spec import DatasetSpec

DEMO = Path("data/MicroLens_demo")
SPLITS = ("train", "valid", "test")
Change = Callable[[pl.DataFrame], pl.DataFrame]


def dataset() -> DatasetSpec:
    """As the configuration in the working directory describes it."""
    return load_dataset("config", "MicroLens_demo")


def read(name: str) -> pl.DataFrame:
    return pl.read_parquet(DEMO / f"{name}.parquet")


def edit(name: str, change: Change) -> None:
    change(read(name)).write_parquet(DEMO / f"{name}.parquet")
