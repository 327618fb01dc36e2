"""``model: LongCTR/<Name>`` as an experiment: settings, training, resuming, prediction."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest
import torch
from fuxictr.pytorch.dataloaders import RankDataLoader

import prediction
import run_expid
from model_zoo import available_models, get_model
from model_zoo.core.commands.config import constructor_arguments, load_experiment
from model_zoo.core.commands.experiment import (
    build_feature_map,
    build_model,
    prepare_dataset,
    run_experiment,
)
from model_zoo.core.data.loader import make_loader
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.demo import generate_demo
from model_zoo.longctr_adapter import source
from tests.conftest import ROOT
from tests.longctr_adapter.made import SMALL, build

MODELS = sorted(SMALL)
CONFIG = ROOT / "config"
SHORT_RUN = ["epochs=1", "batch_size=100", "learning_rate=0.01"]


@pytest.fixture(scope="session")
def _larger_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("larger_demo")
    generate_demo(
        folder, num_users=1000, num_items=120, train_rows=6000, valid_rows=1500, test_rows=100
    )
    return folder


@pytest.fixture
def larger(workspace: Path, _larger_demo: Path) -> Path:
    """The workspace with data enough to learn from in an epoch."""
    shutil.rmtree(workspace / "data" / "MicroLens_demo")
    shutil.copytree(_larger_demo, workspace / "data" / "MicroLens_demo")
    return workspace


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_of_the_shipped_experiment_learns(name: str, larger: Path) -> None:
    overrides = ["batch_size=64", "max_len=8", "embedding_regularizer=1.e-5"]
    overrides += ["learning_rate=5.e-3"]
    experiment, _ = prepare_dataset(load_experiment("config", f"{name}_default", overrides))
    params = experiment.params
    torch.manual_seed(1)
    features = build_feature_map(params)
    loaders = {"dataset": experiment.dataset, "data_loader": make_loader}
    train, valid = RankDataLoader(features, stage="train", **params, **loaders)
    model = build_model(experiment, features, gpu=-1)
    Path(model.checkpoint).parent.mkdir(parents=True)
    model.fit(train, validation_data=valid, **{**params, "epochs": 1})
    assert model.evaluate(valid)["AUC"] > 0.6


@pytest.mark.parametrize("name", ["DIN", "SIM"])
def test_predictions_go_through_the_model(name: str, workspace: Path) -> None:
    expid = f"{name}_default"
    arguments = ["--config", "config", "--expid", expid, "--set", *SHORT_RUN]
    assert run_expid.main([*arguments, "--gpu", "0"]) == 0
    assert prediction.main(arguments) == 0
    with zipfile.ZipFile(f"submission/{expid}.zip") as archive:
        task = pl.read_csv(archive.read("prediction.csv"))
    source_file = "data/MicroLens_demo/test.parquet"
    command = [*arguments[:4], "--input", source_file, "--output", "scores.csv", *arguments[4:]]
    assert prediction.main(command) == 0
    scored = pl.read_csv("scores.csv")["probability"]
    assert (task["Task2"] - scored).abs().max() < 1e-6
    assert scored.std() > 0


def test_training_ends_the_same_after_an_interruption(workspace: Path) -> None:
    """DIEN: dropout, batch statistics and Adam's moments go on where they were."""
    settings = ["batch_size=100", "eval_steps=3", "early_stop_patience=9", "max_len=8"]
    settings += ["checkpoint_minutes=null"]
    model_file = Path("checkpoints/MicroLens_demo/DIEN_default.model")
    whole = run_experiment("config", "DIEN_default", overrides=[*settings, "epochs=2"])
    expected = torch.load(model_file, weights_only=True)
    model_file.unlink()
    run_experiment("config", "DIEN_default", overrides=[*settings, "epochs=1"])
    resumed = run_experiment(
        "config", "DIEN_default", overrides=[*settings, "epochs=2"], resume=True
    )
    assert resumed == whole
    for key, value in torch.load(model_file, weights_only=True).items():
        assert torch.equal(value, expected[key]), key


def problems(expid: str, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        load_experiment(CONFIG, expid, overrides)
    return "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("expid", "override", "expected"),
    [
        ("DIN", "model=LongCTR/DIM", "'LongCTR/DIM' is not registered (did you mean 'LongCTR/"),
        ("DIN", "din_softmax=True", "din_softmax: unknown key (did you mean 'din_use_softmax'?)"),
        ("DIN", "topk=5", "topk: unknown key"),
        ("DIN", "dnn_hidden_units=64", "dnn_hidden_units: Input should be a valid list, found 64"),
        ("DIN", "dnn_hidden_units=[64, a]", "dnn_hidden_units[1]: Input should be a valid integer"),
        ("DIN", "dnn_hidden_units=[0]", "greater than or equal to 1, found 0"),
        ("DIN", "batch_norm=1", "batch_norm: Input should be a valid boolean, found 1"),
        ("DIN", "net_dropout=high", "net_dropout: Input should be a valid number, found 'high'"),
        ("DIN", "attention_dropout=1.5", "dropout must be in [0, 1), got 1.5"),
        ("DIN", "learning_rate=1e-3", "(YAML reads 1e-3 as text; write 0.001)"),
        ("DIN", "dnn_activations=Linear", "unknown activation 'Linear'; known: ReLU"),
        ("DIN", "dnn_activations=__import__('os')", "unknown activation"),
        ("DIN", "attention_output_activation=Dice", "attention_output_activation: Input should be"),
        ("DIN", "embedding_regularizer=l3(x)", "embedding_regularizer"),
        ("DIN", "precision=fp16", "precision: Input should be 'fp32' or 'bf16'"),
        ("SIM", "num_heads=2.5", "num_heads: Input should be a valid integer"),
        ("SIM", "gsu_type=hard", "gsu_type: Input should be 'soft', found 'hard'"),
        ("DCNv2", "model_structure=deep", "model_structure: Input should be 'crossnet_only'"),
        ("FinalMLP", "fs1_context=item_id", "fs1_context: Input should be a valid list"),
    ],
)
def test_mistakes_are_explained(expid: str, override: str, expected: str) -> None:
    assert expected in problems(f"{expid}_default", override)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("SIM", {"num_heads": 3}, "num_heads is 3, which does not divide attention_dim, 4"),
        ("SDIM", {"num_heads": 5, "use_qkvo": False}, "the width of the item vector, 12"),
        ("TransAct", {"num_heads": 5}, "twice the width of the item vector, 24"),
        ("FinalMLP", {"num_heads": 3}, "the last of mlp1_hidden_units, 8; num_heads is 3"),
        ("FinalMLP", {"mlp2_hidden_units": []}, "mlp2_hidden_units needs at least one number"),
        ("FinalMLP", {"fs2_context": ["user_id"]}, "fs2_context: 'user_id' is no feature; known:"),
        ("DCNv2", {"model_structure": "stacked"}, "stacked_dnn_hidden_units needs at least one"),
        ("TransAct", {"dcn_hidden_units": []}, "dcn_hidden_units needs at least one number"),
        ("TransAct", {"use_time_window_mask": True}, "needs the time since each history item"),
        ("TWIN", {"Kc_cross_features": 2}, "Kc_cross_features must be 0, got 2"),
        ("DIEN", {"gru_type": "AIGRU"}, "gru_type must be GRU, AGRU or AUGRU"),
        ("ETA", {"short_seq_len": 1}, "short_seq_len must be at least 2"),
        ("ETA", {"reuse_hash": False}, "reuse_hash: False draws new hashes at every call"),
        ("SDIM", {"hash_bits": 9, "precision": "bf16"}, "hash_bits is 9: bfloat16 has 8 bits"),
        ("MIRRN", {"embedding_dim": 3}, "the width of the item vector is 9, and must be divisible"),
        ("MIRRN", {"short_seq_len": 50}, "short_seq_len is 50, max_len 9"),
    ],
)
def test_numbers_that_do_not_fit_are_named_before_training(
    name: str, settings: dict, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as error:
        build(name, tmp_path, **settings)
    assert expected in str(error.value)


def test_such_numbers_end_the_command_with_one_message(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", "config", "--expid", "SIM_default", "--set", "num_heads=5"]
    assert run_expid.main(arguments) == 2
    captured = capsys.readouterr().err
    assert "experiment 'SIM_default': num_heads is 5, which does not divide" in captured
    assert "Traceback" not in captured


def test_without_fuxictrs_wheel_the_message_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Empty(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            return None

        def locate_file(self, path: object) -> Path:
            return Path(str(path))

    monkeypatch.setattr(source, "distribution", lambda name: Empty())
    assert [name for name in available_models() if name.startswith("LongCTR/")] == []
    get_model("QIN")
    get_model.__globals__["_FAMILIES"]["LongCTR"].load.cache_clear()
    message = problems("DIN_default")
    assert "needs model_zoo/LongCTR/DIN/DIN.py of FuxiCTR's wheel" in message

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(source, "distribution", missing)
    assert source.installed_models() == {}


def test_a_checkout_may_be_anywhere_and_nothing_is_imported_before_it_is_asked_for(
    tmp_path: Path,
) -> None:
    """In a folder that has a model_zoo/LongCTR of its own."""
    own = tmp_path / "model_zoo" / "LongCTR" / "DIN"
    own.mkdir(parents=True)
    (own / "DIN.py").write_text("raise SystemExit('this is not FuxiCTR')")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from model_zoo import available_models, get_model\n"
        "assert 'LongCTR/DIN' in available_models()\n"
        "loaded = lambda: [name for name in sys.modules if 'longctr_' in name.lower()"
        " and 'adapter' not in name]\n"
        "assert loaded() == []\n"
        "assert get_model('LongCTR/DIN').__name__ == 'DIN'\n"
        "assert loaded() == ['fuxictr_longctr_DIN']\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_of_fuxictrs_is_a_typed_key(name: str) -> None:
    """And the defaults are not FuxiCTR's own lists, which all its models share."""
    arguments = constructor_arguments(get_model(f"LongCTR/{name}"))
    defaults = get_model(f"LongCTR/{name}").source.__init__.__defaults__
    assert {"precision", "embedding_update", "factor", "embedding_dim"} <= set(arguments)
    for kind, default in arguments.values():
        assert kind is not None
        assert not isinstance(default, list) or all(default is not own for own in defaults)
