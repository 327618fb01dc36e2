"""Fixtures: models small enough to check by hand, and data sets small enough to train on."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fuxictr.features import FeatureMap
from hypothesis import HealthCheck, settings
from torch import Tensor

from model_zoo import get_model
from model_zoo.core.data.item_table import ItemTable
from model_zoo.core.prepare.demo import generate_demo
from model_zoo.QIN.model import QIN

# Models here are tiny: more threads only wait for one another, the more the busier the machine.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Hypothesis fails an example that takes 0.2 seconds, as any does on a machine with other work.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_log_handlers() -> Iterator[None]:
    """FuxiCTR's set_logger replaces the root handlers; give the next test its own again."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the recorded numbers and the real data, beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder with recorded numbers and real data is not there")
    return SHARED


@pytest.fixture(scope="session")
def _demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    generate_demo(
        folder, num_users=200, num_items=120, train_rows=600, valid_rows=200, test_rows=100
    )
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _demo: Path) -> Path:
    """A working directory with the shipped configuration and a small demo data set."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(_demo, tmp_path / "data" / "MicroLens_demo")
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("*_config"))
    edit_yaml(
        tmp_path / "config" / "dataset_config.yaml",
        lambda c: _feature(c, "item_id").update(vocab_size=120),
    )
    return tmp_path


def edit_yaml(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _feature(config: dict[str, Any], name: str) -> dict[str, Any]:
    columns = config["MicroLens_demo"]["feature_cols"]
    return next(column for column in columns if column["name"] == name)


def feature_map(features: dict[str, dict[str, Any]], embedding_dim: int) -> FeatureMap:
    """A FuxiCTR feature map without its files."""
    made = FeatureMap("made", "")
    made.features.update({name: {"source": "", **spec} for name, spec in features.items()})
    made.labels = ["label"]
    made.default_emb_dim = embedding_dim
    return made


SMALL: dict[str, dict[str, Any]] = {
    "QIN": {"num_layers": 2, "num_row": 3},
    "QIN+": {"gate_units": 5, "hidden_units": [7, 6]},
}


def build_small(
    features: dict[str, dict[str, Any]],
    columns: dict[str, Tensor],
    tmp_path: Path,
    *,
    model: str = "QIN",
    rescaled: Collection[str] = (),
    embedding_dim: int = 4,
    **settings: Any,
) -> Any:
    """A model on hand-made features and item columns."""
    arguments = {
        "learning_rate": 1e-2,
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "model_root": str(tmp_path),
        "verbose": 0,
        "net_dropout": 0.0,
    }
    return get_model(model)(
        feature_map(features, embedding_dim),
        embedding_dim=embedding_dim,
        item_table=ItemTable(columns, rescaled),
        **(arguments | SMALL[model] | settings),
    )


build_qin: Callable[..., QIN] = build_small


CATEGORICAL = {"type": "categorical", "padding_idx": 0}
SEQUENCE = {
    "type": "sequence",
    "padding_idx": 0,
    "feature_encoder": "layers.MaskedAveragePooling()",
}
