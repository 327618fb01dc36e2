"""Where an experiment's files are: what it reads, and what only one process at a time writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_zoo.core.commands.config import Experiment
from model_zoo.core.data.encoding_state import STATE
from model_zoo.core.data.schema import SPLITS
from model_zoo.core.errors import InputError
from model_zoo.core.files import make_folder, require_writable
from model_zoo.core.locks import held
from model_zoo.core.training.processes import is_main

# What training and folding leave beside the checkpoint: <expid>.<kind>.
LEFT = (
    *("model", "log", "png", "calibration.png", "history.csv", "state", "state.previous"),
    *("folded", "lock"),
)


def require_training_places(config_dir: str | Path, experiment: Experiment) -> None:
    """Refuse an experiment whose data, results or result line could not be written.

    Raises:
        InputError: Naming each such file or folder and why.
    """
    dataset, expid = experiment.dataset, experiment.run.model_id
    files = [experiment.folder / f"{expid}.{kind}" for kind in LEFT]
    files.append(Path(f"{Path(config_dir).resolve().name}.csv"))
    folders = [experiment.folder]
    if dataset.rebuild_dataset:
        folders.append(Path(dataset.data_root) / dataset.dataset_id)
    require_writable(files, folders)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise InputError(
            "no folder for temporary files can be written; set TMPDIR to one that can"
        ) from None


@contextmanager
def writing_experiment(experiment: Experiment) -> Iterator[None]:
    """Keep other processes from writing beside the experiment's checkpoint; all may read.

    Of several processes the main one holds the lock, ``<expid>.lock``.

    Raises:
        InputError: Another process holds it, or nothing can be written there.
    """
    if not is_main():
        yield
        return
    folder, expid = experiment.folder, experiment.run.model_id
    require_writable([], [folder])
    make_folder(folder)
    with held(folder / f"{expid}.lock", f"experiment '{expid}' in {folder}"):
        yield


def experiment_inputs(
    config_dir: str | Path, experiment: Experiment
) -> dict[str, str | Path | None]:
    """What a configured experiment reads, and what its training left, by what it is."""
    dataset, folder = experiment.dataset, Path(config_dir)
    inputs: dict[str, str | Path | None] = {
        "train_data": dataset.train_data,
        "valid_data": dataset.valid_data,
        "test_data": dataset.test_data,
        "item_info": dataset.item_info,
        "oracle": dataset.oracle,
        "the result file": f"{folder.resolve().name}.csv",
    }
    for kind in ("model_config", "dataset_config"):
        inputs |= {kind: folder / f"{kind}.yaml", f"the folder {kind}": folder / kind}
    if dataset.rebuild_dataset:
        encoded = Path(dataset.data_root) / dataset.dataset_id
        for name in (*SPLITS, "item_info"):
            inputs |= {f"encoded {name}": encoded / f"{name}.parquet"}
            inputs |= {f"the folder of encoded {name}": encoded / name}
        inputs["the vocabularies"] = encoded / STATE
    files = [f"{experiment.run.model_id}.{kind}" for kind in LEFT]
    return inputs | {f"the experiment's {file}": experiment.folder / file for file in files}
