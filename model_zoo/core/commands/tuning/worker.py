"""The process of one trial: ``run_expid.py``'s training, which ends when the tuner does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model_zoo.core.commands.config import check_experiment
from model_zoo.core.commands.experiment import run_loaded
from model_zoo.core.commands.tuning.records import TABLES, output_file, read_record, write_record
from model_zoo.core.data.shared import share_through
from model_zoo.core.errors import InputError, Interrupted
from model_zoo.core.locks import held


@dataclass(frozen=True)
class Order:
    """What a process is to train.

    Attributes:
        folder: The configuration folder.
        expid: The trial.
        model_params: Its settings; to read them from the folder's YAML takes the longer, the
            more trials there are.
        dataset_params: Those of its data set.
        gpu: CUDA device, -1 for CPU.
        threads: CPU threads; ``None`` leaves it to the environment.
        resume: Go on from the trial's last state.
    """

    folder: Path
    expid: str
    model_params: Mapping[str, Any]
    dataset_params: Mapping[str, Any]
    gpu: int
    threads: int | None
    resume: bool


def work(order: Order) -> None:
    """Train, and note the result beside the configuration; ends the process if it fails."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the tuner, which then ends its trials in good order
    _end_with_the_tuner()
    share_through(order.folder / TABLES)
    if order.threads is not None:
        torch.set_num_threads(order.threads)
        os.environ["POLARS_MAX_THREADS"] = str(order.threads)
    with _printing_to(output_file(order.folder, order.expid)):
        try:
            train(order)
        except InputError as error:
            print("\n".join(f"error: {problem}" for problem in error.problems), flush=True)
            sys.exit(2)
        except Interrupted as interruption:
            print(interruption, flush=True)
            sys.exit(128 + interruption.number)


def train(order: Order) -> None:
    """Train a trial that is not finished yet, here."""
    start = time.monotonic()
    experiment = check_experiment(
        {**order.model_params, "model_id": order.expid},
        {**order.dataset_params, "dataset_id": order.model_params["dataset_id"]},
    )
    place = experiment.folder / order.expid
    if place.parent.is_dir():
        _wait_for_another(place.with_name(f"{order.expid}.lock"))
    if read_record(order.folder, order.expid).status == "finished":
        return  # by the process of an earlier search, which has just ended
    if not order.resume:
        for kind in ("state", "state.previous", "history.csv"):
            place.with_name(f"{order.expid}.{kind}").unlink(missing_ok=True)
    metrics = run_loaded(order.folder, experiment, order.gpu, resume=order.resume)
    record = read_record(order.folder, order.expid)
    seconds = time.monotonic() - start
    write_record(order.folder, replace(record, status="finished", metrics=metrics, seconds=seconds))


def _end_with_the_tuner() -> None:
    """A tuner that is killed cannot say so: the end of its process is watched for.

    The training then saves its state, as at any SIGTERM.
    """
    tuner = multiprocessing.parent_process()
    if tuner is None:
        return

    def watch() -> None:
        tuner.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _wait_for_another(lock: Path) -> None:
    """Until no process writes the trial: that of a tuner that was killed may save its state."""
    waits = False
    while True:
        try:
            with held(lock, f"trial {lock.stem}"):
                return
        except InputError as error:
            if not waits:
                print(error, flush=True)
            waits = True
            time.sleep(0.2)


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Both outputs, also of what is no Python, and a traceback, into a file."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    yield
