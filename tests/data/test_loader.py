"""Batches against a loader that goes row by row."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map
from model_zoo.core.data.block import pack_histories
from model_zoo.core.data.loader import HistoryLoader, InMemoryLoader, StreamingLoader, make_loader
from model_zoo.core.errors import InputError
from tests import oracles

HISTORIES = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(
    histories=HISTORIES, max_len=st.integers(1, 9), dtype=st.sampled_from([pa.int64(), pa.uint16()])
)
def test_packing_drops_padding_and_the_oldest(
    histories: list[list[int]], max_len: int, dtype: pa.DataType
) -> None:
    items, lengths = pack_histories(pa.array(histories, pa.list_(dtype)), max_len)
    expected = oracles.packed_histories(histories, max_len)
    assert [part.tolist() for part in items.split(lengths.tolist())] == expected


def test_fixed_size_lists_are_packed_alike() -> None:
    histories = [[0, 0, 5], [1, 2, 3]]
    fixed = pack_histories(pa.array(histories, pa.list_(pa.int32(), 3)), 2)
    assert [tensor.tolist() for tensor in fixed] == [[5, 2, 3], [1, 2]]


def load(
    split: str = "train", *, folder: bool = False, **settings: object
) -> tuple[HistoryLoader, pl.DataFrame]:
    experiment = load_experiment("config", "QIN_test", ["group_id=user_id"])
    feature_map = build_feature_map(experiment.params)
    path = Path("data/MicroLens_demo") / f"{split}.parquet"
    frame = pl.read_parquet(path)
    if folder:
        path = Path("data/parts")
        path.mkdir(exist_ok=True)
        for i, part in enumerate(frame.iter_slices(150)):
            part.write_parquet(path / f"{i}.parquet", row_group_size=40)
    loader = make_loader(feature_map, path, split=split, dataset=experiment.dataset, **settings)
    return loader, frame


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("max_len", [3, 64])
def test_batches_equal_a_plain_loader(workspace: Path, shuffle: bool, max_len: int) -> None:
    loader, frame = load(batch_size=64, shuffle=shuffle, max_len=max_len, seed=5)
    order = np.arange(len(frame))
    if shuffle:
        order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(5)).numpy()
    histories = oracles.packed_histories(frame["item_seq"].to_list(), max_len)
    seen = 0
    for batch in loader:
        rows = order[seen : seen + len(batch["item_id"])]
        seen += len(rows)
        for name in ("item_id", "likes_level", "views_level", "user_id", "label"):
            assert batch[name].tolist() == frame[name].gather(rows).to_list()
        packed = batch["item_seq"].split(batch["item_seq_length"].tolist())
        assert [part.tolist() for part in packed] == [histories[row] for row in rows]
    assert seen == len(frame)
    assert len(loader) == -(-len(frame) // 64)


@pytest.mark.parametrize("batch_size", [50, 64, 599, 700])
@pytest.mark.parametrize("buffer_size", [1, 100, 10_000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_folder_is_streamed_and_every_row_comes_once(
    workspace: Path, shuffle: bool, buffer_size: int, batch_size: int
) -> None:
    loader, frame = load(
        folder=True, shuffle=shuffle, buffer_size=buffer_size, batch_size=batch_size
    )
    assert isinstance(loader, StreamingLoader)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(len(batch["item_id"]) >= batch_size for batch in batches[:-1])
    names = ["user_id", "item_id", "likes_level", "views_level", "label"]
    rows = list(zip(*(torch.cat([b[n] for b in batches]).tolist() for n in names), strict=True))
    histories = [
        part.tolist()
        for batch in batches
        for part in batch["item_seq"].split(batch["item_seq_length"].tolist())
    ]
    got = [(*row, *history) for row, history in zip(rows, histories, strict=True)]
    kept = oracles.packed_histories(frame["item_seq"].to_list(), 64)
    expected = [
        (*row, *history) for row, history in zip(frame.select(names).rows(), kept, strict=True)
    ]
    assert sorted(got) == sorted(expected)
    assert (got == expected) is not shuffle


@pytest.mark.parametrize("folder", [False, True])
def test_each_epoch_has_an_order_of_its_own_and_seeds_repeat(workspace: Path, folder: bool) -> None:
    def epochs(seed: int) -> list[list[int]]:
        loader, _ = load(folder=folder, batch_size=100, shuffle=True, seed=seed)
        return [torch.cat([b["item_id"] for b in loader]).tolist() for _ in range(2)]

    first, second = epochs(1)
    assert first != second
    assert sorted(first) == sorted(second)
    assert epochs(1) == [first, second]
    assert epochs(2)[0] != first


def test_ids_take_the_smallest_type(workspace: Path) -> None:
    """120 items and 11 levels fit into a byte; positions and groups do not."""
    types = {name: tensor.dtype for name, tensor in next(iter(load(batch_size=9)[0])).items()}
    assert types == {
        "item_id": torch.uint8,
        "item_seq": torch.uint8,
        "likes_level": torch.uint8,
        "views_level": torch.uint8,
        "item_seq_length": torch.int64,
        "user_id": torch.int64,
        "label": torch.float32,
    }


@pytest.mark.parametrize("data_on_device", [True, "auto", False])
def test_rows_may_be_kept_on_the_device(workspace: Path, data_on_device: object) -> None:
    settings = {"batch_size": 64, "shuffle": True}
    plain = list(load(**settings)[0])
    device = torch.device("cpu")
    kept = list(load(**settings, device=device, data_on_device=data_on_device)[0])
    for one, other in zip(plain, kept, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_rows_on_another_device(workspace: Path) -> None:
    """The meta device holds no values, but shows where tensors are."""
    loader, _ = load(batch_size=64, data_on_device=True, device=torch.device("meta"))
    assert {c.device.type for c in loader._rows.columns.values()} == {"meta"}


def test_the_test_split_has_no_label(workspace: Path) -> None:
    loader, _ = load("test", batch_size=64)
    assert all("label" not in batch for batch in loader)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("batch_size", [599, 600, 601])
def test_no_training_batch_has_a_single_row(workspace: Path, batch_size: int, folder: bool) -> None:
    """Batch normalisation cannot train on one row, so it joins the batch before."""
    loader, frame = load(folder=folder, batch_size=batch_size)
    sizes = [len(batch["item_id"]) for batch in loader]
    assert sum(sizes) == len(frame) == 600
    assert len(sizes) == len(loader) == 1


def test_an_abandoned_epoch_ends_its_reader(workspace: Path) -> None:
    loader, _ = load(folder=True, batch_size=50, buffer_size=50)
    next(iter(loader))
    reading = [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    for thread in reading:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_a_file_is_held_in_memory(workspace: Path) -> None:
    assert isinstance(load()[0], InMemoryLoader)


@pytest.mark.parametrize("name", ["batch_size", "max_len", "buffer_size"])
def test_sizes_below_one_are_refused(workspace: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be at least 1, got 0"):
        load(**{name: 0})
