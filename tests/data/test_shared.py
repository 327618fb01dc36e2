"""Tables that several processes read are decoded once and mapped by all."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model_zoo.core.commands.config import Experiment, load_experiment
from model_zoo.core.data import shared
from model_zoo.core.data.item_table import load_item_table
from model_zoo.core.data.loader import HistoryLoader, make_loader


def test_processes_that_share_tables_map_one_file(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches and item features, from memory that the kernel has once."""
    experiment = load_experiment("config", "QIN_test")
    features = experiment.dataset.features(of_items=True)
    info = experiment.dataset.item_info
    make = partial(small_loader, experiment)
    plain, table = list(make()), load_item_table(info, features).columns(None)
    monkeypatch.setattr(shared, "_folders", [])
    shared.share_through(Path("tables"))
    for _ in range(2):  # made, then mapped
        for batch, expected in zip(make(), plain, strict=True):
            torch.testing.assert_close(batch, expected, rtol=0, atol=0)
        mapped = load_item_table(info, features)
        torch.testing.assert_close(mapped.columns(None), table, rtol=0, atol=0)
        assert len(list(Path("tables").glob("*.pt"))) == 2
        monkeypatch.setattr("model_zoo.core.data.loader.read_block", None)  # nothing is decoded
    if Path("/proc/self/maps").is_file():
        assert Path("/proc/self/maps").read_text().count(str(Path("tables").resolve())) >= 2
    mapped.columns(None)["item_emb_d128"][0] = 7.0  # a process's own change
    again = load_item_table(info, features).columns(None)
    torch.testing.assert_close(again, table, rtol=0, atol=0)
    os.utime(info)
    load_item_table(info, features)
    assert len(list(Path("tables").glob("*.pt"))) == 3  # a file that was written since


def small_loader(experiment: Experiment) -> HistoryLoader:
    feature_map = SimpleNamespace(labels=["label"], group_id=None)
    path = experiment.dataset.train_data
    return make_loader(feature_map, path, dataset=experiment.dataset, batch_size=100, max_len=8)
