"""The cases run in a process of their own: a registered device would stay in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every case of ``tests.gpu.cases`` left, by name; a ``Report``'s fields."""
    folder = tmp_path_factory.mktemp("standin")
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.cases", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads((folder / "reports.json").read_text())
    return found
