"""What ``prediction.py`` does: score the test split and write the leaderboard's zip."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from fuxictr.pytorch.dataloaders import RankDataLoader

from model_zoo.QIN.config import load_experiment
from model_zoo.QIN.data.loader import make_loader
from model_zoo.QIN.errors import InputError
from model_zoo.QIN.experiment import (
    build_feature_map,
    build_model,
    prepare_dataset,
    report_device,
    require_writable,
)
from model_zoo.QIN.files import write_aside

TASKS = ("Task1", "Task2", "Task1&2")


def write_submission(
    config_dir: str,
    expid: str,
    gpu: int = -1,
    overrides: Sequence[str] = (),
    *,
    task: str = "Task2",
    folder: str | Path = "submission",
) -> Path:
    """Score the test split with the experiment's checkpoint.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        gpu: CUDA device, -1 for CPU.
        overrides: ``key=value`` strings that replace settings.
        task: Name of the probability column.
        folder: Where the zip goes.

    Returns:
        Path of ``<folder>/<expid>.zip``.

    Raises:
        InputError: If a setting, a file or the checkpoint is wrong, or a score is no
            probability.
    """
    # A log file is the training's; this goes to the console only.
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    experiment = load_experiment(config_dir, expid, overrides)
    if experiment.dataset.test_data is None:
        raise InputError(f"data set '{experiment.dataset.dataset_id}' has no test_data")
    path = Path(folder) / f"{expid}.zip"
    require_writable(path.parent)
    experiment, _ = prepare_dataset(experiment, splits=("test",))
    report_device(gpu)
    params = experiment.params
    feature_map = build_feature_map(params)
    model = build_model(experiment, feature_map, gpu)
    model.load_weights(model.checkpoint)
    test = RankDataLoader(
        feature_map,
        stage="test",
        **params,
        dataset=experiment.dataset,
        data_loader=make_loader,
    )
    write_zip(path, model.predict(test), task)
    logging.info("Wrote %s: %d rows, column %s", path, test.num_samples, task)
    return path


def write_zip(path: Path, probability: npt.NDArray[np.float64], task: str) -> None:
    """Write ``prediction.csv`` (columns ID and ``task``) into a zip.

    Args:
        path: The zip to write.
        probability: Click probability of each row, in file order, (n,).
        task: Name of the second column.

    Raises:
        InputError: If a value is not finite or not in [0, 1]; nothing is written then.
    """
    wrong = np.flatnonzero(~((probability >= 0) & (probability <= 1)))  # NaN is neither
    if wrong.size:
        raise InputError(
            f"{path}: row {wrong[0]}: score {probability[wrong[0]]}, expected a probability "
            f"in 0..1 ({wrong.size} such rows); nothing was written"
        )
    frame = pl.DataFrame({"ID": np.arange(len(probability)), task: probability})
    with (
        write_aside(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("prediction.csv", "w") as file,
    ):
        frame.write_csv(file)
