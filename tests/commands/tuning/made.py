"""Spaces and outcomes that need no training."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model_zoo.core.commands.tuning.ranking import Outcome, outcome
from model_zoo.core.commands.tuning.records import Record, write_record
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.commands.tuning.tuner_file import read_space


def tuner_file(name: str = "tune.yaml", **content: Any) -> Path:
    """A tuner file in the working directory, over ``QIN_test``."""
    path = Path(name)
    content = {"base_config": "config", "base_expid": "QIN_test", **content}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def grid(space: Mapping[str, Any], **more: Any) -> list[Trial]:
    return read_space(tuner_file(tuner_space=dict(space), **more)).grid()


def finished(trial: Trial, seconds: float = 1.0, **metrics: float) -> Outcome:
    of = {"metrics": {"valid": metrics}, "settings": dict(trial.settings)}
    record = Record(trial.expid, "finished", seconds=seconds, **of)
    return outcome(trial, record)


def other(trial: Trial, status: Any, *error: str, **metrics: float) -> Outcome:
    of = {"settings": dict(trial.settings), "metrics": {"valid": metrics} if metrics else {}}
    return outcome(trial, Record(trial.expid, status, attempts=1, error=error, **of))


def write(folder: Path, *outcomes: Outcome) -> None:
    for entry in outcomes:
        write_record(folder, entry.record)


def lines(folder: Path) -> list[dict[str, str]]:
    """``trials.csv``."""
    return list(csv.DictReader((folder / "trials.csv").read_text(encoding="utf-8").splitlines()))


def record(folder: Path, expid: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "trials" / f"{expid}.json").read_text())
    return content
