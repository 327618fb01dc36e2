"""Which trials are stopped for being weak, and what is drawn where others were good."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from model_zoo.core.commands.tuning.drawing import Points
from model_zoo.core.commands.tuning.local import begin
from model_zoo.core.commands.tuning.pruning import Rungs, stopped
from model_zoo.core.commands.tuning.records import Record, history_file
from model_zoo.core.commands.tuning.trial import Trial
from model_zoo.core.commands.tuning.tuner_file import read_space
from tests.commands.tuning.made import finished, grid, other, tuner_file, write

pytest.importorskip("optuna", reason="no Optuna: pip install '.[tune]'")
pytest.importorskip("ray.tune", reason="no Ray Tune: pip install '.[tune]'")

EPOCHS = 10
SPACE = {"learning_rate": [i * 1e-3 for i in range(1, 10)], "epochs": [EPOCHS]}


def evaluated(trial: Trial, *values: float) -> Trial:
    """The trial, with evaluations after each of its epochs."""
    rows = [f"{epoch}.0,{value},{1 - value}" for epoch, value in enumerate(values, 1)]
    history_file(trial).parent.mkdir(parents=True, exist_ok=True)
    history_file(trial).write_text("\n".join(["epoch,AUC,logloss", *rows]) + "\n")
    return trial


@pytest.mark.parametrize("monitor", ["AUC", "logloss"])
def test_weak_is_what_is_worse_than_two_thirds_at_its_rung(workspace: Path, monitor: str) -> None:
    mode = "max" if monitor == "AUC" else "min"
    trials = grid({**SPACE, "monitor": [monitor], "monitor_mode": [mode]})
    drawn = random.Random(7)
    rungs, before = Rungs(EPOCHS, []), {1: [], 3: [], 9: []}
    verdicts = set()
    for trial in trials:
        assert not rungs.is_weak(trial)  # it has only begun
        values: list[float] = []
        for epoch in range(1, EPOCHS + 1):
            values.append(drawn.random())
            weak = rungs.is_weak(evaluated(trial, *values))
            at = before.get(epoch)
            assert weak == bool(at and values[-1] < np.percentile(at, 100 * 2 / 3)), (epoch, at)
            verdicts.add(weak)
            if at is not None:
                at.append(values[-1])
            if weak:
                break
    assert verdicts == {True, False}
    assert not rungs.is_weak(trials[0])  # nothing new


def test_after_a_restart_trials_are_compared_with_those_of_before(workspace: Path) -> None:
    trials = grid(SPACE)
    values = [0.6] * 9
    known = [(evaluated(trials[0], *values), finished(trials[0], AUC=0.9).record)]
    assert not Rungs(EPOCHS, []).is_weak(evaluated(trials[1], 0.55))
    assert Rungs(EPOCHS, known).is_weak(trials[1])
    # One that ended early of its own stands at the rungs that it did not come to.
    known = [(evaluated(trials[0], 0.5, 0.6, 0.5), finished(trials[0], AUC=0.6).record)]
    rungs = Rungs(EPOCHS, known)
    assert not rungs.is_weak(evaluated(trials[1], *[0.59] * 8))
    assert rungs.is_weak(evaluated(trials[1], *[0.59] * 9))
    # An evaluation that has no monitor is the weakest.
    assert rungs.is_weak(evaluated(trials[2], math.nan))


def test_a_stopped_trial_counts_with_its_best_evaluation(workspace: Path) -> None:
    one, two = grid(SPACE)[:2]
    write(Path("tune"), other(one, "started"), finished(two, AUC=0.7))
    evaluated(one, 0.5, 0.8, 0.6)
    assert stopped(Path("tune"), one).metrics == {"valid": {"AUC": 0.8, "logloss": 1 - 0.8}}
    assert stopped(Path("tune"), one).status == "pruned"
    assert stopped(Path("tune"), two).status == "finished"  # before it could be stopped


def test_evaluations_of_a_removed_search_are_not_a_new_trials(workspace: Path) -> None:
    trial = evaluated(grid(SPACE)[0], 0.9)
    begin(Path("tune"), trial, -1, 1)
    assert not history_file(trial).exists()
    evaluated(trial, 0.9)
    begin(Path("tune"), trial, -1, 1)  # it goes on
    assert history_file(trial).exists()


def test_points_are_drawn_where_others_were_good(workspace: Path) -> None:
    rate = {"low": 1e-4, "high": 1e-1, "log": True}
    space = read_space(tuner_file(tuner_space={"learning_rate": rate, "seed": [1, 2]}))

    def search(points: Points) -> list[Trial]:
        drawn = []
        while trials := points.draw():
            assert [trial.seed for trial in trials] == [1, 2]
            drawn.append(trials[0])
            for trial in trials:
                off = abs(math.log10(trial.settings["learning_rate"]) + 2.5)
                points.ended(trial, finished(trial, AUC=0.9 - off / 10).record)
        return drawn

    drawn = search(Points(space, 40, [], []))
    assert len({trial.group for trial in drawn}) == 40
    off = [abs(math.log10(trial.settings["learning_rate"]) + 2.5) for trial in drawn]
    assert np.median(off[-20:]) < 0.5 * np.median(off[:10])  # the first ten are by chance
    # A further search begins with what is known, here that all is best at the lower end.
    known = [
        (trial, Record(trial.expid, "finished", metrics={"valid": {"AUC": -math.log(value)}}))
        for value in np.geomspace(1e-4, 1e-1, 20)
        for trial in space.trials(None, {"learning_rate": float(value)})
    ]
    assert np.median([t.settings["learning_rate"] for t in search(Points(space, 9, known, []))]) < (
        5e-4
    )


def test_no_point_is_drawn_twice(workspace: Path) -> None:
    space = read_space(tuner_file(tuner_space={"num_row": [1, 2, 3, 4]}))
    ended, begun = space.grid()[:2]
    points = Points(space, 10, [(ended, finished(ended, AUC=0.9).record)], [begun])
    found = [points.draw() for _ in range(3)]
    assert sorted(t.settings["num_row"] for trials in found for t in trials) == [3, 4]
    assert found[2] == []


def test_a_point_that_cannot_work_is_said_and_left_out(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = read_space(
        tuner_file(tuner_space={"optimizer": ["adam", "nothing"], "num_row": [1, 2]})
    )
    points = Points(space, 4, [], [])
    found = [points.draw() for _ in range(3)]
    assert [len(trials) for trials in found] == [1, 1, 0]
    assert {trials[0].settings["optimizer"] for trials in found[:2]} == {"adam"}
    assert "not trained: " in capsys.readouterr().out
