"""A training resumes on the data it began with, and on no other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

import run_expid
from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.data.fingerprint import content_of
from model_zoo.core.errors import InputError
from tests.conftest import edit_yaml

SETTINGS = ["epochs=1", "batch_size=200"]
DATA = Path("data/MicroLens_demo")
STATE = Path("checkpoints/MicroLens_demo/QIN_test.state")


def resume(*settings: str) -> None:
    run_experiment("config", "QIN_test", overrides=[*SETTINGS, *settings], resume=True)


def refusal(*settings: str) -> list[str]:
    before = STATE.read_bytes()
    with pytest.raises(InputError) as error:
        resume(*settings)
    assert STATE.read_bytes() == before
    assert "or train without --resume" in error.value.problems[-1]
    return error.value.problems[:-1]


def change_one_value(path: Path, column: str) -> None:
    """In place, one integer by another inside the column's range: the file keeps its size."""
    frame = pl.read_parquet(path)
    values = frame[column].to_list()
    row = next(k for k in range(1, len(values)) if values[k] != values[0])
    values[row] = values[0]
    changed = frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))
    size = path.stat().st_size
    changed.write_parquet(path, compression="uncompressed")
    assert path.stat().st_size == size


@pytest.mark.parametrize("folder", [False, True])
def test_another_train_file_is_refused(workspace: Path, folder: bool) -> None:
    """A shorter one, and one of equal size with a single other value; streamed ones too."""
    train = DATA / "train.parquet"
    pl.read_parquet(train).write_parquet(train, compression="uncompressed")
    settings = []
    if folder:
        (DATA / "train").mkdir()
        train = train.rename(DATA / "train" / "part.parquet")
        settings = [f"train_data={DATA / 'train'}"]
    run_experiment("config", "QIN_test", overrides=[*SETTINGS, *settings])
    original = train.read_bytes()
    change_one_value(train, "likes_level")
    assert len(train.read_bytes()) == len(original)
    where = settings[0].partition("=")[2] if folder else "./data/MicroLens_demo/train.parquet"
    assert refusal(*settings) == [f"{STATE}: train ({where}) has other content than it had"]
    pl.read_parquet(train).head(100).write_parquet(train)
    assert refusal(*settings) == [f"{STATE}: train ({where}) had 600 rows, and has 100"]
    train.write_bytes(original)
    os.utime(train, (1, 1))
    resume(*settings)


def test_valid_and_item_info_count_and_test_does_not(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    for name in ("valid", "test"):
        path = DATA / f"{name}.parquet"
        pl.read_parquet(path).head(90).write_parquet(path)
    items = pl.read_parquet(DATA / "item_info.parquet")
    vector = pl.col("item_emb_d128")
    items.with_columns(vector.list.eval(pl.element() * 2)).write_parquet(DATA / "item_info.parquet")
    where = "./data/MicroLens_demo"
    assert refusal() == [
        f"{STATE}: item_info ({where}/item_info.parquet) has other content than it had",
        f"{STATE}: valid ({where}/valid.parquet) had 200 rows, and has 90",
    ]
    arguments = ["--config", "config", "--expid", "QIN_test", "--set", *SETTINGS]
    capsys.readouterr()
    assert run_expid.main([*arguments, "--resume"]) == 2
    assert "error: a training resumes on the data it began with" in capsys.readouterr().err
    assert run_expid.main(arguments) == 0


def test_a_copy_elsewhere_resumes(workspace: Path) -> None:
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    shutil.copytree(DATA, "copy")
    resume(*(f"{s}_data=copy/{s}.parquet" for s in ("train", "valid", "test")))
    assert refusal("train_data=copy/valid.parquet") == [
        f"{STATE}: train (copy/valid.parquet) had 600 rows, and has 200"
    ]


def test_a_raw_data_set_names_the_users_file(workspace: Path) -> None:
    def raw(config: dict) -> None:
        config["MicroLens_demo"] |= {"rebuild_dataset": True, "data_root": "encoded"}
        for column in config["MicroLens_demo"]["feature_cols"]:
            column.pop("vocab_size", None)

    edit_yaml(Path("config/dataset_config.yaml"), raw)
    for name in ("train", "valid", "test"):
        rows = pl.read_parquet(DATA / f"{name}.parquet")
        real = pl.col("item_seq").list.eval(pl.element().filter(pl.element() != 0))
        rows.with_columns(real).write_parquet(DATA / f"{name}.parquet")
    items = pl.read_parquet(DATA / "item_info.parquet")
    items.slice(1).write_parquet(DATA / "item_info.parquet")
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    resume()
    valid = DATA / "valid.parquet"
    kept = valid.read_bytes()
    pl.read_parquet(valid).reverse().write_parquet(valid)
    assert refusal() == [
        f"{STATE}: valid (./data/MicroLens_demo/valid.parquet) has other content than it had"
    ]
    valid.write_bytes(kept)
    encoding = Path("encoded/MicroLens_demo/encoding.json")
    state = json.loads(encoding.read_text())
    state["vocabulary"]["likes_level"]["tokens"].reverse()
    encoding.write_text(json.dumps(state))
    assert refusal() == [f"{STATE}: vocabularies ({encoding}) has other content than it had"]


def test_a_state_that_does_not_know_its_data_resumes_with_a_warning(workspace: Path) -> None:
    run_experiment("config", "QIN_test", overrides=SETTINGS)
    state = torch.load(STATE, weights_only=True)
    del state["data"]
    torch.save(state, STATE)
    resume()
    log = STATE.with_suffix(".log").read_text()
    assert "WARNING QIN_test.state does not say on which data the training began" in log
    with pytest.raises(InputError, match="valid_data was"):
        torch.save(state, STATE)
        resume("valid_data=data/MicroLens_demo/train.parquet")


def test_content_is_that_of_all_bytes(tmp_path: Path) -> None:
    """Also beyond the first chunk, and where one file ends does not matter less than its bytes."""
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(bytes(3_000_000))
    other.write_bytes(bytes(2_999_999) + b"\1")
    assert content_of([one]) != content_of([other])
    other.write_bytes(bytes(3_000_000))
    assert content_of([one]) == content_of([other])
    assert content_of([one]) != content_of([one, other])
