"""A FuxiCTR model whose training can be interrupted, and goes on where it was."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fuxictr.pytorch.models import BaseModel
from torch import Tensor

from model_zoo.core.errors import Interrupted
from model_zoo.core.training.averaging import WeightAverage
from model_zoo.core.training.processes import gather, is_main, max_over_processes, rank, world_size
from model_zoo.core.training.settings import Minutes
from model_zoo.core.training.signals import noting_signals
from model_zoo.core.training.state import random_states, restore_random_states, save_state

STEPS_BETWEEN_QUESTIONS = 20


class ResumableModel(BaseModel):
    """Saves the state of FuxiCTR's loop and restores it.

    Args:
        *args: FuxiCTR's own arguments, or those of the next class.
        checkpoint_minutes: Minutes between two saved states; ``None`` saves only at
            evaluations.
        **kwargs: Likewise.

    Raises:
        ValueError: If ``checkpoint_minutes`` is not above 0.
    """

    def __init__(
        self, *args: Any, checkpoint_minutes: Minutes | None = 10.0, **kwargs: Any
    ) -> None:
        if checkpoint_minutes is not None and checkpoint_minutes <= 0:
            raise ValueError(f"checkpoint_minutes must be above 0, got {checkpoint_minutes}")
        super().__init__(*args, **kwargs)
        self.checkpoint_minutes = checkpoint_minutes
        self.evaluations: list[dict[str, float]] = []
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._total_steps = 0
        self._first_batch = 0  # of this epoch, when it goes on in its middle
        self._settings: Mapping[str, Any] | None = None
        self._data: Mapping[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None
        self._save_due = False
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._average: WeightAverage | None = None

    def keep_states(
        self,
        settings: Mapping[str, Any],
        resumed: dict[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the training's state while it runs, and begin with ``resumed`` if given.

        Args:
            settings: What a continuation must have in common with this training.
            resumed: A state of :func:`model_zoo.core.training.state.load_state`.
            data: Likewise, the fingerprint of what it reads.
        """
        self._settings = dict(settings)
        self._data = data
        self._resumed = resumed

    @property
    def state_path(self) -> Path:
        return Path(self.checkpoint).with_suffix(".state")

    def stopping_on_signals(self) -> AbstractContextManager[None]:
        """SIGTERM and Ctrl-C end the training after its current step, with a saved state."""

        def note(number: int) -> None:
            self._signal = number

        return noting_signals(note)

    def _between_steps(self) -> None:
        """Before a batch that begins an optimizer step: save if it is time, stop if asked to."""
        minutes = self.checkpoint_minutes
        if minutes is not None and time.monotonic() - self._saved_at > 60 * minutes:
            self._save_due = True
        if world_size() > 1:
            # To ask the others costs a message, so it is done every now and then.
            if self._total_steps % STEPS_BETWEEN_QUESTIONS:
                return
            due, number = max_over_processes([self._save_due, self._signal or 0], self.device)
            self._save_due, self._signal = bool(due), number or None
        if self._save_due or self._signal is not None:
            # FuxiCTR has counted the step that is about to begin.
            self._save(self._first_batch + self._batch_index, self._total_steps - 1)
        if self._signal is not None:
            raise Interrupted(
                self._signal,
                f"stopped by {signal.Signals(self._signal).name} after step "
                f"{self._total_steps - 1}; --resume goes on from there",
            )

    def _save(self, batches: int, total_steps: int) -> None:
        """Save the state after ``batches`` of this epoch and ``total_steps`` of all."""
        self._save_due = False
        self._saved_at = time.monotonic()
        if self._settings is None:
            return
        state = {
            "settings": self._settings,
            "data": self._data,
            "epoch": self._epoch_index,
            "batches": batches,
            "total_steps": total_steps,
            "weights": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_metric": float(self._best_metric),
            "stopping_steps": self._stopping_steps,
            "stop_training": self._stop_training,
            "evaluations": self.evaluations,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
            "random": gather(random_states()),
            "average": None if self._average is None else self._average.state(),
        }
        if not is_main():
            return
        try:
            save_state(self.state_path, state)
        except OSError as error:
            # The training itself is sound; only the next interruption would cost more.
            logging.warning("%s: state not saved: %s", self.state_path, error.strerror or error)

    def _restore(self, state: Mapping[str, Any], data_generator: Any) -> None:
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._best_metric = state["best_metric"]
        self._stopping_steps = state["stopping_steps"]
        self._stop_training = state["stop_training"]
        self._total_steps = state["total_steps"]
        self._first_batch = state["batches"]
        self.evaluations = list(state["evaluations"])
        loss_sum = state["loss_sum"]
        self._loss_sum = loss_sum.to(self.device) if isinstance(loss_sum, Tensor) else loss_sum
        self._loss_count = state["loss_count"]
        data_generator.start_at(epoch=state["epoch"], batch=state["batches"])
        if self._average is not None:
            self._average.restore(state["average"])
        restore_random_states(state["random"][rank()])
        logging.info(
            "Resumed in epoch %d after %d batches, step %d",
            state["epoch"] + 1,
            state["batches"],
            state["total_steps"],
        )
