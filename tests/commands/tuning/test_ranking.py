"""The ranking: by mean, undefined and failed last, and what the seeds' spread says."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_zoo.core.commands.tuning.ranking import rank
from model_zoo.core.commands.tuning.results import ranked_table, winner
from model_zoo.core.errors import InputError
from tests.commands.tuning.made import finished, grid, other

NAN = float("nan")


@pytest.mark.parametrize(
    ("monitor", "mode", "order"),
    [
        ("AUC", "max", ["high", "low", "pruned", "undefined", "failed"]),
        ("logloss", "min", ["low", "high", "pruned", "undefined", "failed"]),
        ({"AUC": 1.0, "logloss": -0.1}, "max", ["high", "low", "pruned", "undefined", "failed"]),
    ],
)
def test_trials_whose_monitor_is_nan_come_after_all_defined_ones(
    workspace: Path, monitor: str | dict[str, float], mode: str, order: list[str]
) -> None:
    space = {"num_row": [1, 2, 3, 4, 5], "monitor": monitor, "monitor_mode": mode}
    names = ["failed", "undefined", "low", "pruned", "high"]
    trials = dict(zip(names, grid(space), strict=True))
    outcomes = {
        "failed": other(trials["failed"], "failed", "out of memory"),
        "undefined": finished(trials["undefined"], AUC=NAN, logloss=NAN),
        "low": finished(trials["low"], AUC=0.5, logloss=0.3),
        "pruned": other(trials["pruned"], "pruned", AUC=0.9, logloss=0.1),
        "high": finished(trials["high"], AUC=0.7, logloss=0.4),
    }
    for shift in range(5):
        shifted = names[shift:] + names[:shift]
        places = rank([outcomes[name] for name in shifted])
        ranked = [place.outcomes[0].trial.expid for place in places]
        assert ranked == [trials[name].expid for name in order]


def test_seeds_are_ranked_by_their_mean_and_closer_than_their_spread_is_no_difference(
    workspace: Path,
) -> None:
    trials = grid({"num_row": [1, 2, 3], "seed": [5, 6, 7]})
    values = {1: (0.70, 0.72, 0.74), 2: (0.71, 0.73, 0.75), 3: (0.60, 0.601, 0.602)}
    outcomes = [
        finished(trial, AUC=values[trial.settings["num_row"]][trial.seed - 5], logloss=0.5)
        for trial in trials
    ]
    places = rank(outcomes)
    assert [place.settings["num_row"] for place in places] == [2, 1, 3]
    assert [place.mean for place in places] == pytest.approx([0.73, 0.72, 0.601])
    assert [place.spread for place in places] == pytest.approx([0.02, 0.02, 0.001])
    assert [place.no_difference for place in places] == [False, True, False]
    table = ranked_table(places, ["num_row"]).splitlines()
    assert [line.split()[:2] for line in table[1:4]] == [
        ["1", places[0].group],
        ["2", "="],
        ["3", places[2].group],
    ]
    assert "0.730000" in table[1] and "0.020000" in table[1] and "3 of 3" in table[1]
    assert table[4].startswith("= : no difference from the first")
    assert winner(places).trial.seed == 7  # the best of the first place, whose weights are kept


def test_a_seed_that_failed_is_left_out_of_the_mean_and_shown(workspace: Path) -> None:
    trials = grid({"num_row": [1], "seed": [1, 2, 3]})
    outcomes = [
        other(trials[0], "failed", "Traceback", "torch.OutOfMemoryError: 2 GiB"),
        finished(trials[1], AUC=0.6),
        finished(trials[2], AUC=0.7),
    ]
    (place,) = rank(outcomes)
    assert place.mean == pytest.approx(0.65)
    row = ranked_table([place], []).splitlines()[1]
    assert "2 of 3" in row and "failed: torch.OutOfMemoryError: 2 GiB" in row


def test_no_finished_trial_is_no_ranking(workspace: Path) -> None:
    trials = grid({"num_row": [1, 2]})
    places = rank([other(trial, "failed", "killed") for trial in trials])
    with pytest.raises(InputError, match="no trial finished") as error:
        winner(places)
    assert error.value.problems[1] == f"{trials[0].expid} (num_row=1) failed: killed"
