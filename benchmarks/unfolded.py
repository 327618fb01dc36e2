"""The baseline of ``benchmarks.serving --prediction``: the unfolded formulas, FuxiCTR's predict."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model_zoo.core.commands.cli import experiment_parser
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.commands.score_files import write_zip
from model_zoo.core.commands.scoring import open_rows
from model_zoo.core.data.spec import LENGTH_SUFFIX
from tests.oracles import PlainQIN


def main() -> None:
    arguments = experiment_parser(str(__doc__), Path("config")).parse_args()
    experiment = load_experiment(arguments.config, arguments.expid, arguments.overrides)
    experiment, _ = prepare_dataset(experiment, splits=("test",))
    model = build_model(experiment, build_feature_map(experiment.params), gpu=-1)
    model.load_weights(model.checkpoint)
    plain = PlainQIN(model).eval()
    slots = experiment.run.max_len

    def forward(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lengths = batch[model.history_col + LENGTH_SUFFIX]
        mask = torch.arange(slots) >= slots - lengths.unsqueeze(1)
        padded = torch.zeros(len(lengths), slots, dtype=torch.long)
        padded[mask] = batch[model.history_col].long()
        return {"y_pred": torch.sigmoid(plain({**batch, model.history_col: padded}))}

    model.forward = forward
    test = open_rows(experiment, model.feature_map, str(experiment.dataset.test_data))
    write_zip(Path("submission") / "unfolded.zip", [model.predict(test)], "Task2")


if __name__ == "__main__":
    sys.exit(main())
