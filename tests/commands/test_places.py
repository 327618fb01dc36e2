"""What a command will write is checked before its work; paths are expanded everywhere alike."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import prediction
import run_expid
import run_param_tuner
from model_zoo.core import files
from model_zoo.core.commands import deployment, experiment, prepare, serving, submission
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.tuning import search
from model_zoo.core.errors import InputError
from model_zoo.core.files import require_writable, write_aside
from model_zoo.core.paths import expanded
from tests.conftest import edit_yaml

ARGUMENTS = ["--config", "config", "--expid", "QIN_test"]
DATA = "data/MicroLens_demo"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is neither checked nor encoded, nothing is trained."""
    for module in (experiment, submission, deployment, search):
        monkeypatch.setattr(module, "prepare_dataset", lambda *a, **k: pytest.fail("work began"))


def refused(main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = contents(Path())
    assert main(arguments) == 2
    assert contents(Path()) == before
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("root", ["a_file", "a_file/below", "/proc/nowhere", "/sys/nowhere"])
def test_model_root_and_data_root(
    workspace: Path, capsys: pytest.CaptureFixture[str], root: str
) -> None:
    Path("a_file").write_text("not a folder")
    error = refused(run_expid.main, [*ARGUMENTS, "--set", f"model_root={root}"], capsys)
    assert f"error: {root}/MicroLens_demo: cannot write results there: " in error
    assert error.count("error: ") == 1

    def raw(config: dict) -> None:
        config["MicroLens_demo"] |= {"rebuild_dataset": True, "data_root": root}

    edit_yaml(Path("config/dataset_config.yaml"), raw)
    error = refused(run_expid.main, ARGUMENTS, capsys)
    assert f"error: {root}/MicroLens_demo: cannot write results there: " in error


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["model", "log", "state", "calibration.png", "history.csv"])
def test_a_folder_where_a_result_goes(
    workspace: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place = Path(f"checkpoints/MicroLens_demo/QIN_test.{name}")
    place.mkdir(parents=True)
    error = refused(run_expid.main, ARGUMENTS, capsys)
    assert error.startswith(f"error: {place}: cannot be written: it is a folder, expected")
    assert error.count("error: ") == 1


@pytest.mark.usefixtures("no_work")
def test_other_outputs_of_an_experiment(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config.csv").mkdir()
    assert "config.csv: cannot be written: it is a folder" in refused(
        run_expid.main, ARGUMENTS, capsys
    )
    Path("QIN_tuner_config.csv").mkdir()
    assert run_param_tuner.main(["--config", "config/QIN_tuner_config.yaml"]) == 2
    assert "QIN_tuner_config.csv: cannot be written: it is a folder" in capsys.readouterr().err
    Path("submission/QIN_test.zip").mkdir(parents=True)
    assert "QIN_test.zip: cannot be written: " in refused(prediction.main, ARGUMENTS, capsys)
    Path("note").write_text("a file")
    for target in ("/proc/out.csv", "note/x.csv"):
        output = ["--input", f"{DATA}/test.parquet", "--output", target]
        assert f"error: {target}: cannot be written: " in refused(
            prediction.main, [*ARGUMENTS, *output], capsys
        )
    for kind in ("folded", "export.pt2"):
        Path(f"checkpoints/MicroLens_demo/QIN_test.{kind}").mkdir(parents=True)
    fold = refused(serving.main, ["fold", *ARGUMENTS], capsys)
    assert "QIN_test.folded: cannot be written: it is a folder" in fold
    export = refused(serving.main, ["export", *ARGUMENTS, "--format", "torch"], capsys)
    assert "QIN_test.export.pt2: cannot be written: it is a folder" in export


def test_outputs_of_the_data_commands(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("log.csv").write_text("user,item,timestamp\na,b,1\n")
    Path("out/train.parquet").mkdir(parents=True)
    (Path("a") / "MicroLens_demo.report.png").mkdir(parents=True)
    info = f"{DATA}/item_info.parquet"
    beside = Path(f"{DATA}/item_info.e.projection.npz")
    beside.mkdir()
    for arguments, expected in (
        (["convert", "--interactions", "log.csv", "--out", "out"], "out/train.parquet: "),
        (["demo", "--out", "log.csv/x"], "log.csv/x/train.parquet: cannot be written: log.csv is"),
        (["validate", "MicroLens_demo", "--out", "a"], "a/MicroLens_demo.report.png: "),
        (["embed", "--item-info", info, "--vectors", "v.npz", "--column", "e"], f"{beside}: "),
        (["fetch", "MicroLens_1M_x1", "--out", "log.csv"], "log.csv/MicroLens_1M_x1: "),
    ):
        assert expected in refused(prepare.main, arguments, capsys), arguments
    # A file that must not be written, whoever asks: root may write to any that is not so.
    real = os.open

    def protected(path: object, flags: int, *rest: int, **more: int) -> int:
        if str(path).endswith("item_info.parquet") and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(files.os, "open", protected)
    join = ["join", "--item-info", info, "--metadata", "log.csv", "--columns", "x"]
    assert f"{info}: cannot be written: Permission denied" in refused(prepare.main, join, capsys)


def test_what_is_checked_is_left_as_it_was(tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "new" / "target.csv")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    require_writable([there, tmp_path / "a/b/c.csv", tmp_path / "link.csv"], [tmp_path / "d/e"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.csv", "loop", "there.csv"]
    assert there.read_text() == "old"
    with pytest.raises(InputError, match="loop: cannot be written: it is a link to itself"):
        require_writable([tmp_path / "loop"])
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        require_writable([tmp_path / ("x" * 300)])
    with write_aside(tmp_path / "link.csv") as partial:
        partial.write_text("new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "new" / "target.csv").read_text() == "new"


def test_home_and_variables(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    monkeypatch.setenv("DEMO", "MicroLens_demo")
    monkeypatch.delenv("NOT_SET", raising=False)
    keys = ["train_data", "valid_data", "test_data", "item_info", "oracle"]
    keys += ["data_root", "model_root"]
    params = load_experiment("config", "QIN_test", [f"{k}=~/a/${{DEMO}}x" for k in keys]).params
    assert {params[key] for key in keys} == {f"{workspace}/a/MicroLens_demox"}
    with pytest.raises(InputError) as error:
        load_experiment("config", "QIN_test", [f"{key}=$NOT_SET/x" for key in keys])
    assert len(error.value.problems) == len(keys)
    assert "model_root: $NOT_SET/x: the environment has no variable NOT_SET" in str(error.value)
    with pytest.raises(InputError, match="model_root: found '', expected a path"):
        load_experiment("config", "QIN_test", ["model_root=''"])

    monkeypatch.chdir("/")
    arguments = ["--config", "$HOME/config", "--expid", "QIN_test"]
    roots = [f"{key}=~/data/$DEMO/{key.partition('_')[0]}.parquet" for key in keys[:3]]
    roots += ["item_info=~/data/$DEMO/item_info.parquet", "model_root=~/ck", "oracle=null"]
    output = ["--input", "~/none.csv", "--output", "~/none.csv"]
    assert prediction.main([*arguments, *output, "--set", *roots]) == 2
    whole = f"{workspace}/none.csv"
    assert f"--output {whole} is --input {whole}" in capsys.readouterr().err
    for main, given in (
        (run_expid.main, ["--config", "$NOT_SET", "--expid", "QIN_test"]),
        (run_param_tuner.main, ["--config", "${NOT_SET}/t.yaml"]),
        (prediction.main, [*arguments, "--input", "$NOT_SET", "--output", "x.csv"]),
        (prepare.main, ["demo", "--out", "$NOT_SET"]),
        (prepare.main, ["convert", "--interactions", "$NOT_SET", "--out", "x"]),
        (prepare.main, ["join", "--item-info", "a", "--metadata", "$NOT_SET", "--columns", "c"]),
        (prepare.main, ["embed", "--item-info", "a", "--vectors", "$NOT_SET"]),
        (prepare.main, ["validate", "D", "--config", "$NOT_SET"]),
        (prepare.main, ["fetch", "D", "--out", "$NOT_SET"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
        assert "the environment has no variable NOT_SET" in capsys.readouterr().err


def test_what_is_no_variable_stays() -> None:
    assert expanded("a/price_$5.parquet") == "a/price_$5.parquet"
    assert expanded("~backup.csv") == "~backup.csv"
    with pytest.raises(InputError, match="no home folder of ~nobody_of_this_name is known"):
        expanded("~nobody_of_this_name/x")


def test_a_disk_that_fails_in_the_middle(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device", "data/x.parquet")

    monkeypatch.setattr(experiment, "prepare_dataset", full)
    assert run_expid.main(ARGUMENTS) == 2
    assert capsys.readouterr().err == "error: data/x.parquet: No space left on device\n"
