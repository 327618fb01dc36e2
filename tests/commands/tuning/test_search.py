"""Whole searches on small data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

import prediction
import run_expid
import run_param_tuner
from tests.commands.tuning.made import lines, tuner_file

CHECKPOINTS = Path("checkpoints/MicroLens_demo")


def tune(*options: str) -> int:
    return run_param_tuner.main(["--config", "tune.yaml", "--gpu", "-1", "-1", *options])


def test_a_search_with_a_trial_that_cannot_work_is_run_again_and_goes_on(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of 1e30 ends in NaN; the others are ranked, and exit code 0 says so."""
    tuner_file(tuner_space={"learning_rate": [2e-3, 1e30], "batch_size": 100})
    assert tune() == 0
    found = lines(Path("tune"))
    assert [line["status"] for line in found] == ["finished", "failed"]
    assert "not finite" in found[1]["error"]
    table = capsys.readouterr().out
    assert re.search(rf"^1 +{found[0]['trial']} +0\.002 ", table, re.M)
    assert re.search(r"^2 .*  1e\+30 .* failed: error: .*not finite", table, re.M)

    # The winner is an experiment that both scripts accept, and run again it is the same.
    (best,) = yaml.safe_load(Path("tune/best_model_config.yaml").read_text())
    assert best == found[0]["trial"]
    weights = torch.load(CHECKPOINTS / f"{best}.model")
    test = ["--input", "data/MicroLens_demo/test.parquet", "--output", "scores.csv"]
    assert prediction.main(["--config", "tune", "--expid", best, *test]) == 0
    assert run_expid.main(["--config", "tune", "--expid", best]) == 0
    torch.testing.assert_close(torch.load(CHECKPOINTS / f"{best}.model"), weights, rtol=0, atol=0)

    # Once more: nothing runs.
    result = Path("tune.csv").read_text()
    assert tune() == 0
    assert "2 done, 0 to go on with" in capsys.readouterr().out
    assert lines(Path("tune")) == found
    assert Path("tune.csv").read_text() == result
    # A further value runs, and with retries the failed one; what lost has no weights any more.
    tuner_file(tuner_space={"learning_rate": [2e-3, 3e-3, 1e30], "batch_size": 100})
    assert tune("--retries", "1", "--keep-best", "1") == 0
    assert "3 trials in tune: 1 done, 1 to go on with" in capsys.readouterr().out
    found = lines(Path("tune"))
    assert [line["failures"] for line in found] == ["0", "0", "2"]
    assert [path.stem for path in CHECKPOINTS.glob("*.model")] == [found[0]["trial"]]
    assert len(list(CHECKPOINTS.glob("*.history.csv"))) == 2


def test_raw_data_sets_of_several_configurations(workspace: Path) -> None:
    config = yaml.safe_load(Path("config/dataset_config.yaml").read_text())
    data = config["MicroLens_demo"] | {"rebuild_dataset": True, "min_categr_count": 1}
    del data["demo"], data["oracle"]
    for column in data["feature_cols"]:
        column.pop("vocab_size", None)
    Path("config/dataset_config.yaml").write_text(
        yaml.safe_dump({"raw": data | {"data_root": "enc"}})
    )
    tuner_file(dataset_id="raw", tuner_space={"min_categr_count": [1, 4], "batch_size": [100]})
    assert tune() == 0
    found = lines(Path("tune"))
    assert [line["status"] for line in found] == ["finished"] * 2
    assert sorted(line["min_categr_count"] for line in found) == ["1", "4"]
    sizes = []
    for folder in Path("enc").iterdir():
        state = json.loads((folder / "encoding.json").read_text())
        sizes.append((state["configuration"]["min_categr_count"], len(json.dumps(state))))
    assert sorted(count for count, _ in sizes) == [1, 4]
    assert max(sizes)[1] < min(sizes)[1]  # fewer items are frequent


def test_nothing_can_be_written(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said before the search begins."""
    tuner_file(tuner_space={"num_row": [1], "batch_size": 100, "model_root": "gone"})
    Path("gone").write_text("a file where a folder is expected")
    assert tune("--retries", "1") == 2
    assert "cannot write results there" in capsys.readouterr().err
    assert not Path("tune").exists()
