"""What ``run_param_tuner.py`` does: run every combination of a grid and rank them."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr.autotuner import enumerate_params, load_experiment_ids
from fuxictr.utils import Monitor, load_dataset_config, load_model_config, print_to_list
from tqdm import tqdm

from model_zoo.core.commands.config import load_experiment, read_yaml, suggestion
from model_zoo.core.commands.experiment import prepare_dataset
from model_zoo.core.errors import InputError

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
        The trials, best first by the monitor, failed ones last.

    Raises:
        InputError: If the tuner file or any of its trials is misconfigured, or a folder of that
            name is not the tuner's; nothing is run.
    """
    varied = _varied_keys(config_file)
    _claim_folder(config_file)
    with contextlib.redirect_stdout(None):  # it announces that it is done
        config_dir = enumerate_params(config_file)
    expids = load_experiment_ids(config_dir)
    experiments = [load_experiment(config_dir, expid) for expid in expids]
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
    sign = 1 if run.monitor_mode == "min" else -1
    score = Monitor(run.monitor).get_value
    return sorted(trials, key=lambda trial: (bool(trial.error), sign * score(trial.metrics)))


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


def _varied_keys(config_file: str) -> list[str]:
    """Keys of ``tuner_space`` with several values, after checking the tuner file."""
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
    base_dir = tuner.get("base_config", os.path.dirname(config_file) or ".")
    overrides = [f"dataset_id={tuner['dataset_id']}"] if "dataset_id" in tuner else []
    dataset_id = load_experiment(base_dir, tuner["base_expid"], overrides).dataset.dataset_id
    # FuxiCTR can vary only what the YAML files mention.
    known = {*load_model_config(base_dir, tuner["base_expid"])}
    known |= {*load_dataset_config(base_dir, dataset_id)}
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
    """Make the folder that FuxiCTR will write the trials' settings into, or know it again."""
    folder = Path(config_file.replace(".yaml", ""))  # FuxiCTR's rule
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
