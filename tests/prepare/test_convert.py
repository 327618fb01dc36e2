"""A converted log obeys its rules: compared with plain loops, on small logs and the real one."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time as clock
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.core.errors import InputError
from model_zoo.core.prepare.convert import ConvertOptions, add_arguments, convert_log, run

SPLITS = ("train", "valid", "test")
FILES = {"train.parquet", "valid.parquet", "test.parquet", "item_info.parquet", "convert.json"}


class Event(NamedTuple):
    user: str
    item: str
    time: int
    click: bool


class Row(NamedTuple):
    user: str
    item: str
    history: tuple[str, ...]
    click: bool


def order(text: str) -> tuple[int, str]:
    return len(text), text


def plain(log: list[Event], options: ConvertOptions) -> tuple[dict[str, list[Row]], list[Event]]:
    """The rows of each split before negatives, and the clicks of the training period."""
    merged: dict[tuple[str, str, int], tuple[int, Event]] = {}
    for number, event in enumerate(log):
        key = event[:3]
        if key not in merged or (event.click and not merged[key][1].click):
            merged[key] = number, event
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    in_training = []
    for user in sorted({event.user for event in log}, key=order):
        own = [(e.time, n, e) for n, e in merged.values() if e.user == user]
        events = [e for _, _, e in sorted(own, key=lambda x: x[:2])]
        clicks = [e for e in events if e.click]
        passed = 0
        for event in events:
            from_last = max(len(clicks) - 1 - passed, 0)
            passed += event.click
            if options.split == "time":
                late = [event.time >= int(t) for t in (options.valid_from, options.test_from)]
                split = SPLITS[sum(late)]
            elif len(clicks) < 2:
                split = "train"
            else:
                split = {0: "test", 1: "valid"}.get(from_last, "train")
            if event.click and split == "train":
                in_training.append(event)
            history = tuple(e.item for e in clicks if e.time < event.time)
            if len(history) >= options.min_history:
                kept = history[-options.max_history :]
                splits[split].append(Row(user, event.item, kept, event.click))
    return splits, in_training


def plain_level(value: float | None, reference: list[float]) -> int:
    ranked = sorted(reference)
    if value is None:
        return 0
    bounds = [ranked[math.ceil(k * len(ranked) / 10) - 1] for k in range(1, 10) if ranked]
    return 1 + sum(bound < value for bound in bounds)


def write_log(path: Path, log: list[Event], *, labels: bool) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "timestamp", *(["label"] if labels else [])])
        for event in log:
            writer.writerow([*event[:3], *([int(event.click)] if labels else [])])


def rows_of(folder: Path, split: str) -> list[Row]:
    frame = pl.read_parquet(folder / f"{split}.parquet")
    columns = frame.select("user_id", "item_id", "item_seq", "label").rows()
    return [Row(u, i, tuple(h), bool(c)) for u, i, h, c in columns]


USERS = ["9", "10", "b b", "ü3"]
ITEMS = ["2", "10", "007", "x y", "ß", "日本", "q", "-1"]
events = st.builds(
    Event,
    user=st.sampled_from(USERS),
    item=st.sampled_from(ITEMS),
    time=st.integers(0, 15),
    click=st.booleans(),
)
choices = st.fixed_dictionaries(
    {
        "max_history": st.integers(2, 5),
        "min_history": st.integers(0, 2),
        "negatives": st.integers(0, 4),
        "negative_sampling": st.sampled_from(["uniform", "popularity", "mix"]),
        "seed": st.integers(0, 3),
    }
)
cuts = st.one_of(
    st.just({}),
    st.tuples(st.integers(2, 9), st.integers(1, 5)).map(
        lambda t: {"split": "time", "valid_from": str(t[0]), "test_from": str(t[0] + t[1])}
    ),
)


@settings(deadline=None, max_examples=120)
@given(log=st.lists(events, min_size=12, max_size=60), labels=st.booleans(), how=choices, cut=cuts)
def test_every_log_gives_the_rows_of_plain_loops(
    tmp_path_factory: pytest.TempPathFactory,
    log: list[Event],
    labels: bool,
    how: dict[str, Any],
    cut: dict[str, str],
) -> None:
    folder = tmp_path_factory.mktemp("log")
    if not labels:
        log = [event._replace(click=True) for event in log]
    write_log(folder / "log.csv", log, labels=labels)
    options = ConvertOptions(
        interactions=str(folder / "log.csv"),
        out=str(folder / "out"),
        keep=("timestamp",),
        **how,
        **cut,
    )
    expected, training = plain(log, options)
    in_training = [event.item for event in training]
    if not all(any(row.click for row in rows) for rows in expected.values()):
        with pytest.raises(InputError, match="no click for"):
            convert_log(options)
        assert list((folder / "out").iterdir()) == []
        return
    counts = convert_log(options)
    found = {split: rows_of(folder / "out", split) for split in SPLITS}

    sampled = all(event.click for event in log)
    skipped = len({e[:3] for e in log if e.click})
    for split in SPLITS:
        kept = [row for row in found[split] if row.click or not sampled]
        assert kept == expected[split]
        skipped -= sum(row.click for row in kept)
    assert counts["clicks_with_short_history"] == skipped
    assert counts["repeated_rows"] == len(log) - len({e[:3] for e in log})

    met = {user: {e.item for e in log if e.user == user} for user in USERS}
    lacking = 0
    for split in SPLITS if sampled else ():
        possible = set(in_training) if split == "train" else {e.item for e in log}
        if options.negative_sampling == "popularity":
            possible &= set(in_training)
        negatives = Counter((r.user, r.history) for r in found[split] if not r.click)
        wanted: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for row in expected[split]:
            there = min(options.negatives, len(possible - met[row.user]))
            wanted[row.user, row.history] += there
            lacking += options.negatives - there
        assert negatives == +wanted
        for row in found[split]:
            assert row.click or row.item in possible - met[row.user]
    assert counts["negatives_lacking"] == lacking

    clicks = Counter(in_training)
    info = pl.read_parquet(folder / "out" / "item_info.parquet")
    assert info["item_id"].to_list() == sorted({e.item for e in log}, key=order)
    for split in SPLITS:
        frame = pl.read_parquet(folder / "out" / f"{split}.parquet")
        assert not frame["item_seq"].list.eval(pl.element().is_in(["", None])).list.any().any()
        for item, time, level in frame.select("item_id", "timestamp", "views_level").rows():
            before = sum(event.item == item and event.time < time for event in training)
            assert level == plain_level(before or None, [float(c) for c in clicks.values()])

    first = {name: (folder / "out" / name).read_bytes() for name in FILES}
    convert_log(options)
    assert first == {p.name: p.read_bytes() for p in (folder / "out").iterdir()}


def test_the_real_pairs_file_converts_as_it_is(shared: Path, tmp_path: Path) -> None:
    raw = shared / "data" / "MicroLens_50k_raw"
    pairs = raw / "MicroLens-50k_pairs.tsv"
    started = clock.perf_counter()
    counts = convert_log(
        ConvertOptions(
            interactions=str(pairs),
            items=str(raw / "MicroLens-50k_titles.csv"),
            out=str(tmp_path / "out"),
        )
    )
    assert clock.perf_counter() - started < 20
    assert counts["log_rows"] == 309_708
    assert counts["clicks_with_short_history"] == counts["users"] == 50_000
    assert counts["negatives_lacking"] == counts["items_without_metadata"] == 0
    assert [counts[f"{s}_clicks"] for s in SPLITS] == [159_708, 50_000, 50_000]
    assert [counts[f"{s}_rows"] for s in SPLITS] == [319_416, 100_000, 100_000]

    with open(pairs, encoding="utf-8") as file:
        lines = [line.split("\t") for line in file]
    sequence = {user: items.split() for user, items in lines}
    met = {user: set(items) for user, items in sequence.items()}
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    for split in SPLITS:
        seen = Counter()
        for user, item, history, click in rows_of(tmp_path / "out", split):
            seen[user] += click
            if click:
                place = sequence[user].index(item)
                assert list(history) == sequence[user][max(0, place - 100) : place]
            else:
                assert item not in met[user]
        for user, items in sequence.items():
            assert seen[user] == {"train": len(items) - 3}.get(split, 1)
    info = pl.read_parquet(tmp_path / "out" / "item_info.parquet")
    assert info["item_id"].to_list() == sorted(info["item_id"], key=order)
    assert len(info) == 19_220
    assert info["item_tags"][0].to_list() == ["comic", "two yuan", "my destiny villain"]
    assert info["item_tags"].list.len().max() == 5


LOG = [Event(f"u{u}", f"i{(u * 7 + t * t) % 23}", t, True) for u in range(30) for t in range(6)]


def convert(folder: Path, log: list[Event] = LOG, **options: Any) -> dict[str, int]:
    write_log(folder / "log.csv", log, labels=False)
    return convert_log(
        ConvertOptions(interactions=str(folder / "log.csv"), out=str(folder / "out"), **options)
    )


def test_the_item_of_the_same_moment_is_not_in_the_history(tmp_path: Path) -> None:
    log = [Event("a", i, t, True) for i, t in (("1", 5), ("2", 5), ("3", 6), ("4", 7), ("5", 8))]
    convert(tmp_path, log, min_history=0, negatives=0)
    assert [r.history for r in rows_of(tmp_path / "out", "train")] == [(), (), ("1", "2")]


@pytest.mark.parametrize("min_history", [0, 1])
def test_a_user_with_one_click_stays_in_train_or_is_skipped(
    tmp_path: Path, min_history: int
) -> None:
    counts = convert(tmp_path, [*LOG, Event("once", "i1", 3, True)], min_history=min_history)
    rows = [(s, r) for s in SPLITS for r in rows_of(tmp_path / "out", s) if r.user == "once"]
    if min_history:
        assert (rows, counts["clicks_with_short_history"]) == ([], 31)
    else:
        assert {(s, r.history) for s, r in rows} == {("train", ())}


def test_counters_and_kept_columns(tmp_path: Path) -> None:
    log = pl.DataFrame(LOG, schema=["who", "what", "when", "click"], orient="row")
    log = log.with_columns(
        pl.Series("hour", range(len(log))), pl.Series("place", ["home", ""] * (len(log) // 2))
    )
    log.drop("click").write_parquet(tmp_path / "log.parquet")
    names = [f"i{k}" for k in range(25)]  # i23 and i24 are not in the log
    likes = [None if k == 3 else (k * k) % 11 for k in range(25)]
    items = pl.DataFrame({"id": names, "likes": likes, "colour": ["red"] * 25, "size": likes})
    items.write_csv(tmp_path / "items.tsv", separator="\t")
    convert_log(
        ConvertOptions(
            interactions=str(tmp_path / "log.parquet"),
            items=str(tmp_path / "items.tsv"),
            out=str(tmp_path / "out"),
            user="who",
            item="what",
            timestamp="when",
            keep=("hour", "place"),
            items_id="id",
            keep_items=("colour", "size"),
            withhold_test_labels=True,
        )
    )
    frames = {s: pl.read_parquet(tmp_path / "out" / f"{s}.parquet") for s in SPLITS}
    columns = ["user_id", "item_seq", "item_id", "likes_level", "hour", "place"]
    assert frames["test"].columns == columns
    assert frames["train"].columns == [*columns, "label"]
    in_training = {items[0] for items in frames["train"].filter(label=1).select("item_id").rows()}
    in_training |= {event.item for event in LOG if event.time == 0}
    reference = [v for n, v in zip(names, likes, strict=True) if n in in_training and v is not None]
    level = {n: plain_level(v, reference) for n, v in zip(names, likes, strict=True)}
    for frame in frames.values():
        for user, item, found, hour, place in frame.select(
            "user_id", "item_id", "likes_level", "hour", "place"
        ).rows():
            assert found == level[item]
            assert LOG[hour].user == user
            assert place == ("home" if hour % 2 == 0 else None)
        if "label" in frame.columns:
            for hour, item in frame.filter(label=1).select("hour", "item_id").rows():
                assert LOG[hour].item == item
    info = pl.read_parquet(tmp_path / "out" / "item_info.parquet")
    assert info.columns == ["item_id", "item_tags", "colour", "size"]
    assert dict(info.select("item_id", "size").rows()) == dict(zip(names, likes, strict=True))
    assert info["item_tags"].to_list() == [[]] * 25


def test_the_order_of_rows_does_not_tell_the_click(tmp_path: Path) -> None:
    convert(tmp_path, negatives=1)
    clicks = [row.click for row in rows_of(tmp_path / "out", "train")]
    assert 0.3 < np.mean(clicks[::2]) < 0.7


def test_seeds_differ(tmp_path: Path) -> None:
    tables = []
    for seed in (1, 2):
        convert(tmp_path, seed=seed)
        tables.append(pl.read_parquet(tmp_path / "out" / "train.parquet"))
    assert not tables[0].equals(tables[1])


def test_the_report(tmp_path: Path) -> None:
    counts = convert(tmp_path, negatives=2)
    report = json.loads((tmp_path / "out" / "convert.json").read_text())
    assert report["counts"] == counts
    assert report["arguments"]["negatives"] == 2
    clicks = Counter(row.item for row in rows_of(tmp_path / "out", "train") if row.click)
    clicks += Counter(event.item for event in LOG if event.time == 0)  # history too short
    ranked = sorted(clicks.values())
    bounds = [ranked[math.ceil(k * len(ranked) / 10) - 1] for k in range(1, 10)]
    assert report["level_bounds"] == {"views_level": bounds}
    assert set(report["versions"]) == {"python", "numpy", "polars", "pyarrow"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_arguments(made)
    return made


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log.csv", LOG, labels=False)
    out = tmp_path / "out"
    words = f"--interactions {tmp_path / 'log.csv'} --out {out} --keep item --negatives 3"
    run(parser().parse_args(words.split()))
    assert "train rows: 360\n" in capsys.readouterr().out  # 90 clicks
    arguments = json.loads((out / "convert.json").read_text())["arguments"]
    assert (arguments["keep"], arguments["levels"], arguments["alpha"]) == (["item"], None, 0.75)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_bar_is_for_terminals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    convert(tmp_path)
    assert ("writing train" in capsys.readouterr().err) == terminal
