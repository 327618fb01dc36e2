"""Any log, in any form of file, becomes the data set that a few plain lines make of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.convert import ConvertOptions, convert_log

SPLITS = ("train", "valid", "test")
THRESHOLD = 3.5
Row = dict[str, Any]


def oracle(log: list[Row], how: dict[str, Any]) -> dict[str, list[Row]]:
    """The rows of each split, from rows of the log with user, item, timestamp and click."""
    kept: dict[tuple[Any, ...], int] = {}  # of repeated events the first, clicks before others
    for n in sorted(range(len(log)), key=lambda n: (not log[n]["click"], n)):
        kept.setdefault((log[n]["user"], log[n]["item"], log[n]["timestamp"]), n)
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for user in sorted({row["user"] for row in log}, key=lambda text: (len(text), text)):
        own = [log[n] for n in sorted(kept.values(), key=lambda n: (log[n]["timestamp"], n))]
        own = [row for row in own if row["user"] == user]
        clicks = [row for row in own if row["click"]]
        for place, row in enumerate(own):
            left = len(clicks) - sum(before["click"] for before in own[:place])
            late = {1: "test", 0: "test", 2: "valid"}.get(left, "train")
            split = late if len(clicks) > 1 else "train"
            if how["split"] == "time":
                cuts = [int(how["valid_from"]), int(how["test_from"])]
                split = SPLITS[sum(row["timestamp"] >= cut for cut in cuts)]
            history = [c["item"] for c in clicks if c["timestamp"] < row["timestamp"]]
            if len(history) >= how["min_history"]:
                splits[split].append(row | {"history": history[-how["max_history"] :]})
    return splits


WORDS = st.sampled_from(["a", "b c", "ü,x", "7", "x;y^z", "Ça", "'q' \"r\""])
TAGS = st.lists(WORDS, max_size=3)


def rows(ids: st.SearchStrategy[str]) -> st.SearchStrategy[list[Row]]:
    row = st.fixed_dictionaries(
        {
            "user": ids,
            "item": ids,
            "timestamp": st.integers(0, 12),
            "label": st.sampled_from([0, 1, 1]),
            "hour": st.none() | st.integers(-3, 300),
            "place": st.none() | st.sampled_from(["home", "x, y", 'say "z"']),
            "seen": TAGS,
        }
    )
    return st.lists(row, min_size=10, max_size=40)


NUMBERS = st.integers(0, 12).map(str)
TEXTS = st.sampled_from(["7", "007", "b b", "ü3", "日本", "NA.", "x|y", "-1", "'q'"])
METADATA = {"tags": TAGS, "price": st.none() | st.sampled_from([0.5, 2.0, -1.25])}
SPLITTING = st.just({"split": "leave-last-out"}) | st.builds(
    lambda a, b: {"split": "time", "valid_from": str(a), "test_from": str(a + b)},
    st.integers(2, 8),
    st.integers(1, 4),
)
WIDTHS = st.sampled_from([pl.UInt8, pl.Int16, pl.UInt32, pl.Int64])


def written(path: Path, frame: pl.DataFrame, form: str, draw: Any) -> str:
    """Write a table in one of the forms of files; lists stand in a text file as text."""
    path = path.with_name(path.name + form)
    lists = [name for name, kind in frame.schema.items() if kind == pl.List]
    if not form.endswith("parquet") or draw(st.booleans()):
        frame = frame.with_columns(
            pl.Series(name, [as_text(items, draw) for items in frame[name]], dtype=pl.String)
            for name in lists
        )
    if form.endswith("parquet"):
        frame.write_parquet(path, row_group_size=draw(st.sampled_from([3, 1000])))
    else:
        text = frame.write_csv(separator="\t" if "tsv" in form else ",").encode()
        path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    return str(path)


def as_text(items: pl.Series, draw: Any) -> str:
    forms = [json.dumps(items.to_list(), ensure_ascii=False), repr(items.to_list())]
    # An item that is quoted is a text in brackets only; FuxiCTR's own form has no quotes.
    return draw(st.sampled_from(["|".join(items), *forms]))


def as_file(log: list[Row], form: str, numbers: bool, labels: str, draw: Any) -> pl.DataFrame:
    """The log as a table, integers of any width in parquet."""
    frame = pl.DataFrame(log, schema_overrides={"hour": pl.Int64, "place": pl.String})
    frame = frame.with_columns(pl.col("seen").cast(pl.List(pl.String)))
    if form.endswith("parquet"):
        if numbers:
            frame = frame.with_columns(pl.col("user", "item").cast(draw(WIDTHS)))
        frame = frame.with_columns(pl.col("timestamp").cast(draw(WIDTHS)))
        kinds = st.sampled_from([pl.Boolean, pl.Int8, pl.Float32, pl.Int64])
        frame = frame.with_columns(pl.col("label").cast(draw(kinds)))
    if labels == "ratings":
        stars = pl.Series([draw(st.sampled_from(STARS[row["label"]])) for row in log])
        frame = frame.with_columns(label=stars)
    return frame.drop("label") if labels == "none" else frame


STARS = {0: [0.5, 1.0, 3.0], 1: [THRESHOLD, 4.0, 5.0]}
FORMS = st.sampled_from([".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet"])


def check(folder: Path, data: st.DataObject) -> None:
    numbers, labels = (
        data.draw(st.booleans()),
        data.draw(st.sampled_from(["none", "0/1", "ratings"])),
    )
    log = data.draw(rows(NUMBERS if numbers else TEXTS))
    for row in log:
        row["click"] = bool(row["label"]) or labels == "none"
    known = data.draw(st.sets(st.sampled_from(sorted({row["item"] for row in log})), min_size=1))
    metadata = {item: data.draw(st.fixed_dictionaries(METADATA)) for item in sorted(known)}
    how = data.draw(SPLITTING) | {
        "max_history": data.draw(st.integers(2, 5)),
        "min_history": data.draw(st.integers(0, 2)),
    }
    form = data.draw(FORMS)
    table = as_file(
        [{k: v for k, v in r.items() if k != "click"} for r in log],
        form,
        numbers,
        labels,
        data.draw,
    )
    log_file = written(folder / "log", table, form, data.draw)
    items = pl.DataFrame(
        [{"item": item, **values} for item, values in metadata.items()],
        schema={"item": pl.String, "tags": pl.List(pl.String), "price": pl.Float64},
    )
    options = ConvertOptions(
        interactions=log_file,
        items=written(folder / "items", items, data.draw(FORMS), data.draw),
        out=str(folder / "out"),
        negatives=0,
        keep=("hour", "place", "seen"),
        keep_items=("tags", "price"),
        list_separator="|",
        lists=("seen", "tags"),
        label_threshold=THRESHOLD if labels == "ratings" else None,
        **how,
    )
    expected = oracle(log, how)
    if not all(any(row["click"] for row in expected[split]) for split in SPLITS):
        with pytest.raises(InputError, match="no click for"):
            convert_log(options, progress=False)
        return
    convert_log(options, progress=False)
    for split in SPLITS:
        found = pl.read_parquet(folder / "out" / f"{split}.parquet")
        names = ["user_id", "item_id", "item_seq", "hour", "place", "label"]
        keys = ["user", "item", "history", "hour", "place", "click"]
        assert found.select(names).rows() == [tuple(r[k] for k in keys) for r in expected[split]]
        assert texts(found["seen"]) == [row["seen"] for row in expected[split]]
    info = pl.read_parquet(folder / "out" / "item_info.parquet")
    every = sorted({row["item"] for row in log}, key=lambda text: (len(text), text))
    assert info["item_id"].to_list() == every
    nothing: Row = {"tags": [], "price": None}
    assert texts(info["tags"]) == [metadata.get(item, nothing)["tags"] for item in every]
    assert info["price"].to_list() == [metadata.get(item, nothing)["price"] for item in every]


def texts(lists: pl.Series) -> list[list[str]]:
    """Lists of a text file that are all numbers are numbers."""
    return [[str(item) for item in items] for items in lists.to_list()]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_log_in_any_form_of_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    check(tmp_path_factory.mktemp("log"), data)


@pytest.mark.slow
@settings(deadline=None, max_examples=1500)
@given(data=st.data())
def test_many_more_logs(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    check(tmp_path_factory.mktemp("log"), data)
