"""A trial as Ray Tune runs it: the same process as without Ray, watched from an actor."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Trainable

from model_zoo.core.commands.tuning.local import begin, end, ended, start
from model_zoo.core.commands.tuning.ray_trials import INDEX, WORST, mark_pruned, score, trials_of
from model_zoo.core.commands.tuning.records import evaluations, read_record
from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial


class TunedTrial(Trainable):
    """Gives Ray Tune a result at each evaluation; pauses and continues by the trial's state."""

    def setup(self, config: dict[str, Any], job: dict[str, Any]) -> None:
        self._job = job
        os.chdir(job["cwd"])
        self._folder = Path(job["folder"])
        self._process: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()  # of the trial before, which the scheduler may have stopped
        self._trial = trial_of(self._job["space"], new_config)
        self._reported = 0
        # Not yet started: Ray makes actors ahead for trials that then run in another's actor.
        self._begun = False
        return True

    def step(self) -> dict[str, Any]:
        if not self._begun:
            self._begun = True
            if read_record(self._folder, self._trial.expid).status != "finished":
                self._start()
        while True:
            alive = self._process is not None and self._process.is_alive()
            seen = evaluations(self._trial)
            if len(seen) > self._reported:
                self._reported += 1
                row = seen[self._reported - 1]
                value = self._trial.monitor(row)
                if self._trial.monitor_mode == "min":
                    value = -value
                # Rungs are whole epochs; at its last one a trial is past being stopped.
                last = self._trial.experiment.run.epochs - 0.5
                epoch = min(math.floor(row["epoch"] + 1e-9), last)
                return {"score": WORST if math.isnan(value) else value, "epoch": epoch}
            if not alive:
                return self._end()
            time.sleep(0.1)

    def cleanup(self) -> None:
        if self._process is not None:
            end([self._process], by_force=False)
            self._process.join()
            self._process = None

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # the training's own states are beside its checkpoint

    def load_checkpoint(self, checkpoint: Any) -> None:
        """The training goes on from its last state whenever it is started."""

    def _start(self) -> None:
        order, _ = begin(self._folder, self._trial, self._job["gpu"], self._job["threads"])
        self._process, self._output_from = start(order)
        self._since = time.monotonic()

    def _end(self) -> dict[str, Any]:
        """The result of a trial whose process ended, or its next attempt's first."""
        record = read_record(self._folder, self._trial.expid)
        if self._process is not None:
            self._process.join()
            code, self._process = self._process.exitcode, None
            record = ended(self._folder, self._trial, code, self._output_from, self._since)
        if record.status == "failed" and record.attempts <= self._job["retries"]:
            self._reported = 0
            self._start()
            return self.step()
        epochs = self._trial.experiment.run.epochs
        return {"score": score(self._trial, record), "epoch": epochs, "done": True}


class PruneCallback(Callback):
    """Notes which trials the scheduler stopped."""

    def __init__(self, space: Space, folder: Path) -> None:
        self._space, self._folder = space, folder

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        mark_pruned(trial_of(self._space, trial.config), self._folder)


def trial_of(space: Space, config: dict[str, Any]) -> Trial:
    """The trial that a configuration of Ray Tune's means."""
    point = json.loads(config["point"])
    index = config.get(INDEX, point.get("index", 0))
    return trials_of(space, point["settings"])[index]
