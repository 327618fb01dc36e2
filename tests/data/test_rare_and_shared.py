"""Tokens below the minimum, and columns that share an embedding and so their ids."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from model_zoo.core.data.encode import read_vocabularies
from tests.data.odd_forms import (
    SPLITS,
    Tables,
    encoded,
    features,
    plain_tables,
    put,
    spec,
    write,
)

pytestmark = pytest.mark.usefixtures("own_folder")


def vocabularies(columns: list[dict[str, Any]], tables: Tables, **changes: Any) -> dict[str, Any]:
    write(tables)
    dataset = spec(columns, **changes)
    encoded(dataset)
    return read_vocabularies(dataset)


def test_a_column_whose_tokens_are_all_rare() -> None:
    columns = features()
    for column in columns:
        if column["name"] in ("brand", "tags", "hour"):
            column["min_categr_count"] = 100_000
    write(plain_tables())
    values = encoded(spec(columns))
    assert values["item_info"]["brand"] == [0, 1, 1, 0, 1, 1, 1]  # 1 is out of vocabulary
    assert values["item_info"]["tags"][1] == [1, 1, 0]
    assert values["train"]["hour"][:8] == [1, 1, 1, 1, 1, 1, 0, 1]
    everything = encoded(spec(min_categr_count=1000, data_root="all"))
    assert everything["item_info"]["item"] == [0, *[1] * 6]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("item_shares", [True, False])
def test_columns_that_share_an_embedding_share_ids(first: bool, item_shares: bool) -> None:
    """A row's and an item's feature, either as the owner, either first in the YAML."""
    tables = plain_tables()
    for split in SPLITS:
        liked = [("new", "a", "b", "")[k % 4] for k in range(len(tables[split]))]
        tables[split] = put(tables[split], liked=pa.array(liked))
    columns = features()
    brand = next(column for column in columns if column["name"] == "brand")
    liked = {"name": "liked", "dtype": "str", "type": "categorical"}
    if item_shares:
        brand["share_embedding"] = "liked"
    else:
        liked["share_embedding"] = "brand"
    columns = [liked, *columns] if first else [*columns, liked]
    found = vocabularies(columns, tables)
    assert found["liked"] == found["brand"]
    assert {"a", "b", "c", "new", "__PAD__", "__OOV__"} >= set(found["brand"]["tokens"])
    values = encoded(spec(columns))
    ids = dict(zip(found["brand"]["tokens"], found["brand"]["ids"], strict=True))
    assert values["train"]["liked"][:4] == [ids["new"], ids["a"], ids["b"], 0]
    assert values["item_info"]["brand"][1:3] == [ids["a"], ids["b"]]


def test_chains_lists_and_rare_owners_share_ids() -> None:
    """hour -> recent hours (a list) -> first hour, whose own tokens are all rare."""
    tables = plain_tables()
    for split in SPLITS:
        n = range(len(tables[split]))
        tables[split] = put(
            tables[split],
            recent=pa.array([[k % 4, 9] for k in n]),
            first=pa.array([100 + k for k in n]),
        )
    columns = features()
    next(c for c in columns if c["name"] == "hour")["share_embedding"] = "recent"
    columns += [
        {
            "name": "recent",
            "dtype": "int",
            "type": "sequence",
            "max_len": 2,
            "share_embedding": "first",
        },
        {"name": "first", "dtype": "int", "type": "categorical", "min_categr_count": 50},
    ]
    write(tables)
    values = encoded(spec(columns))
    hours, recent = values["train"]["hour"], values["train"]["recent"]
    assert all(r[0] == h for h, r in zip(hours[:6], recent, strict=False))
    assert len({r[0] for r in recent}) == 4
    assert len({r[1] for r in recent} | {r[0] for r in recent}) == 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"share_embedding": "brnad"},
            "'brnad' is no column (did you mean 'brand'?)",
        ),
        ({"share_embedding": "price"}, "type categorical and type numeric"),
        ({"share_embedding": "brand"}, "dtype int and dtype str"),
        ({"share_embedding": "hour"}, "share_embedding goes round: hour -> hour"),
        ({"share_embedding": "is_new", "embedding_dim": 3}, "embedding_dim 3 and None"),
    ],
)
def test_a_share_embedding_that_cannot_be(change: dict[str, Any], problem: str) -> None:
    columns = features()
    next(c for c in columns if c["name"] == "hour").update(change)
    with pytest.raises(ValueError, match=re.escape(problem)):
        spec(columns)
