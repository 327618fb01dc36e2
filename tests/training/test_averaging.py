"""The averaged weights are the formula's, and they are what is evaluated and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.training.averaging import WARM_UP, WeightAverage
from tests.QIN.test_model import build


def test_the_average_is_the_formula() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average = WeightAverage(model, 0.8)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 60):
        model(torch.randn(5, 3).double())  # moves the batch statistics
        decay = min(0.8, step / (step + WARM_UP))
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter)
        average.update()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.in_place():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, expected[name])
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name])


def test_what_is_evaluated_and_saved_is_the_average(workspace: Path) -> None:
    """After one step the average lies between the weights."""
    settings = ["epochs=1", "batch_size=600", "learning_rate=0.1", "net_dropout=0"]
    weights = []
    for average in ("null", "0.5"):
        run_experiment("config", "QIN_test", overrides=[*settings, f"weight_average={average}"])
        saved = torch.load("checkpoints/MicroLens_demo/QIN_test.model", weights_only=True)
        weights.append(saved["qnn.output.bias"])
    # The bias begins at 0, so the share of the step that the average took is seen in it.
    torch.testing.assert_close(weights[1], weights[0] * (1 - 1 / (1 + WARM_UP)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_average": 1.0}, r"weight_average must be in \(0, 1\), got 1.0"),
        ({"weight_average": 0.9, "embedding_update": "lazy"}, "touches every row"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **settings)
