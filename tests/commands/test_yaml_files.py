"""What is written twice is refused with both places; any locale, path, suffix and name is read."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run_param_tuner
from model_zoo.core.commands.config import load_dataset, load_experiment
from model_zoo.core.commands.yaml_files import (
    parse_overrides,
    read_dataset,
    read_experiment,
    read_yaml,
)
from model_zoo.core.errors import InputError
from tests.conftest import ROOT, edit_yaml

MODEL = "Base: {epochs: 1, seed: 5}\nT:\n  dataset_id: D\n  epochs: 2\n"
DATA = "D:\n  data_root: ./data/\n"


def written(folder: Path, model: str = MODEL, data: str = DATA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.yaml").write_text(model, encoding="utf-8")
    (folder / "dataset_config.yaml").write_text(data, encoding="utf-8")
    return folder


def problems(call, *arguments: object) -> list[str]:
    with pytest.raises(InputError) as error:
        call(*arguments)
    return error.value.problems


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        ("a: 1\nb: 2\na: 1\n", "a", 1, 3),
        ("T:\n  epochs: 1\n  epochs: 2\n", "epochs", 2, 3),
        ("T:\n  epochs: 1\n\n  'epochs': 1\n", "epochs", 2, 4),
        ("D:\n  cols:\n  - {name: x,\n     name: y}\n", "name", 3, 4),
        ("a: {1: x,\n  0x1: y}\n", "0x1", 1, 2),
        ("T: {x: 1}\nS: {}\n'T': {x: 1}\n", "T", 1, 3),
        ("101: {}\n'101': {}\n", "101", 1, 2),
        ("m: &m {x: 1}\nT:\n  <<: *m\n  x: 2\n  x: 3\n", "x", 4, 5),
        ("m: &m {x: 1,\n  x: 2}\nT: {<<: *m}\n", "x", 1, 2),
        ("\ufeffa: 1\r\na: 2\r\n", "a", 1, 2),
    ],
)
def test_a_key_written_twice(tmp_path: Path, text: str, key: str, first: int, second: int) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode())
    expected = f"{path}: '{key}' is written twice, in line {first} and in line {second}"
    assert problems(read_yaml, path) == [expected]


def test_two_merge_lines_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("m: &m {x: 1}\nn: &n {x: 2}\nT:\n  <<: *m\n  <<: *n\n")
    (problem,) = problems(read_yaml, path)
    assert "'<<' is written twice, in line 4 and in line 5; write one <<: [" in problem


def test_every_key_written_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("T:\n  a: 1\n  a: 2\n  a: 3\nS:\n  b: 1\n  b: 1\n")
    assert [p.partition(": ")[2] for p in problems(read_yaml, path)] == [
        "'a' is written twice, in line 2 and in line 3",
        "'a' is written twice, in line 2 and in line 4",
        "'b' is written twice, in line 6 and in line 7",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "m: &m {x: 1, y: 2}\nT:\n  <<: *m\n  x: 3\nS:\n  x: 4\n  <<: *m\n",
        "m: &m {x: 1}\nn: &n {x: 2, y: 3}\nT:\n  <<: [*m, *n]\nS:\n  <<: [*n, *m]\n  y: 1\n",
        "m: &m {x: 1}\nn: &n\n  <<: *m\n  x: 2\nT:\n  <<: *n\n  x: 3\nS: *n\nR: [*n, *n]\n",
        "a: {b: {x: 1}, c: {x: 1}}\nx: {x: {x: 2}}\n",
        "a: 2024-01-02\nb: [0x10, 1.e-3, yes, ~, 1_000, 'x', .nan]\nc: !!set {p, q}\n",
    ],
)
def test_whatever_has_no_key_twice_reads_as_with_the_safe_loader(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert repr(read_yaml(path)) == repr(yaml.safe_load(text))


def test_shipped_files_read_as_with_the_safe_loader() -> None:
    for path in sorted((ROOT / "config").glob("*.yaml")):
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2024-13-45\n", "line 2, column 4"),
        ("a: !!int x\n", "'x' is no int"),
        ("a: !!bool perhaps\n", "'perhaps' is no bool"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: !!python/name:os.getcwd ''\n", "could not determine a constructor"),
        ("[a]: 1\n", "unhashable key"),
        ("a: 1\n\tb: 2\n", "line 2, column 1"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("- a\n", "expected a mapping at the top level"),
        ("", "expected a mapping at the top level"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    (problem,) = problems(read_yaml, path)
    assert problem.startswith(f"{path}: ")
    assert expected in problem


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("a: 1\n".encode("utf-16"))
    assert "a.yaml: not UTF-8 text" in problems(read_yaml, path)[0]


def test_base_and_experiment_are_merged(tmp_path: Path) -> None:
    config = written(tmp_path)
    assert read_experiment(config, "T") == {
        "epochs": 2,
        "seed": 5,
        "dataset_id": "D",
        "model_id": "T",
    }
    assert read_dataset(config, "D") == {"data_root": "./data/", "dataset_id": "D"}


@pytest.mark.parametrize(
    ("kind", "read", "name"),
    [("model_config", read_experiment, "T"), ("dataset_config", read_dataset, "D")],
)
@pytest.mark.parametrize("other", ["folder", "suffix"])
def test_defined_twice_in_two_files(tmp_path: Path, kind: str, read, name: str, other: str) -> None:
    config = written(tmp_path)
    second = config / kind / "more.yml" if other == "folder" else config / f"{kind}.yml"
    second.parent.mkdir(exist_ok=True)
    second.write_text(f"Other: {{x: 1}}\n\n{name}: {{x: 1}}\n")
    first = config / f"{kind}.yaml"
    line = 2 if kind == "model_config" else 1
    assert problems(read, config, name) == [
        f"{name} is defined twice: {first} line {line} and {second} line 3"
    ]


def test_each_file_of_a_folder_may_have_its_own_base(tmp_path: Path) -> None:
    folder = tmp_path / "model_config"
    folder.mkdir()
    (folder / "a.yaml").write_text("Base: {seed: 1}\nA: {x: 1}\n")
    (folder / "b.yml").write_text("B: {x: 2}\n")
    (folder / "._b.yaml").write_text("not: [YAML")  # what a Mac leaves on other file systems
    assert read_experiment(tmp_path, "A") == {"seed": 1, "x": 1, "model_id": "A"}
    assert read_experiment(tmp_path, "B") == {"seed": 1, "x": 2, "model_id": "B"}
    (folder / "c.yaml").write_text("C: {x: 3}\nBase: {seed: 3}\n")
    assert read_experiment(tmp_path, "A")["seed"] == 1
    assert read_experiment(tmp_path, "C")["seed"] == 3
    assert problems(read_experiment, tmp_path, "B") == [
        f"experiment 'B' in {folder / 'b.yml'}: Base is defined twice: "
        f"{folder / 'a.yaml'} line 1 and {folder / 'c.yaml'} line 2"
    ]


@pytest.mark.parametrize("name", ["2024", "007", "1.10", "1_000", "2024-01-02", "yes", "0x1F"])
def test_names_are_the_text_as_written(tmp_path: Path, name: str) -> None:
    config = written(
        tmp_path, f"n: &n {{}}\n{name}: {{dataset_id: {name}}}\n", f"{name}: {{data_root: r}}\n"
    )
    settings = read_experiment(config, name)
    assert settings == {"dataset_id": name, "model_id": name}
    assert read_dataset(config, settings["dataset_id"]) == {"data_root": "r", "dataset_id": name}
    assert parse_overrides([f"dataset_id={name}"]) == {"dataset_id": name}
    assert parse_overrides([f"dataset_id='{name}'"]) == {"dataset_id": name}


@pytest.mark.parametrize("place", ["a [v2]", "b*", "c?", "Données 数据"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_experiment_reads_from_any_place(workspace: Path, place: str, mark: str) -> None:
    Path("config").rename(place)
    for kind in ("model_config", "dataset_config"):
        file = Path(place, f"{kind}.yaml")
        Path(place, f"{kind}.yml").write_text(mark + file.read_text() + "# 说明\n", "utf-8")
        file.unlink()
    assert load_experiment(place, "QIN_test").run.model_id == "QIN_test"
    assert load_dataset(place, "MicroLens_demo").dataset_id == "MicroLens_demo"


def numbered(workspace: Path) -> None:
    """Experiment and data set get numbers for names."""
    config = workspace / "config"
    edit_yaml(config / "model_config.yaml", lambda c: c.update({101: c.pop("QIN_test")}))
    edit_yaml(config / "model_config.yaml", lambda c: c[101].update(dataset_id=7))
    edit_yaml(config / "dataset_config.yaml", lambda c: c.update({7: c.pop("MicroLens_demo")}))


def test_a_locale_that_is_not_utf8(workspace: Path) -> None:
    numbered(workspace)
    for path in Path("config").glob("*.yaml"):
        path.write_text(path.read_text() + "# 说明 é\n", encoding="utf-8")
    command = (
        "import locale; from model_zoo.core.commands.config import load_experiment; "
        "print(locale.getpreferredencoding(), load_experiment('config', '101').dataset.dataset_id)"
    )
    foreign = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    outcome = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, **foreign, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.stdout.split() == ["ANSI_X3.4-1968", "7"], outcome.stderr


def test_a_setting_given_twice() -> None:
    assert parse_overrides(["epochs=1", "seed=2", "epochs=3"]) == {"epochs": 3, "seed": 2}
    (problem,) = problems(parse_overrides, ["monitor={AUC: 1, AUC: 2}"])
    assert problem == "--set monitor={AUC: 1, AUC: 2}: 'AUC' is written twice"
    (problem,) = problems(parse_overrides, ["seed=2024-13-45"])
    assert problem == "--set seed=2024-13-45: the value is not YAML"


def test_a_tuner_file_with_a_key_twice(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("config/QIN_tuner_config.yaml")
    path.write_text("base_expid: QIN_test\ntuner_space:\n  num_row: [1]\n  num_row: [2]\n")
    assert run_param_tuner.main(["--config", str(path)]) == 2
    assert "'num_row' is written twice, in line 3 and in line 4" in capsys.readouterr().err
    assert not path.with_suffix("").exists()


def test_a_tuner_file_of_any_name(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbered(workspace)
    Path("config").rename("config [v2]")
    tuner = Path("tune [1].yml")
    tuner.write_text(
        "base_config: config [v2]\nbase_expid: 101\ndataset_id: 7\n"
        "tuner_space: {num_row: [1], epochs: 1}  # 说明\n",
        encoding="utf-8",
    )
    assert run_param_tuner.main(["--config", str(tuner)]) == 0, capsys.readouterr().err
    (line,) = csv.DictReader(Path("tune [1]/trials.csv").read_text().splitlines())
    assert re.fullmatch("101_[0-9a-f]{12}", line["trial"])
    assert (line["status"], line["num_row"], line["epochs"]) == ("finished", "1", "1.0")


def test_a_tuner_file_without_a_suffix(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config/QIN_tuner_config.yaml").rename("tuner")
    assert run_param_tuner.main(["--config", "tuner"]) == 2
    assert "tuner: expected a name that ends with .yaml or .yml" in capsys.readouterr().err
