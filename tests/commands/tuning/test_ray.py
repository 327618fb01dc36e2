"""Searches on Ray: results as without it, points drawn by Optuna, weak trials stopped."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import run_param_tuner
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.tuning.ranges import Range
from model_zoo.core.commands.tuning.records import record_files
from model_zoo.core.commands.tuning.sampling import drawn_before, random_trials
from model_zoo.core.commands.tuning.tuner_file import read_space
from tests.commands.tuning.made import lines, tuner_file
from tests.commands.tuning.test_interrupted import (
    processes_here,
    status,
    wait_for_no_process_but,
    wait_until,
)
from tests.conftest import ROOT

pytest.importorskip("optuna", reason="no Optuna: pip install '.[tune]'")
pytest.importorskip("ray.tune", reason="no Ray Tune: pip install '.[tune]'")

CLUSTER = """
import ray, sys
ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
print("at", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
RANGES = {
    "learning_rate": {"low": 1.0e-3, "high": 1.0e-2, "log": True},
    "num_row": {"low": 1, "high": 3},
    "net_dropout": [0.0, 0.2],
}
SAME = ("rank", "trial", "status", "num_row", "valid AUC", "valid logloss", "epochs", "failures")


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """A Ray of another process's on this machine; gives the environment to reach it with."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **token, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        address = next(line for line in said if line.startswith("at ")).split()[1]
        yield {**environment, "RAY_ADDRESS": address}
        process.communicate("")


def tune(name: str, *options: str) -> int:
    return run_param_tuner.main(["--config", f"{name}.yaml", "--gpu", "-1", "-1", *options])


@pytest.mark.slow
def test_a_grid_on_a_cluster_is_interrupted_and_then_gives_the_local_ranking(
    workspace: Path, cluster: dict[str, str]
) -> None:
    space = {"learning_rate": [0.004, 1e30], "num_row": [1, 2], "batch_size": 50}
    tuner_file("local.yaml", tuner_space=space)
    tuner_file("there.yaml", tuner_space={**space, "model_root": "elsewhere"})
    assert tune("local") == 0
    command = [sys.executable, str(ROOT / "run_param_tuner.py"), "--config", "there.yaml", "--ray"]
    here_before = processes_here()
    search = subprocess.Popen([*command, "auto"], env=cluster, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "started" in status("there"), search)
    search.send_signal(signal.SIGINT)
    _, error = search.communicate()
    assert search.returncode == 130, error
    assert "stopped by SIGINT; the same command goes on from there\n" in error
    assert "started" in status("there") and not Path("there/ray").exists()
    wait_for_no_process_but(here_before)

    def there(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], env=cluster, capture_output=True, text=True)

    done = there("auto")
    assert done.returncode == 0, done.stdout + done.stderr
    local, ranked = lines(Path("local")), lines(Path("there"))
    assert [line["status"] for line in local] == ["finished"] * 2 + ["failed"] * 2
    assert [{k: line[k] for k in SAME} for line in ranked] == [
        {k: line[k] for k in SAME} for line in local
    ]
    assert not Path("there/ray").exists()
    done = there(cluster["RAY_ADDRESS"], "--trial-cpus", "64")
    assert done.returncode == 2
    assert "error: a trial needs 64 CPU, but Ray has 2 in all" in done.stderr


@pytest.mark.slow
def test_optuna_draws_points_and_weak_trials_are_stopped(
    workspace: Path, cluster: dict[str, str]
) -> None:
    space = {**RANGES, "seed": [1, 2], "epochs": 4, "batch_size": 50, "early_stop_patience": 9}
    tuner_file("drawn.yaml", tuner_space=space)
    command = [sys.executable, str(ROOT / "run_param_tuner.py"), "--config", "drawn.yaml"]
    command += ["--sampler", "tpe", "--trials", "3", "--prune", "--ray", "auto"]
    done = subprocess.run(command, env=cluster, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first = lines(Path("drawn"))
    check_drawn(first)
    # Without Ray: those of before stay, and what was stopped goes on without --prune.
    assert tune("drawn", "--sampler", "tpe", "--trials", "4") == 0
    second = lines(Path("drawn"))
    assert {line["trial"] for line in first} < {line["trial"] for line in second}
    assert [line["status"] for line in second] == ["finished"] * 8


def check_drawn(found: list[dict[str, str]]) -> None:
    assert len(found) == 6
    assert {line["status"] for line in found} <= {"finished", "pruned"}
    for line in found:
        run = load_experiment("drawn", line["trial"]).params
        assert 1e-3 <= run["learning_rate"] <= 1e-2 and run["num_row"] in (1, 2, 3)
        assert run["learning_rate"] == float(line["learning_rate"])
        assert line["status"] == "pruned" or float(line["epochs"]) == 4


def test_an_actor_made_ahead_starts_no_training(workspace: Path) -> None:
    from model_zoo.core.commands.tuning.ray_trainable import TunedTrial

    space = read_space(tuner_file(tuner_space={"num_row": [1, 2]}))
    job = {"space": space, "folder": "made", "cwd": ".", "gpu": -1, "threads": 1, "retries": 0}
    one, two = ({"point": json.dumps({"settings": {"num_row": rows}})} for rows in (1, 2))
    actor = TunedTrial.__new__(TunedTrial)
    actor.setup(one, job)
    actor.reset_config(two)
    assert not record_files(Path("made"))
    actor.cleanup()


def test_random_points_are_the_first_of_more(workspace: Path) -> None:
    space = read_space(tuner_file(tuner_space=RANGES))
    few, more = random_trials(space, 5), random_trials(space, 9)
    assert [trial.expid for trial in more[:5]] == [trial.expid for trial in few]
    assert len({trial.expid for trial in more}) == 9
    for trial in more:
        assert isinstance(space.varied[None]["num_row"], Range)
        assert trial.settings["num_row"] in (1, 2, 3)
        assert 1e-3 <= trial.settings["learning_rate"] <= 1e-2
        # What a search knows of a point is what was drawn for it.
        drawn = drawn_before(space, trial.settings)
        assert drawn is not None and drawn["learning_rate"] == trial.settings["learning_rate"]
    small = read_space(tuner_file(tuner_space={"num_row": [1, 2, 3]}))
    assert len(random_trials(small, 10)) == 3


def test_points_of_several_models(workspace: Path) -> None:
    models = {
        "model": ["QIN", "LongCTR/DIN"],
        "learning_rate": [0.001, 0.002],
        "QIN": {"num_row": [1, 2]},
        "LongCTR/DIN": {"dnn_hidden_units": [[8], [4]]},
    }
    trials = random_trials(read_space(tuner_file(tuner_space=models)), 8)
    assert len({trial.expid for trial in trials}) == 8
    assert sum(trial.settings["model"] == "QIN" for trial in trials) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: cannot be reached"),
        (["--ray", "nowhere"], "--ray nowhere: expected auto, or HOST:PORT"),
        (["--prune"], "--prune: a trial of 1 epoch ends before it could be stopped"),
        (["--sampler", "tpe"], "--sampler tpe and --trials: say how many points"),
        (["--trials", "3"], "--sampler grid and --trials: a grid has as many as it has"),
        (["--sampler", "random", "--trials", "0"], "--trials 0: expected 1 or more"),
        (["--ray", "127.0.0.1:1", "--trial-gpus", "-1"], "--trial-gpus -1.0: expected 0"),
        (["--gpu", "-1", "5"], "--gpu 5: no such device"),
        (["--trial-cpus", "2"], "--trial-cpus: that is for trials on --ray"),
    ],
)
def test_mistakes_in_the_options(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    tuner_file(tuner_space={"num_row": [1, 2]})
    assert run_param_tuner.main(["--config", "tune.yaml", *options]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("tune").exists()


@pytest.mark.parametrize("known_by", ["RAY_ADDRESS", "ray_current_cluster"])
def test_a_ray_that_was_killed(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    known_by: str,
) -> None:
    tuner_file(tuner_space={"num_row": [1, 2]})
    monkeypatch.setenv("RAY_TMPDIR", str(workspace))
    if known_by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        Path("ray").mkdir()
        Path("ray", known_by).write_text("127.0.0.1:1")
    assert run_param_tuner.main(["--config", "tune.yaml", "--ray", "auto"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --ray auto: ") and known_by in said
    assert "127.0.0.1:1" in said and "cannot be reached: " in said
    assert said.count("\n") == 1
    assert not Path("tune").exists()


def test_no_ray_runs(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if any("gcs_server" in process.name() for process in psutil.process_iter()):
        pytest.skip("a Ray runs on this machine")
    tuner_file(tuner_space={"num_row": [1, 2]})
    monkeypatch.setenv("RAY_TMPDIR", str(workspace))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run_param_tuner.main(["--config", "tune.yaml", "--ray", "auto"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --ray auto: no Ray answers: Could not find any running Ray")
    assert said.count("\n") == 1
    assert not Path("tune").exists()


def test_what_to_install(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    tuner_file(tuner_space={"num_row": [1, 2], "epochs": 2})
    for options in (["--prune"], ["--sampler", "random", "--trials", "2"], ["--ray", "auto"]):
        assert run_param_tuner.main(["--config", "tune.yaml", *options]) == 2
        error = capsys.readouterr().err
        assert "needs Ray Tune and Optuna: pip install '.[tune]'" in error
