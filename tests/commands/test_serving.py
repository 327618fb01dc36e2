"""Calibrating, scoring any file, folding and exporting, from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

import prediction
import run_expid
from model_zoo.core.commands import serving
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.commands.scoring import open_rows
from model_zoo.core.serving.scorer import Scorer
from tests.conftest import ROOT, edit_yaml

ARGUMENTS = ["--config", "config", "--expid", "QIN_test"]
FOLDER = Path("checkpoints/MicroLens_demo")
LEARNS = ["--set", "epochs=2", "batch_size=64"]  # enough to rank clicks
TEST = Path("data/MicroLens_demo/test.parquet")


@pytest.fixture
def trained(workspace: Path) -> Path:
    assert run_expid.main([*ARGUMENTS, *LEARNS]) == 0
    return workspace


def unfolded_scores(expid: str = "QIN_test", settings: Sequence[str] = ()) -> np.ndarray:
    """What FuxiCTR's predict gives for the test split."""
    experiment, _ = prepare_dataset(load_experiment("config", expid, list(settings)))
    model = build_model(experiment, build_feature_map(experiment.params), gpu=-1)
    model.load_weights(model.checkpoint)
    return model.predict(open_rows(experiment, model.feature_map, TEST))


def test_the_submission_is_the_models_prediction(trained: Path) -> None:
    assert prediction.main(ARGUMENTS) == 0
    with zipfile.ZipFile("submission/QIN_test.zip") as archive:
        scores = pl.read_csv(archive.read("prediction.csv"))
    np.testing.assert_allclose(scores["Task2"], unfolded_scores(), atol=1e-5)


@pytest.mark.parametrize("source", ["new.parquet", "new.csv"])
@pytest.mark.parametrize("target", ["scores.parquet", "scores.csv"])
def test_any_file_is_scored(trained: Path, source: str, target: str) -> None:
    """Without label and user id; a csv with its lists as text."""
    rows = pl.read_parquet(TEST).drop("user_id", "label", strict=False)
    if source.endswith("csv"):
        lists = pl.col("item_seq").list.eval(pl.element().cast(pl.String)).list.join("^")
        rows.with_columns(lists).write_csv(source)
    else:
        rows.write_parquet(source)
    command = [*ARGUMENTS, "--input", source, "--output", f"out/{target}", "--explain"]
    assert prediction.main(command) == 0
    assert [p.name for p in Path("out").iterdir()] == [target]
    path = Path("out") / target
    scores = pl.read_csv(path) if target.endswith("csv") else pl.read_parquet(path)
    assert scores.columns == ["ID", "probability", "history", "attention"]
    assert scores["ID"].to_list() == list(range(100))
    np.testing.assert_allclose(scores["probability"], unfolded_scores(), atol=1e-5)
    history = [[item for item in items if item][-32:] for items in rows["item_seq"].to_list()]
    if target.endswith("csv"):
        texts = scores["history"].fill_null("").to_list()
        assert [[int(item) for item in text.split()] for text in texts] == history
    else:
        assert scores["history"].to_list() == history
        assert [len(w) for w in scores["attention"].to_list()] == [len(h) for h in history]
        assert scores["attention"].explode().min() == 0


def test_however_a_list_is_written_the_score_is_the_same(trained: Path) -> None:
    rows = pl.read_parquet(TEST).drop("user_id", "label", strict=False)
    lists = rows["item_seq"].to_list()
    forms = [
        [str(items) for items in lists],
        [str([float(item) for item in items]) for items in lists],
        [repr([np.int64(item) for item in items]) for items in lists],
        [str(np.array(items)) for items in lists],
        [repr(np.array(items)) for items in lists],
        [";".join(map(str, items)) for items in lists],
    ]
    texts = [cell[row % len(forms)] for row, cell in enumerate(zip(*forms, strict=True))]
    floats = pl.col("item_id").cast(pl.Float64)
    rows.with_columns(pl.Series("item_seq", texts), floats).write_csv("forms.csv")
    assert prediction.main([*ARGUMENTS, "--input", "forms.csv", "--output", "scores.csv"]) == 0
    scores = pl.read_csv("scores.csv")["probability"]
    np.testing.assert_allclose(scores, unfolded_scores(), atol=1e-5)


def test_qin_plus_from_training_to_explained_scores(workspace: Path) -> None:
    """With rescaled vectors, a calibration map, in full and without the first layer's table."""
    settings = ["embedding_dim=8", "max_len=6", "epochs=2", "batch_size=64"]
    arguments = ["--config", "config", "--expid", "QIN_plus_default", "--set", *settings]
    assert run_expid.main([*arguments, "--calibrate", "platt"]) == 0
    expected = unfolded_scores("QIN_plus_default", settings)
    assert expected.std() > 0.01
    history = [[item for item in items if item][-6:] for items in pl.read_parquet(TEST)["item_seq"]]
    command = [*arguments, "--input", str(TEST), "--output", "scores.parquet", "--explain"]
    for fold in ([], ["--small"]):
        assert serving.main(["fold", *arguments, *fold]) == 0
        assert prediction.main(command) == 0
        scores = pl.read_parquet("scores.parquet")
        np.testing.assert_allclose(scores["probability"], expected, atol=1e-5)
        assert scores["history"].to_list() == history
        assert [len(w) for w in scores["attention"].to_list()] == [len(h) for h in history]
        assert scores["attention"].explode().max() > 0
    assert prediction.main([*command, "--calibrated"]) == 0
    mapped = pl.read_parquet("scores.parquet")["probability"]
    assert not np.allclose(mapped, expected, atol=1e-4)
    assert (mapped[np.argsort(expected)].diff().drop_nulls() >= -1e-6).all()
    scorer = Scorer.load(FOLDER / "QIN_plus_default.folded")
    rows = pl.read_parquet(TEST)
    context = {name: rows[name].to_list() for name in scorer.context_features}
    online = scorer.score_batch(rows["item_seq"].to_list(), rows["item_id"].to_list(), context)
    np.testing.assert_allclose(online, expected, atol=1e-5)
    assert serving.main(["export", *arguments, "--format", "torch"]) == 0
    assert (FOLDER / "QIN_plus_default.export.pt2").is_file()


def test_raw_ids_are_scored(workspace: Path) -> None:
    """A data set with text ids: new rows, an unseen row feature, history in raw ids."""
    folder = workspace / "data" / "MicroLens_demo"
    (workspace / "data" / "raw").mkdir()
    text = pl.col("item_id").cast(pl.String)
    lists = pl.col("item_seq").list.eval(pl.element().filter(pl.element() != 0).cast(pl.String))
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(folder / f"{split}.parquet").with_columns(text, lists)
        frame.write_parquet(workspace / "data" / "raw" / f"{split}.parquet")
    items = pl.read_parquet(folder / "item_info.parquet").slice(1).with_columns(text)
    items.write_parquet(workspace / "data" / "raw" / "item_info.parquet")

    def raw(config: dict) -> None:
        dataset = config["MicroLens_demo"]
        del dataset["oracle"], dataset["demo"]
        dataset |= {"rebuild_dataset": True, "data_root": "./encoded/"}
        for name in ("train", "valid", "test"):
            dataset[f"{name}_data"] = f"./data/raw/{name}.parquet"
        dataset["item_info"] = "./data/raw/item_info.parquet"
        for column in dataset["feature_cols"]:
            column.pop("vocab_size", None)
            if column["name"] in ("item_id", "item_seq"):
                column["dtype"] = "str"
                column.pop("max_len", None)

    edit_yaml(workspace / "config" / "dataset_config.yaml", raw)
    assert run_expid.main([*ARGUMENTS, "--calibrate", "isotonic"]) == 0
    rows = pl.read_parquet("data/raw/test.parquet").drop("user_id")
    rows.write_parquet("new.parquet")
    command = [*ARGUMENTS, "--input", "new.parquet", "--output", "scores.parquet", "--explain"]
    assert prediction.main(command) == 0
    scores = pl.read_parquet("scores.parquet")
    scorer = Scorer.load(FOLDER / "QIN_test.folded")
    context = {name: rows[name].to_list() for name in scorer.context_features}
    online = scorer.score_batch(rows["item_seq"].to_list(), rows["item_id"].to_list(), context)
    np.testing.assert_allclose(online, scores["probability"], atol=1e-6)
    seen = [items[-32:] for items in rows["item_seq"].to_list()]
    assert scores["history"].to_list() == seen


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibrating_reports_and_stores_a_map(workspace: Path, kind: str) -> None:
    assert run_expid.main([*ARGUMENTS, "--calibrate", kind, *LEARNS]) == 0
    log = (FOLDER / "QIN_test.log").read_text()
    figures = r"predicted / observed clicks \d\.\d{3}, expected calibration error 0\.\d{4}, logloss"
    assert len(re.findall(rf"\[Calibration\] .*{figures}", log)) == 3
    for calibrated in ([], ["--calibrated"]):
        output = f"scores{len(calibrated)}.parquet"
        command = [*ARGUMENTS, "--input", str(TEST), "--output", output, *calibrated]
        assert prediction.main(command) == 0
    plain, mapped = (pl.read_parquet(f"scores{i}.parquet")["probability"] for i in (0, 1))
    assert not np.allclose(plain, mapped)
    order = plain.arg_sort()
    assert (mapped[order].diff().drop_nulls() >= 0).all()


def test_a_map_of_another_checkpoint_is_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_expid.main([*ARGUMENTS, "--calibrate", "platt", *LEARNS]) == 0
    assert run_expid.main([*ARGUMENTS, "--set", "seed=7"]) == 0
    assert prediction.main([*ARGUMENTS, "--calibrated"]) == 2
    error = capsys.readouterr().err
    assert "no calibration map of the checkpoint" in error
    assert not Path("submission/QIN_test.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "a.parquet"], "--input and --output go together"),
        (["--explain"], "--explain needs --input and --output"),
        (["--input", "a.txt", "--output", "b.csv"], "a.txt: expected a file named *.parquet, *"),
        (["--input", "gone.csv", "--output", "b.csv"], "gone.csv: not a readable csv file"),
        (["--input", "gone.parquet", "--output", "b.csv"], "gone.parquet: no such file"),
        (["--input", "short.parquet", "--output", "b.csv"], "short.parquet: not a readable"),
        (["--input", "range.parquet", "--output", "b.csv"], "'item_id', row 1: found 120"),
        (["--input", "text.csv", "--output", "b.csv"], "'item_id', row 0: found 'seven'"),
        (["--input", "lacks.csv", "--output", "b.csv"], "column 'views_level' is missing"),
        (["--input", "hole.csv", "--output", "b.csv"], "'item_seq', row 1: found '[nan, 1.0]'"),
        (["--input", "few.csv", "--output", "b.csv"], "few.csv: row 1 (the first is 0): found 3"),
        (["--calibrated"], "QIN_test.folded: no such folded model"),
    ],
)
def test_mistakes_end_with_one_message(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    rows = pl.read_parquet(TEST)
    Path("short.parquet").write_bytes(TEST.read_bytes()[:500])
    beyond = pl.when(pl.int_range(pl.len()) == 1).then(120).otherwise("item_id")
    rows.with_columns(beyond.alias("item_id")).write_parquet("range.parquet")
    header = "item_seq,item_id,likes_level,views_level\n"
    Path("text.csv").write_text(f"{header}1^2,seven,1,1\n")
    Path("hole.csv").write_text(f'{header}1^2,7,1,1\n"[nan, 1.0]",7,1,1\n')
    Path("few.csv").write_text(f"{header}1^2,7,1,1\n1^2,7,1\n")
    Path("lacks.csv").write_text("item_seq,item_id,likes_level\n1^2,7,1\n")
    assert prediction.main([*ARGUMENTS, *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not Path("b.csv").exists()


def test_folding_and_exporting(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serving.main(["fold", *ARGUMENTS, "--precision", "bf16", "--small"]) == 0
    assert Scorer.load(FOLDER / "QIN_test.folded")._folded.dtype == torch.bfloat16
    assert serving.main(["fold", *ARGUMENTS]) == 0
    scorer = Scorer.load(FOLDER / "QIN_test.folded")
    valid = pl.read_parquet("data/MicroLens_demo/valid.parquet")
    context = {name: valid[name].to_list() for name in scorer.context_features}
    scores = scorer.score_batch(valid["item_seq"].to_list(), valid["item_id"].to_list(), context)
    logged = re.findall(r"AUC: (0\.\d{6})", (FOLDER / "QIN_test.log").read_text())
    assert roc_auc_score(valid["label"], scores) == pytest.approx(float(logged[-1]), abs=1e-4)
    assert serving.main(["export", *ARGUMENTS, "--format", "torch"]) == 0
    assert "max |Δp|" in capsys.readouterr().out
    assert (FOLDER / "QIN_test.export.pt2").is_file()
    assert serving.main(["export", "--config", "config", "--expid", "no", "--format", "onnx"]) == 2


def test_folding_again_keeps_the_map(workspace: Path) -> None:
    assert run_expid.main([*ARGUMENTS, "--calibrate", "platt", *LEARNS]) == 0
    assert serving.main(["fold", *ARGUMENTS, "--precision", "bf16"]) == 0
    scorer = Scorer.load(FOLDER / "QIN_test.folded")
    context = dict.fromkeys(scorer.context_features, 1)
    plain, mapped = (scorer.score([1, 2], [3], context, calibrated=c) for c in (False, True))
    assert float(plain) != float(mapped)


def test_the_installed_command_works_in_any_folder(tmp_path: Path) -> None:
    """Beside folders that FuxiCTR installs under the same name."""
    command = [sys.executable, "-m", "model_zoo.core.commands.serving"]
    command += ["fold", "--expid", "QIN_test", "--config", str(ROOT / "config")]
    command += ["--set", "model=QNI"]
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    if "No module named 'model_zoo.core'" in done.stderr:
        pytest.skip("the project is not installed in this environment")
    assert done.returncode == 2, done.stderr
    assert "model 'QNI' is not registered (did you mean 'QIN'?)" in done.stderr
