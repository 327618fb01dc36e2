"""``qin-data`` from end to end: the road of docs/data.md from raw files to a trained model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from model_zoo.core.commands import prepare as commands
from model_zoo.core.commands.experiment import run_experiment
from tests.conftest import ROOT


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        commands.main([name, "--help"])
    assert end.value.code == 0
    assert f"qin-data {name}" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "model_zoo.core.commands.prepare", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: qin-data" in done.stdout


def test_the_installed_command_works_in_any_folder(tmp_path: Path) -> None:
    """FuxiCTR installs a folder model_zoo too; ours has to be the one that is found."""
    script = Path(sys.executable).with_name("qin-data")
    if not script.is_file():
        pytest.skip("the project is not installed in this environment")
    command = [str(script), "validate", "Nothing", "--config", str(ROOT / "config")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: data set 'Nothing' is not in")


def test_an_error_is_a_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", "--interactions", "gone.csv", "--out", str(tmp_path / "out")]
    assert commands.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: gone.csv")


def test_demo_of_any_size(tmp_path: Path) -> None:
    sizes = ["--rows", "50", "--valid-rows", "20", "--test-rows", "10"]
    assert commands.main(["demo", "--out", str(tmp_path), *sizes, "--items", "130"]) == 0
    rows = [len(pl.read_parquet(tmp_path / f"{s}.parquet")) for s in ("train", "valid", "test")]
    assert rows == [50, 20, 10]
    assert len(pl.read_parquet(tmp_path / "item_info.parquet")) == 130


def test_raw_files_become_a_data_set_that_trains(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's commands, on the first users of the real files."""
    monkeypatch.chdir(tmp_path)
    raw = shared / "data" / "MicroLens_50k_raw"
    lines = (raw / "MicroLens-50k_pairs.tsv").read_text().splitlines()[:1500]
    Path("pairs.tsv").write_text("\n".join(lines))
    out = "data/MicroLens_50k/raw"
    titles, vectors = raw / "MicroLens-50k_titles.csv", raw / "title_embedding.h5"
    for command in (
        f"convert --interactions pairs.tsv --titles {titles} --out {out}",
        f"embed --item-info {out}/item_info.parquet --vectors {vectors} --column item_emb_d128",
        f"validate MicroLens_50k --config {ROOT / 'config'}",
    ):
        assert commands.main(command.split()) == 0
    small = ["embedding_dim=4", "num_layers=1", "epochs=1"]
    results = run_experiment(str(ROOT / "config"), "QIN_MicroLens_50k", overrides=small)
    assert {name: set(metrics) for name, metrics in results.items()} == {
        "valid": {"AUC", "logloss"},
        "test": {"AUC", "logloss"},
    }
