"""What ``run_expid.py`` does, step by step: from an experiment id to metrics and a checkpoint."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import get_device, seed_everything
from fuxictr.utils import print_to_json

from model_zoo import get_model
from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.commands.curve import draw_training_curve
from model_zoo.core.commands.folding import require_folding
from model_zoo.core.commands.places import require_training_places, writing_experiment
from model_zoo.core.commands.rehearsal import rehearse, require_device
from model_zoo.core.commands.reliability import report_calibration
from model_zoo.core.commands.run_files import append_result_line, start_log
from model_zoo.core.commands.sharing import owners_first, share_embeddings
from model_zoo.core.data.encode import encode_dataset, read_numbers
from model_zoo.core.data.fingerprint import fingerprint
from model_zoo.core.data.item_table import load_item_table
from model_zoo.core.data.loader import make_loader
from model_zoo.core.data.numbers import factor_of, fit_numbers
from model_zoo.core.data.oracle import best_auc
from model_zoo.core.data.schema import SPLITS, UNLABELLED, SplitSummary, check_dataset
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_writable
from model_zoo.core.prepare.demo import generate_demo
from model_zoo.core.serving.calibration import Kind
from model_zoo.core.training.captured import require_cuda
from model_zoo.core.training.processes import (
    gather,
    is_main,
    joined,
    rank,
    wait_for_all,
    world_size,
)
from model_zoo.core.training.state import load_state


def run_experiment(
    config_dir: str,
    expid: str,
    gpu: int = -1,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    calibrate: Kind | None = None,
) -> dict[str, Mapping[str, float]]:
    """Train an experiment and evaluate its best checkpoint.

    Writes, under ``model_root/dataset_id``, the log, the best checkpoint, the training's last
    two states, its history, its curve and the reliability curve, and appends FuxiCTR's result
    line to ``<name of config_dir>.csv``.

    Args:
        config_dir: Folder with the YAML files.
        expid: Experiment id.
        gpu: CUDA device, -1 for CPU.
        overrides: ``key=value`` strings that replace settings.
        resume: Go on from the last saved state, if there is one.
        calibrate: Fit a calibration map on the validation set; it is stored in
            ``<expid>.folded`` with the folded model.

    Started by torchrun, each process computes its share of every batch, and the main one writes.

    Returns:
        Metrics by split: ``valid``, and ``test`` if it is labelled.

    Raises:
        InputError: If a setting, a file or a value in a file is wrong, the training
            diverges, the state to resume from is unreadable or of other settings, or another
            process is writing this experiment.
        Interrupted: If a signal ended the training; its state is saved.
    """
    experiment = load_experiment(config_dir, expid, overrides)
    return run_loaded(config_dir, experiment, gpu, resume=resume, calibrate=calibrate)


def run_loaded(
    config_dir: str | Path,
    experiment: Experiment,
    gpu: int,
    *,
    resume: bool,
    calibrate: Kind | None = None,
) -> dict[str, Mapping[str, float]]:
    """:func:`run_experiment` of settings that are read already."""
    if calibrate is not None:
        require_folding(experiment, "--calibrate")
    with joined(gpu) as device:
        require_device(device)
        if experiment.params["cuda_graph"]:
            require_cuda(experiment.run.model_id, get_device(device))
        if is_main():
            require_training_places(config_dir, experiment)
        rehearse(experiment, build_feature_map)
        with writing_experiment(experiment):
            return _run(Path(config_dir), experiment, device, resume=resume, calibrate=calibrate)


def _run(
    config_dir: Path,
    experiment: Experiment,
    gpu: int,
    *,
    resume: bool,
    calibrate: Kind | None,
) -> dict[str, Mapping[str, float]]:
    """The steps of :func:`run_experiment`, in each of its processes."""
    expid = experiment.run.model_id
    folder = experiment.folder
    if is_main():
        prepare_dataset(experiment)  # the others then find it ready
    wait_for_all()
    configured = experiment.dataset
    experiment, splits = prepare_dataset(experiment)
    best = best_auc(configured.oracle) if configured.oracle else None
    params = experiment.params
    settings = {**params, "processes": world_size()}

    # Read by one process: the others are given it.
    data = gather(fingerprint(configured) if is_main() else None)[0]
    state = load_state(folder / f"{expid}.state", settings, data) if resume else None
    start_log(params, keep=state is not None)
    logging.info("Params: " + print_to_json(params))
    use_device(gpu)
    seed_everything(params["seed"])
    feature_map = build_feature_map(params)
    loaders = {
        "dataset": experiment.dataset,
        "data_loader": make_loader,
        "device": get_device(gpu),
        "share": (rank(), world_size()),
    }
    train, valid = RankDataLoader(feature_map, stage="train", **params, **loaders)
    _require_an_evaluation(params, len(train))
    model = build_model(experiment, feature_map, gpu)
    if model.numbers is not None and state is None:  # a state has those that it began with
        model.numbers.standardise_by(_scales(configured, experiment))
    model.count_parameters()
    if resume and state is None:
        logging.info("No saved state to resume from: starting from the beginning")
    if state is not None and state.get("data") is None:
        logging.warning(
            "%s.state does not say on which data the training began: not checked", expid
        )
    model.keep_states(settings, state, data)
    torch.manual_seed(params["seed"] + rank())  # dropout of its own in each process
    with model.stopping_on_signals():
        model.fit(train, validation_data=valid, **params)

    logging.info("****** Validation evaluation ******")
    results = {"valid": model.evaluate(valid)}
    if best is not None and "AUC" in results["valid"]:
        logging.info(_beside_the_best(results["valid"]["AUC"], best))
    if "test" in splits and splits["test"].unlabelled:
        logging.warning(UNLABELLED, splits["test"].unlabelled)
    if "test" in splits and splits["test"].labelled:
        logging.info("****** Test evaluation ******")
        test = RankDataLoader(feature_map, stage="test", **params, **loaders)
        results["test"] = model.evaluate(test)
    if is_main():
        draw_training_curve(model.evaluations, folder / f"{expid}.png", title=expid)
        append_result_line(config_dir, experiment, results)
        picture = folder / f"{expid}.calibration.png"
        report_calibration(model, configured, experiment, picture, calibrate=calibrate)
    return results


def prepare_dataset(
    experiment: Experiment, *, splits: tuple[str, ...] = SPLITS, scoring: bool = False
) -> tuple[Experiment, dict[str, SplitSummary]]:
    """Generate a demo data set that is not there yet, check the files, encode raw ones.

    Args:
        experiment: The experiment as configured.
        splits: The splits that are needed.
        scoring: As in :func:`check_dataset`.

    Returns:
        The experiment on integer data, and a summary of each split.

    Raises:
        InputError: If a file is missing or wrong.
    """
    generate_if_missing(experiment.dataset)
    summaries = check_dataset(experiment.dataset, splits=splits, scoring=scoring)
    if experiment.dataset.rebuild_dataset:
        require_writable([], [Path(experiment.dataset.data_root) / experiment.dataset.dataset_id])
        encoded = encode_dataset(experiment.dataset)
        experiment = replace(experiment, dataset=encoded)
    return experiment, summaries


def generate_if_missing(dataset: DatasetSpec) -> None:
    """Write the demo data set's files, if this is one and they are not there."""
    if dataset.demo is None or Path(dataset.train_data).exists():
        return
    folder = Path(dataset.train_data).parent
    require_writable([], [folder])
    print(f"Generating {dataset.dataset_id} in {folder}", flush=True)
    generate_demo(folder, **dataset.demo.model_dump(exclude_none=True))


def build_feature_map(params: Mapping[str, Any]) -> FeatureMap:
    """FuxiCTR's feature map for data that is encoded already.

    FuxiCTR's processor leaves its map, a pickle and the vocabularies in ``data_root``. They
    go to a temporary folder: the data may be read-only, and a map left by an earlier
    configuration would be taken for the present one.
    """
    with tempfile.TemporaryDirectory() as data_root:
        settings = {**params, "data_root": data_root}
        settings["feature_cols"] = owners_first(settings["feature_cols"])
        build_dataset(FeatureProcessor(**settings), **settings)
        folder = os.path.join(data_root, params["dataset_id"])
        feature_map = FeatureMap(params["dataset_id"], folder)
        feature_map.load(os.path.join(folder, "feature_map.json"), dict(params))
    share_embeddings(feature_map, params["feature_cols"])
    return feature_map


def build_model(experiment: Experiment, feature_map: FeatureMap, gpu: int) -> Any:
    """The experiment's model, with its item table, on its device.

    Raises:
        InputError: If the model refuses a hyper-parameter.
    """
    features = [
        feature
        for feature in experiment.dataset.features(of_items=True)
        if feature.name in feature_map.features
    ]
    model_class = get_model(experiment.run.model)
    rescale = experiment.run.rescale_vectors
    if rescale is None:
        rescale = getattr(model_class, "rescales_vectors", False)
    table = load_item_table(experiment.dataset.item_info, features, rescale=rescale)
    try:
        return model_class(feature_map, gpu=gpu, item_table=table, **experiment.params)
    except ValueError as error:
        raise InputError(f"experiment '{experiment.run.model_id}': {error}") from None


def _scales(configured: DatasetSpec, experiment: Experiment) -> dict[str, tuple[float, float]]:
    """Center and factor of each numeric feature, from the train rows."""
    numbers = read_numbers(configured) if configured.rebuild_dataset else {}
    numbers = numbers or fit_numbers(experiment.dataset)
    for name, scale in numbers.items():
        logging.info("%s: center %.6g, spread %.6g", name, scale["center"], scale["spread"])
    return {name: (scale["center"], factor_of(scale)) for name, scale in numbers.items()}


def use_device(gpu: int) -> None:
    """Make a CUDA device torch's own; say once if the model runs on the CPU in its place.

    Raises:
        InputError: If CUDA is there, but not that device.
    """
    require_device(gpu)
    if gpu >= 0 and not torch.cuda.is_available():
        logging.info("CUDA is not available: --gpu %d runs on the CPU", gpu)
    elif gpu >= 0:
        # Else torch would use device 0 too, for pinned memory and wherever it is told no device.
        torch.cuda.set_device(gpu)


def _beside_the_best(auc: float, best: float) -> str:
    """The valid AUC beside the best that any model can reach on generated data."""
    both = f"[Oracle] valid AUC {auc:.6f}, best reachable {best:.6f}"
    return f"{both}: {(auc - 0.5) / (best - 0.5):.1%} of the way from 0.5" if best > 0.5 else both


def _require_an_evaluation(params: Mapping[str, Any], steps_per_epoch: int) -> None:
    steps = steps_per_epoch * params["epochs"]
    if params.get("eval_steps", 0) > steps:
        raise InputError(
            f"eval_steps is {params['eval_steps']}, but the training has {steps} steps: "
            "it would end without an evaluation or a checkpoint"
        )
