"""The report's facts against plain loops over rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_zoo.core.data.spec import DatasetSpec, FeatureSpec
from model_zoo.core.prepare.facts import DatasetReport, ItemFacts, SplitFacts, describe_dataset
from model_zoo.core.prepare.report import doubtful, unsound
from tests.prepare.report_helpers import SPLITS, dataset, edit, read


def without(column: str) -> DatasetSpec:
    """The data set with one column switched off."""
    columns = [
        c.model_copy(update={"active": False}) if c.name == column else c
        for c in dataset().feature_cols
    ]
    return dataset().model_copy(update={"feature_cols": columns})


def history_of(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(item for item in row["item_seq"] if item)


def slow_split(split: str, rows: dict[str, list[dict[str, Any]]], listed: set[int]) -> SplitFacts:
    own, train = rows[split], rows["train"]
    earlier = SPLITS[: SPLITS.index(split)]
    labelled = split != "test"
    lengths = [len(history_of(row)) for row in own]
    seen = {row["item_id"] for row in train} | {i for row in train for i in history_of(row)}
    repeats = [row for row in own if row["item_id"] in history_of(row)]
    quartiles = [float(q) for q in np.percentile(lengths, [25, 50, 75])]

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["user_id"], row["item_id"], history_of(row)

    def features(row: dict[str, Any]) -> tuple[Any, ...]:
        return *key(row), row["likes_level"], row["views_level"]

    labels: dict[tuple[Any, ...], set[float]] = {}
    for row in own:
        labels.setdefault(features(row), set()).add(row.get("label", 0.0))
    targets = Counter(row["item_id"] for row in own)
    return SplitFacts(
        rows=len(own),
        clicks=sum(row["label"] == 1 for row in own) if labelled else None,
        users=len({row["user_id"] for row in own}),
        items=len(targets),
        history_mean=sum(lengths) / len(own),
        history_quartiles=(quartiles[0], quartiles[1], quartiles[2]),
        history_max=max(lengths),
        empty_histories=lengths.count(0),
        repeats=len(repeats),
        clicked_repeats=sum(row["label"] == 1 for row in repeats) if labelled else None,
        duplicates=len(own) - sum(len(found) for found in labels.values()),
        contradictory=sum(len(labels[features(row)]) == 2 for row in own) if labelled else None,
        no_target=0,
        unlisted=sum(row["item_id"] not in listed for row in own),
        cold_items=sum(row["item_id"] not in seen for row in own) if earlier else None,
        cold_users=sum(row["user_id"] not in {r["user_id"] for r in train} for row in own)
        if earlier
        else None,
        also_in={e: sum(key(row) in {key(r) for r in rows[e]} for row in own) for e in earlier},
        copied={
            e: sum(features(row) in {features(r) for r in rows[e]} for row in own) for e in earlier
        },
        lengths={
            length: (
                lengths.count(length),
                sum(
                    row.get("label", 0) == 1
                    for row, n in zip(own, lengths, strict=True)
                    if n == length
                ),
            )
            for length in sorted(set(lengths))
        },
        popularity=dict(sorted(Counter(targets.values()).items())),
    )


def slow_report() -> DatasetReport:
    rows = {split: read(split).to_dicts() for split in SPLITS}
    items = [row for row in read("item_info").to_dicts() if row["item_id"]]
    listed = {row["item_id"] for row in items}
    used = {i for split in SPLITS for r in rows[split] for i in (r["item_id"], *history_of(r))}
    vectors = [tuple(row["item_emb_d128"] or ()) for row in items]
    real = [vector for vector in vectors if any(vector)]
    return DatasetReport(
        dataset_id="MicroLens_demo",
        user_column="user_id",
        splits={split: slow_split(split, rows, listed) for split in SPLITS},
        items=ItemFacts(
            items=len(listed),
            repeated=len(items) - len(listed),
            unused=len(listed - used),
            without={
                "item_tags": sum(not any(row["item_tags"] or []) for row in items),
                "item_emb_d128": len(vectors) - len(real),
            },
            same_vector={"item_emb_d128": len(real) - len(set(real))},
        ),
    )


def make_dirty() -> None:
    """Put some of everything that is counted into the demo data."""
    zeros = pl.lit([0] * 100, dtype=pl.List(pl.Int64))
    last = pl.col("item_seq").list.get(99)
    train = read("train")
    edit(
        "train",
        lambda f: pl.concat(
            [
                f.filter(~pl.col("item_id").is_between(20, 40), pl.col("user_id") > 9),
                f.head(30),
                f.slice(30, 20).with_columns(label=1 - pl.col("label")),
                f.slice(50, 40).with_columns(item_seq=zeros),
                f.slice(90, 25).with_columns(item_id=last),
            ]
        ),
    )
    edit("valid", lambda f: pl.concat([f, train.slice(100, 11), f.head(3)]))
    valid = read("valid").drop("label")
    edit("test", lambda f: pl.concat([f, train.drop("label").slice(200, 7), valid.tail(5)]))
    no_tags, no_vector = [[0] * 5, None, []], [[0.0] * 128, None, []]
    edit(
        "item_info",
        lambda f: f.filter(pl.col("item_id") != 100).with_columns(
            pl.Series("item_tags", f["item_tags"].to_list()[:-4] + no_tags),
            pl.Series(
                "item_emb_d128",
                f["item_emb_d128"].to_list()[:-6]
                + [f["item_emb_d128"][7].to_list()] * 2
                + no_vector,
                dtype=pl.List(pl.Float32),
            ),
        ),
    )


def test_the_demo_data_as_counted_by_hand(clean: Path) -> None:
    found = describe_dataset(dataset())
    assert found == slow_report()
    assert unsound(found) == []


def test_dirty_data_as_counted_by_hand(clean: Path) -> None:
    make_dirty()
    found, expected = describe_dataset(dataset()), slow_report()
    assert found == expected
    for name in ("duplicates", "contradictory", "empty_histories", "repeats"):
        assert getattr(expected.splits["train"], name) > 0, name
    for name in ("cold_items", "cold_users", "unlisted", "duplicates"):
        assert getattr(expected.splits["valid"], name) > 0, name
    assert all(expected.splits["test"].copied.values())
    assert min(expected.items.without.values()) > 0 < expected.items.same_vector["item_emb_d128"]


def make_raw() -> DatasetSpec:
    """The same data as users keep it: text, lists of any length, no padding row."""

    def text(column: str, letter: str) -> pl.Expr:
        return pl.format(letter + "{}", pl.col(column)).alias(column)

    def texts(column: str, letter: str, missing: str | None) -> pl.Expr:
        real = pl.col(column).list.eval(
            pl.element().replace_strict(
                {0: missing}, default=pl.format(letter + "{}", pl.element())
            )
        )
        return real.list.tail(30).alias(column)

    for split in SPLITS:
        # Histories of the demo are shorter than 30 for the most part: some padding stays, as
        # null in train and as empty text elsewhere.
        missing = None if split == "train" else ""
        edit(
            split,
            lambda f, missing=missing: f.with_columns(
                text("user_id", "u"), text("item_id", "v"), texts("item_seq", "v", missing)
            ),
        )
    edit(
        "item_info",
        lambda f: f.filter(pl.col("item_id") > 0).with_columns(
            text("item_id", "v"), texts("item_tags", "#", "")
        ),
    )
    columns = [
        FeatureSpec.model_construct(**{**dict(c), "dtype": "str"}) for c in dataset().feature_cols
    ]
    return DatasetSpec.model_construct(
        **{**dict(dataset()), "feature_cols": columns, "rebuild_dataset": True}
    )


@pytest.mark.parametrize("dirty", [False, True])
def test_raw_data_has_the_facts_of_the_encoded(clean: Path, dirty: bool) -> None:
    for split in SPLITS:
        # What the raw histories keep, at the old length.
        last = pl.lit([0] * 70).list.concat(pl.col("item_seq").list.tail(30)).alias("item_seq")
        edit(split, lambda f, last=last: f.with_columns(last))
    if dirty:
        make_dirty()
    encoded = describe_dataset(dataset())
    assert describe_dataset(make_raw()) == encoded


def test_null_and_empty_text_are_no_items_and_no_users(clean: Path) -> None:
    spec = make_raw()
    before = describe_dataset(spec)
    hole = pl.DataFrame(
        {"user_id": [None, ""], "item_seq": [None, ["", None]], "item_id": ["", None]}
    )
    for split in SPLITS:
        edit(split, lambda f: pl.concat([f, hole], how="diagonal_relaxed"))
    edit("item_info", lambda f: pl.concat([f, hole.select("item_id")], how="diagonal"))
    after = describe_dataset(spec)
    assert after.items == before.items
    for split in SPLITS:
        old, new = before.splits[split], after.splits[split]
        assert (new.rows, new.no_target) == (old.rows + 2, 2)
        assert (new.users, new.items, new.repeats) == (old.users, old.items, old.repeats)
        assert (new.cold_items, new.unlisted) == (old.cold_items, old.unlisted)
        assert new.empty_histories == old.empty_histories + 2
    assert any("2 of 602 targets are not in item_info" in text for text in doubtful(after))


def test_integers_of_raw_data_have_no_padding(clean: Path) -> None:
    raw = dataset().model_copy(update={"rebuild_dataset": True})
    facts = describe_dataset(raw)
    assert facts.items.items == 120
    assert facts.splits["train"].history_mean == 100


@pytest.mark.parametrize("dtype", [pl.Int32, pl.UInt64])
def test_integer_types_and_array_columns_change_nothing(
    clean: Path, dtype: type[pl.DataType]
) -> None:
    expected = describe_dataset(dataset())
    edit(
        "valid",
        lambda f: f.with_columns(
            pl.col("item_id", "user_id", "likes_level").cast(dtype),
            pl.col("item_seq").cast(pl.Array(dtype, 100)),
            pl.col("label").cast(pl.Boolean),
        ),
    )
    edit("item_info", lambda f: f.with_columns(pl.col("item_emb_d128").list.to_array(128)))
    assert describe_dataset(dataset()) == expected


def test_without_users_without_test_split(clean: Path) -> None:
    make_dirty()
    spec = without("user_id").model_copy(update={"test_data": None})
    found = describe_dataset(spec)
    assert found.user_column is None
    assert [(s.users, s.cold_users) for s in found.splits.values()] == [(None, None)] * 2
    # Equal rows of unnamed users may be a coincidence.
    assert found.splits["valid"].copied["train"] / found.splits["valid"].rows > 0.01
    assert unsound(found) == []
    assert any("rows are copies of train rows" in text for text in doubtful(found))
