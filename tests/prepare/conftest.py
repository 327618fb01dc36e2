"""Data sets and item files that several test files change."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.prepare.embed_helpers import IDS, ITEMS
from tests.prepare.report_helpers import edit, read


@pytest.fixture
def clean(workspace: Path) -> Path:
    """The demo data without chance meetings: so small a set shares rows between its splits."""
    known = read("train").select("user_id", "item_id", known=True).unique()
    stranger = pl.when("known").then(pl.col("user_id") + 1000).otherwise("user_id")
    for split in ("valid", "test"):
        edit(
            split,
            lambda f: f.join(
                known, on=["user_id", "item_id"], how="left", maintain_order="left"
            ).select(stranger.alias("user_id"), pl.exclude("user_id", "known")),
        )
    return workspace


@pytest.fixture
def item_info(tmp_path: Path) -> Path:
    """60 encoded items, as in embed_helpers: row k is item k, row 0 is padding."""
    path = tmp_path / "item_info.parquet"
    ids = list(range(ITEMS + 1))
    tags = [[0, 0], *([1, i % 3] for i in IDS.tolist())]
    pl.DataFrame({"item_id": ids, "item_tags": tags}).write_parquet(path)
    return path
