"""What an undefined monitor does to training: patience, learning rate, weights, log."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from model_zoo.core.commands.experiment import run_experiment
from tests.conftest import edit_yaml
from tests.QIN.test_model import build

NAN = float("nan")


def begin(tmp_path: Path, **settings: Any) -> Any:
    """A model as FuxiCTR's ``fit`` leaves it before the first step."""
    model = build(tmp_path, **settings)
    Path(model.checkpoint).parent.mkdir(parents=True, exist_ok=True)
    model._best_metric = math.inf if model._monitor_mode == "min" else -math.inf
    model._stopping_steps, model._stop_training, model._epoch_index = 0, False, 0
    model._steps_per_epoch = 1
    return model


def mark(model: Any, value: float) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(value)


def saved(model: Any) -> float:
    name = next(iter(model.named_parameters()))[0]
    return float(torch.load(model.checkpoint, weights_only=True)[name].flatten()[0])


MONITORS = [
    ("gAUC", "max", {"gAUC": NAN}, {"gAUC": 0.5}),
    ("logloss", "min", {"logloss": NAN}, {"logloss": 0.5}),
    ({"gAUC": 1.0, "AUC": 2.0}, "max", {"gAUC": NAN, "AUC": 0.9}, {"gAUC": 0.5, "AUC": 0.5}),
]
over_monitors = pytest.mark.parametrize(("monitor", "mode", "undefined", "defined"), MONITORS)


@over_monitors
def test_patience_and_learning_rate_act_on_nan(
    tmp_path: Path,
    monitor: Any,
    mode: str,
    undefined: dict[str, float],
    defined: dict[str, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No evaluation is ever defined: the last weights are saved, and the log says so."""
    model = begin(tmp_path, monitor=monitor, monitor_mode=mode, early_stop_patience=2)
    with caplog.at_level(logging.INFO):
        for step in (1, 2):
            assert not model._stop_training
            mark(model, step)
            model.checkpoint_and_earlystop(undefined)
            assert saved(model) == step
    assert model._stop_training
    assert model.learning_rate == pytest.approx(0.25e-2)
    assert "Save last weights: the monitor has been undefined so far" in caplog.text
    assert "Save best model" not in caplog.text


@over_monitors
def test_nan_is_neither_better_nor_a_record(
    tmp_path: Path,
    monitor: Any,
    mode: str,
    undefined: dict[str, float],
    defined: dict[str, float],
) -> None:
    """Undefined, defined, undefined, a worse one: the defined one's weights stay."""
    model = begin(tmp_path, monitor=monitor, monitor_mode=mode, early_stop_patience=9)
    worse = {name: value + (0.1 if mode == "min" else -0.1) for name, value in defined.items()}
    stopping = []
    for step, logs in enumerate([undefined, defined, undefined, worse], 1):
        mark(model, step)
        model.checkpoint_and_earlystop(logs)
        stopping.append(model._stopping_steps)
    assert stopping == [1, 0, 1, 2]
    assert saved(model) == 2


def test_the_log_says_once_why_a_metric_is_undefined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(tmp_path)
    rows = (np.array([1.0, 0.0]), np.array([0.5, 0.6]), ["gAUC", "AUC"], np.array([1, 2]))
    for _ in range(2):
        assert math.isnan(model.evaluate_metrics(*rows)["gAUC"])
    assert [record.message for record in caplog.records] == [
        "gAUC is undefined (NaN): none of the 2 groups has both a click and a row without one"
    ]


def test_a_training_whose_monitor_is_undefined_ends(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every row of valid is a group of its own; an older checkpoint must not come back."""
    for split in ("valid", "test"):
        path = workspace / "data" / "MicroLens_demo" / f"{split}.parquet"
        rows = pl.read_parquet(path)
        column = pl.int_range(pl.len(), dtype=rows.schema["user_id"]).alias("user_id")
        rows.with_columns(column).write_parquet(path)
    edit_yaml(
        workspace / "config" / "model_config.yaml",
        lambda c: c["QIN_test"].update(
            group_id="user_id",
            monitor="gAUC",
            metrics=["gAUC", "AUC", "logloss"],
            epochs=6,
            early_stop_patience=2,
        ),
    )
    results = run_experiment("config", "QIN_test", gpu=-1)
    assert math.isnan(results["valid"]["gAUC"])
    history = pl.read_csv(next(workspace.rglob("*.history.csv")))
    assert len(history) == 2
    rates = history["learning_rate"].to_list()
    assert rates[1] == pytest.approx(rates[0] / 2)
    assert results["valid"]["AUC"] == pytest.approx(history["AUC"][-1])
    log = next(workspace.rglob("QIN_test.log")).read_text()
    assert log.count("gAUC is undefined (NaN): none of the 200 groups") == 1
