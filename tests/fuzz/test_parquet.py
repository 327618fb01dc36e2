"""Tables with one change each: another form of the same values gives the same, else a message."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

import prediction
import run_expid
from tests.fuzz.mutations import broken_bytes, odd_table
from tests.fuzz.shop import (
    ARGUMENTS,
    answer,
    digests,
    expected_scores,
    scorer,
    trained,
    write_shop,
)

__all__ = ["trained"]
pytestmark = pytest.mark.slow
CHUNK = 20


def mutate(path: Path, random: Random) -> bool:
    """Change a file; whether it still has the same values."""
    if random.random() < 0.15:
        path.write_bytes(broken_bytes(path.read_bytes(), random))
        return False
    table, same = odd_table(pl.read_parquet(path), random)
    pq.write_table(table, path)
    return same


@pytest.mark.parametrize("chunk", range(6))
def test_rows_to_score(
    chunk: int, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    model = scorer(trained)
    source, target = Path("rows.parquet"), Path("scores.parquet")
    command = [*ARGUMENTS, "--input", str(source), "--output", str(target)]
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        random = Random(seed)
        pl.read_parquet("raw/test.parquet").drop("label").write_parquet(source)
        same = mutate(source, random)
        target.unlink(missing_ok=True)
        before = digests(source, *Path("raw").iterdir())
        message = answer(prediction.main, command, capsys)
        assert digests(*before) == before, seed
        if message is not None:
            assert not same, (seed, message)
            assert str(source) in message, (seed, message)
            assert not target.exists(), seed
            continue
        rows = [_plain(row) for row in pq.read_table(source).to_pylist()]
        scores = pl.read_parquet(target)["probability"].to_numpy()
        np.testing.assert_allclose(scores, expected_scores(model, rows), atol=1e-6, err_msg=seed)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "clicked": row["clicked"] or [], "hour": row["hour"] and int(row["hour"])}


@pytest.mark.parametrize("chunk", range(5))
def test_files_to_train_on(
    chunk: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another form of the same values gives the same model."""
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path)
    shutil.copytree("raw", "sound")
    assert run_expid.main(ARGUMENTS) == 0
    expected = _weights()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        random = Random(1000 + seed)
        shutil.rmtree("raw")
        shutil.copytree("sound", "raw")
        shutil.rmtree("data", ignore_errors=True)  # its vocabularies are of the sound files
        path = Path("raw") / random.choice(["train.parquet", "valid.parquet", "item_info.parquet"])
        same = mutate(path, random)
        before = digests(*Path("raw").iterdir(), *Path("config").iterdir())
        message = answer(run_expid.main, ARGUMENTS, capsys)
        assert digests(*before) == before, seed
        if message is not None:
            # A column that nobody declared is refused in training, and ignored in scoring.
            assert not same or "is not among feature_cols" in message, (seed, message)
            assert path.name in message, (seed, message)
        elif same:
            np.testing.assert_array_equal(_weights(), expected, err_msg=str(seed))


def _weights() -> np.ndarray:
    import torch

    state = torch.load("checkpoints/Shop/Shop.model", weights_only=True)
    return np.concatenate([tensor.double().numpy().ravel() for tensor in state.values()])
