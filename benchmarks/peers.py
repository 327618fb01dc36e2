"""Training FuxiCTR's LongCTR models: our data and loop against FuxiCTR's own.

    python -m benchmarks.peers --expid DIN_MicroLens_50k_x1

Both train the same class with the same settings on the same rows, in turn in one process: ours
with the loader and the loop of this project, FuxiCTR's with its ``longctr_dataloader.py``, as it is
installed, and the class's own ``train_step``. For that loader the data set is converted in a
temporary folder: histories by user (here, one user a row), item features by item. The rate is
rows per second between two batches in the middle of an epoch, with the waits for the loader.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader

from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.data.loader import make_loader
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.memory import keep_freed_memory
from model_zoo.longctr_adapter.source import installed_models, load_class

WARM = 2  # batches before the clock starts
KEYS = ("user_index", "seq_len", "item_index")


class Timed:
    """Some batches of a loader, and how long the training took over them."""

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.batches = loader, batches
        self.num_samples = batches * loader.batch_size
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        start = 0.0
        for i, batch in enumerate(islice(iter(self.loader), self.batches)):
            if i == WARM:
                start = time.perf_counter()
            yield batch
        self.seconds = time.perf_counter() - start

    @property
    def rate(self) -> float:
        return (self.batches - WARM) * self.loader.batch_size / self.seconds


def convert(dataset: DatasetSpec, folder: Path, rows: int) -> dict[str, str]:
    """The first rows as FuxiCTR's loader reads them; the paths of its files by its arguments."""
    real = pl.element().filter(pl.element() != 0)
    frame = (
        pl.scan_parquet(dataset.train_data)
        .head(rows)
        .with_columns(pl.col(dataset.history_col).cast(pl.List(pl.Int64)).list.eval(real))
        .collect()
    )
    history = pl.col(dataset.history_col)
    numbers = [feature.name for feature in dataset.features(of_items=False)]
    paths = {name: str(folder / f"{name}.parquet") for name in ("data", "user_info", "item_info")}
    # Its matrix of all columns stays one of integers, with which it indexes, if the label is one.
    frame.select(
        pl.int_range(pl.len()).alias("user_index"),
        history.list.len().cast(pl.Int64).alias("seq_len"),
        pl.col(dataset.item_col).cast(pl.Int64).alias("item_index"),
        *(pl.col(name).cast(pl.Int64) for name in numbers),
        pl.col(dataset.label_col.name).cast(pl.Int64),
    ).write_parquet(paths["data"])
    frame.select(history.alias("full_item_seq")).write_parquet(paths["user_info"])
    items = pl.read_parquet(dataset.item_info)
    items.with_columns(pl.int_range(pl.len()).alias("item_index")).write_parquet(paths["item_info"])
    return {"data_path": paths.pop("data"), **paths}


def fuxictrs_loader(features: FeatureMap, files: dict[str, str], params: dict[str, Any]) -> Any:
    path = next(iter(installed_models().values())).parents[1] / "longctr_dataloader.py"
    spec = importlib.util.spec_from_file_location("longctr_dataloader", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {key: params[key] for key in ("batch_size", "max_len")}
    return module.LongCTRDataLoader(features, **files, **settings, shuffle=True)


def ready(model: Any, batches: int, params: dict[str, Any]) -> Any:
    """As FuxiCTR's ``fit`` begins; without an evaluation."""
    model._max_gradient_norm = params["max_gradient_norm"]
    model._steps_per_epoch = batches
    model._eval_steps = 10**9
    model._epoch_index = model._total_steps = 0
    model._stop_training = False
    return model


def measure(experiment: Experiment, batches: int, rounds: int, folder: Path) -> None:
    params = experiment.params | {"model_root": str(folder), "verbose": 0}
    features = build_feature_map(params)
    loaders = {"dataset": experiment.dataset, "data_loader": make_loader}
    train, _ = RankDataLoader(features, stage="train", **params, **loaders)
    ours = build_model(experiment, features, gpu=-1)

    own_features = build_feature_map(params)
    own_features.features |= {key: {"type": "meta", "source": ""} for key in KEYS}
    files = convert(experiment.dataset, folder, batches * params["batch_size"])
    name = experiment.run.model.removeprefix("LongCTR/")
    own = load_class(name)(own_features, **params)
    loader = fuxictrs_loader(own_features, files, params)

    competitors = {"FuxiCTR's own": (own, loader), "here": (ours, train)}
    rates: dict[str, list[float]] = {key: [] for key in competitors}
    for _ in range(rounds):
        for key, (model, batches_of) in competitors.items():
            timed = Timed(batches_of, batches)
            # As in our fit; FuxiCTR's leaves the C library's memory as it is.
            with keep_freed_memory() if model is ours else nullcontext():
                ready(model, batches, params).train_epoch(timed)
            rates[key].append(timed.rate)
    rate = {key: statistics.median(values) for key, values in rates.items()}
    print(
        f"{experiment.run.model_id}: {experiment.run.model}, batches of {params['batch_size']:,} "
        f"rows, histories up to {params['max_len']}, median of {rounds}"
    )
    for key, value in rate.items():
        low, high = min(rates[key]), max(rates[key])
        ratio = value / rate["FuxiCTR's own"]
        print(f"  {key:<14}{value:>8,.0f} rows/s ({low:,.0f} to {high:,.0f})   x {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="config")
    parser.add_argument("--expid", default="DIN_default")
    parser.add_argument("--batches", type=int, default=10, help=f"at least {WARM + 1}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    experiment = load_experiment(arguments.config, arguments.expid, arguments.overrides)
    experiment, _ = prepare_dataset(experiment, splits=("train", "valid"))
    with tempfile.TemporaryDirectory() as folder:
        measure(experiment, arguments.batches, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
