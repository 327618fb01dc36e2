"""Which trials are weak: Ray Tune's ASHA, asked at each evaluation; that takes no running Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from model_zoo.core.commands.tuning.records import (
    Record,
    best_evaluation,
    evaluations,
    read_record,
    write_record,
)
from model_zoo.core.commands.tuning.trial import Trial

REDUCTION = 3  # of three trials, one goes on
WORST = -1e9  # in the place of a monitor that is undefined


class Rungs:
    """The values of all trials after 1, 3, 9, ... epochs.

    Args:
        epochs: Of the longest trial.
        known: Trials of before, which those of now are compared with too.

    Attributes:
        scheduler: Ray Tune's, which has been told of the known trials.
    """

    def __init__(self, epochs: int, known: Sequence[tuple[Trial, Record]]) -> None:
        from ray.tune.schedulers import ASHAScheduler

        self.scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=epochs + 1,
            grace_period=1,
            reduction_factor=REDUCTION,
        )
        self._told: dict[str, int] = {}
        for trial, record in known:
            self.is_weak(trial)  # whatever the answer
            self.ended(trial, record)

    def is_weak(self, trial: Trial) -> bool:
        """Whether an evaluation since the last call is worse than two thirds at its rung."""
        seen = evaluations(trial)
        new = seen[self._told.get(trial.expid, 0) :]
        said = [self._tell(trial, result(trial, row)) for row in new]
        if new:
            self._told[trial.expid] = len(seen)
        return self.scheduler.STOP in said

    def ended(self, trial: Trial, record: Record) -> None:
        """A trial that finished stands at the rungs that it did not come to with its best."""
        if record.status == "finished":
            best = score(trial, record.metrics.get("valid", {}))
            self._tell(trial, {"score": best, "epoch": trial.experiment.run.epochs})

    def _tell(self, trial: Trial, result: Mapping[str, Any]) -> str:
        # All that this scheduler wants to know of a trial of Ray's.
        named = SimpleNamespace(trial_id=trial.expid)
        if trial.expid not in self._told:
            self.scheduler.on_trial_add(None, named)
            self._told[trial.expid] = 0
        said: str = self.scheduler.on_trial_result(None, named, dict(result))
        return said


def result(trial: Trial, row: Mapping[str, float]) -> dict[str, Any]:
    """An evaluation as the scheduler takes it; rungs are whole epochs."""
    # At its last one a trial is past being stopped.
    last = trial.experiment.run.epochs - 0.5
    return {"score": score(trial, row), "epoch": min(math.floor(row["epoch"] + 1e-9), last)}


def score(trial: Trial, metrics: Mapping[str, float]) -> float:
    """The monitor so that more is better; what has none is as bad as can be."""
    value = trial.monitor(metrics) if metrics else math.nan
    if math.isnan(value):
        return WORST
    return -value if trial.monitor_mode == "min" else value


def stopped(folder: Path, trial: Trial) -> Record:
    """The record of a trial that was stopped: its best evaluation counts, its state stays."""
    record = read_record(folder, trial.expid)
    if record.status == "started":
        record = replace(record, status="pruned", metrics={"valid": best_evaluation(trial)})
        write_record(folder, record)
    return record
