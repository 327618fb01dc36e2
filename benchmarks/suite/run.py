"""Runs of a suite: each a process of ``run_expid.py``, several at a time if asked for."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import torch

from benchmarks.suite.baselines import fit_baseline
from benchmarks.suite.plan import Run
from benchmarks.suite.store import Store
from model_zoo.core.data.schema import parquet_files
from model_zoo.core.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
STOPPED = (130, 143, -2, -15)  # of a process that Ctrl-C or SIGTERM ended
TIME = "%Y-%m-%d %H:%M:%S,%f"


class Runner:
    """Executes runs and stores a line for each that ended, well or not.

    Args:
        store: Where the lines go.
        folder: Where checkpoints and logs go.
        config: Folder with the YAML files.
        jobs: Runs at a time; with more than one each has one thread, unless
            ``OMP_NUM_THREADS`` is set.
        gpu: CUDA device, -1 for CPU.
        retry: Run again what failed before.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        config: str,
        *,
        jobs: int = 1,
        gpu: int = -1,
        retry: bool = False,
    ) -> None:
        self.store, self.folder, self.config = store, folder, config
        self.jobs, self.gpu, self.retry = jobs, gpu, retry
        self._children: set[subprocess.Popen[str]] = set()
        self._stopping = threading.Event()

    def run(self, runs: Sequence[Run]) -> None:
        """Execute the runs that have no line yet."""
        known = {line["key"]: line["status"] for line in self.store.lines()}
        waiting = [
            (run, key)
            for run in runs
            for key in [run.key(self.config)]
            if key not in known or (self.retry and known[key] == "failed")
        ]
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                for _ in pool.map(lambda pair: self._one(*pair), waiting):
                    pass
            except BaseException:  # Ctrl-C too: the runs end with the suite
                self._stopping.set()
                for child in list(self._children):
                    child.terminate()
                raise

    def _one(self, run: Run, key: str) -> None:
        if self._stopping.is_set():
            return
        start = time.perf_counter()
        execute: Callable[[Run, str], dict[str, Any] | None]
        execute = self._experiment if run.baseline is None else self._baseline
        outcome = execute(run, key)
        if outcome is None:
            return
        line = {
            "key": key,
            **{field: value for field, value in vars(run).items() if field != "baseline"},
            "seconds": round(time.perf_counter() - start, 1),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "torch": version("torch"),
            "fuxictr": version("fuxictr"),
            "cpu": cpu_name(),
            **outcome,
        }
        self.store.add(line)
        said = f"AUC {line['metrics']['AUC']:.4f}" if line["metrics"] else line["error"]
        print(f"{run.dataset} {run.name} {run.phase} {run.seed}: {said}", flush=True)

    def _experiment(self, run: Run, key: str) -> dict[str, Any] | None:
        """What a training left; ``None`` if it was stopped together with the suite."""
        settings = [f"seed={run.seed}", *run.settings]
        shown = ["run_expid.py", "--expid", run.expid, "--gpu", str(self.gpu), "--set", *settings]
        folder = model_root(self.folder, key)
        command = [sys.executable, str(ROOT / shown[0]), "--config", self.config, *shown[1:]]
        environment = dict(os.environ)
        if self.jobs > 1:
            environment.setdefault("OMP_NUM_THREADS", "1")
        child = subprocess.Popen(
            [*command, f"model_root={folder}", "verbose=0"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._children.add(child)
        _, errors = child.communicate()
        self._children.discard(child)
        if self._stopping.is_set() or child.returncode in STOPPED:
            return None
        outcome: dict[str, Any] = {"command": shlex.join(["python", *shown]), "metrics": {}}
        if 0 <= self.gpu < torch.cuda.device_count():  # otherwise it ran on the CPU
            outcome["gpu"] = torch.cuda.get_device_properties(self.gpu).name
        if child.returncode:
            last = (errors.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
            return {**outcome, "status": "failed", "error": last}
        data = folder / run.dataset
        for left in data.glob("*.state*") if run.phase == "seeds" else data.glob("*.[sm]*"):
            left.unlink()
        train = self.run_rows(run)
        return {**outcome, "status": "finished", **read_training(data, run.expid, train)}

    def run_rows(self, run: Run) -> int:
        """Rows of the run's train split."""
        files = parquet_files(run.experiment(self.config).dataset.train_data)
        return sum(int(pq.read_metadata(file).num_rows) for file in files)

    def _baseline(self, run: Run, key: str) -> dict[str, Any]:
        command = f"python -m benchmarks.suite --suite {run.suite} --datasets {run.dataset}"
        command += f" --rows {shlex.quote(run.name)}" + " --search" * bool(run.settings)
        outcome: dict[str, Any] = {"command": command, "metrics": {}}
        try:
            fitted = fit_baseline(str(run.baseline), run.experiment(self.config), run.settings)
        except InputError as error:
            return {**outcome, "status": "failed", "error": error.problems[-1]}
        if run.phase == "seeds":
            fitted.write_predictions(model_root(self.folder, key))
        return {**outcome, "status": "finished", **fitted.result}


def model_root(folder: Path, key: str) -> Path:
    """Where the run with this key keeps its checkpoint."""
    return folder / re.sub(r"[^\w/.+-]+", "_", key)


def read_training(folder: Path, expid: str, rows: int) -> dict[str, Any]:
    """Metrics of the best epoch, and the training's size and speed, from a run's own files.

    Args:
        folder: With ``<expid>.history.csv`` and ``<expid>.log``.
        expid: The experiment.
        rows: Rows of its train split.
    """
    history = pl.read_csv(folder / f"{expid}.history.csv").to_dicts()
    best = max(history, key=lambda evaluation: float(evaluation["AUC"]))
    log = (folder / f"{expid}.log").read_text(encoding="utf-8")
    seconds = _seconds_between(log, "Start training", "Training finished")
    found = re.search(r"Total number of parameters: (\d+)", log)
    beside = ("epoch", "train_loss", "learning_rate")
    return {
        "metrics": {name: value for name, value in best.items() if name not in beside},
        "best_epoch": best["epoch"],
        "epochs": history[-1]["epoch"],
        "training_seconds": round(seconds, 2),
        "rows_per_s": round(rows * history[-1]["epoch"] / seconds),
        "parameters": int(found[1]) if found else None,
    }


def _seconds_between(log: str, first: str, last: str) -> float:
    times = []
    for text in (first, last):
        line = next(line for line in log.splitlines() if text in line)
        times.append(datetime.strptime(" ".join(line.split()[:2]), TIME))
    return max((times[1] - times[0]).total_seconds(), 1e-3)


def cpu_name() -> str:
    """The processor, in words."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(encoding="utf-8"), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
