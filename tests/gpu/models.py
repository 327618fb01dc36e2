"""The own models of the registry, each built small on all kinds of features, and rows for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_zoo import get_model
from model_zoo.core.data.block import Block
from model_zoo.core.data.item_table import ItemTable
from tests.conftest import feature_map
from tests.gpu.mistakes import Mistake
from tests.QIN.test_model import ITEMS, item_columns
from tests.serving.made import FEATURES

# Each own model of the registry with what it needs besides COMMON; a new one is one line.
MODELS: dict[str, dict[str, Any]] = {
    "QIN": {"num_layers": 2, "num_row": 3},
    "QIN+": {"gate_units": 3, "hidden_units": [8], "contrast": 0.5},
    "QINAblation": {
        "attention": "softmax",
        "activation": "relu",
        "qnn_norm": "before",
        "num_layers": 2,
        "num_row": 3,
    },
    "TransformerDCN": {
        "transformer_dropout": 0.0,
        "num_last": 3,
        "feed_forward": 8,
        "hidden_units": [8],
        "output_units": [4],
    },
}
# Those with steps of fixed shapes.
FIXED = [name for name in MODELS if get_model(name).fixed_shapes]
COMMON = {
    "learning_rate": 1e-3,
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "metrics": ["AUC", "logloss"],
    "verbose": 0,
    "embedding_dim": 4,
    "net_dropout": 0.0,
    "embedding_regularizer": 1e-3,
    "net_regularizer": 1e-3,
}


def build(
    name: str, folder: Path, *, gpu: int, mistake: Mistake | None = None, **settings: Any
) -> Any:
    """A model on all kinds of features, with the same weights on every device."""
    torch.manual_seed(0)
    kind = get_model(name)
    model = (kind if mistake is None else mistake(kind))(
        feature_map(FEATURES, COMMON["embedding_dim"]),
        gpu=gpu,
        item_table=ItemTable(item_columns()),
        **({**COMMON, "model_root": str(folder)} | MODELS[name] | settings),
    )
    for parameter in model.embedding_layer.parameters():
        # FuxiCTR's 1e-4 would hide a wrong embedding.
        parameter.data.copy_(torch.randn(parameter.shape))
    return model


def rows(count: int, seed: int = 1) -> Block:
    """Rows as the loader holds them, in main memory."""
    torch.manual_seed(seed)
    lengths = torch.arange(count) % 5  # the first has no history
    return Block(
        {
            "item_id": torch.randint(1, ITEMS, (count,), dtype=torch.uint8),
            "level": torch.randint(0, 4, (count,), dtype=torch.uint8),
            "hour": torch.randint(0, 3, (count,), dtype=torch.uint8),
            "age": torch.randn(count),
            "likes": torch.randint(0, 9, (count, 4), dtype=torch.uint8),
            "seen": torch.randint(0, 6, (count, 3), dtype=torch.uint8),
            "profile": torch.randn(count, 5),
            "label": (torch.arange(count) % 2).float(),
        },
        torch.randint(1, ITEMS, (int(lengths.sum()),), dtype=torch.uint8),
        lengths,
        "item_seq",
    )


def padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a slot for each history item."""
    lengths = batch.pop("item_seq_length").tolist()
    parts = batch["item_seq"].split(lengths)
    batch["item_seq"] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return batch
