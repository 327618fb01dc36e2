"""A small raw data set with every kind of column, a model trained on it, and a plain reader."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import run_expid
from model_zoo.core.commands import serving
from model_zoo.core.errors import InputError
from model_zoo.core.serving.scorer import Scorer

ITEMS = [f"i{number}" for number in range(12)]
CITIES = ["Ulm", "Aix", "São Paulo", "New York"]
ARGUMENTS = ["--config", "config", "--expid", "Shop", "--gpu", "-1"]
NAMED = ("item", "clicked", "hour", "city", "label", "tags", "vector")
DATASET: dict[str, Any] = {
    "data_root": "data",
    "data_format": "parquet",
    "train_data": "raw/train.parquet",
    "valid_data": "raw/valid.parquet",
    "test_data": "raw/test.parquet",
    "item_info": "raw/item_info.parquet",
    "rebuild_dataset": True,
    "item_col": "item",
    "history_col": "clicked",
    "feature_cols": [
        {"name": "clicked", "active": True, "dtype": "str", "type": "meta"},
        {"name": "hour", "active": True, "dtype": "int", "type": "categorical"},
        {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "item", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
        {
            "name": "tags",
            "active": True,
            "dtype": "str",
            "type": "sequence",
            "source": "item",
            "max_len": 3,
        },
        {
            "name": "vector",
            "active": True,
            "dtype": "float",
            "type": "embedding",
            "source": "item",
            "pretrain_dim": 2,
        },
    ],
    "label_col": {"name": "label", "dtype": "float"},
}
MODEL: dict[str, Any] = {
    "model": "QIN",
    "dataset_id": "Shop",
    "learning_rate": 1.0e-2,
    "batch_size": 16,
    "max_len": 4,
    "embedding_dim": 2,
    "num_layers": 1,
    "num_row": 2,
    "net_dropout": 0.1,
    "batch_norm": True,
    "embedding_regularizer": 1.0e-4,
    "epochs": 1,
    "seed": 7,
    "verbose": 0,
}


def write_shop(folder: Path) -> None:
    """The data set's files and its configuration."""
    random = np.random.default_rng(0)
    (folder / "raw").mkdir()
    (folder / "config").mkdir()
    for split, count in {"train": 48, "valid": 16, "test": 8}.items():
        frame = pl.DataFrame(
            {
                "item": random.choice(ITEMS, count),
                "clicked": [
                    random.choice(ITEMS, random.integers(6)).tolist() for _ in range(count)
                ],
                "hour": random.integers(0, 6, count),
                "city": random.choice(CITIES, count),
                "label": [float(row % 2) for row in range(count)],
            },
            schema_overrides={"clicked": pl.List(pl.String)},
        )
        frame.write_parquet(folder / "raw" / f"{split}.parquet")
    pl.DataFrame(
        {
            "item": ITEMS,
            "tags": [["food"], ["food", "late"], [], ["late"]] * 3,
            "vector": random.normal(size=(len(ITEMS), 2)).tolist(),
        }
    ).write_parquet(folder / "raw" / "item_info.parquet")
    write_config(folder)


def write_config(folder: Path) -> None:
    (folder / "config" / "dataset_config.yaml").write_text(_yaml({"Shop": DATASET}))
    (folder / "config" / "model_config.yaml").write_text(_yaml({"Shop": MODEL}))


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set, and the model's folded file."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_expid.main([*ARGUMENTS, "--set", "epochs=2"]) == 0
        assert serving.main(["fold", *ARGUMENTS[:4]]) == 0
    return folder


def scorer(folder: Path) -> Scorer:
    """The trained model, ready to score."""
    return Scorer.load(folder / "checkpoints" / "Shop" / "Shop.folded")


def digests(*paths: Path) -> dict[Path, str]:
    """A digest of every file."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_plain_csv(path: Path) -> list[dict[str, str]]:
    """The rows by Python's own reader; blank lines are none."""
    text = path.read_bytes().decode("utf-8-sig")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    return [dict(zip(header, row, strict=True)) for row in rows]


def tokens(cell: str) -> list[str]:
    """The items of a text cell: a bracketed list, or parts between the first separator found."""
    cell = cell.strip()
    if cell.startswith(("[", "(")):
        return [str(item) for item in ast.literal_eval(cell)]
    found = [separator for separator in "^|;," if separator in cell]
    parts = cell.split(found[0]) if found else [cell]
    return [part.strip() for part in parts if part.strip()]


def whole(cell: str) -> int | None:
    """An hour as text, also ``7.0`` and ``np.int64(7)``; ``None`` for an empty cell."""
    cell = cell.strip()
    found = re.fullmatch(r"(?:np\.int64\()?([+-]?[0-9]+)(?:\.0*)?\)?", cell)
    return None if not cell else int(found[1]) if found else _refuse(cell)


def _refuse(cell: str) -> int:
    raise AssertionError(f"{cell!r} was scored as an hour")


def expected_scores(model: Scorer, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The probability of each row, one request for each."""
    return [
        float(
            model.score(
                list(row["clicked"]), [row["item"]], {"hour": row["hour"], "city": row["city"]}
            )[0]
        )
        for row in rows
    ]


def answer(command: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a command in process.

    Returns:
        ``None`` if it ended with 0, its message if it ended with 2.

    Raises:
        AssertionError: If it ended otherwise, or its message is none.
    """
    capsys.readouterr()
    try:
        code = command(arguments)
    except InputError as error:  # run_command answers these; none may pass it
        raise AssertionError(f"an InputError passed the command: {error}") from error
    message = capsys.readouterr().err
    if code == 0:
        return None
    assert code == 2, (code, message)
    assert "error: " in message and "Traceback" not in message, message
    return message
