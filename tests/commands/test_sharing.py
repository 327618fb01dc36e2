"""Embedding tables that features share: in any order of the YAML, through chains, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from model_zoo.core.commands.sharing import owners_first, share_embeddings
from model_zoo.core.errors import InputError
from tests.conftest import CATEGORICAL, feature_map

SHARED = {"a": "b"}
TABLE = {**CATEGORICAL, "vocab_size": 9}


def columns(**owners: str | None) -> list[dict[str, Any]]:
    return [{"name": name, "share_embedding": owner} for name, owner in owners.items()]


def test_owners_stand_before_those_who_share() -> None:
    order = owners_first(columns(x=None, a="b", y=None, b="c", c=None))
    assert [column["name"] for column in order] == ["x", "c", "b", "a", "y"]
    sound = columns(c=None, b="c", x=None, a="b")
    assert owners_first(sound) == sound


@pytest.mark.parametrize(
    ("used", "owner"), [(["a", "x", "b", "c"], "c"), (["a", "b"], "b"), (["a", "x"], "a")]
)
def test_the_used_features_of_a_table_share_it(used: list[str], owner: str) -> None:
    from fuxictr.pytorch.layers import FeatureEmbedding

    made = feature_map({name: {**TABLE, "share_embedding": "?"} for name in used}, 4)
    share_embeddings(made, columns(a="b", b="c", c=None, x=None))
    tables = FeatureEmbedding(made, 4).embedding_layer.embedding_layers
    sharing = [name for name in used if name != "x"]
    assert {id(tables[name]) for name in sharing} == {id(tables[owner])}
    if "x" in used:
        assert tables["x"] is not tables[owner]
    # As FuxiCTR initialises, not with torch's deviation of 1.
    assert all(table.weight.std() < 0.1 for table in tables.values())


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (
            {"a": {**TABLE, "embedding_dim": 3}, "b": TABLE},
            "a shares the embedding of b, but embedding_dim is 3 and None",
        ),
        ({"type": TABLE}, "feature 'type': a module of torch cannot have this name"),
        ({"x.y": TABLE}, "feature 'x.y': a module of torch cannot have this name"),
    ],
)
def test_what_cannot_be_built_is_named(features: dict[str, Any], problem: str) -> None:
    made = feature_map(features, 4)
    entries = [{"name": name, "share_embedding": SHARED.get(name)} for name in features]
    with pytest.raises(InputError, match=problem):
        share_embeddings(made, entries)
