"""QIN+ against QIN at their shipped settings on a CPU: training, rows, one user's candidates.

    OMP_NUM_THREADS=1 python -m benchmarks.plus

Random items and weights of the data set's sizes; no data is needed. Every figure is a ratio of
the two models in one process, measured in turn: the median over the rounds, with the smallest and
the largest. Short histories have 1 to 11 items, long ones 64.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.official import Batch
from benchmarks.serving import row_arguments
from benchmarks.training import seconds
from model_zoo import get_model
from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.commands.experiment import build_feature_map
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.data.spec import FeatureSpec
from model_zoo.core.memory import keep_freed_memory
from model_zoo.core.training.averaging import WeightAverage

LENGTHS = {"short": (1, 11), "long": (64, 64)}


def values(feature: FeatureSpec, rows: int) -> Tensor:
    """Random values of a feature, those of lists with up to four paddings."""
    if feature.type == "embedding":
        return torch.randn(rows, feature.pretrain_dim)
    if feature.type == "categorical":
        return torch.randint(1, feature.vocab_size, (rows,))
    width = feature.max_len
    ids = torch.randint(1, feature.vocab_size, (rows, width))
    ids[torch.arange(width) > torch.randint(0, width, (rows, 1))] = 0
    return ids


def item_columns(experiment: Experiment) -> Batch:
    features = experiment.dataset.features(of_items=True)
    items = next(f.vocab_size for f in features if f.name == experiment.dataset.item_col)
    columns = {feature.name: values(feature, items) for feature in features}
    columns[experiment.dataset.item_col] = torch.arange(items)
    for column in columns.values():
        column[0] = 0
    return columns


def build(experiment: Experiment, columns: Batch, precision: str, folder: str) -> Any:
    """The experiment's model with embeddings of a trained model's size."""
    torch.manual_seed(0)
    settings = {"precision": precision, "model_root": folder, "verbose": 0}
    params = experiment.params | settings
    model = get_model(experiment.run.model)(
        build_feature_map(params), item_table=ItemTable(columns), **params
    )
    for module in model.embedding_layer.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)
            module.weight.data[0] = 0
    if params.get("weight_average"):  # as ``fit`` begins
        model._average = WeightAverage(model, params["weight_average"])
    model._max_gradient_norm = params["max_gradient_norm"]
    model._batch_index, model._steps_per_epoch, model._total_steps = 0, 1, 1
    return model.train()


def draw_batch(experiment: Experiment, rows: int, items: int, history: str) -> Batch:
    dataset = experiment.dataset
    shortest, longest = LENGTHS[history]
    lengths = torch.randint(shortest, longest + 1, (rows,))
    batch = {f.name: values(f, rows) for f in dataset.features(of_items=False)}
    return batch | {
        dataset.item_col: torch.randint(1, items, (rows,)),
        dataset.history_col: torch.randint(1, items, (int(lengths.sum()),)).int(),
        f"{dataset.history_col}_length": lengths,
        dataset.label_col.name: (torch.rand(rows) < 0.25).float(),
    }


def compare(what: str, steps: Sequence[Callable[[], object]], rounds: int, rows: int) -> None:
    """Time of the second step relative to the first's."""
    took: list[list[float]] = [[], []]
    for _ in range(rounds):
        gc.collect()
        for step, times in zip(steps, took, strict=True):
            step()
            times.append(median(seconds(step) for _ in range(3)))
    ratios = [two / one for one, two in zip(*took, strict=True)]
    qin, plus = (rows / median(times) for times in took)
    print(
        f"  {what:<34}{qin:>12,.0f}{plus:>12,.0f} rows/s   time x {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), rate x {1 / median(ratios):.2f}"
    )


def user_arguments(given: tuple[Any, ...], candidates: int, items: int) -> tuple[Any, ...]:
    """One user with so many history items, from arguments of ``rows``."""
    target, history, _, context = given
    some = {name: value[:candidates] for name, value in context.items()}
    return history[:items], target[:candidates], some


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("config"))
    parser.add_argument("--data", default="MicroLens_50k_x1", help="QIN_<data>, QIN_plus_<data>")
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--only", nargs="+", default=["train", "rows", "user"])
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; QIN, then QIN+")
    names = [f"{name}_{arguments.data}" for name in ("QIN", "QIN_plus")]
    experiments = [load_experiment(arguments.config, name) for name in names]
    columns = item_columns(experiments[0])
    items = len(columns[experiments[0].dataset.item_col])
    rows = experiments[0].params["batch_size"]
    with tempfile.TemporaryDirectory() as folder, keep_freed_memory():
        for precision in arguments.precisions:
            models = [build(e, columns, precision, folder) for e in experiments]
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            folded = [model.eval().fold(dtype=dtype) for model in models]
            for history, (shortest, longest) in LENGTHS.items():
                batch = draw_batch(experiments[0], rows, items, history)
                print(f"{precision}, {shortest} to {longest} history items")
                if "train" in arguments.only:
                    steps = [lambda m=m, batch=batch: m.train_step(batch) for m in models]
                    for model in models:
                        model.train()
                    compare(f"train_step, {rows:,} rows", steps, arguments.rounds, rows)
                with torch.inference_mode():
                    given = row_arguments(models[0], batch)
                    if "rows" in arguments.only:
                        steps = [lambda f=f, given=given: f.rows(*given) for f in folded]
                        compare(f"rows, {rows:,}", steps, arguments.rounds, rows)
                    if "user" in arguments.only:
                        user = user_arguments(given, arguments.candidates, longest)
                        steps = [lambda f=f, user=user: f(*user) for f in folded]
                        what = f"user, {longest} items, {arguments.candidates:,} candidates"
                        compare(what, steps, arguments.rounds, arguments.candidates)


if __name__ == "__main__":
    main()
