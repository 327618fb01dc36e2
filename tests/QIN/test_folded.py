"""The folded model against the model in float64, and the properties both must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo.QIN.fold import fold
from model_zoo.QIN.model import QIN
from tests import oracles
from tests.QIN import test_golden
from tests.QIN.test_model import ITEM_FEATURES, ITEMS
from tests.serving.made import (
    FEATURES,
    ROW_FEATURES,
    SUM,
    context_of,
    difference,
    make_batch,
    make_model,
    one_user,
    probability,
    rows_of,
)

TOLERANCE = 1e-5
PAPER = ("level", "hour", "item_id", "tags", "text")


@pytest.fixture
def model(tmp_path: Path) -> QIN:
    return make_model(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    items=st.lists(st.sampled_from(sorted(ITEM_FEATURES)), min_size=1, unique=True),
    row=st.lists(st.sampled_from(sorted(ROW_FEATURES)), unique=True),
    architecture=st.fixed_dictionaries(
        {
            "num_layers": st.integers(1, 3),
            "num_row": st.integers(1, 3),
            "batch_norm": st.booleans(),
        }
    ),
    summed=st.booleans(),
    tabulate=st.booleans(),
    empty=st.booleans(),
)
def test_the_folded_model_is_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    items: list[str],
    row: list[str],
    architecture: dict[str, Any],
    summed: bool,
    tabulate: bool,
    empty: bool,
) -> None:
    torch.manual_seed(seed)
    features = {name: FEATURES[name] for name in [*items, *row]}
    if summed and "topics" in features:
        features["topics"] = features["topics"] | SUM
    model = make_model(tmp_path_factory.getbasetemp(), features, **architecture)
    folded = fold(model, tabulate_first_layer=tabulate)
    batch = make_batch(11, empty=empty)
    context = context_of(model, batch)
    expected = probability(model, batch)
    assert difference(rows_of(folded, batch, context)[0], expected) <= TOLERANCE
    user = one_user(batch, 7)
    real = user["item_seq"][7][user["item_seq"][7] != 0]
    logit, weight = folded(real, user["item_id"], context)
    assert weight.shape == (11, len(real))
    assert difference(logit, probability(model, user)) <= TOLERANCE


@pytest.mark.parametrize("tabulate", [True, False])
def test_the_folded_model_is_the_formula(tmp_path: Path, tabulate: bool) -> None:
    model = make_model(tmp_path, {name: FEATURES[name] for name in PAPER}, num_layers=3)
    folded = fold(model, tabulate_first_layer=tabulate)
    columns, batch = model.item_table(None), make_batch(40)
    expected = oracles.qin_logit(model.double(), columns, batch).squeeze(1).sigmoid()
    logit, _ = rows_of(folded, batch, context_of(model, batch))
    assert difference(logit, expected) <= TOLERANCE


def test_recorded_predictions_of_the_original(shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "golden" / "qin_reference_a.npz") as file:
        golden = dict(file)
    batch = test_golden.batch_of(golden)
    model = test_golden.build(golden, tmp_path, torch.float32)
    logit, _ = rows_of(fold(model), batch, context_of(model, batch))
    assert difference(logit, torch.from_numpy(golden["y_pred_eval"])) <= TOLERANCE


def test_what_cannot_be_folded_is_named(tmp_path: Path) -> None:
    features = {"tags": {**ITEM_FEATURES["tags"], "padding_idx": None}}
    model = make_model(tmp_path, {"item_id": ITEM_FEATURES["item_id"], **features})
    with pytest.raises(ValueError, match="tags: sequence of Embedding cannot be folded"):
        fold(model)


def test_the_order_of_the_history_does_not_matter(model: QIN) -> None:
    folded, batch = fold(model), make_batch(12)
    context, order = context_of(model, batch), torch.randperm(6)
    shuffled = batch | {"item_seq": batch["item_seq"][:, order]}
    torch.testing.assert_close(
        rows_of(folded, shuffled, context)[0], rows_of(folded, batch, context)[0]
    )
    history = torch.tensor([4, 9, 9, 2, 11, 6])
    logit, weight = folded(history, batch["item_id"], context)
    other, moved = folded(history[order], batch["item_id"], context)
    torch.testing.assert_close(other, logit)
    torch.testing.assert_close(moved, weight[:, order])


def test_weights_are_relu_of_the_formula(model: QIN) -> None:
    folded, batch = fold(model), make_batch(60)
    _, weight = folded(torch.arange(1, ITEMS), batch["item_id"], context_of(model, batch))
    vectors = oracles.item_vectors(model.double(), model.item_table(None), torch.arange(ITEMS))
    query = vectors[batch["item_id"]] @ model.attention.W_q.weight.T  # (n, A)
    keys = vectors[1:] @ model.attention.W_k.weight.T  # (I - 1, A)
    expected = torch.relu(query @ keys.T / query.shape[1] ** 0.5)
    torch.testing.assert_close(weight, expected.float(), atol=1e-4, rtol=1e-4)
    assert 0.2 < (weight == 0).double().mean() < 0.8
    _, packed = rows_of(folded, batch, context_of(model, batch))
    owners, slots = batch["item_seq"].nonzero(as_tuple=True)
    items = batch["item_seq"][owners, slots]
    torch.testing.assert_close(packed, weight[owners, items - 1])


def test_memory_of_the_item_tables(model: QIN, monkeypatch: pytest.MonkeyPatch) -> None:
    dim, width = model.attention.dim, model.qnn.output.in_features
    whole = fold(model)
    for folded, numbers in (
        (whole, 2 * dim + width),
        (fold(model, tabulate_first_layer=False), 2 * dim),
    ):
        assert sum(t.nbytes for t in folded.item_tables.values()) == ITEMS * numbers * 4
        assert folded.num_items == ITEMS
    monkeypatch.setattr("model_zoo.core.fold.ITEMS_AT_A_TIME", 5)
    for name, table in fold(model).item_tables.items():
        assert torch.equal(table, whole.item_tables[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tabulate", [True, False])
def test_items_are_encoded_as_they_were_folded(
    model: QIN, dtype: torch.dtype, tabulate: bool
) -> None:
    """Bit for bit, one by one, with all features or only some."""
    folded = fold(model, dtype=dtype, tabulate_first_layer=tabulate)
    for item in range(1, ITEMS):
        row = torch.tensor([item])
        features = {
            name: values if values.is_floating_point() else values.long()
            for name, values in model.item_table(row).items()
        }
        for names in (list(features), ["tags", "image"], []):
            some = {name: features[name] for name in names}
            for name, values in folded.encode(some, folded.vectors[row]).items():
                assert torch.equal(values.to(dtype), folded.item_tables[name][row]), (name, names)


def test_bfloat16_rounds_once(model: QIN) -> None:
    """An item's tables are those of exact maps, and all follow from its rounded vector."""
    exact, rounded = fold(model), fold(model, dtype=torch.bfloat16).item_tables
    vectors = rounded["vectors"].double()
    queries = vectors @ exact.query_map.double().T
    first = vectors @ exact.first_map.double().T + exact.first_bias.double()
    expected = {"vectors": exact.vectors, "queries": queries, "first": first}
    for name, table in rounded.items():
        assert torch.equal(table[1:], expected[name][1:].bfloat16()), name


def test_encoding_needs_all_features_or_vectors(model: QIN) -> None:
    with pytest.raises(ValueError, match="no values of item feature price"):
        columns = {n: v.long() for n, v in model.item_table(None).items() if n != "price"}
        columns |= {name: model.item_table(None)[name] for name in ("text", "image")}
        fold(model).encode(columns)
