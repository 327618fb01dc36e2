"""Configurations with one change each: the experiment runs as it says, or is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

import run_expid
from model_zoo.core.commands.config import load_experiment
from tests.fuzz.mutations import broken_bytes, odd_lines, odd_yaml
from tests.fuzz.shop import ARGUMENTS, answer, digests, write_shop

pytestmark = pytest.mark.slow
CHUNK = 20


def mutated(path: Path, random: Random) -> tuple[bytes, str]:
    """The changed file, and the key that the change is about where that is known."""
    text = path.read_text(encoding="utf-8")
    kind = random.randrange(5)
    if kind == 0:
        return broken_bytes(text.encode(), random), ""
    if kind == 1:
        return "\n".join(odd_lines(text.splitlines(), random)).encode(), ""
    content, key = odd_yaml(yaml.safe_load(text), random)
    changed = yaml.safe_dump(content, sort_keys=False, allow_unicode=random.random() < 0.5)
    return changed.encode(), key


def same(value: Any, written: Any) -> bool:
    return value == written or (isinstance(written, float) and math.isnan(written))


@pytest.mark.parametrize("chunk", range(9))
def test_configurations(
    chunk: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_shop(tmp_path)
    shutil.copytree("config", "sound")
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        random = Random(seed)
        shutil.rmtree("config")
        shutil.copytree("sound", "config")
        path = Path("config") / random.choice(["dataset_config.yaml", "model_config.yaml"])
        changed, key = mutated(path, random)
        path.write_bytes(changed)
        before = digests(*Path("raw").iterdir(), *Path("config").iterdir())
        message = answer(run_expid.main, ARGUMENTS, capsys)
        assert digests(*before) == before, seed
        if message is not None:
            named = [path.name, "Shop", "raw/", *([key] if key else [])]
            assert any(name in message for name in named), (seed, named, message)
            continue
        written = yaml.safe_load(changed)
        params = load_experiment("config", "Shop").params
        for name, value in written["Shop"].items():
            if name not in ("feature_cols", "label_col", "dataset_id"):  # those get defaults
                assert same(params[name], value), (seed, name, value)
