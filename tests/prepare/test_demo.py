"""The generated set: the challenge's schema, reproducible, calibrated, and a fair test."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from model_zoo.core.errors import InputError
from model_zoo.core.prepare import demo

FILES = ["item_info", "oracle", "test", "train", "valid"]
SMALL: dict[str, int] = {"num_users": 400, "num_items": 300, "train_rows": 3000}
SMALL |= {"valid_rows": 700, "test_rows": 500}
FEATURES = {
    "user_id": pl.Int64,
    "item_seq": pl.List(pl.Int64),
    "item_id": pl.Int64,
    "likes_level": pl.Int64,
    "views_level": pl.Int64,
}


def read(folder: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in FILES}


def matrix(frame: pl.DataFrame, column: str) -> np.ndarray:
    return np.array(frame[column].to_list())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("small")
    demo.generate_demo(folder, **SMALL)
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.parquet" for name in FILES]
    return read(folder)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("default")
    demo.generate_demo(folder)
    return read(folder)


def test_schema_is_the_challenge_schema(small: dict[str, pl.DataFrame]) -> None:
    labelled = FEATURES | {"label": pl.Float64}
    assert dict(small["train"].schema) == labelled
    assert dict(small["valid"].schema) == labelled
    assert dict(small["test"].schema) == FEATURES
    assert dict(small["item_info"].schema) == {
        "item_id": pl.Int64,
        "item_tags": pl.List(pl.Int64),
        "item_emb_d128": pl.List(pl.Float32),
    }
    assert [small[s].height for s in ("train", "valid", "test")] == [3000, 700, 500]
    for split in ("train", "valid", "test"):
        frame = small[split]
        assert matrix(frame, "item_seq").shape == (frame.height, 100)
        assert frame["user_id"].is_between(1, 400).all()
        assert frame["item_id"].is_between(1, 299).all()
        for level in ("likes_level", "views_level"):
            assert frame[level].is_between(0, demo.NUM_LEVELS - 1).all()
    assert set(small["train"]["label"]) == {0.0, 1.0}


def test_row_k_is_item_k_and_row_0_is_padding(small: dict[str, pl.DataFrame]) -> None:
    info = small["item_info"]
    tags, vectors = matrix(info, "item_tags"), matrix(info, "item_emb_d128")
    assert info["item_id"].to_list() == list(range(300))
    assert tags.shape == (300, 5)
    assert vectors.shape == (300, demo.EMBEDDING_WIDTH)
    assert not tags[0].any()
    assert not vectors[0].any()
    assert (tags[1:, -1] > 0).all()
    assert tags.max() < demo.NUM_TAGS
    for row in tags[1:]:
        assert len(set(row[row > 0])) == (row > 0).sum()
    assert vectors[1:].std() == pytest.approx(1.0, abs=0.3)


def test_lists_are_padded_on_the_left(small: dict[str, pl.DataFrame]) -> None:
    sequences = matrix(small["train"], "item_seq")
    tags = matrix(small["item_info"], "item_tags")
    for lists in (sequences, tags):
        real = lists > 0
        assert (np.diff(real.astype(int), axis=1) >= 0).all(), "no padding after an item"
    assert (sequences[:, -1] > 0).all(), "no empty history"
    assert sequences.max() < 300


def test_a_user_has_one_history(small: dict[str, pl.DataFrame]) -> None:
    both = pl.concat([small["train"], small["valid"]]).select("user_id", "item_seq")
    assert both.unique().height == both["user_id"].n_unique()


def test_history_lengths_are_like_the_real_ones(default: dict[str, pl.DataFrame]) -> None:
    length = (matrix(default["train"], "item_seq") > 0).sum(axis=1)
    assert np.percentile(length, [25, 50, 75]).tolist() == [4, 6, 9]
    assert length.mean() == pytest.approx(8, abs=0.6)
    assert (length.min(), length.max()) == (1, 100)


def test_a_longer_history_keeps_to_seq_len(tmp_path: Path) -> None:
    demo.generate_demo(tmp_path, **SMALL, seq_len=7)
    sequences = matrix(read(tmp_path)["train"], "item_seq")
    assert sequences.shape[1] == 7
    assert (sequences > 0).all(axis=1).any()


def test_same_arguments_same_values(tmp_path: Path, small: dict[str, pl.DataFrame]) -> None:
    demo.generate_demo(tmp_path / "again", **SMALL)
    demo.generate_demo(tmp_path / "other", **SMALL, seed=1)
    again, other = read(tmp_path / "again"), read(tmp_path / "other")
    for name in FILES:
        assert again[name].equals(small[name]), name
        assert not other[name].equals(small[name]), name


def test_the_size_of_one_split_leaves_the_others_alone(
    tmp_path: Path, small: dict[str, pl.DataFrame]
) -> None:
    demo.generate_demo(tmp_path, **(SMALL | {"train_rows": 10}))
    found = read(tmp_path)
    for name in ("valid", "test", "item_info"):
        assert found[name].equals(small[name]), name


def test_chunks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_CHUNK_ROWS", 400)
    demo.generate_demo(tmp_path, **SMALL)
    assert pq.ParquetFile(tmp_path / "train.parquet").num_row_groups == 8
    found = read(tmp_path)
    for split in ("train", "valid", "test"):
        truth = found["oracle"].filter(pl.col("split") == split)
        assert truth["row"].to_list() == list(range(found[split].height))


def test_oracle_repeats_the_labels_and_knows_the_withheld_ones(
    small: dict[str, pl.DataFrame],
) -> None:
    oracle = small["oracle"]
    assert oracle.columns == ["split", "row", "probability", "label"]
    assert oracle["probability"].is_between(0, 1, closed="none").all()
    for split in ("train", "valid"):
        truth = oracle.filter(pl.col("split") == split)
        assert truth["label"].equals(small[split]["label"])
    assert set(oracle.filter(pl.col("split") == "test")["label"]) == {0.0, 1.0}


def test_oracle_is_calibrated(default: dict[str, pl.DataFrame]) -> None:
    """In each bin the click rate is within 4 standard errors of the mean probability."""
    probability = default["oracle"]["probability"].to_numpy()
    label = default["oracle"]["label"].to_numpy()
    order = np.argsort(probability)
    for rows in np.array_split(order, 20):
        p = probability[rows]
        error = np.sqrt((p * (1 - p)).sum()) / len(rows)
        assert abs(label[rows].mean() - p.mean()) < 4 * error
    assert 0.25 < label.mean() < 0.5


def test_probability_follows_the_documented_formula() -> None:
    rng = np.random.default_rng(0)
    items = demo._draw_items(299, rng)
    users = demo._draw_users(50, 100, items, rng)
    rows = demo._draw_rows(200, 0.2, items, users, rng)
    sequences = np.array(rows["item_seq"].to_pylist())
    probability = np.asarray(rows["probability"])
    for k in range(200):
        history = sequences[k][sequences[k] > 0]
        t = items.latent[np.asarray(rows["item_id"])[k]]
        s = sum(max(0.0, float(items.latent[h] @ t) - 0.4) for h in history)
        m = 1 - 2 * np.exp(-s / 0.4)
        a = (np.asarray(rows["likes_level"])[k] - 5) / 2.5
        v = (np.asarray(rows["views_level"])[k] - 5) / 2.5
        p, r = 8**0.5 * t[0], 8**0.5 * t[1]
        logit = -0.9 + 2.4 * m + 0.9 * a * v + 0.8 * a * p + 0.9 * m * v + 0.2 * a + 0.2 * r
        assert probability[k] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-9)


def test_cold_items_are_rare_in_train_and_common_in_valid(
    default: dict[str, pl.DataFrame],
) -> None:
    history = np.unique(matrix(default["train"], "item_seq"))
    shown = default["train"]["item_id"].value_counts()
    count = dict(zip(shown["item_id"], shown["count"], strict=True))
    cold = np.setdiff1d(np.arange(1, demo.NUM_ITEMS), history)
    assert 0.2 < len(cold) / demo.NUM_ITEMS < 0.3
    assert np.mean([count.get(item, 0) for item in cold]) < 5
    for split in ("valid", "test"):
        assert 0.15 < default[split]["item_id"].is_in(cold.tolist()).mean() < 0.3


def target_features(data: dict[str, pl.DataFrame], split: str) -> np.ndarray:
    """What a model without history sees: one-hot levels, multi-hot tags, vector."""
    frame, info = data[split], data["item_info"]
    tags = np.zeros((info.height, demo.NUM_TAGS))
    np.put_along_axis(tags, matrix(info, "item_tags"), 1.0, axis=1)
    tags[:, 0] = 0
    item = frame["item_id"].to_numpy()
    one_hot = np.eye(demo.NUM_LEVELS)
    levels = [one_hot[frame[name].to_numpy()] for name in ("likes_level", "views_level")]
    return np.hstack([*levels, tags[item], matrix(info, "item_emb_d128")[item]])


def test_a_linear_model_of_the_target_is_far_from_the_best(
    default: dict[str, pl.DataFrame],
) -> None:
    truth = default["oracle"].filter(pl.col("split") == "valid")
    label = default["valid"]["label"].to_numpy()
    best = roc_auc_score(label, truth["probability"].to_numpy())
    assert 0.85 < best < 0.93

    some = default | {"train": default["train"].head(20_000)}
    model = LogisticRegression(C=0.1, max_iter=1000, tol=1e-3)
    model.fit(target_features(some, "train"), some["train"]["label"].to_numpy())
    linear = roc_auc_score(label, model.decision_function(target_features(default, "valid")))
    assert 0.10 < (linear - 0.5) / (best - 0.5) < 0.45


def test_impossible_arguments_are_all_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        demo.generate_demo(tmp_path / "set", seed=-1, num_items=10, valid_rows=0)
    assert caught.value.problems == [
        "generate_demo: seed is -1, expected at least 0",
        "generate_demo: num_items is 10, expected at least 65",
        "generate_demo: valid_rows is 0, expected at least 1",
    ]
    assert not (tmp_path / "set").exists()


def test_the_smallest_set_can_be_made(tmp_path: Path) -> None:
    ones = dict.fromkeys(["num_users", "train_rows", "valid_rows", "test_rows", "seq_len"], 1)
    demo.generate_demo(tmp_path, num_items=65, **ones)
    assert read(tmp_path)["train"].height == 1


@pytest.mark.parametrize("tables_before", range(7))
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables_before: int
) -> None:
    calls = itertools.count()
    original = pq.ParquetWriter.write_table

    def failing(self: pq.ParquetWriter, *args: object) -> None:
        if next(calls) == tables_before:
            raise OSError("disk full")
        original(self, *args)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", failing)
    with pytest.raises(OSError, match="disk full"):
        demo.generate_demo(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_train_gets_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when an older, complete set is replaced."""
    demo.generate_demo(tmp_path, **SMALL)
    order: list[tuple[str, bool]] = []
    original = os.replace

    def recording(source: Path, final: Path) -> None:
        order.append((final.stem, (tmp_path / "train.parquet").exists()))
        original(source, final)

    monkeypatch.setattr("model_zoo.core.files.os.replace", recording)
    demo.generate_demo(tmp_path, **SMALL, seed=1)
    assert [name for name, _ in order] == ["item_info", "oracle", "test", "valid", "train"]
    assert not any(exists for _, exists in order)


def test_no_progress_bar_where_nobody_looks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    demo.generate_demo(tmp_path, **SMALL)
    assert capfd.readouterr() == ("", "")
