"""What ``run_param_tuner.py`` does: run every combination of a grid and rank them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fuxictr.autotuner import enumerate_params
from fuxictr.utils import Monitor, print_to_list
from tqdm import tqdm

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, prepare_dataset
from model_zoo.core.commands.places import require_training_places
from model_zoo.core.commands.rehearsal import rehearse, require_device
from model_zoo.core.commands.yaml_files import (
    SUFFIXES,
    read_dataset,
    read_experiment,
    read_yaml,
    suggestion,
)
from model_zoo.core.errors import InputError
from model_zoo.core.paths import expanded

MARKER = ".made_by_tuner"  # in the folder of the trials' settings: its tuner file's name
TUNER_KEYS = {"base_config", "base_expid", "dataset_id", "tuner_space"}


@dataclass(frozen=True)
class Trial:
    """One finished trial; ``metrics`` is empty and ``error`` says why if it failed."""

    expid: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    error: str = ""


def run_grid(config_file: str, gpus: Sequence[int], script: str | Path) -> list[Trial]:
    """Train every combination of ``tuner_space``, one at a time on each device.

    FuxiCTR's autotuner enumerates the combinations into a folder beside the tuner file,
    named like it. Each trial is a process of its own.

    Args:
        config_file: Tuner YAML with ``base_expid`` and ``tuner_space``.
        gpus: Devices; -1 is the CPU, and may be named more than once.
        script: The ``run_expid.py`` to run.

    Returns:
        The trials, as :func:`rank_trials` orders them.

    Raises:
        InputError: If the tuner file or any of its trials is misconfigured, or a folder of that
            name is not the tuner's; nothing is run.
    """
    varied = _varied_keys(config_file)
    _claim_folder(config_file)
    config_dir = _enumerate(config_file)
    expids = sorted(read_yaml(Path(config_dir, "model_config.yaml")))
    experiments = [load_experiment(config_dir, expid) for expid in expids]
    for gpu in gpus:
        require_device(gpu)
    for experiment in experiments:
        require_training_places(config_dir, experiment)
        rehearse(experiment, build_feature_map)
    for experiment in experiments:
        prepare_dataset(experiment)  # here, rather than by several trials at once
    print(f"{len(expids)} trials on {len(gpus)} device(s), configured in {config_dir}", flush=True)

    outcomes = _run_all(expids, config_dir, gpus, script)
    results = read_results(Path(f"{Path(config_dir).resolve().name}.csv"))
    trials = [
        Trial(
            expid,
            settings={key: experiment.params.get(key) for key in varied},
            metrics={} if outcome.returncode else results[expid],
            error=_last_line(outcome) if outcome.returncode else "",
        )
        for expid, experiment, outcome in zip(expids, experiments, outcomes, strict=True)
    ]
    run = experiments[0].run
    return rank_trials(trials, run.monitor, run.monitor_mode)


def rank_trials(
    trials: Sequence[Trial], monitor: str | Mapping[str, float], mode: str
) -> list[Trial]:
    """Trials from best to worst, then those whose monitor is NaN, then the failed ones.

    Args:
        trials: In any order.
        monitor: A metric, or the weights of several.
        mode: ``max`` or ``min``.
    """
    sign = 1 if mode == "min" else -1
    score = Monitor(monitor).get_value

    def place(trial: Trial) -> tuple[bool, bool, float]:
        value = sign * score(trial.metrics)
        undefined = math.isnan(value)
        # NaN is neither below nor above a number: a sort must not see it.
        return bool(trial.error), undefined, 0.0 if undefined else value

    return sorted(trials, key=place)


def report(trials: Sequence[Trial]) -> str:
    """A ranked table of trials with their varied settings and metrics."""
    rows = []
    for rank, trial in enumerate(trials, 1):
        settings = ", ".join(f"{key}={value}" for key, value in trial.settings.items())
        outcome = f"failed: {trial.error}" if trial.error else print_to_list(trial.metrics)
        rows.append(f"{rank:>3}  {trial.expid}  {settings}  {outcome}")
    return "\n".join(rows)


def read_results(path: Path) -> dict[str, dict[str, float]]:
    """Validation metrics by experiment id from FuxiCTR's result lines; the last line counts."""
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        match = re.search(r"\[exp_id\] (.+?),\[dataset_id\].*\[val\] (.*?),\[test\]", line)
        if match:
            pairs = (pair.rsplit(": ", 1) for pair in match[2].split(" - "))
            results[match[1]] = {name: float(value) for name, value in pairs}
    return results


def _enumerate(config_file: str) -> str:
    """Write every combination into the folder named like the tuner file; the folder.

    FuxiCTR gets a file with the settings in it, in ASCII: by itself it would look them up by
    pattern, in the locale's encoding, without a check of what is written twice.
    """
    tuner = read_yaml(config_file)
    expid = tuner["base_expid"]
    model = read_experiment(_base_config(tuner, config_file), expid)
    dataset_id = tuner.get("dataset_id", model["dataset_id"])
    dataset = read_dataset(_base_config(tuner, config_file), dataset_id)
    tuner |= {"model_config": {expid: model}, "dataset_config": {dataset_id: dataset}}
    folder = Path(config_file).with_suffix("")
    with tempfile.TemporaryDirectory() as scratch:
        resolved = Path(scratch, "tuner.yaml")
        resolved.write_text(yaml.safe_dump(tuner, sort_keys=False), encoding="ascii")
        with contextlib.redirect_stdout(None):  # it announces that it is done
            enumerated = Path(enumerate_params(str(resolved)))
        folder.mkdir(exist_ok=True)
        for file in enumerated.iterdir():
            shutil.copyfile(file, folder / file.name)
    return str(folder)


def _base_config(tuner: Mapping[str, Any], config_file: str) -> str:
    return expanded(str(tuner.get("base_config", os.path.dirname(config_file) or ".")))


def _varied_keys(config_file: str) -> list[str]:
    """Keys of ``tuner_space`` with several values, after checking the tuner file."""
    if Path(config_file).suffix not in SUFFIXES:
        raise InputError(f"{config_file}: expected a name that ends with {' or '.join(SUFFIXES)}")
    tuner = read_yaml(config_file)
    problems = [
        f"{config_file}: {key}: unknown key{suggestion(key, TUNER_KEYS)}"
        for key in tuner
        if key not in TUNER_KEYS
    ]
    problems += [
        f"{config_file}: {key}: this key is missing"
        for key in ("base_expid", "tuner_space")
        if key not in tuner
    ]
    if problems:
        raise InputError(problems)
    space = tuner["tuner_space"]
    if not isinstance(space, dict) or not space:
        raise InputError(f"{config_file}: tuner_space: expected a mapping of keys to lists")
    base_dir = _base_config(tuner, config_file)
    # As JSON, which is YAML: a name may look like a list.
    overrides = [f"dataset_id={json.dumps(tuner['dataset_id'])}"] if "dataset_id" in tuner else []
    dataset_id = load_experiment(base_dir, tuner["base_expid"], overrides).dataset.dataset_id
    # FuxiCTR can vary only what the YAML files mention.
    known = {*read_experiment(base_dir, tuner["base_expid"])}
    known |= {*read_dataset(base_dir, dataset_id)}
    problems = [
        f"{config_file}: tuner_space: {key} is not set in {tuner['base_expid']} or "
        f"{dataset_id}{suggestion(key, known)}"
        for key in space
        if key not in known
    ]
    problems += [
        f"{config_file}: tuner_space: {key}: no values" for key in space if space[key] == []
    ]
    if problems:
        raise InputError(problems)
    return [key for key, values in space.items() if isinstance(values, list) and len(values) > 1]


def _claim_folder(config_file: str) -> None:
    """Make the folder that the trials' settings go into, or know it again."""
    folder = Path(config_file).with_suffix("")
    marker, name = folder / MARKER, Path(config_file).name
    if marker.is_file() and marker.read_text(encoding="utf-8") == name:
        return
    try:
        folder.mkdir()
        marker.write_text(name, encoding="utf-8")
    except FileExistsError:
        raise InputError(
            f"{config_file}: the trials' settings go into {folder}, which is there and was not "
            "made by this tuner file; rename the file, or move what is there"
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None


def _run_all(
    expids: Sequence[str], config_dir: str, gpus: Sequence[int], script: str | Path
) -> list[subprocess.CompletedProcess[str]]:
    """Run the trials, each on the next free device; their results in the order of ``expids``."""
    free: queue.Queue[int] = queue.Queue()
    for gpu in gpus:
        free.put(gpu)
    environment = dict(os.environ)
    if len(gpus) > 1:
        # Trials that each take every core wait for one another at every operation.
        threads = max(1, (os.cpu_count() or 1) // len(gpus))
        environment.setdefault("OMP_NUM_THREADS", str(threads))

    def run(expid: str) -> subprocess.CompletedProcess[str]:
        gpu = free.get()
        command = [sys.executable, str(script), "--config", config_dir]
        command += ["--expid", expid, "--gpu", str(gpu)]
        try:
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(len(gpus)) as pool:
        outcomes = pool.map(run, expids)
        quiet = not sys.stdout.isatty()
        return list(tqdm(outcomes, total=len(expids), unit="trial", disable=quiet))


def _last_line(outcome: subprocess.CompletedProcess[str]) -> str:
    lines = outcome.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {outcome.returncode}"
