"""Numbers of any scale: their statistics, and a model that sees none of the scale."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from model_zoo.core import Scorer
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.deployment import write_folded
from model_zoo.core.commands.experiment import (
    build_feature_map,
    build_model,
    prepare_dataset,
    run_experiment,
)
from model_zoo.core.commands.submission import score_file
from model_zoo.core.data.encode import encode_dataset, read_numbers
from model_zoo.core.data.numbers import Moments, fit_numbers, row_moments
from model_zoo.core.data.schema import check_dataset
from model_zoo.core.data.spec import DatasetSpec
from model_zoo.core.errors import InputError
from model_zoo.core.prepare.facts import describe_dataset
from model_zoo.core.prepare.report import format_report
from tests.conftest import edit_yaml
from tests.numbers_set import COLUMNS, ITEMS, write_set

RAW = {split: Path(f"raw/{split}.parquet") for split in ("train", "valid", "test", "item_info")}


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a QIN of numbers of a large scale."""
    folder = tmp_path_factory.mktemp("numbers")
    with pytest.MonkeyPatch.context() as patch:
        _without_pictures(patch)
        patch.chdir(folder)
        write_set(scaled=True)
        train("QIN")
    return folder


def _without_pictures(patch: pytest.MonkeyPatch) -> None:
    """They take most of a second each."""
    for name in ("draw_training_curve", "report_calibration"):
        patch.setattr(f"model_zoo.core.commands.experiment.{name}", lambda *a, **b: None)


@pytest.fixture
def folder(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _without_pictures(monkeypatch)
    return own_folder


@pytest.fixture
def trained(folder: Path, _trained: Path) -> Path:
    shutil.copytree(_trained, folder, dirs_exist_ok=True)
    return folder


def dataset(*overrides: str) -> DatasetSpec:
    return load_experiment("config", "QIN", overrides).dataset


def edit(name: str, *changes: pl.Expr) -> None:
    pl.read_parquet(RAW[name]).with_columns(*changes).write_parquet(RAW[name])


def with_column(name: str, **settings: Any) -> list[dict[str, Any]]:
    return [c | settings if c["name"] == name else c for c in COLUMNS]


def train(model: str = "QIN", *overrides: str, **options: Any) -> dict[str, Any]:
    return run_experiment("config", model, overrides=overrides, **options)


def scores(source: str | Path = RAW["test"], model: str = "QIN") -> np.ndarray:
    score_file("config", model, source=source, target="scores.parquet")
    return pl.read_parquet("scores.parquet")["probability"].to_numpy()


def weights(model: str = "QIN") -> dict[str, torch.Tensor]:
    return torch.load(f"checkpoints/Shop/{model}.model", weights_only=True)


def old_checkpoint() -> None:
    """As a version without statistics wrote it."""
    kept = {n: t for n, t in weights().items() if not n.startswith("numbers.")}
    torch.save(kept, "checkpoints/Shop/QIN.model")


# --- the statistics


@pytest.mark.parametrize(("center", "spread"), [(1.7e9, 3_600.0), (0.0, 1e30), (-5e15, 2.0)])
def test_moments_of_pieces_are_those_of_the_whole(center: float, spread: float) -> None:
    values = center + spread * np.random.default_rng(1).normal(size=3_000)
    moments = Moments()
    for piece in np.split(values, [1, 2, 500, 500, 1_700]):
        moments.add(piece)
    exact = values.astype(np.longdouble)
    assert (moments.least, moments.most) == (values.min(), values.max())
    assert moments.mean == pytest.approx(float(exact.mean()), rel=1e-15, abs=1e-9 * spread)
    assert moments.deviation == pytest.approx(float(exact.std()), rel=1e-9)


def test_moments_count_as_often_as_said() -> None:
    values, counts = np.array([3.0, 5.0, 9.0]), np.array([2.0, 0.0, 3.0])
    weighted, repeated = Moments(), Moments()
    weighted.add(values, counts)
    repeated.add(np.repeat(values, counts.astype(int)))
    assert weighted.mean == repeated.mean == pytest.approx(6.6)
    assert weighted.deviation == pytest.approx(repeated.deviation)


def test_a_constant_has_no_deviation_whatever_rounding_leaves() -> None:
    moments = Moments()
    for size in (7, 100, 13):
        moments.add(np.full(size, 0.1))
    assert moments.deviation == 0.0
    assert Moments().deviation == 0.0


def test_statistics_are_of_the_train_rows_and_kept(folder: Path) -> None:
    """Of items as often as targets and histories show them; those that none shows do not count."""
    write_set(scaled=True)
    rows = pl.read_parquet(RAW["train"])
    items = pl.read_parquet(RAW["item_info"])
    stray = pl.DataFrame({"item": ["unseen"], "price": [1e12]})
    pl.concat([items, stray]).write_parquet(RAW["item_info"])
    encoded = encode_dataset(dataset())
    shown = pl.concat([rows["item"], rows["clicked"].explode().drop_nulls()])
    prices = dict(items.iter_rows())
    of_items = np.array([prices[item] for item in shown])
    found = read_numbers(dataset())
    for name, values in (("time", rows["time"]), ("cents", rows["cents"]), ("price", of_items)):
        values = np.asarray(values, dtype=np.longdouble)
        assert found[name]["center"] == pytest.approx(float(values.mean()), rel=1e-14)
        assert found[name]["spread"] == pytest.approx(float(values.std()), rel=1e-10)
        assert found[name]["missing"] == found[name]["center"]
    assert json.loads(Path("data/Shop/encoding.json").read_text())["numbers"] == found
    # The encoded files keep the numbers, and have the same statistics, to the last bit.
    assert pl.read_parquet(encoded.train_data)["time"].equals(rows["time"].cast(pl.Float64))
    assert fit_numbers(encoded) == found


def test_parts_of_a_folder_are_one_column(folder: Path) -> None:
    write_set(scaled=True)
    whole = row_moments("raw/train.parquet", [dataset().column("time")])["time"]
    rows = pl.read_parquet(RAW["train"])
    Path("parts").mkdir()
    for i, piece in enumerate((rows[:1], rows[1:400], rows[400:])):
        piece.write_parquet(f"parts/{i}.parquet", row_group_size=37)
    parts = row_moments("parts", [dataset().column("time")])["time"]
    assert (parts.count, parts.least, parts.most) == (whole.count, whole.least, whole.most)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-15)
    assert parts.deviation == pytest.approx(whole.deviation, rel=1e-12)


# --- what a model sees


@pytest.mark.parametrize("name", ["QIN", "QIN+", "DIN"])
def test_a_model_of_numbers_of_any_scale_is_that_of_scaled_ones(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds since 1970, cents and prices; the history shows items with prices, too."""
    found = []
    for scaled in (True, False):
        here = folder / str(scaled)
        here.mkdir()
        monkeypatch.chdir(here)
        write_set(scaled=scaled)
        result = train(name)
        assert result["valid"]["AUC"] > 0.85
        assert result["test"]["AUC"] > 0.85
        found.append(scores(model=name))
    assert len(set(found[0])) > 90
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_everything_that_scores_takes_numbers_as_they_come(trained: Path) -> None:
    """parquet, csv, a scorer's rows and users, items added and updated."""
    rows = pl.read_parquet(RAW["test"]).head(20)
    expected = scores()[:20]
    assert len(set(expected)) == 20
    csv = rows.with_columns(pl.col("clicked").list.join("^"), pl.col("time").cast(pl.Int64))
    csv.write_csv("rows.csv")
    np.testing.assert_allclose(scores("rows.csv"), expected, atol=1e-6)
    scorer = Scorer.load(write_folded("config", "QIN"))
    histories, items = rows["clicked"].to_list(), rows["item"].to_list()
    context = {"time": rows["time"].to_list(), "cents": rows["cents"].to_numpy().copy()}
    batch = scorer.score_batch(histories, items, context)
    np.testing.assert_allclose(batch, expected, atol=1e-6)
    one = {name: values[3] for name, values in context.items()}
    alone = scorer.score(histories[3], [items[3]], one)
    assert float(alone) == pytest.approx(expected[3], abs=1e-6)

    price = dict(pl.read_parquet(RAW["item_info"]).iter_rows())
    scorer.update_items(["i0"], {"price": [price["i1"]]})
    scorer.add_items(["new", "unpriced"], {"price": [price["i2"], None]})
    scorer.add_items(["also unpriced"], {})
    tables = scorer._folded.vectors
    keys = scorer._ids.rows
    assert keys is not None
    own = slice(4, 8)  # the price's part of an item's vector
    assert torch.equal(tables[keys["i0"], own], tables[keys["i1"], own])
    assert torch.equal(tables[keys["new"], own], tables[keys["i2"], own])
    assert not tables[keys["unpriced"], own].any()
    assert not tables[keys["also unpriced"], own].any()


def test_an_encoded_set_is_standardised_as_well(trained: Path) -> None:
    """Its ids are numbers already; the statistics are the checkpoint's."""
    expected = scores()
    encoded = prepare_dataset(load_experiment("config", "QIN"))[0].dataset

    def as_encoded(config: dict[str, Any]) -> None:
        kept = {c["name"]: c for c in encoded.model_dump(exclude_none=True)["feature_cols"]}
        config["Shop"].update(
            rebuild_dataset=False,
            item_col=encoded.item_col,
            feature_cols=list(kept.values()),
            **{f"{name}_data": str(Path("data/Shop", f"{name}.parquet")) for name in RAW}
            | {"item_info": "data/Shop/item_info.parquet"},
        )
        del config["Shop"]["item_info_data"]

    edit_yaml(Path("config/dataset_config.yaml"), as_encoded)
    before = weights()
    train("QIN")
    for name, tensor in weights().items():
        assert torch.equal(tensor, before[name]), name
    assert np.array_equal(scores("data/Shop/test.parquet"), expected)


def test_a_checkpoint_without_statistics_scores_as_before(trained: Path) -> None:
    write_set(scaled=False)
    shutil.rmtree("data")
    state = weights()
    state["numbers.center"].zero_()
    state["numbers.factor"].fill_(1.0)
    torch.save(state, "checkpoints/Shop/QIN.model")
    identity = scores()
    old_checkpoint()
    assert np.array_equal(scores(), identity)
    path = write_folded("config", "QIN")
    content = torch.load(path, weights_only=True)
    for description in [*content["row_features"], *content["item_features"]]:
        assert description.pop("scale") is None
    del content["ids"]["missing"]
    torch.save(content | {"version": 2}, path)
    rows = pl.read_parquet(RAW["test"])
    context = {name: rows[name].to_list() for name in ("time", "cents")}
    old = Scorer.load(path).score_batch(rows["clicked"].to_list(), rows["item"].to_list(), context)
    np.testing.assert_allclose(old, identity, atol=1e-6)


def test_a_resumed_training_keeps_its_statistics(trained: Path) -> None:
    center = weights()["numbers.center"]
    state_file = Path("data/Shop/encoding.json")
    state = json.loads(state_file.read_text())
    state["numbers"]["time"]["center"] = 0.0
    state_file.write_text(json.dumps(state))
    train("QIN", "epochs=5", resume=True)
    assert torch.equal(weights()["numbers.center"], center)
    assert center[0] > 1.6e9


# --- settings


def test_fuxictrs_normalizer_is_honoured(folder: Path) -> None:
    columns = with_column("time", normalizer="MinMaxScaler", fill_na=7.0)
    write_set(scaled=True, columns=columns)
    edit("train", pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("time").alias("time"))
    encoded = encode_dataset(dataset())
    times = pl.read_parquet(RAW["train"])["time"]
    found = read_numbers(dataset())["time"]
    assert found["center"] == times.min()
    assert found["spread"] == times.max() - times.min()
    assert pl.read_parquet(encoded.train_data)["time"][3] == 7.0
    for key, value in (("normalizer", "StandardScaler"), ("fill_na", 1.0)):
        write_set(scaled=True, columns=with_column("item", **{key: value}))
        with pytest.raises(InputError, match=f"item: {key} is for type numeric"):
            dataset()
    write_set(scaled=True, columns=with_column("time", normalizer="Scaler"))
    with pytest.raises(InputError, match=r"feature_cols\[time\].normalizer"):
        dataset()


def test_a_missing_number_is_the_mean(trained: Path) -> None:
    first = pl.int_range(pl.len()) == 0
    edit("test", pl.when(first).then(None).otherwise("time").alias("time"))
    missing = scores()[0]
    mean = read_numbers(dataset())["time"]["center"]
    edit("test", pl.col("time").fill_null(mean))
    assert scores()[0] == missing
    row = pl.read_parquet(RAW["test"])[0]
    scorer = Scorer.load(write_folded("config", "QIN"))
    context = {"time": None, "cents": row["cents"]}
    found = scorer.score(row["clicked"][0], row["item"], context)
    assert float(found) == pytest.approx(missing, abs=1e-6)


def test_a_feature_without_numbers_in_training(folder: Path) -> None:
    write_set(scaled=True)
    edit("train", pl.lit(None, pl.Float64).alias("time"))
    with pytest.raises(InputError, match="column 'time' has no value in training; expected some"):
        encode_dataset(dataset())


def test_a_constant_in_training_says_nothing(folder: Path) -> None:
    write_set(scaled=True)
    edit("train", pl.lit(1.7e9).alias("time"))
    assert train("QIN", "epochs=3")["valid"]["AUC"] > 0.6
    before = scores()
    edit("test", pl.lit(-1e30).alias("time"))
    assert np.array_equal(scores(), before)
    report = format_report(describe_dataset(dataset()))
    assert "look at: train: numeric feature time is 1.7e+09 everywhere" in report


# --- what is refused or told


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("train", 1e39, "1e39"),
        ("valid", float("nan"), "nan"),
        ("test", float("-inf"), "-inf"),
        ("item_info", -3.5e38, "-3.5e38"),
    ],
)
def test_what_float32_does_not_hold_is_refused(
    folder: Path, name: str, value: float, found: str
) -> None:
    write_set(scaled=True)
    column = "price" if name == "item_info" else "time"
    edit(name, pl.when(pl.int_range(pl.len()) == 5).then(value).otherwise(column).alias(column))
    with pytest.raises(InputError) as error:
        check_dataset(dataset())
    (problem,) = error.value.problems
    where, shown = problem.split(": found ")
    assert where == f"raw/{name}.parquet: column '{column}', row 5"
    number, expected = shown.split(", expected ")
    assert float(number) == float(found) or found == number == "nan"
    assert expected == "a finite number within ±3.403e+38, the range of float32"


def test_the_range_is_shown(folder: Path) -> None:
    write_set(scaled=True)
    times = pl.read_parquet(RAW["valid"])["time"]
    lines = format_report(describe_dataset(dataset())).splitlines()
    (line,) = [line for line in lines if line.startswith("number time in valid: ")]
    numbers = [float(part.split()[-1]) for part in line.split(",")]
    expected = [times.min(), times.max(), times.mean(), times.std(ddof=0)]
    np.testing.assert_allclose(numbers, expected, rtol=1e-5)
    assert float(line.split("min ")[1].split(",")[0]) == times.min()  # to the second
    prices = pl.read_parquet(RAW["item_info"])["price"]
    assert len(prices) == ITEMS
    assert any(
        line.startswith("number price in item_info: ") and f"mean {prices.mean():.10g}" in line
        for line in lines
    )


def test_one_prediction_for_all_rows_is_told(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment, _ = prepare_dataset(load_experiment("config", "QIN"))
    model = build_model(experiment, build_feature_map(experiment.params), -1)
    labels, metrics = np.array([0.0, 1.0, 1.0]), ["AUC", "logloss"]
    with caplog.at_level(logging.WARNING):
        model.evaluate_metrics(labels, np.array([0.25, 0.25, 0.5]), metrics)
        assert "predictions are" not in caplog.text
        model.evaluate_metrics(labels, np.full(3, 0.25), metrics)
    assert "all 3 predictions are 0.25: the model tells no row from another" in caplog.text
