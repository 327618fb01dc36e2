"""A data set whose clicks depend on numbers, of whatever scale they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

ITEMS = 40
ROWS = {"train": 600, "valid": 200, "test": 100}
META = {"active": True, "dtype": "str", "type": "meta"}
NUMBER = {"active": True, "dtype": "float", "type": "numeric"}
CATEGORY = {"active": True, "dtype": "str", "type": "categorical"}
COLUMNS: list[dict[str, Any]] = [
    {"name": "clicked", **META},
    {"name": "time", **NUMBER},
    {"name": "cents", **NUMBER, "dtype": "int"},
    {"name": "item", **CATEGORY, "source": "item"},
    {"name": "price", **NUMBER, "source": "item"},
]
SETTINGS = {
    "dataset_id": "Shop",
    "batch_size": 50,
    "epochs": 4,
    "learning_rate": 1e-2,
    "embedding_dim": 4,
    "net_dropout": 0.0,
    "verbose": 0,
    "early_stop_patience": 9,
}
MODELS: dict[str, dict[str, Any]] = {
    "QIN": {"model": "QIN", "num_layers": 2, "num_row": 2},
    "QIN+": {"model": "QIN+", "gate_units": 4, "hidden_units": [8]},
    "DIN": {"model": "LongCTR/DIN", "dnn_hidden_units": [8], "attention_hidden_units": [8]},
}


def numbers() -> dict[str, dict[str, np.ndarray]]:
    """Standard normal numbers of the splits' rows and of the items, and the rows' labels."""
    rng = np.random.default_rng(0)
    price = rng.normal(size=ITEMS)
    found: dict[str, dict[str, np.ndarray]] = {"item_info": {"price": price}}
    for split, rows in ROWS.items():
        item = rng.integers(0, ITEMS, rows)
        time, cents = rng.normal(size=(2, rows))
        logit = 2 * time - 1.5 * cents + 1.5 * price[item]
        found[split] = {
            "item": item,
            "time": time,
            "cents": cents,
            "label": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(float),
        }
    return found


def write_set(*, scaled: bool, columns: list[dict[str, Any]] | None = None) -> None:
    """Raw files and a configuration in the working directory.

    Args:
        scaled: Whether times are seconds since 1970 of some hours, and cents and prices
            large; else they are the same numbers, of deviation 1 about 0.
        columns: Instead of the usual specification.
    """
    Path("raw").mkdir(exist_ok=True)
    factors = {"time": (1.7e9, 7_200.0), "cents": (250_000.0, 90_000.0), "price": (5e6, 3e5)}
    for name, values in numbers().items():
        made: dict[str, Any] = dict(values)
        if scaled:
            for column, (center, spread) in factors.items():
                if column in made:
                    made[column] = np.round(center + spread * made[column])
        else:
            # As rounded above, so that both sets hold the same numbers.
            for column, (center, spread) in factors.items():
                if column in made:
                    made[column] = (np.round(center + spread * made[column]) - center) / spread
        if name == "item_info":
            frame = pl.DataFrame({"item": [f"i{k}" for k in range(ITEMS)], **made})
        else:
            history = [[f"i{(k * 7 + j) % ITEMS}" for j in range(k % 4)] for k in made["item"]]
            frame = pl.DataFrame(
                {**made, "item": [f"i{k}" for k in made["item"]], "clicked": history}
            )
        frame.write_parquet(f"raw/{name}.parquet")
    entry = {
        "data_root": "data",
        "data_format": "parquet",
        **{f"{split}_data": f"raw/{split}.parquet" for split in ROWS},
        "item_info": "raw/item_info.parquet",
        "rebuild_dataset": True,
        "item_col": "item",
        "history_col": "clicked",
        "feature_cols": COLUMNS if columns is None else columns,
        "label_col": {"name": "label", "dtype": "float"},
    }
    Path("config").mkdir(exist_ok=True)
    Path("config/dataset_config.yaml").write_text(yaml.safe_dump({"Shop": entry}))
    experiments = {name: SETTINGS | settings for name, settings in MODELS.items()}
    Path("config/model_config.yaml").write_text(yaml.safe_dump(experiments))
