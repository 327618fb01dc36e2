"""Whole experiments on the stand-in: ``run_expid.py --gpu 0``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.data.ahead import LANES, send
from model_zoo.core.prepare.demo import generate_demo
from model_zoo.core.training.captured import RECORDERS
from model_zoo.core.training.engine import TrainableModel
from tests.conftest import ROOT
from tests.gpu.device import StandIn
from tests.gpu.graph import StandInRecorder
from tests.gpu.report import Report, note


def experiment(
    report: Report,
    device: StandIn,
    folder: Path,
    *,
    expid: str = "QIN_test",
    resident: bool = False,
    bar: bool = False,
    lane: bool = False,
    overrides: Sequence[str] = (),
    on_device: Sequence[str] = (),
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
        if lane and self.device.type == "standin":
            assert {name: value.device.type for name, value in batch.items()} == dict.fromkeys(
                batch, "standin"
            ) | {"item_seq_length": "cpu"}
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
        settings += [*overrides, *(on_device if gpu == 0 else ())]
        with (
            chdir(folder),
            mock.patch.dict(RECORDERS, standin=StandInRecorder),
            mock.patch.dict(LANES, {"standin": StandInLane} if lane else {}),
            mock.patch.object(TrainableModel, "train_step", watched),
            mock.patch.object(sys.stdout, "isatty", lambda: bar),
            mock.patch.object(tqdm, "update", update_at_once if bar else update),
        ):
            results = run_experiment("config", expid, gpu, settings)
        report.numbers[where] = list(results["valid"].values())


class StandInLane:
    """Copies as a step would; time means nothing on the stand-in."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: send(tensor, self._device) for name, tensor in batch.items()}

    def receive(self, sent: dict[str, Tensor]) -> dict[str, Tensor]:
        return sent


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
