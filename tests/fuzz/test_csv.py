"""Rows in csv with one change each: scored as Python's own reader would, or refused."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest

import prediction
from tests.fuzz.mutations import ODD_TEXTS, broken_bytes, odd_lines
from tests.fuzz.shop import (
    ARGUMENTS,
    answer,
    digests,
    expected_scores,
    read_plain_csv,
    scorer,
    tokens,
    trained,
    whole,
)

__all__ = ["trained"]
pytestmark = pytest.mark.slow
CHUNK = 20


def sound_csv(folder: Path, random: Random) -> str:
    rows = pl.read_parquet(folder / "raw" / "test.parquet").drop("label")
    rows = rows.select(random.sample(rows.columns, len(rows.columns)))
    separator = random.choice("^|;")
    return rows.with_columns(pl.col("clicked").list.join(separator)).write_csv()


def mutated(text: str, random: Random) -> bytes:
    kind = random.randrange(4)
    if kind == 0:
        return broken_bytes(text.encode(), random)
    if kind == 1:
        return "\n".join(odd_lines(text.splitlines(), random)).encode()
    cells = [line.split(",") for line in text.splitlines()]
    at = random.randrange(len(cells))
    column = random.randrange(len(cells[0]))
    if kind == 2 and random.random() < 0.3:  # the whole column of another kind, or gone
        for row in cells:
            del row[column]
    else:
        odd = random.choice(ODD_TEXTS)
        cells[at][column] = '"' + odd.replace('"', '""') + '"'
    ends = random.choice(["\n", "\r\n"])
    return ends.join(",".join(row) for row in cells).encode()


@pytest.mark.parametrize("chunk", range(10))
def test_csv_rows(
    chunk: int, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    model = scorer(trained)
    source, target = Path("rows.csv"), Path("scores.csv")
    command = [*ARGUMENTS, "--input", str(source), "--output", str(target)]
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        random = Random(seed)
        source.write_bytes(mutated(sound_csv(trained, random), random))
        target.unlink(missing_ok=True)
        before = digests(source, *Path("raw").iterdir())
        message = answer(prediction.main, command, capsys)
        assert digests(*before) == before, seed
        if message is not None:
            assert str(source) in message, (seed, message)
            assert not target.exists(), seed
            continue
        rows = read_plain_csv(source)
        values = [
            {
                "item": row["item"],
                "clicked": tokens(row["clicked"]),
                "hour": whole(row["hour"]),
                "city": row["city"] or None,
            }
            for row in rows
        ]
        scores = pl.read_csv(target)["probability"].to_numpy()
        expected = expected_scores(model, values)
        np.testing.assert_allclose(scores, expected, atol=1e-6, err_msg=f"{seed}: {rows}")
