"""The ranking of a grid's trials."""

from __future__ import annotations

import pytest

from model_zoo.core.commands.tuning import Trial, rank_trials

NAN = float("nan")


@pytest.mark.parametrize(
    ("monitor", "mode", "order"),
    [
        ("gAUC", "max", ["high", "low", "undefined", "failed"]),
        ("logloss", "min", ["low", "high", "undefined", "failed"]),
        ({"gAUC": 1.0, "logloss": -0.1}, "max", ["high", "low", "undefined", "failed"]),
    ],
)
def test_trials_whose_monitor_is_nan_come_after_all_defined_ones(
    monitor: str | dict[str, float], mode: str, order: list[str]
) -> None:
    trials = [
        Trial("failed", {}, {}, error="out of memory"),
        Trial("undefined", {}, {"gAUC": NAN, "logloss": NAN}),
        Trial("low", {}, {"gAUC": 0.5, "logloss": 0.3}),
        Trial("high", {}, {"gAUC": 0.7, "logloss": 0.4}),
    ]
    for shift in range(4):
        ranked = rank_trials(trials[shift:] + trials[:shift], monitor, mode)
        assert [trial.expid for trial in ranked] == order
