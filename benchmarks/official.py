"""QIN in the paper's configuration, and random data of MicroLens_1M's sizes."""

from __future__ import annotations

from typing import Any

import torch
from fuxictr.features import FeatureMap
from torch import Tensor

from model_zoo import get_model
from model_zoo.core.data.item_table import ItemTable

NUM_ITEMS, NUM_TAGS, NUM_LEVELS = 91_718, 11_740, 11
MAX_LEN = 64
REGULARIZER, LEARNING_RATE, MAX_NORM = 2e-4, 2e-3, 10.0
DIM, NUM_LAYERS, NUM_ROW = 1024, 4, 4
TOKEN = {"type": "categorical", "padding_idx": 0}
ITEM = {"source": "item"}
TAGS = {"type": "sequence", "padding_idx": 0, "feature_encoder": "layers.MaskedAveragePooling()"}
Batch = dict[str, Tensor]


def feature_specs(items: int, tags: int) -> dict[str, dict[str, Any]]:
    """FuxiCTR's, for catalogues of these sizes."""
    return {
        "likes_level": {"source": "", **TOKEN, "vocab_size": NUM_LEVELS},
        "views_level": {"source": "", **TOKEN, "vocab_size": NUM_LEVELS},
        "item_id": {**ITEM, **TOKEN, "vocab_size": items},
        "item_tags": {**ITEM, **TAGS, "vocab_size": tags, "max_len": 5},
        "item_emb_d128": {**ITEM, "type": "embedding", "pretrain_dim": 128},
    }


def build(
    folder: str, precision: str, columns: Batch, *, model: str = "QIN", **settings: Any
) -> Any:
    """QIN with the paper's hyper-parameters, or other ``settings``, and fresh weights.

    Another ``model`` of the registry takes its own defaults, with the same training.
    """
    torch.manual_seed(0)
    features = FeatureMap("made", "")
    tags = max(NUM_TAGS, int(columns["item_tags"].max()) + 1)
    features.features.update(feature_specs(len(columns["item_id"]), tags))
    features.labels = ["label"]
    values: dict[str, Any] = {
        "embedding_dim": 128,
        "learning_rate": LEARNING_RATE,
        "embedding_regularizer": REGULARIZER,
    }
    if model == "QIN":
        values |= {"num_layers": NUM_LAYERS, "num_row": NUM_ROW, "net_dropout": 0.1}
        values |= {"batch_norm": True}
    values |= settings
    features.default_emb_dim = values["embedding_dim"]
    built = get_model(model)(
        features,
        precision=precision,
        item_table=ItemTable(columns),
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        model_root=folder,
        verbose=0,
        **values,
    )
    built._max_gradient_norm = MAX_NORM
    built._batch_index, built._steps_per_epoch, built._total_steps = 0, 1, 1
    return built.train()


def item_columns(items: int = NUM_ITEMS, tags: int = NUM_TAGS) -> Batch:
    """Five tags (up to four of them padding) and a vector for every item."""
    ids = torch.randint(1, tags, (items, 5))
    ids[torch.arange(5) > torch.randint(0, 5, (items, 1))] = 0
    columns = {
        "item_id": torch.arange(items),
        "item_tags": ids,
        "item_emb_d128": torch.randn(items, 128),
    }
    for column in columns.values():
        column[0] = 0
    return columns


def draw_batch(rows: int, history: str, items: int = NUM_ITEMS) -> tuple[Batch, Batch]:
    """The same rows with padded and with packed histories.

    ``full`` histories have 64 items. ``challenge`` lengths follow a log-logistic law with the
    quartiles of MicroLens_1M's: 4, 6 and 9, mean 8.
    """
    lengths = torch.full((rows,), MAX_LEN)
    if history == "challenge":
        q = torch.rand(rows).clamp(1e-6, 1 - 1e-6)
        lengths = (6 * (q / (1 - q)) ** 0.4).round().long().clamp(1, MAX_LEN)
    padded = torch.randint(1, items, (rows, MAX_LEN))
    padded[torch.arange(MAX_LEN) < MAX_LEN - lengths.unsqueeze(1)] = 0
    shared = {
        "item_id": torch.randint(1, items, (rows,)),
        "likes_level": torch.randint(1, NUM_LEVELS, (rows,)),
        "views_level": torch.randint(1, NUM_LEVELS, (rows,)),
        "label": (torch.rand(rows) < 0.25).float(),
    }
    packed = {"item_seq": padded[padded != 0].int(), "item_seq_length": lengths}
    return shared | {"item_seq": padded}, shared | packed
