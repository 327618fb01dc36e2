"""Trials have names that say their settings again, and mistakes in a space are told at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import run_param_tuner
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.tuning.folder import claim, write_configs
from model_zoo.core.commands.tuning.tuner_file import read_space
from model_zoo.core.errors import InputError
from tests.commands.tuning.made import grid, tuner_file
from tests.conftest import edit_yaml


def names(space: dict, **more: object) -> list[str]:
    return [trial.expid for trial in grid(space, **more)]


def test_the_same_space_has_the_same_names_and_a_further_value_keeps_them(workspace: Path) -> None:
    space = {"learning_rate": [0.001, 0.004], "num_row": [1, 2], "seed": [1, 2]}
    before = names(space)
    assert len(set(before)) == 8
    assert names(space) == before
    assert names(dict(reversed(space.items()))) != before  # another order of the trials
    assert set(names(dict(reversed(space.items())))) == set(before)
    more = {"learning_rate": [0.0005, 0.001, 0.004], "num_row": [2, 3, 1], "seed": [0, 1, 2]}
    after = names(more)
    assert set(before) < set(after)
    assert len(set(after)) == 27


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": [0.012, 0.021, 0.102, 0.201]},
        {"use_features": [["item_id", "item_tags"], ["item_tags", "item_id"], None]},
        {"metrics": [["AUC", "logloss"], ["logloss", "AUC"]]},
        {"embedding_dim": [12, 21], "num_row": [21, 12]},
    ],
)
def test_anagrams_have_different_names(workspace: Path, values: dict) -> None:
    trials = names(values)
    size = 1
    for listed in values.values():
        size *= len(listed)
    assert len(set(trials)) == size


def test_a_base_that_differs_gives_other_names(workspace: Path) -> None:
    """Two tuner files may share a model_root: what is not the same is not called the same."""
    before = names({"num_row": [1, 2]})
    edit_yaml(Path("config/model_config.yaml"), lambda c: c["QIN_test"].update(batch_size=512))
    assert not set(before) & set(names({"num_row": [1, 2]}))


def raw(config: dict) -> None:
    config["MicroLens_demo"] |= {"rebuild_dataset": True, "min_categr_count": 1}


@pytest.mark.parametrize("rebuild", [False, True])
def test_combinations_of_data_set_keys_are_all_there(workspace: Path, rebuild: bool) -> None:
    if rebuild:
        edit_yaml(Path("config/dataset_config.yaml"), raw)
    valid = "./data/MicroLens_demo/{}.parquet"
    space = {
        "min_categr_count": [1, 2],
        "valid_data": [valid.format("valid"), valid.format("test")],
        "num_row": [1, 2],
    }
    read = read_space(tuner_file(tuner_space=space))
    trials = read.grid()
    assert len({trial.expid for trial in trials}) == 8
    assert len({trial.experiment.dataset.dataset_id for trial in trials}) == 4
    folder = claim(read)
    write_configs(folder, trials)
    seen = set()
    for trial in trials:
        loaded = load_experiment(folder, trial.expid)
        assert (
            loaded.params == trial.experiment.params
        )  # what run_expid.py trains is what the tuner meant
        values = (loaded.dataset.min_categr_count, loaded.dataset.valid_data, loaded.params)
        assert values[:2] == (trial.settings["min_categr_count"], trial.settings["valid_data"])
        assert loaded.params["num_row"] == trial.settings["num_row"]
        seen.add((*values[:2], loaded.params["num_row"]))
    assert len(seen) == 8
    # What is as in the base keeps the base's name, and so what is encoded already.
    same = trials[0].experiment.dataset
    assert (same.dataset_id == "MicroLens_demo") == rebuild


def test_data_sets_can_be_varied_by_name(workspace: Path) -> None:
    trials = grid({"dataset_id": ["MicroLens_demo", "MicroLens_1M_x1"], "num_row": [1]})
    found = [trial.experiment.dataset.dataset_id for trial in trials]
    assert found == ["MicroLens_demo", "MicroLens_1M_x1"]


def test_settings_inside_the_tuner_file_as_fuxictr_has_them(workspace: Path) -> None:
    base = load_experiment("config", "QIN_test")
    model = {**base.run.model_dump(exclude={"model_id"}), "dataset_id": "TBD"}
    data = base.dataset.model_dump(exclude={"dataset_id"}, exclude_none=True)
    trials = grid(
        {"num_row": [1, 2]},
        model_config={"QIN_test": model},
        dataset_config={"MicroLens_demo": data},
        dataset_id="MicroLens_demo",
    )
    assert all(trial.expid.startswith("QIN_MicroLens_demo_") for trial in trials)
    assert trials[0].experiment.dataset == base.dataset


def test_models_have_spaces_of_their_own(workspace: Path) -> None:
    trials = grid(
        {
            "model": ["QIN", "LongCTR/DIN"],
            "learning_rate": [0.001, 0.002],
            "QIN": {"num_row": [1, 4]},
            "LongCTR/DIN": {"dnn_hidden_units": [[8], [16, 8], [4]], "learning_rate": 0.003},
        }
    )
    found = [(t.settings["model"], t.experiment.params["learning_rate"]) for t in trials]
    assert found[:4] == [("QIN", 0.001), ("QIN", 0.001), ("QIN", 0.002), ("QIN", 0.002)]
    assert found[4:] == [("LongCTR/DIN", 0.003)] * 3
    assert "num_layers" not in trials[4].model_params  # QIN's alone
    assert trials[4].experiment.params["dnn_hidden_units"] == [8]
    assert all("/" not in trial.expid for trial in trials)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"tuner_space": {"learning_rte": [1], "epoch": [1], "num_row": [1]}},
            [
                "tune.yaml: tuner_space: learning_rte: unknown key (did you mean 'learning_rate'?)",
                "tune.yaml: tuner_space: epoch: unknown key (did you mean 'epochs'?)",
            ],
        ),
        ({"tuner_space": {"num_row": [], "seed": []}}, ["num_row: no values", "seed: no values"]),
        ({"tuner_space": {"model": []}}, ["model: no values"]),
        ({"tuner_space": {}}, ["tuner_space: expected a mapping"]),
        ({"tuner_spaces": {"num_row": [1]}}, ["unknown key (did you mean 'tuner_space'?)"]),
        ({"base_expid": "QIN_tets"}, ["experiment 'QIN_tets' is not in"]),
        ({"dataset_id": "MicroLens_dem"}, ["data set 'MicroLens_dem' is not in"]),
        ({"base_config": "nowhere"}, ["nowhere: no model_config.yaml"]),
        ({"tuner_space": {"num_row": [1, "2"]}}, ["num_row: Input should be a valid integer"]),
        ({"tuner_space": {"metrics": ["AUC", "logloss"]}}, ["is written metrics: [[...]]"]),
        ({"tuner_space": {"learning_rate": [0.1, 0.10]}}, ["learning_rate=0.1: the space has"]),
        ({"tuner_space": {"learning_rate": [1, 1.0]}}, ["the space has this trial twice"]),
        ({"tuner_space": {"seed": [1, 1]}}, ["seed=1: the space has this trial twice"]),
        (
            {"tuner_space": {"model": ["QIN", "LongCTR/DIN"], "QIN": {"num_rwo": [1]}}},
            ["num_rwo: unknown key (did you mean 'num_row'?)"],
        ),
        (
            {"tuner_space": {"model": ["QIN", "LongCTR/DIN"], "num_row": [1, 2]}},
            ["num_row: unknown key"],
        ),
        ({"tuner_space": {"model": ["QIN", "QIN"]}}, ["a model's name, each once"]),
        ({"tuner_space": {"model": ["QNI"]}}, ["model 'QNI' is not registered"]),
        ({"tuner_space": {"metrics": [["logloss"]]}}, ["monitor: AUC is not computed"]),
        (
            {"tuner_space": {"monitor": ["AUC", {"AUC": 1, "logloss": -1}]}},
            ["trials are ranked by one monitor"],
        ),
        ({"tuner_space": {"model_id": ["a"]}}, ["model_id: cannot be varied"]),
        ({"tuner_space": {"demo": [{"seed": 1}, {"seed": 2}]}}, ["demo: cannot be varied"]),
        ({"tuner_space": {"optimizer": {"low": 1, "high": 2}}}, ["optimizer: takes no such"]),
        ({"tuner_space": {"batch_norm": {"low": 0, "high": 1}}}, ["batch_norm: takes no such"]),
        ({"tuner_space": {"monitor": {"low": 1, "high": 2}}}, ["monitor: takes no such"]),
        ({"tuner_space": {"num_row": {"low": 1.5, "high": 4}}}, ["num_row: takes whole numbers"]),
        ({"tuner_space": {"net_dropout": {"low": 0.5, "high": 0.1}}}, ["expected low < high"]),
        (
            {"tuner_space": {"learning_rate": {"low": 0, "high": 0.1, "log": True}}},
            ["expected 0 < low < high with log"],
        ),
        ({"tuner_space": {"learning_rate": {"low": 1}}}, ["expected a range {low: number"]),
        (
            {"tuner_space": {"learning_rate": {"low": 1.0e-4, "high": 0.1}}},
            ["learning_rate: a grid takes lists of values"],
        ),
    ],
)
def test_mistakes_in_the_tuner_file(
    workspace: Path, capsys: pytest.CaptureFixture[str], change: dict, expected: list[str]
) -> None:
    path = tuner_file(**{"tuner_space": {"num_row": [1]}, **change})
    before = sorted(workspace.rglob("*"))
    assert run_param_tuner.main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert all(line.startswith("error: ") for line in error.splitlines())
    for text in expected:
        assert text in error
    assert sorted(workspace.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--gpu", "-1", "64"], "--gpu 64: no such device"),
        (["--gpu", "-2"], "--gpu -2: no such device"),
        (["--retries", "-1"], "--retries -1: expected 0 or more"),
        (["--keep-best", "0"], "--keep-best 0: expected 1 or more"),
    ],
)
def test_mistakes_in_the_options(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    path = tuner_file(tuner_space={"num_row": [1]})
    assert run_param_tuner.main(["--config", str(path), *options]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("tune").exists()


def test_a_folder_of_an_older_space_is_refused(workspace: Path) -> None:
    def made(**space: object) -> None:
        read = read_space(tuner_file(tuner_space=space))
        write_configs(claim(read), read.grid())

    made(learning_rate=[0.012])
    made(learning_rate=[0.021])  # other values are the same space
    known = load_experiment("tune", "QIN_test_" + names({"learning_rate": [0.012]})[0][-12:])
    assert known.params["learning_rate"] == 0.012  # and what was there can be run again
    with pytest.raises(InputError, match="older space: it varied learning_rate, now num_row"):
        made(num_row=[1])
    edit_yaml(Path("config/model_config.yaml"), lambda c: c["QIN_test"].update(batch_size=512))
    with pytest.raises(InputError, match="'QIN_test': batch_size was 1024 and is 512; remove that"):
        made(learning_rate=[0.012])
    edit_yaml(Path("config/model_config.yaml"), lambda c: c["QIN_test"].update(batch_size=1024))
    with pytest.raises(InputError, match="older space: it had no seeds in its space"):
        made(learning_rate=[0.012], seed=[1])
    made(learning_rate=[0.012])
    train = Path("data/MicroLens_demo/train.parquet")
    os.utime(train)  # the same content is the same file
    made(learning_rate=[0.012])
    train.write_bytes(Path("data/MicroLens_demo/valid.parquet").read_bytes())
    with pytest.raises(InputError, match=r"train\.parquet has changed since; remove"):
        made(learning_rate=[0.012])
    Path("tune/.made_by_tuner").write_text("tune.yaml")
    with pytest.raises(InputError, match="older space: an earlier version wrote it"):
        made(learning_rate=[0.012])
