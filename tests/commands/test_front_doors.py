"""The three commands end to end, the files they leave, and how they end when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import prediction
import run_expid
import run_param_tuner
from model_zoo.core.commands.experiment import run_experiment, use_device
from model_zoo.core.commands.score_files import write_zip
from model_zoo.core.errors import InputError
from tests.conftest import ROOT

ARGUMENTS = ["--config", "config", "--expid", "QIN_test"]


def files(folder: Path) -> set[str]:
    """Everything below a folder but the configuration and the data that were there before."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return {f for f in found if not f.startswith(("data/", "config/"))}


def test_train_then_predict(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_expid.main([*ARGUMENTS, "--gpu", "0", "--set", "epochs=2", "batch_size=100"]) == 0
    checkpoints = "checkpoints/MicroLens_demo/QIN_test"
    kinds = ("log", "model", "png", "calibration.png", "history.csv", "state", "state.previous")
    trained = {"config.csv", *(f"{checkpoints}.{kind}" for kind in kinds)}
    assert files(workspace) == trained
    assert Path(f"{checkpoints}.png").read_bytes().startswith(b"\x89PNG")

    log = Path(f"{checkpoints}.log").read_text()
    assert re.search(r"\[Oracle\] valid AUC 0\.\d+, best reachable 0\.\d+: .*% of the way", log)
    assert log.count("--gpu 0 runs on the CPU") == 1
    line = Path("config.csv").read_text()
    pattern = (
        r"^ \d{8}-\d{6},\[command\] python .*,\[exp_id\] QIN_test,\[dataset_id\] MicroLens_demo,"
        r"\[train\] N\.A\.,\[val\] AUC: 0\.\d{6} - logloss: \d\.\d{6},\[test\] \n$"
    )
    assert re.match(pattern, line)

    before = Path(f"{checkpoints}.log").read_bytes()
    assert prediction.main(ARGUMENTS) == 0
    assert files(workspace) == trained | {"submission/QIN_test.zip"}
    assert Path(f"{checkpoints}.log").read_bytes() == before
    with zipfile.ZipFile("submission/QIN_test.zip") as archive:
        assert archive.namelist() == ["prediction.csv"]
        scores = pl.read_csv(archive.read("prediction.csv"))
    assert scores.columns == ["ID", "Task2"]
    assert scores["ID"].to_list() == list(range(100))
    assert scores["Task2"].is_between(0, 1).all()


def test_a_labelled_test_split_is_evaluated(workspace: Path) -> None:
    oracle = pl.read_parquet("data/MicroLens_demo/oracle.parquet").filter(split="test")
    path = Path("data/MicroLens_demo/test.parquet")
    pl.read_parquet(path).with_columns(label=oracle["label"]).write_parquet(path)
    settings = ["metrics=[AUC, logloss, gAUC]", "group_id=user_id"]
    results = run_experiment("config", "QIN_test", overrides=settings)
    assert set(results["test"]) == set(results["valid"]) == {"AUC", "logloss", "gAUC"}
    assert "[test] AUC: 0." in Path("config.csv").read_text()


def test_a_wrong_oracle_is_refused_before_the_training(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/MicroLens_demo/oracle.parquet").write_bytes(b"PAR1")
    assert run_expid.main(ARGUMENTS) == 2
    assert "oracle.parquet: not a readable parquet file" in capsys.readouterr().err
    assert not {name for name in files(workspace) if name.endswith((".model", ".state", ".log"))}


def test_training_is_repeatable_by_seed(workspace: Path) -> None:
    first, second, other = (
        run_experiment("config", "QIN_test", overrides=[f"seed={seed}"]) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_the_demo_data_is_generated_on_first_use(tmp_path: Path) -> None:
    """In an empty folder, as a user would, from the shipped configuration."""
    small = "demo={num_users: 100, num_items: 120, train_rows: 300, valid_rows: 100, test_rows: 50}"
    columns = (ROOT / "config" / "dataset_config.yaml").read_text()
    (tmp_path / "my_config").mkdir()
    (tmp_path / "my_config" / "dataset_config.yaml").write_text(
        columns.replace("vocab_size: 2000", "vocab_size: 120")
    )
    models = (ROOT / "config" / "model_config.yaml").read_text()
    (tmp_path / "my_config" / "model_config.yaml").write_text(models)
    command = [sys.executable, str(ROOT / "run_expid.py"), "--expid", "QIN_test"]
    command += ["--config", "my_config", "--set", small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Generating MicroLens_demo" in done.stdout
    generated = {p.name for p in (tmp_path / "data" / "MicroLens_demo").iterdir()}
    assert generated == {
        f"{name}.parquet" for name in ("train", "valid", "test", "item_info", "oracle")
    }
    assert (tmp_path / "my_config.csv").is_file()


@pytest.mark.parametrize("main", [run_expid.main, prediction.main])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--expid", "QIN_tset"], "'QIN_tset' is not in config (did you mean 'QIN_test'?)"),
        (["--set", "epoch=1"], "epoch: unknown key (did you mean 'epochs'?)"),
        (["--set", "test_data=gone.parquet"], "gone.parquet: no such file"),
        (["--set", "factor=2."], "factor: Input should be less than or equal to 1, found 2.0"),
        (["--set", "net_dropout=1."], "dropout must be in [0, 1), got 1.0"),
        (["--config", "nowhere"], "nowhere: no model_config.yaml"),
    ],
)
def test_mistakes_end_with_one_message_and_code_2(
    workspace: Path, capsys: pytest.CaptureFixture[str], main, arguments: list[str], expected: str
) -> None:
    assert main([*ARGUMENTS, *arguments]) == 2
    errors = capsys.readouterr().err
    assert "error: " in errors
    assert expected in errors
    assert "Traceback" not in errors


def test_an_unwritable_output_folder(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("checkpoints").write_text("a file where a folder should be")
    assert run_expid.main(ARGUMENTS) == 2
    assert "checkpoints/MicroLens_demo: cannot write results there" in capsys.readouterr().err
    Path("submission").write_text("another")
    assert prediction.main(ARGUMENTS) == 2
    assert "submission: cannot write results there" in capsys.readouterr().err


def test_prediction_without_a_checkpoint(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prediction.main(ARGUMENTS) == 2
    assert "QIN_test.model: no such checkpoint; train it first" in capsys.readouterr().err
    assert files(workspace) == set()


def test_prediction_with_a_checkpoint_of_another_shape(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_expid.main(ARGUMENTS) == 0
    assert prediction.main([*ARGUMENTS, "--set", "embedding_dim=16"]) == 2
    errors = capsys.readouterr().err
    assert "has shape (120, 8), the model expects (120, 16)" in errors
    assert not Path("submission/QIN_test.zip").exists()


def test_an_evaluation_that_would_never_come(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_expid.main([*ARGUMENTS, "--set", "eval_steps=50"]) == 2
    assert "eval_steps is 50, but the training has 1 steps" in capsys.readouterr().err


def test_a_diverging_training_ends_with_a_message(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["learning_rate=1.e+30", "batch_norm=False", "epochs=3"]
    assert run_expid.main([*ARGUMENTS, "--set", *settings]) == 2
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.zip"
    with pytest.raises(InputError, match=r"a\.zip: row 1: score .* expected a probability"):
        write_zip(path, [np.array([0.5]), np.array([value, 0.1])], "Task2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["Task1", "Task2", "Task1&2"])
def test_the_column_of_each_task(tmp_path: Path, task: str) -> None:
    write_zip(tmp_path / "a.zip", [np.array([0.25]), np.array([0.5])], task)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("prediction.csv").decode() == f"ID,{task}\n0,0.25\n1,0.5\n"


@pytest.mark.parametrize("script", ["run_expid.py", "prediction.py", "run_param_tuner.py"])
def test_help(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = {"run_expid.py": run_expid, "prediction.py": prediction}.get(script, run_param_tuner)
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    assert "--gpu" in capsys.readouterr().out


def test_the_device_asked_for_becomes_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for gpu in (-1, 1):
        use_device(gpu)
    assert used == [1]
    with pytest.raises(InputError, match=r"^--gpu 2: expected 0\.\.1, or -1$"):
        use_device(2)
