"""The house is in order: everything imports, nothing stray lies about."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import model_zoo
from tests.conftest import ROOT

MODULES = [m.name for m in pkgutil.walk_packages(model_zoo.__path__, "model_zoo.")]
TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "benchmarks",
    "config",
    "dev",
    "docs",
    "model_zoo",
    "prediction.py",
    "pyproject.toml",
    "requirements.txt",
    "run_expid.py",
    "run_param_tuner.py",
    "setup.py",
    "tests",
}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_layers_do_not_need_fuxictr() -> None:
    code = (
        "import sys; sys.modules['fuxictr'] = None\n"
        "from model_zoo.QIN.layers import AdaptiveSparseTargetAttention, QuadraticNeuralNetwork\n"
        "from model_zoo.QINPlus.layers import GatedTargetAttention\n"
        "from model_zoo.TransformerDCN.layers import TargetAwareTransformer"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_commands_starts_nothing() -> None:
    code = "import run_expid, prediction, run_param_tuner, ray; assert not ray.is_initialized()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == ""


def test_no_stray_files_are_tracked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = listed.stdout.split()
    assert {path.split("/")[0] for path in tracked} - TOP_LEVEL == set()
    generated = (".parquet", ".model", ".npz", ".csv", ".zip", ".png", ".log", ".pkl", ".pt")
    assert [path for path in tracked if path.endswith(generated)] == []
