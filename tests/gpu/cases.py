"""What runs on the stand-in: every model, each way it is trained, evaluation, and mistakes.

``python -m tests.gpu.cases FOLDER`` runs all cases in a process of their own, which they leave
with another device, and writes a :class:`Report` of each, by name, to ``FOLDER/reports.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from model_zoo.core.commands.folding import add_unknown
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import OUT_OF_VOCABULARY, Ids
from model_zoo.core.serving.scorer import Scorer
from model_zoo.core.serving.users import UserRequest
from model_zoo.core.training.captured import RECORDERS, WARM_UP
from model_zoo.QIN.fold import fold
from tests.gpu.device import StandIn, register, running
from tests.gpu.graph import StandInRecorder
from tests.gpu.mistakes import PLANTED, Mistake, number_in_forward
from tests.gpu.models import FIXED, MODELS, build, padded, rows
from tests.gpu.report import Report, note
from tests.gpu.runs import experiment

STEPS = WARM_UP + 3
FEW, MANY = 3, 24  # rows of a batch whose distinct items are encoded, and of one where all are


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
    distances = (weights[0] - weights[1]).abs()
    report.apart = float(distances.max()), float(distances.mean())


def captured(
    report: Report,
    device: StandIn,
    folder: Path,
    name: str,
    *,
    mistake: Mistake | None = None,
    **settings: Any,
) -> None:
    """Steps that are recorded and replayed, against plain ones on the CPU; the rate changes."""
    weights = []
    recorder = mock.patch.dict(RECORDERS, standin=StandInRecorder)
    for where, gpu in (("device", 0), ("cpu", -1)):
        extra = {"cuda_graph": True, "mistake": mistake} if gpu == 0 else {}
        model = build(name, folder, gpu=gpu, **settings, **extra)
        model.train()
        model._steps_per_epoch, model._max_gradient_norm = 8, 1.0
        device.waits.clear()
        losses = []
        with recorder:
            for step in range(STEPS):
                model._batch_index, model._total_steps = step, 1 + step
                batch = rows(MANY, seed=step).batch()
                losses.append(model.train_step(batch).item())
                model.lr_decay(0.7)
        if gpu == 0:
            note(report, device)
            report.numbers["recordings"] = [float(model._captured.recordings)]
        report.numbers[where] = [float(loss) for loss in losses]
        weights.append(
            torch.cat([weight.detach().cpu().flatten() for weight in model.parameters()])
        )
    distances = (weights[0] - weights[1]).abs()
    report.apart = float(distances.max()), float(distances.mean())


def evaluate(report: Report, device: StandIn, folder: Path, name: str, **settings: Any) -> None:
    """``evaluate`` over two batches."""
    for where, gpu in (("device", 0), ("cpu", -1)):
        model = build(name, folder, gpu=gpu, **settings)
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
            key: (value if value.is_floating_point() else value.long()).to(model.device)
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


def served(report: Report, device: StandIn, folder: Path, *, name: str) -> None:
    """A scorer: an unknown item, one user, several, rows, and items that come and change."""
    for where, gpu in (("device", 0), ("cpu", -1)):
        product = build(name, folder, gpu=gpu).eval().fold()
        vocabulary = {"item_id": {OUT_OF_VOCABULARY: 3}}
        items = {key: row for row, key in enumerate("abcdefghijk", start=1)}
        ids = Ids("item_id", items, len(items) + 1, vocabulary, {}, {"price": 0.5})
        add_unknown(product, ids)
        map_of = [torch.tensor(values).double() for values in ([-1.0, 0.0, 1.0], [0.2, 0.5, 0.8])]
        calibration = Calibration("isotonic", *map_of)
        scorer = Scorer(FoldedFile(product, ids, 3, calibration))
        device.waits.clear()
        scorer.add_items(["new"], {"tags": [[1, 2, 0]]})
        scorer.update_items(["a", "b"], {"price": [1.0, 2.0]})
        values = {key: value[:3] for key, value in rows(3).batch().items()}
        context = {feature.name: values[feature.name] for feature in product.row_features}
        candidates, history = ["a", "new", "unseen"], ["b", "c", "new"]
        one = scorer.score(history, candidates, context, calibrated=True, explain=True)
        few = [UserRequest(of, candidates, context) for of in (history, [], ["k"])]
        twice = {name: torch.cat([value, value]) for name, value in context.items()}
        many = [UserRequest(of, candidates * 2, twice) for of in (history, ["k"])]
        found = [*one, *scorer.score_users(few), *scorer.score_users(many)]
        found += scorer.score_batch([history, [], ["k"]], candidates, context, explain=True)[:1]
        if gpu == 0:
            note(report, device)
        report.numbers[where] = torch.cat([x.cpu().flatten() for x in found]).tolist()


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
CASES |= {f"{model}, served": partial(served, name=model) for model in ("QIN", "QIN+")}
CASES |= {f"{model}, recorded": partial(captured, name=model) for model in FIXED}
CASES |= {
    "QIN, recorded, bf16": partial(captured, name="QIN", precision="bf16"),
    "QIN, recorded, averaged weights": partial(captured, name="QIN", weight_average=0.9),
    "QIN, recorded, dropout": partial(captured, name="QIN", net_dropout=0.1),
}
CASES |= {
    "experiment": experiment,
    "experiment of FuxiCTR's DIN": partial(experiment, expid="DIN_default", overrides=["epochs=1"]),
    "experiment, rows on the device": partial(experiment, resident=True),
    "experiment, averaged weights": partial(experiment, overrides=["weight_average=0.9"]),
    "experiment with a progress bar": partial(experiment, bar=True),
    "experiment, recorded, sent ahead": partial(
        experiment, lane=True, on_device=["cuda_graph=True"]
    ),
    "experiment, recorded, rows on the device": partial(
        experiment, resident=True, on_device=["cuda_graph=True"]
    ),
    "folded, rows": partial(folded, form="rows"),
    "folded, one user": partial(folded, form="user"),
    "folded, rows, bf16": partial(folded, form="rows", dtype=torch.bfloat16),
}
PLANTED_CASES = {
    name: partial(train, name=next(iter(MODELS)), mistake=mistake)
    for name, mistake in PLANTED.items()
}
PLANTED_CASES["wait_in_recording"] = partial(captured, name=FIXED[0], mistake=number_in_forward)
CASES |= PLANTED_CASES


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
