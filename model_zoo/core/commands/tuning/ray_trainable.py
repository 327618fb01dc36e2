"""A trial as Ray Tune runs it: the same process as without Ray, watched from an actor."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Trainable

from model_zoo.core.commands.tuning.local import begin, end, ended, start
from model_zoo.core.commands.tuning.pruning import WORST, result, score, stopped
from model_zoo.core.commands.tuning.ray_trials import INDEX, trials_of, was_interrupted
from model_zoo.core.commands.tuning.records import evaluations, read_record
from model_zoo.core.commands.tuning.space import Space
from model_zoo.core.commands.tuning.trial import Trial


class TunedTrial(Trainable):
    """Gives Ray Tune a result at each evaluation."""

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
                return result(self._trial, seen[self._reported - 1])
            if was_interrupted(self._folder):
                self.cleanup()
                return {"score": WORST, "epoch": 0, "done": True}
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
        best = score(self._trial, record.metrics.get("valid", {}))
        return {"score": best, "epoch": epochs, "done": True}


class PruneCallback(Callback):
    """Notes which trials the scheduler stopped."""

    def __init__(self, space: Space, folder: Path) -> None:
        self._space, self._folder = space, folder

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if not was_interrupted(self._folder):
            stopped(self._folder, trial_of(self._space, trial.config))


def trial_of(space: Space, config: dict[str, Any]) -> Trial:
    """The trial that a configuration of Ray Tune's means."""
    point = json.loads(config["point"])
    index = config.get(INDEX, point.get("index", 0))
    return trials_of(space, point["settings"])[index]
