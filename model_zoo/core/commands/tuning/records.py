"""What became of a trial: one small file for each, whole at any time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.files import write_aside
from model_zoo.core.training.history import read_evaluations

PROGRESS = ("epoch", "train_loss", "learning_rate")  # columns of a history; others are metrics
TABLES = "tables"  # sub-folder, while a search runs: the data, decoded once for all its trials
RECORDS = "trials"  # sub-folder of the configuration folder
Status = Literal["waiting", "started", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Record:
    """State of a trial.

    Attributes:
        expid: The trial.
        status: ``started`` is running, or was interrupted and has a state to go on from;
            ``pruned`` was stopped for being weak, and has one too.
        attempts: How often it ended with an error.
        metrics: By split, of its best evaluation.
        seconds: From start to end of its last process.
        device: Where that ran.
        error: Its last lines, if it failed.
        settings: Those that the space gave it, for a search that draws them.
    """

    expid: str
    status: Status = "waiting"
    attempts: int = 0
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    device: str = ""
    error: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def output_file(folder: Path, expid: str) -> Path:
    """What the trial's processes print."""
    return folder / RECORDS / f"{expid}.out"


def read_record(folder: Path, expid: str) -> Record:
    """The trial's record; a fresh one where it has not begun."""
    path = folder / RECORDS / f"{expid}.json"
    if not path.is_file():
        return Record(expid)
    return Record(**json.loads(path.read_text(encoding="utf-8")))


def record_files(folder: Path) -> list[Path]:
    """All records, by name; not those that are just being written."""
    found = (folder / RECORDS).glob("*.json")
    return sorted(path for path in found if not path.name.startswith("."))


def write_record(folder: Path, record: Record) -> None:
    with write_aside(folder / RECORDS / f"{record.expid}.json") as partial:
        partial.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def history_file(trial: Trial) -> Path:
    """The trial's evaluations."""
    return trial.place.with_name(f"{trial.expid}.history.csv")


def evaluations(trial: Trial) -> list[dict[str, float]]:
    """The trial's evaluations so far, each with its ``epoch``."""
    return read_evaluations(history_file(trial))


def best_evaluation(trial: Trial) -> dict[str, float]:
    """The metrics of the trial's best evaluation so far; none if it had none."""
    seen = [row for row in evaluations(trial) if not math.isnan(trial.monitor(row))]
    sign = 1 if trial.monitor_mode == "min" else -1
    best = min(seen, key=lambda row: sign * trial.monitor(row), default={})
    return {name: value for name, value in best.items() if name not in PROGRESS}
