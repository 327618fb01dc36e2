"""Shipped YAML is sound; a key or value that would be ignored is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model_zoo import available_models, get_model, register
from model_zoo.core.commands.config import (
    constructor_arguments,
    load_experiment,
    parse_overrides,
)
from model_zoo.core.errors import InputError
from model_zoo.QIN.model import QIN
from tests.conftest import ROOT, edit_yaml

CONFIG = ROOT / "config"
EXPIDS = list(yaml.safe_load((CONFIG / "model_config.yaml").read_text()))[1:]


def problems(*overrides: str, expid: str = "QIN_test") -> list[str]:
    with pytest.raises(InputError) as error:
        load_experiment(CONFIG, expid, overrides)
    return error.value.problems


@pytest.mark.parametrize("expid", EXPIDS)
def test_shipped_experiments_are_sound(expid: str) -> None:
    experiment = load_experiment(CONFIG, expid)
    assert experiment.run.model_id == expid
    model = get_model(experiment.run.model)
    assert set(constructor_arguments(model)) <= set(dict(experiment.run))


def test_the_paper_is_shipped_as_published() -> None:
    params = load_experiment(CONFIG, "QIN_MicroLens_1M_x1").params
    published = {
        "embedding_dim": 128,
        "num_layers": 4,
        "num_row": 4,
        "net_dropout": 0.1,
        "batch_norm": True,
        "batch_size": 8192,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "embedding_regularizer": 2e-4,
        "max_len": 64,
        "epochs": 100,
        "early_stop_patience": 8,
        "factor": 0.5,
        "monitor": "AUC",
        "seed": 20242025,
        "accumulation_steps": 1,
        "max_gradient_norm": 10.0,
    }
    assert {key: params[key] for key in published} == published


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learning_rte=1.e-3", "unknown key (did you mean 'learning_rate'?)"),
        ("num_workers=3", "num_workers: unknown key"),
        ("learning_rate=1e-3", "'1e-3' (YAML reads 1e-3 as text; write 0.001)"),
        ("embedding_regularizer=1e-4", "'1e-4' (YAML reads 1e-4 as text; write 0.0001)"),
        ("embedding_regularizer=1e-6", "'1e-6' (YAML reads 1e-6 as text; write 1.0e-06)"),
        ("embedding_regularizer=l3(x)", "embedding_regularizer"),
        ("batch_size='64'", "batch_size: Input should be a valid integer, found '64'"),
        ("batch_norm=1", "batch_norm: Input should be a valid boolean, found 1"),
        ("max_len=0", "max_len: Input should be greater than or equal to 1, found 0"),
        ("epochs=0", "epochs: Input should be greater than or equal to 1, found 0"),
        (
            "model=QUIN",
            "model 'QUIN' is not registered (did you mean 'QIN' or 'QIN+'?); known: LongCTR/DCNv2",
        ),
        ("dataset_id=MicroLens", "data set 'MicroLens' is not in"),
        ("optimizer=adm", "optimizer 'adm' is not in torch.optim"),
        ("metrics=[AUCC]", "metric 'AUCC' is unknown (did you mean 'AUC'?)"),
        ("metrics=[gAUC]", "gAUC need a group_id"),
        ("group_id=user", "group_id: 'user' is no active column"),
        ("use_features=[item_id, tags]", "use_features: 'tags' is no active column"),
        ("monitor=logloss", "improves towards min, but monitor_mode is max"),
        ("item_col=item", "item_col 'item' is not among feature_cols"),
        ("history_col=item_id", "the history column 'item_id' must have type meta"),
        ("learning_rate", "--set learning_rate: expected key=value"),
        ("epochs={", "--set epochs={: the value is not YAML"),
        ("epochs=\x06", "--set epochs=\x06: the value is not YAML"),
    ],
)
def test_mistakes_are_explained(override: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(override))


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems("learning_rte=1", "epochs=x", "batch_size=0", "data_format=csv")
    assert len(found) == 4


def test_an_unknown_experiment_names_the_known_ones() -> None:
    (problem,) = problems(expid="QIN_defalt")
    assert "did you mean 'QIN_default'?" in problem
    assert "QIN_MicroLens_1M_x1" in problem


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ({"vocab_size": "11"}, "feature_cols[likes_level].vocab_size"),
        ({"vocab_siz": 11}, "feature_cols[likes_level].vocab_siz: unknown key"),
        ({"type": "category"}, "feature_cols[likes_level].type"),
        ({"vocab_size": None}, "likes_level: type categorical needs vocab_size"),
        ({"dtype": "str"}, "likes_level: dtype str needs rebuild_dataset: True"),
        ({"feature_encoder": "__import__('os')"}, "feature_cols[likes_level].feature_encoder"),
        ({"name": "item_id"}, "feature_cols names a column twice"),
        ({"share_embedding": "tags"}, "share_embedding 'tags' is no column"),
    ],
)
def test_mistakes_in_columns(workspace: Path, column: dict[str, object], expected: str) -> None:
    def change(config: dict) -> None:
        config["MicroLens_demo"]["feature_cols"][2].update(column)

    edit_yaml(workspace / "config" / "dataset_config.yaml", change)
    with pytest.raises(InputError) as error:
        load_experiment("config", "QIN_test")
    assert any(expected in problem for problem in error.value.problems)


def test_one_entry_may_describe_several_columns(workspace: Path) -> None:
    def change(config: dict) -> None:
        columns = config["MicroLens_demo"]["feature_cols"]
        columns[2]["name"] = ["likes_level", "views_level"]
        del columns[3]

    before = load_experiment("config", "QIN_test")
    edit_yaml(workspace / "config" / "dataset_config.yaml", change)
    assert load_experiment("config", "QIN_test").dataset == before.dataset


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("QIN_test: [1, 2", "not valid YAML"),
        ("QIN_test: \x06", "not valid YAML"),
        ("- 1", "expected a mapping at the top level"),
        ("QIN_test: 3", "QIN_test: expected a mapping, found 3"),
        ("QIN_test: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_unusable_yaml_files(workspace: Path, content: str, expected: str) -> None:
    (workspace / "config" / "model_config.yaml").write_text(content)
    with pytest.raises(InputError, match=r"model_config\.yaml") as error:
        load_experiment("config", "QIN_test")
    assert expected in str(error.value)


def test_folders_of_yaml_files_are_read(workspace: Path) -> None:
    before = load_experiment("config", "QIN_test").params
    for kind in ("model_config", "dataset_config"):
        (workspace / "config" / kind).mkdir()
        (workspace / "config" / f"{kind}.yaml").rename(workspace / "config" / kind / "a.yaml")
    assert load_experiment("config", "QIN_test").params == before
    with pytest.raises(InputError, match=r"no model_config\.yaml"):
        load_experiment("nowhere", "QIN_test")


def test_overrides_are_yaml() -> None:
    assert parse_overrides(["a=1.e-3", "b=[x, y]", "c=null", "d=k=v"]) == {
        "a": 1e-3,
        "b": ["x", "y"],
        "c": None,
        "d": "k=v",
    }
    experiment = load_experiment(CONFIG, "QIN_test", ["epochs=3", "item_info=elsewhere.parquet"])
    assert experiment.run.epochs == 3
    assert experiment.dataset.item_info == "elsewhere.parquet"


def test_the_registry() -> None:
    assert {"QIN", "QIN+", "TransformerDCN", "LongCTR/DIN"} <= set(available_models())
    assert get_model("QIN") is QIN
    with pytest.raises(ValueError, match="'QIN' is already taken"):
        register("QIN")(int)
