"""Fixtures of tests that write data sets."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty: data sets have paths relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
