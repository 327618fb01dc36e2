"""Outputs: complete or not at all, through links, and never on an input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import prediction
import run_expid
import run_param_tuner
from model_zoo.core.commands.prepare import main as qin_data
from model_zoo.core.commands.tuning import search
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_apart, write_aside
from tests.conftest import edit_yaml

ARGUMENTS = ["--config", "config", "--expid", "QIN_test"]
DATA = Path("data/MicroLens_demo")
TRAINED = Path("checkpoints/MicroLens_demo")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; a link has what it points to, or where."""
    return {
        str(path): path.read_bytes() if path.is_file() else os.readlink(path).encode()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def test_a_link_is_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "store" / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)  # nothing is there yet
    for text in ("one", "two"):
        with write_aside(link) as partial:
            partial.write_text(text)
        assert link.is_symlink()
        assert real.read_text() == text
    with pytest.raises(KeyError), write_aside(link) as partial:
        partial.write_text("three")
        raise KeyError
    assert real.read_text() == "two"
    assert list(real.parent.iterdir()) == [real]


def test_a_pipe_is_no_file_to_replace(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match="not a regular file"), write_aside(tmp_path / name):
            pytest.fail("there is nothing to write to")
    assert (tmp_path / "pipe").is_fifo()


def test_inputs_and_outputs_are_compared_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_text("")
    (tmp_path / "link").symlink_to("a")
    inputs = {"--in": tmp_path / "a", "--parts": tmp_path / "folder", "--none": None}
    for output in ("a", "link", "folder/../a", "folder/part", "folder"):
        with pytest.raises(InputError, match=r"--out \S+ (is|lies in) --(in|parts) \S+"):
            require_apart(inputs, {"--out": tmp_path / output})
    require_apart(inputs, {"--out": tmp_path / "b", "--other": tmp_path / "folder2"})
    with pytest.raises(InputError) as error:
        require_apart(inputs, {"--out": tmp_path / "a", "--other": tmp_path / "link"})
    assert len(error.value.problems) == 2


@pytest.fixture
def trained(workspace: Path) -> Path:
    (TRAINED).mkdir(parents=True)
    # Before any work: so neither weights nor scores are needed here.
    for kind in ("model", "history.csv"):
        (TRAINED / f"QIN_test.{kind}").write_text("kept")
    return workspace


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("new.parquet", "is --input new.parquet"),
        ("data/../new.parquet", "is --input new.parquet"),
        ("to_new.parquet", "is --input new.parquet"),
        *((str(DATA / f"{name}.parquet"), f"is {name}_data") for name in ("train", "test")),
        (str(DATA / "item_info.parquet"), "is item_info"),
        ("to_weights.csv", "is the experiment's QIN_test.model"),
        (str(TRAINED / "QIN_test.history.csv"), "is the experiment's QIN_test.history.csv"),
        ("to_config.csv", "is model_config config/model_config.yaml"),
        ("config.csv", "is the result file config.csv"),
        ("folder.csv", "is a folder; expected the name of a file"),
    ],
)
def test_scores_never_replace_an_input(
    trained: Path, capsys: pytest.CaptureFixture[str], output: str, expected: str
) -> None:
    pl.read_parquet(DATA / "test.parquet").write_parquet("new.parquet")
    Path("to_new.parquet").symlink_to("new.parquet")
    Path("to_weights.csv").symlink_to(TRAINED / "QIN_test.model")
    Path("to_config.csv").symlink_to("config/model_config.yaml")
    Path("folder.csv").mkdir()
    before = contents(trained)
    command = [*ARGUMENTS, "--input", "new.parquet", "--output", output]
    assert prediction.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"--output {output} {expected}" in error
    assert contents(trained) == before


def test_a_submission_never_replaces_an_input(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("submission").mkdir()
    Path("submission/QIN_test.zip").symlink_to(trained / DATA / "test.parquet")
    before = contents(trained)
    assert prediction.main(ARGUMENTS) == 2
    assert "QIN_test.zip is test_data" in capsys.readouterr().err
    assert contents(trained) == before


def test_scores_go_through_a_link(workspace: Path) -> None:
    assert run_expid.main(ARGUMENTS) == 0
    Path("scores.csv").symlink_to("elsewhere/real.csv")
    test = str(DATA / "test.parquet")
    assert prediction.main([*ARGUMENTS, "--input", test, "--output", "scores.csv"]) == 0
    assert Path("scores.csv").is_symlink()
    assert len(pl.read_csv("elsewhere/real.csv")) == 100


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log, titles, item_info, metadata and vectors, under names that outputs have too."""
    monkeypatch.chdir(tmp_path)
    ids = [f"i{k}" for k in range(6)]
    users = [f"u{k}" for k in range(5) for _ in ids]
    log = pl.DataFrame({"user": users, "item": ids * 5, "timestamp": range(30)})
    log.write_parquet("train.parquet")
    log.write_parquet("log.parquet")
    pl.DataFrame({"item": ids, "title": ids}).write_parquet("item_info.parquet")
    items = pl.DataFrame({"item_id": ids, "price": np.arange(6.0)})
    items.write_parquet("items.parquet")
    Path("linked").mkdir()
    Path("linked/item_info.parquet").symlink_to("../items.parquet")
    vectors = {"item_id": np.array(ids), "vectors": np.random.default_rng(0).normal(size=(6, 3))}
    np.savez("v.npz", **vectors)
    np.savez("items.e.projection.npz", **vectors)
    np.save("v.npy", vectors["vectors"])
    Path("ids.txt").write_text("\n".join(ids))
    Path("items.f.projection.npz").symlink_to("ids.txt")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("convert --interactions train.parquet --out .", "train.parquet is --interactions"),
        (
            "convert --interactions log.parquet --titles item_info.parquet --out .",
            "item_info.parquet is --items",
        ),
        (
            "convert --interactions log.parquet --titles items.parquet --out linked",
            "item_info.parquet is --items",
        ),
        ("convert --interactions log.parquet --out log.parquet", "--out log.parquet is --inter"),
        (
            "join --item-info items.parquet --metadata linked/item_info.parquet --columns price "
            "--prefix a_",
            "items.parquet is --metadata",
        ),
        (
            "embed --item-info items.parquet --vectors items.e.projection.npz --dim 2 --column e",
            "the map items.e.projection.npz is --vectors 1:",
        ),
        (
            "embed --item-info items.parquet --vectors v.npy --ids-file ids.txt --dim 2 --column f",
            "the map items.f.projection.npz is --ids-file 1:",
        ),
    ],
)
def test_prepared_files_never_replace_an_input(
    files: Path, capsys: pytest.CaptureFixture[str], command: str, expected: str
) -> None:
    before = contents(files)
    assert qin_data(command.split()) == 2
    assert expected in capsys.readouterr().err
    assert contents(files) == before


def test_prepared_files_go_through_links(files: Path) -> None:
    out = files / "out"
    out.mkdir()
    for name in ("train", "valid", "item_info"):
        (out / f"{name}.parquet").symlink_to(files / "store" / f"{name}.parquet")
    for _ in range(2):
        assert qin_data(["convert", "--interactions", "log.parquet", "--out", "out"]) == 0
        assert (out / "train.parquet").is_symlink()
        assert len(pl.read_parquet("store/train.parquet"))
    command = "embed --item-info linked/item_info.parquet --vectors v.npz --dim 2 --column e"
    assert qin_data(command.split()) == 0
    assert Path("linked/item_info.parquet").is_symlink()
    assert pl.read_parquet("items.parquet").columns == ["item_id", "price", "e"]
    # A saved map may be applied where it lies.
    saved = " --projection linked/item_info.e.projection.npz --replace"
    assert qin_data((command.replace("--dim 2 ", "") + saved).split()) == 0


def test_the_tuner_writes_into_its_own_folder_only(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "run_local", lambda *_, **__: None)

    def grid(config: dict) -> None:
        config |= {"base_config": "config", "tuner_space": {"epochs": [1]}}

    edit_yaml(workspace / "config" / "QIN_tuner_config.yaml", grid)
    tuner = Path("config/QIN_tuner_config.yaml").read_text()
    Path("config.yaml").write_text(tuner)
    Path("empty.yaml").write_text(tuner)
    Path("empty").mkdir()
    Path("trials.yaml").write_text(tuner)
    before = contents(workspace)
    for name in ("config", "empty"):
        assert run_param_tuner.main(["--config", f"{name}.yaml"]) == 2
        error = capsys.readouterr().err
        assert f"go into {name}, which is there and was not made by this tuner file" in error
        assert contents(workspace) == before
    assert not {"trials", "trials.csv"} & set(os.listdir())
    for _ in range(2):  # its own folder is written again
        assert run_param_tuner.main(["--config", "trials.yaml"]) == 2
        assert "no trial finished" in capsys.readouterr().err
    # A copy of its folder, under the name of another tuner file, is not.
    os.rename("trials", "empty2")
    Path("empty2.yaml").write_text(tuner)
    assert run_param_tuner.main(["--config", "empty2.yaml"]) == 2
    assert "go into empty2, which is there" in capsys.readouterr().err
