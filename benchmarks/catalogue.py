"""Step time against the number of items, with dense and with lazy embedding updates.

python -m benchmarks.catalogue --items 100000 10000000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from model_zoo.QIN.model import QIN
from tests.conftest import CATEGORICAL, build_qin

BATCH_SIZE = 1024
HISTORY = 8


def build(items: int, update: str, folder: Path) -> QIN:
    features = {
        "level": {**CATEGORICAL, "vocab_size": 11},
        "item_id": {**CATEGORICAL, "source": "item", "vocab_size": items},
        "text": {"type": "embedding", "source": "item", "pretrain_dim": 4},
    }
    columns = {"item_id": torch.arange(items, dtype=torch.int32), "text": torch.rand(items, 4)}
    model = build_qin(
        features,
        columns,
        folder,
        embedding_dim=16,
        num_layers=4,
        num_row=4,
        net_dropout=0.1,
        embedding_regularizer=1e-4,
        embedding_update=update,
    )
    model._steps_per_epoch, model._batch_index, model._total_steps = 1, 0, 1
    model._max_gradient_norm = 10.0
    return model.train()


def step(model: QIN, items: int) -> float:
    """Seconds of a step on random items."""
    batch = {
        "item_id": torch.randint(1, items, (BATCH_SIZE,)),
        "item_seq": torch.randint(1, items, (BATCH_SIZE * HISTORY,)),
        "item_seq_length": torch.full((BATCH_SIZE,), HISTORY),
        "level": torch.randint(0, 11, (BATCH_SIZE,)),
        "label": torch.randint(0, 2, (BATCH_SIZE,)).float(),
    }
    start = time.perf_counter()
    model.train_step(batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    for update in ("lazy", "dense"):
        first = None
        for items in arguments.items:
            with tempfile.TemporaryDirectory() as folder:
                model = build(items, update, Path(folder))
                # Dense steps over a large table are slow enough to need few.
                steps = arguments.steps if update == "lazy" else max(3, arguments.steps // 5)
                times = [step(model, items) for _ in range(steps + 2)][2:]
            seconds = median(times)
            first = first or seconds
            print(
                f"{update:<6}{items:>12,} items {seconds * 1e3:>9.1f} ms  x {seconds / first:.2f}"
            )


if __name__ == "__main__":
    main()
