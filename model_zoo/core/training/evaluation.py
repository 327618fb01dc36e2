"""A FuxiCTR model's evaluations: all metrics, noted in a file, undefined ones handled."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from fuxictr.utils import Monitor

from model_zoo.core.files import write_aside
from model_zoo.core.training.metrics import evaluate_metrics, undefined_reasons
from model_zoo.core.training.origins import first_batch_of
from model_zoo.core.training.processes import (
    from_main,
    gather_rows,
    is_main,
    mean_over_processes,
)
from model_zoo.core.training.resume import ResumableModel
from model_zoo.core.training.watch import require_finite_predictions


class EvaluatedModel(ResumableModel):
    """FuxiCTR's evaluation and its decision, which would take NaN for an improvement.

    Args:
        *args: Those of :class:`ResumableModel`.
        **kwargs: Likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._monitor = _WorstIfUndefined(self._monitor.kv_pairs, self._monitor_mode)
        self._tensorboard: Any = None
        self._shows_progress = False
        self._undefined: set[str] = set()  # messages that the log has already
        self._evaluated: Any = ()  # batches

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    @property
    def history_path(self) -> Path:
        return Path(self.checkpoint).with_suffix(".history.csv")

    def evaluate(self, data_generator: Any, metrics: list[str] | None = None) -> dict[str, float]:
        """FuxiCTR's evaluation, of all the experiment's metrics each time."""
        wanted = list(dict.fromkeys([*(metrics or []), *self.validation_metrics]))
        from_main(self)  # batch statistics may differ between processes
        self._verbose = int(self._shows_progress)
        self._evaluated = data_generator
        result: dict[str, float] = super().evaluate(data_generator, metrics=wanted)
        return result

    def evaluate_metrics(
        self,
        y_true: np.ndarray,
        y_pred: np.ndarray,
        metrics: list[str],
        group_id: np.ndarray | None = None,
    ) -> dict[str, float]:
        """FuxiCTR's metrics over the rows of all processes, refusing a model that diverged.

        An undefined metric is NaN; the log says why, once. It warns if all predictions are one.
        """
        y_true, y_pred, group_id = map(gather_rows, (y_true, y_pred, group_id))
        origin = partial(first_batch_of, self, self._evaluated)
        require_finite_predictions(self.model_id, y_pred, self.learning_rate, origin)
        if len(y_pred) > 1 and (y_pred == y_pred[0]).all():
            logging.warning(
                "all %d predictions are %.6g: the model tells no row from another; look at "
                "learning_rate (now %g) and at the range of the inputs (qin-data validate)",
                len(y_pred),
                y_pred[0],
                self.learning_rate,
            )
        result = evaluate_metrics(y_true, y_pred, metrics, group_id)
        for name, reason in undefined_reasons(result, y_true, group_id).items():
            message = f"{name} is undefined (NaN): {reason}"
            if message not in self._undefined:
                self._undefined.add(message)
                logging.warning(message)
        return result

    def checkpoint_and_earlystop(self, logs: dict[str, float], min_delta: float = 1e-6) -> None:
        """FuxiCTR's decision, after noting the evaluation in ``<expid>.history.csv``.

        An undefined monitor never improves: patience and learning rate act on it. Until an
        evaluation is defined, the last weights are saved, for there are no best ones.
        """
        self._note(logs)
        if math.isinf(self._best_metric):
            # FuxiCTR's start, which the worst value is not below.
            self._best_metric = math.copysign(sys.float_info.max, self._best_metric)
        super().checkpoint_and_earlystop(logs, min_delta)
        if self._save_best_only and abs(self._best_metric) == sys.float_info.max:
            logging.warning("Save last weights: the monitor has been undefined so far")
            self.save_weights(self.checkpoint)

    def _note(self, logs: Mapping[str, float]) -> None:
        self.evaluations.append(
            {
                "epoch": self._total_steps / self._steps_per_epoch,
                "train_loss": self._mean_loss(),
                "learning_rate": self.learning_rate,
                **logs,
            }
        )
        self._loss_sum, self._loss_count = 0.0, 0
        if is_main():
            with write_aside(self.history_path) as partial:
                pl.DataFrame(self.evaluations).write_csv(partial)
            for name, value in self.evaluations[-1].items():
                if self._tensorboard is not None:
                    self._tensorboard.add_scalar(name, value, self._total_steps)

    def _mean_loss(self) -> float:
        """Mean training loss since the last evaluation, over all processes."""
        total = torch.as_tensor(self._loss_sum, device=self.device)
        return float(mean_over_processes(total)) / max(self._loss_count, 1)


class _WorstIfUndefined(Monitor):  # type: ignore[misc]  # FuxiCTR has no types
    """FuxiCTR's weighted sum of metrics; the worst value there is if one of them is NaN."""

    def __init__(self, weights: Mapping[str, float], mode: str) -> None:
        super().__init__(weights)
        self._worst = math.inf if mode == "min" else -math.inf

    def get_value(self, logs: Mapping[str, float]) -> float:
        value = float(super().get_value(logs))
        return self._worst if math.isnan(value) else value
