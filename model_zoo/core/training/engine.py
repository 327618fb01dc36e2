"""A FuxiCTR model that trains faster, can be interrupted, and goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import get_loss
from torch import Tensor
from tqdm import tqdm

from model_zoo.core.data.spec import BATCH_ROWS
from model_zoo.core.files import write_aside
from model_zoo.core.memory import keep_few_kernels, keep_freed_memory
from model_zoo.core.training.averaging import WeightAverage
from model_zoo.core.training.captured import CapturedStep, require_capturable, require_cuda
from model_zoo.core.training.evaluation import EvaluatedModel
from model_zoo.core.training.extras import tensorboard_writer
from model_zoo.core.training.numbers import standardise_numbers
from model_zoo.core.training.optimizer import (
    L2Penalty,
    LazyAdam,
    build_optimizer,
    clip_gradients,
)
from model_zoo.core.training.processes import (
    ParallelForward,
    from_main,
    is_main,
    world_size,
)
from model_zoo.core.training.settings import Count, Decay, Factor, Penalty, require_in_range
from model_zoo.core.training.watch import (
    DeferredLoss,
    epoch_bar,
    require_finite,
    require_finite_output,
)
from model_zoo.core.training.weights import load_checkpoint


class TrainableModel(EvaluatedModel):
    """FuxiCTR's ``fit`` stays the driver; its hooks are given what the loop lacks.

    Args:
        feature_map: FuxiCTR's feature map.
        accumulation_steps: Batches whose gradients are averaged into one optimizer step.
        factor: Learning rate factor after an evaluation that did not improve the monitor.
        precision: ``bf16`` computes the forward pass under autocast; weights, their
            gradients and the loss are float32 either way.
        embedding_update: ``lazy`` updates (and regularises) only the rows of embedding
            tables that are in the batch, so that a step's time does not depend on their size.
        embedding_regularizer: λ of (λ/2)·‖table‖², over every table and projection.
        net_regularizer: The same over all other weights.
        weight_average: Decay β of an exponential moving average of the weights, which is
            evaluated and saved in their place; ``None`` keeps none.
        cuda_graph: Record the steps on a CUDA device and replay each as one launch.
        tensorboard: Write every evaluation for TensorBoard too.
        **kwargs: Those of :class:`EvaluatedModel`: ``checkpoint_minutes`` and FuxiCTR's own.

    Attributes:
        fixed_shapes: Whether a batch may have one length more than rows, of history items that
            belong to none: ``cuda_graph`` needs it.

    Raises:
        ValueError: If an argument is out of range.
    """

    fixed_shapes = False

    def __init__(
        self,
        feature_map: FeatureMap,
        *,
        accumulation_steps: Count = 1,
        factor: Factor = 0.5,
        precision: Literal["fp32", "bf16"] = "fp32",
        embedding_update: Literal["dense", "lazy"] = "dense",
        embedding_regularizer: Penalty = None,
        net_regularizer: Penalty = None,
        weight_average: Decay | None = None,
        cuda_graph: bool = False,
        tensorboard: bool = False,
        **kwargs: Any,
    ) -> None:
        require_in_range(accumulation_steps, factor, weight_average, embedding_update)
        keep_few_kernels()
        # Before the next class, which may be a whole model: that calls compile() itself.
        self.precision = precision
        self.embedding_update = embedding_update
        self.accumulation_steps = accumulation_steps
        self.cuda_graph = cuda_graph
        self._captured: CapturedStep | None = None
        self._optimizer: Any = None
        super().__init__(
            feature_map,
            embedding_regularizer=embedding_regularizer,
            net_regularizer=net_regularizer,
            **kwargs,
        )
        self.factor = factor
        self._tensorboard = tensorboard_writer(self.checkpoint) if tensorboard else None
        # FuxiCTR's progress bars are for people; the training's own also has loss and rows/s.
        self._shows_progress = self._verbose > 0 and sys.stdout.isatty() and is_main()
        self._verbose = int(self._shows_progress)
        self._bar: tqdm[Any] | None = None
        self._rows_in_step = 0
        self._penalty: L2Penalty | None = None
        self._parallel = ParallelForward(self, self.device, lazy=embedding_update == "lazy")
        self._weight_average = weight_average

    # --- what a subclass uses

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    # --- FuxiCTR's hooks

    def compile(self, optimizer: str, loss: str, lr: float) -> None:
        # Every model calls this when it has all its layers, so none can be forgotten.
        standardise_numbers(self, self.feature_map.features)
        self.loss_fn = get_loss(loss)
        if self.cuda_graph:
            require_capturable(
                fixed_shapes=self.fixed_shapes,
                model=type(self).__name__,
                optimizer=optimizer,
                embedding_update=self.embedding_update,
                accumulation_steps=self.accumulation_steps,
                regularizers=[self._embedding_regularizer, self._net_regularizer],
            )
        if self.embedding_update == "dense":
            self._make_optimizer = partial(build_optimizer, optimizer, lr=lr)
        elif optimizer.lower() == "adam":
            self._optimizer = LazyAdam(self, lr)  # now: it decides on the tables' gradients
        else:
            raise ValueError(f"embedding_update: lazy needs optimizer adam, got {optimizer}")

    @property
    def optimizer(self) -> Any:
        """Built when it is first needed: that imports torch's compiler, which takes a second."""
        if self._optimizer is None:
            self._optimizer = self._make_optimizer(self.parameters())
        return self._optimizer

    def get_labels(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """FuxiCTR's labels; its own copy would wait until the device is done with all before."""
        name = self.feature_map.labels[0]
        label = inputs[name].to(self.device, non_blocking=True)
        # Of the base: a model of FuxiCTR's may have one for another kind of batch.
        labels: Tensor = BaseModel.get_labels(self, {**inputs, name: label})
        return labels

    def get_group_id(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """FuxiCTR makes an array of it, which data kept on a GPU cannot be."""
        group_id: Tensor = BaseModel.get_group_id(self, inputs).cpu()
        return group_id

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """FuxiCTR's training."""
        if self.cuda_graph:
            require_cuda(self.model_id, self.device)
        if self._weight_average is not None:
            self._average = WeightAverage(self, self._weight_average)
        with keep_freed_memory() if self.device.type == "cpu" else nullcontext():
            super().fit(*args, **kwargs)

    def train_epoch(self, data_generator: Any) -> None:
        """An epoch, or the rest of it if the training was resumed in its middle."""
        if self._resumed is not None:
            if self._epoch_index < self._resumed["epoch"]:
                return  # trained before the interruption
            self._restore(self._resumed, data_generator)
            self._resumed = None
            if self._stop_training:
                return
        rows = data_generator.num_samples // world_size()
        done = rows * self._first_batch // self._steps_per_epoch
        with epoch_bar(self._epoch_index, rows, done, shown=self._shows_progress) as self._bar:
            self._verbose = 0  # a bar of its own would come from FuxiCTR
            super().train_epoch(data_generator)
        self._first_batch = 0

    def train_step(self, batch_data: Mapping[str, Tensor]) -> DeferredLoss:
        """One batch; an optimizer step after ``accumulation_steps`` of them.

        A step's gradient is that of the mean over all its rows, whatever the batches'
        sizes, also for the incomplete last group of an epoch.
        """
        if self._rows_in_step == 0:
            self._between_steps()
        if self._penalty is None:
            self._penalty = L2Penalty(self, self._embedding_regularizer, self._net_regularizer)
        if self.cuda_graph:
            return self._captured_step(batch_data)
        batch = self._first_batch + self._batch_index + 1
        ends_step = batch % self.accumulation_steps == 0 or batch == self._steps_per_epoch
        y_true = self.get_labels(batch_data)
        output = self._parallel(batch_data, synchronise=ends_step)
        about = (self.learning_rate, self.checkpoint)
        place = f"step {self._total_steps}, batch {batch} of the epoch"
        require_finite_output(self, batch_data, output["y_pred"], place, *about)
        if self._penalty.supported:
            loss, penalty = self.add_loss(output, y_true), self._penalty.value()
        else:
            loss, penalty = self.compute_loss(output, y_true), 0.0
        # Losses are weighted by rows wherever several parts make up one step: DistributedData-
        # Parallel averages over processes, so that their number is a factor too.
        processes = world_size()
        rows = int(batch_data[BATCH_ROWS]) if processes > 1 else len(y_true)
        share = len(y_true) * processes / rows
        in_parts = self.accumulation_steps > 1 or processes > 1
        (loss * share * rows if in_parts else loss).backward()
        self._rows_in_step += rows
        if ends_step:
            if in_parts:
                for gradient in (p.grad for p in self.parameters() if p.grad is not None):
                    gradient.div_(self._rows_in_step)
            if self._penalty.supported:
                self._penalty.add_gradient()
            norm = clip_gradients(self.parameters(), self._max_gradient_norm)
            require_finite(self, loss, norm, self._total_steps, *about)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self._average is not None:
                self._average.update()
            self._rows_in_step = 0
        return self._count(loss.detach() * share + penalty, len(y_true))

    def _count(self, total: Tensor, rows: int) -> DeferredLoss:
        """Take a step's loss into that of the epoch."""
        self._loss_sum = self._loss_sum + total
        self._loss_count += 1
        if self._bar is not None and self._bar.update(rows):
            # The look at the loss waits for the device; once a second it may.
            mean = float(self._loss_sum) / self._loss_count
            self._bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        return DeferredLoss(total)

    def _captured_step(self, batch_data: Mapping[str, Tensor]) -> DeferredLoss:
        if self._captured is None:
            parts = self._whole_step, self.optimizer, self.device, self.history_col
            self._captured = CapturedStep(*parts)
        total, norm = self._captured(batch_data)
        require_finite(self, total, norm, self._total_steps, self.learning_rate, self.checkpoint)
        if self._average is not None:
            self._average.update()
        return self._count(total, len(batch_data[self.feature_map.labels[0]]))

    def _whole_step(
        self, batch: Mapping[str, Tensor], optimize: Callable[[], None]
    ) -> tuple[Tensor, Tensor]:
        """An optimizer step of nothing but kernels: loss, and norm of the gradient."""
        output = self.forward(batch)
        loss = self.add_loss(output, self.get_labels(batch))
        loss.backward()
        total = loss.detach() + self._penalty.value()
        self._penalty.add_gradient()
        norm = clip_gradients(self.parameters(), self._max_gradient_norm)
        optimize()
        self.optimizer.zero_grad()
        return total, norm

    def lr_decay(self, factor: float | None = None, min_lr: float = 1e-6) -> float:
        """FuxiCTR's decay with the experiment's ``factor``."""
        rate: float = super().lr_decay(self.factor if factor is None else factor, min_lr)
        return rate

    def eval_step(self) -> None:
        """FuxiCTR's evaluation and checkpoint, of the averaged weights where there are any."""
        with nullcontext() if self._average is None else self._average.in_place():
            super().eval_step()
        self._save_due = True
        if self._rows_in_step == 0:
            self._save(self._first_batch + self._batch_index + 1, self._total_steps)

    def save_weights(self, checkpoint: str) -> None:
        """Write the weights; the file appears only when it is complete."""
        if is_main():
            with write_aside(checkpoint) as partial:
                torch.save(self.state_dict(), partial)

    def load_weights(self, checkpoint: str) -> None:
        """Read weights that :meth:`save_weights` wrote, or say what does not fit."""
        self._captured = None  # frees the memory of recorded steps
        if is_main():
            load_checkpoint(self, checkpoint)
        from_main(self)
