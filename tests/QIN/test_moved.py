"""Import paths of before still work and name the new ones."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from model_zoo.QIN.moved import new_name
from tests.conftest import ROOT

OLD = {
    "model_zoo.QIN.serving.scorer": "model_zoo.core.serving.scorer",
    "model_zoo.QIN.serving.folded": "model_zoo.QIN.folded",
    "model_zoo.QIN.data.loader": "model_zoo.core.data.loader",
    "model_zoo.QIN.data.convert": "model_zoo.core.prepare.convert",
    "model_zoo.QIN.training.engine": "model_zoo.core.training.engine",
    "model_zoo.QIN.metrics": "model_zoo.core.training.metrics",
    "model_zoo.QIN.experiment": "model_zoo.core.commands.experiment",
    "model_zoo.QIN.errors": "model_zoo.core.errors",
}


@pytest.mark.parametrize("old", OLD)
def test_an_old_path_gives_the_same_module(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(old.rsplit(".", 1)[0] + ".")]:
        if new_name(name):
            monkeypatch.delitem(sys.modules, name)
    with pytest.warns(FutureWarning, match=f"{old} is now {OLD[old]}$"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(OLD[old])
    assert module.__spec__ is not None and module.__spec__.name == OLD[old]


def test_modules_that_stayed_are_found_as_ever() -> None:
    assert new_name("model_zoo.QIN.model") is None
    assert new_name("model_zoo.core.errors") is None
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module("model_zoo.QIN.nothing")


@pytest.mark.parametrize("module", ["data", "serving"])
def test_old_commands_run(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"model_zoo.QIN.{module}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout
    assert f"model_zoo.QIN.{module}.__main__ is now model_zoo.core.commands." in done.stderr
