"""Small LongCTR models, each with a batch, and FuxiCTR's own batches made row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo import get_model
from model_zoo.core.data.item_table import ItemTable
from tests.conftest import CATEGORICAL, SEQUENCE, feature_map

NUM_ITEMS, MAX_LEN = 60, 9
ITEM = {"source": "item"}
FEATURES: dict[str, dict[str, Any]] = {
    "user_id": {"type": "meta"},
    "item_seq": {"type": "meta"},
    "level": {**CATEGORICAL, "vocab_size": 5},
    "item_id": {**CATEGORICAL, **ITEM, "vocab_size": NUM_ITEMS},
    "item_tags": {**SEQUENCE, **ITEM, "vocab_size": 7, "max_len": 3},
    "item_emb": {"type": "embedding", **ITEM, "pretrain_dim": 6},
}
SHORT = {"dnn_hidden_units": [8], "attention_dim": 4, "short_seq_len": 4}
SMALL: dict[str, dict[str, Any]] = {
    "DIN": {"dnn_hidden_units": [8], "attention_hidden_units": [4], "batch_norm": True},
    "DIEN": {"dnn_hidden_units": [8], "attention_hidden_units": [4]},
    "SIM": {"dnn_hidden_units": [8], "attention_dim": 4, "short_seq_len": 4, "topk": 3},
    "ETA": {
        "dnn_hidden_units": [8],
        "attention_dim": 4,
        "short_seq_len": 4,
        "topk": 3,
        "hash_bits": 2,
    },
    "SDIM": {"dnn_hidden_units": [8], "attention_dim": 4, "short_seq_len": 4, "num_hashes": 2},
    "TWIN": {"dnn_hidden_units": [8], "attention_dim": 4, "short_seq_len": 4, "topk": 3},
    "TransAct": {"dcn_hidden_units": [8], "dim_feedforward": 8, "first_k_cols": 2},
    "MIRRN": {
        "dnn_hidden_units": [8],
        "attention_dim": 4,
        "short_seq_len": 4,
        "topk": 3,
        "hash_bits": 2,
    },
    "DCNv2": {"parallel_dnn_hidden_units": [8]},
    "FinalMLP": {"mlp1_hidden_units": [8], "mlp2_hidden_units": [4], "num_heads": 2},
}


def item_columns() -> dict[str, Tensor]:
    columns = {
        "item_id": torch.arange(NUM_ITEMS),
        "item_tags": torch.randint(0, 7, (NUM_ITEMS, 3)),
        "item_emb": torch.randn(NUM_ITEMS, 6),
    }
    for column in columns.values():
        column[0] = 0
    return columns


def arguments_of(name: str, tmp_path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "learning_rate": 1e-2,
        "embedding_dim": 4,
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "model_root": str(tmp_path),
        "verbose": 0,
        "max_len": MAX_LEN,
        **SMALL[name],
        **settings,
    }


def build(name: str, tmp_path: Path, **settings: Any) -> Any:
    """A model whose weights are large enough to tell one input from another."""
    arguments = arguments_of(name, tmp_path, settings)
    table = ItemTable(item_columns())
    model = get_model(f"LongCTR/{name}")(feature_map(FEATURES, 4), item_table=table, **arguments)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            with torch.no_grad():
                padding = module.weight[0].clone()
                nn.init.normal_(module.weight)
                if module.padding_idx == 0:
                    module.weight[0] = padding
    return model


def fuxictrs_own(model: Any, name: str, tmp_path: Path, **settings: Any) -> Any:
    """FuxiCTR's model, with nothing of ours, of the same weights."""
    own = model.source(feature_map(FEATURES, 4), **arguments_of(name, tmp_path, settings))
    own.load_state_dict(model.state_dict())
    return own


def ready_to_train(model: Any) -> None:
    """As FuxiCTR's ``fit`` leaves it before the first step."""
    model.train()
    model._steps_per_epoch, model._max_gradient_norm = 1, 10.0
    model._batch_index, model._total_steps = 0, 1


def draw_rows(lengths: list[int]) -> list[dict[str, Any]]:
    """One row for each length of a history."""
    return [
        {
            "history": torch.randint(1, NUM_ITEMS, (length,)).tolist(),
            "item_id": int(torch.randint(1, NUM_ITEMS, ())),
            "level": int(torch.randint(1, 5, ())),
            "label": float(i % 2),
            "user_id": 10 + i,
        }
        for i, length in enumerate(lengths)
    ]


def packed(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As the loader makes it."""
    return {
        "item_seq": torch.tensor([i for row in rows for i in row["history"]], dtype=torch.int32),
        "item_seq_length": torch.tensor([len(row["history"]) for row in rows]),
        **columns_of(rows),
    }


def padded(rows: list[dict[str, Any]], slots: int) -> dict[str, Tensor]:
    """With the history as a matrix, zeros on the right."""
    history = [row["history"] + [0] * (slots - len(row["history"])) for row in rows]
    return {"item_seq": torch.tensor(history), **columns_of(rows)}


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([row[name] for row in rows])
        for name in ("item_id", "level", "label", "user_id")
    }


def fuxictr_batch(
    rows: list[dict[str, Any]], table: ItemTable, slots: int, *, side: str = "left"
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Row features, features of B·(L+1) items with the target last, mask: one row after another."""
    ids, mask = [], []
    for row in rows:
        real, free = len(row["history"]), slots - len(row["history"])
        if side == "left":
            ids += [0] * free + row["history"] + [row["item_id"]]
            mask.append([0.0] * free + [1.0] * real)
        else:
            ids += row["history"] + [0] * free + [row["item_id"]]
            mask.append([1.0] * real + [0.0] * free)
    level = torch.tensor([row["level"] for row in rows])
    return {"level": level}, table(torch.tensor(ids)), torch.tensor(mask)
