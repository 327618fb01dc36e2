"""What runs on the stand-in: the models, the ways they are trained, and planted mistakes.

``python -m tests.gpu.cases FOLDER`` runs all cases in a process of their own, which they leave
with another device, and writes a :class:`Report` of each, by name, to ``FOLDER/reports.json``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from model_zoo import get_model
from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.data.block import Block
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.prepare.demo import generate_demo
from model_zoo.core.training.engine import TrainableModel
from model_zoo.QIN.fold import fold
from tests.conftest import ROOT, feature_map
from tests.gpu.device import StandIn, register, running
from tests.QIN.test_model import ITEMS, item_columns
from tests.serving.made import FEATURES

# Each own model of the registry with what it needs besides COMMON; a new one is one line.
MODELS: dict[str, dict[str, Any]] = {
    "QIN": {"num_layers": 2, "num_row": 3},
}
COMMON = {
    "learning_rate": 1e-3,
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "metrics": ["AUC", "logloss"],
    "verbose": 0,
    "embedding_dim": 4,
    "net_dropout": 0.0,
    "embedding_regularizer": 1e-3,
    "net_regularizer": 1e-3,
}
FEW, MANY = 3, 24  # rows of a batch whose distinct items are encoded, and of one where all are

Mistake = Callable[[type], type]  # a model class -> one that does something wrong


@dataclass
class Report:
    """What a case left.

    Attributes:
        waits: ``"<place> <operator>"`` -> the wait in words.
        error: What ended the case, if it did not end well.
        numbers: What the case found on the ``device`` and on the ``cpu``: losses, metrics, logits.
        apart: The largest difference of a weight after the case.
    """

    waits: dict[str, str] = field(default_factory=dict)
    error: str = ""
    numbers: dict[str, list[float]] = field(default_factory=dict)
    apart: float = 0.0


def build(
    name: str, folder: Path, *, gpu: int, mistake: Mistake | None = None, **settings: Any
) -> Any:
    """A model on all kinds of features, with the same weights on every device."""
    torch.manual_seed(0)
    kind = get_model(name)
    model = (kind if mistake is None else mistake(kind))(
        feature_map(FEATURES, COMMON["embedding_dim"]),
        gpu=gpu,
        item_table=ItemTable(item_columns()),
        **({**COMMON, "model_root": str(folder)} | MODELS[name] | settings),
    )
    for parameter in model.embedding_layer.parameters():
        # FuxiCTR's 1e-4 would hide a wrong embedding.
        parameter.data.copy_(torch.randn(parameter.shape))
    return model


def rows(count: int) -> Block:
    """Rows as the loader holds them, in main memory."""
    torch.manual_seed(1)
    lengths = torch.arange(count) % 5  # the first has no history
    return Block(
        {
            "item_id": torch.randint(1, ITEMS, (count,), dtype=torch.uint8),
            "level": torch.randint(0, 4, (count,), dtype=torch.uint8),
            "hour": torch.randint(0, 3, (count,), dtype=torch.uint8),
            "age": torch.randn(count),
            "likes": torch.randint(0, 9, (count, 4), dtype=torch.uint8),
            "seen": torch.randint(0, 6, (count, 3), dtype=torch.uint8),
            "profile": torch.randn(count, 5),
            "label": (torch.arange(count) % 2).float(),
        },
        torch.randint(1, ITEMS, (int(lengths.sum()),), dtype=torch.uint8),
        lengths,
        "item_seq",
    )


def padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a slot for each history item."""
    lengths = batch.pop("item_seq_length").tolist()
    parts = batch["item_seq"].split(lengths)
    batch["item_seq"] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return batch


def train(
    report: Report,
    device: StandIn,
    folder: Path,
    name: str,
    *,
    count: int = MANY,
    history: str = "packed",
    resident: bool = False,
    first_step: int = 1,
    **settings: Any,
) -> None:
    """Two batches through ``train_step``, on the stand-in and on the CPU.

    Args:
        count: Rows of a batch.
        history: ``packed`` or ``padded``.
        resident: The rows are kept on the device.
        first_step: Number of the first step; at every hundredth the gradient is looked at.
        **settings: Of the model.
    """
    weights = []
    for where, gpu in (("device", 0), ("cpu", -1)):
        model = build(name, folder, gpu=gpu, **settings)
        model.train()
        model._steps_per_epoch, model._max_gradient_norm = 2, 1.0  # such that it clips
        block = rows(2 * count)
        if resident and gpu == 0:
            block = block.to(model.device)
        device.waits.clear()
        losses = []
        for step in range(2):
            model._batch_index, model._total_steps = step, first_step + step
            batch = block.slice(step * count, (step + 1) * count).batch()
            if history == "padded":
                batch = padded(batch)
            losses.append(model.train_step(batch).item())
        if gpu == 0:
            note(report, device)
        report.numbers[where] = [float(loss) for loss in losses]
        weights.append(
            torch.cat([weight.detach().cpu().flatten() for weight in model.parameters()])
        )
    report.apart = float((weights[0] - weights[1]).abs().max())


def evaluate(report: Report, device: StandIn, folder: Path, name: str, **settings: Any) -> None:
    """``evaluate`` over two batches."""
    for where, gpu in (("device", 0), ("cpu", -1)):
        model = build(name, folder, gpu=gpu, **settings)
        model.optimizer  # noqa: B018 - its learning rate is part of a message
        block = rows(2 * MANY)
        halves = [block.slice(0, MANY).batch(), block.slice(MANY, 2 * MANY).batch()]
        device.waits.clear()
        report.numbers[where] = list(model.evaluate(halves).values())
        if gpu == 0:
            note(report, device)


def folded(report: Report, device: StandIn, folder: Path, *, form: str, **settings: Any) -> None:
    """A folded QIN: rows, or one user with many candidates."""
    for where, gpu in (("device", 0), ("cpu", -1)):
        model = build("QIN", folder, gpu=gpu)
        product = fold(model.eval(), **settings)
        batch = {
            key: value.to(model.device)
            if value.is_floating_point()
            else value.long().to(model.device)
            for key, value in rows(MANY).batch().items()
        }
        device.waits.clear()
        with torch.inference_mode():
            if form == "rows":
                history = batch["item_seq"], batch["item_seq_length"]
                logit, weight = product.rows(batch["item_id"], *history, batch)
            else:
                logit, weight = product(batch["item_seq"][:7], batch["item_id"], batch)
        if gpu == 0:
            note(report, device)
        report.numbers[where] = torch.cat([logit, weight.flatten()]).float().cpu().tolist()


def experiment(
    report: Report, device: StandIn, folder: Path, *, resident: bool = False, bar: bool = False
) -> None:
    """``run_expid.py --gpu 0``: what waits from its first step to its last."""
    generate_demo(
        folder / "data/MicroLens_demo",
        num_users=50,
        num_items=70,
        train_rows=200,
        valid_rows=60,
        test_rows=10,
    )
    (folder / "config").mkdir()
    for file in ("model_config.yaml", "dataset_config.yaml"):
        content = yaml.safe_load((ROOT / "config" / file).read_text())
        for column in content.get("MicroLens_demo", {}).get("feature_cols", []):
            if column["name"] == "item_id":
                column["vocab_size"] = 70
        (folder / "config" / file).write_text(yaml.safe_dump(content))
    train_step, update = TrainableModel.train_step, tqdm.update

    def watched(self: Any, batch: Mapping[str, Tensor]) -> Any:
        if self._total_steps > 1:
            note(report, device)  # the loader's and the loop's
        device.waits.clear()
        result = train_step(self, batch)
        note(report, device)
        return result

    def update_at_once(self: Any, n: float = 1) -> bool:
        update(self, n)
        return True

    for where, gpu in (("device", 0), ("cpu", -1)):
        settings = ["batch_size=50", "net_dropout=0", f"data_on_device={resident and gpu == 0}"]
        with (
            chdir(folder),
            mock.patch.object(TrainableModel, "train_step", watched),
            mock.patch.object(sys.stdout, "isatty", lambda: bar),
            mock.patch.object(tqdm, "update", update_at_once if bar else update),
        ):
            results = run_experiment("config", "QIN_test", gpu, settings)
        report.numbers[where] = list(results["valid"].values())


def note(report: Report, device: StandIn) -> None:
    report.waits |= {f"{wait.place} {wait.operator}": str(wait) for wait in device.waits}
    device.waits.clear()


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --- planted mistakes


def number_in_step(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def train_step(self, batch: Any) -> Any:
            loss = super().train_step(batch)
            self.last = loss.item().item()
            return loss

    return Planted


def number_in_forward(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def forward(self, inputs: Any) -> Any:
            output = super().forward(inputs)
            if output["logit"].mean() > 1e6:
                raise RuntimeError("cannot be")
            return output

    return Planted


def size_in_backward(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def forward(self, inputs: Any) -> Any:
            output = super().forward(inputs)
            output["y_pred"] = _Sized.apply(output["y_pred"])
            return output

    return Planted


class _Sized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad.nonzero()
        return grad


def mask_in_forward(kind: type) -> type:
    """The gradient of a selection by mask waits too, in torch's own code."""

    class Planted(kind):  # type: ignore[misc, valid-type]
        def forward(self, inputs: Any) -> Any:
            output = super().forward(inputs)
            mask = output["y_pred"] >= 0
            output["y_pred"] = output["y_pred"][mask].view(-1, 1)
            return output

    return Planted


def blocking_copy(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def get_labels(self, inputs: Any) -> Tensor:
            return inputs["label"].to(self.device).view(-1, 1)

    return Planted


def tensor_of_the_cpu(kind: type) -> type:
    class Planted(kind):  # type: ignore[misc, valid-type]
        def add_loss(self, output: Any, y_true: Tensor) -> Tensor:
            loss = super().add_loss(output, y_true)
            return loss + (output["y_pred"] * torch.ones(len(y_true), 1)).mean() * 0

    return Planted


CASES: dict[str, Callable[..., None]] = {}
for model in MODELS:
    step = partial(train, name=model)
    CASES |= {
        f"{model}, whole catalogue": step,
        f"{model}, whole catalogue, bf16": partial(step, precision="bf16"),
        f"{model}, distinct items": partial(step, count=FEW),
        f"{model}, distinct items, bf16": partial(step, count=FEW, precision="bf16"),
        f"{model}, padded": partial(step, history="padded"),
        f"{model}, lazy": partial(step, embedding_update="lazy"),
        f"{model}, lazy, two batches a step": partial(
            step, embedding_update="lazy", accumulation_steps=2
        ),
        f"{model}, rows on the device": partial(step, resident=True),
        f"{model}, two batches a step": partial(step, accumulation_steps=2),
        f"{model}, FuxiCTR's penalty": partial(step, embedding_regularizer="l1_l2(0.1,0.2)"),
        f"{model}, SGD": partial(step, optimizer="SGD"),
        f"{model}, step 100": partial(step, first_step=100),
        f"{model}, dropout": partial(step, net_dropout=0.1),
        f"{model}, evaluation": partial(evaluate, name=model),
        f"{model}, evaluation, bf16": partial(evaluate, name=model, precision="bf16"),
    }
CASES |= {
    "experiment": experiment,
    "experiment, rows on the device": partial(experiment, resident=True),
    "experiment with a progress bar": partial(experiment, bar=True),
    "folded, rows": partial(folded, form="rows"),
    "folded, one user": partial(folded, form="user"),
    "folded, rows, bf16": partial(folded, form="rows", dtype=torch.bfloat16),
}
PLANTED: dict[str, Mistake] = {
    mistake.__name__: mistake
    for mistake in (
        number_in_step,
        number_in_forward,
        size_in_backward,
        mask_in_forward,
        blocking_copy,
        tensor_of_the_cpu,
    )
}
CASES |= {
    name: partial(train, name=next(iter(MODELS)), mistake=mistake)
    for name, mistake in PLANTED.items()
}


def main(folder: Path) -> None:
    """Run every case and write ``reports.json`` into the folder."""
    torch.set_num_threads(1)
    register()
    reports = {}
    for number, (name, case) in enumerate(CASES.items()):
        report = Report()
        own = folder / str(number)
        own.mkdir()
        try:
            with running() as device:
                case(report, device, folder=own)
        except Exception as error:  # the test shows it, and the other cases go on
            report.error = f"{type(error).__name__}: {error}"
        reports[name] = asdict(report)
    (folder / "reports.json").write_text(json.dumps(reports), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
