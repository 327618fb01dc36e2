"""The folded QIN+ against the model in float64, and the properties both must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import Ids
from model_zoo.QINPlus.fold import fold
from model_zoo.QINPlus.folded import FoldedQINPlus
from model_zoo.QINPlus.model import QINPlus
from tests import oracles
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

TOLERANCE = 2e-6
PAPER = ("level", "hour", "item_id", "tags", "text")
SWITCHES = {
    "order": st.booleans(),
    "sparse": st.booleans(),
    "product": st.booleans(),
    "batch_norm": st.booleans(),
    "length_power": st.sampled_from([0.0, 0.5, 1.0]),
    "max_len": st.integers(1, 8),
    "gate_units": st.integers(1, 6),
    "hidden_units": st.sampled_from([[5], [7, 6], [3, 4, 5]]),
}


@pytest.fixture
def model(tmp_path: Path) -> QINPlus:
    return make_model(tmp_path, model="QIN+", max_len=4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    items=st.lists(st.sampled_from(sorted(ITEM_FEATURES)), min_size=1, unique=True),
    row=st.lists(st.sampled_from(sorted(ROW_FEATURES)), unique=True),
    switches=st.fixed_dictionaries(SWITCHES),
    summed=st.booleans(),
    rescaled=st.booleans(),
    tabulate=st.booleans(),
    empty=st.booleans(),
    slots=st.integers(0, 9),
)
def test_the_folded_model_is_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    items: list[str],
    row: list[str],
    switches: dict[str, Any],
    summed: bool,
    rescaled: bool,
    tabulate: bool,
    empty: bool,
    slots: int,
) -> None:
    """Also from a file, and for a history with 0 anywhere in it."""
    torch.manual_seed(seed)
    features = {name: FEATURES[name] for name in [*items, *row]}
    if summed and "topics" in features:
        features["topics"] = features["topics"] | SUM
    folder = tmp_path_factory.getbasetemp()
    vectors = [name for name in ("text", "image") if rescaled and name in features]
    model = make_model(folder, features, model="QIN+", rescaled=vectors, **switches)
    folded = fold(model, tabulate_first_layer=tabulate)
    save_folded(folder / "a.folded", FoldedFile(folded, Ids("item_id"), 50))
    loaded = load_folded(folder / "a.folded").folded
    batch = make_batch(11, slots, empty=empty)
    context = context_of(model, batch)
    logit, weight = rows_of(folded, batch, context)
    assert difference(logit, probability(model, batch)) <= TOLERANCE
    for one, other in zip(rows_of(loaded, batch, context), (logit, weight), strict=True):
        assert torch.equal(one, other)
    user = one_user(batch, 7)
    expected = probability(model, user)
    for history in (user["item_seq"][7], user["item_seq"][7][user["item_seq"][7] != 0]):
        logit, weight = folded(history, user["item_id"], context)
        assert weight.shape == (11, len(history))
        assert difference(logit, expected) <= TOLERANCE
        assert torch.equal(loaded(history, user["item_id"], context)[0], logit)


@pytest.mark.parametrize("product", [True, False])
def test_the_folded_model_is_the_formula(tmp_path: Path, product: bool) -> None:
    features = {name: FEATURES[name] for name in PAPER}
    model = make_model(
        tmp_path, features, model="QIN+", product=product, batch_norm=product, rescaled=["text"]
    ).eval()
    folded = fold(model)
    columns, batch = model.item_table(None), make_batch(40)
    expected = oracles.qin_plus_logit(model.double(), columns, batch).squeeze(1).sigmoid()
    logit, _ = rows_of(folded, batch, context_of(model, batch))
    assert difference(logit, expected) <= TOLERANCE


@pytest.mark.parametrize("order", [True, False])
def test_the_order_matters_only_with_order(tmp_path: Path, order: bool) -> None:
    model = make_model(tmp_path, model="QIN+", order=order)
    folded, batch = fold(model), make_batch(12)
    context, history = context_of(model, batch), torch.tensor([4, 9, 9, 2, 11, 6])
    logit, _ = folded(history, batch["item_id"], context)
    turned, _ = folded(history.flip(0), batch["item_id"], context)
    assert torch.allclose(logit, turned) == (not order)


@pytest.mark.parametrize("sparse", [True, False])
def test_weights_are_those_of_the_formula(tmp_path: Path, sparse: bool) -> None:
    """Found by the oracle's interest in one item alone, for each pair."""
    model = make_model(tmp_path, model="QIN+", sparse=sparse, order=False, length_power=0.0)
    folded, batch = fold(model), make_batch(20)
    _, weight = folded(torch.arange(1, ITEMS), batch["item_id"], context_of(model, batch))
    model.double()
    vectors = oracles.item_vectors(model, model.item_table(None), torch.arange(ITEMS))
    for i, target in enumerate(batch["item_id"]):
        for item in range(1, ITEMS):
            interest = oracles.gated_interest(model.attention, vectors[target], [vectors[item]])
            expected = (interest @ vectors[item]) / (vectors[item] @ vectors[item])
            torch.testing.assert_close(
                weight[i, item - 1].double(), expected.detach(), atol=1e-4, rtol=1e-4
            )
    assert 0.1 < (weight <= 0).double().mean() < 0.9
    _, packed = rows_of(folded, batch, context_of(model, batch))
    owners, slots = batch["item_seq"].nonzero(as_tuple=True)
    torch.testing.assert_close(packed, weight[owners, batch["item_seq"][owners, slots] - 1])


def test_memory_of_the_item_tables(model: QINPlus, monkeypatch: pytest.MonkeyPatch) -> None:
    dim, units, first = model.item_dim, 5, 7
    whole = fold(model)
    small = fold(model, tabulate_first_layer=False)
    for folded, numbers in ((whole, dim + 2 * units + first), (small, dim + 2 * units)):
        assert sum(t.nbytes for t in folded.item_tables.values()) == ITEMS * numbers * 4
        assert folded.num_items == ITEMS
    monkeypatch.setattr("model_zoo.core.fold.ITEMS_AT_A_TIME", 5)
    for name, table in fold(model).item_tables.items():
        assert torch.equal(table, whole.item_tables[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tabulate", [True, False])
@pytest.mark.parametrize("rescaled", [[], ["text", "image"]])
def test_items_are_encoded_as_they_were_folded(
    tmp_path: Path, dtype: torch.dtype, tabulate: bool, rescaled: list[str]
) -> None:
    """Bit for bit from the columns as they come, one by one, with all features or only some."""
    model = make_model(tmp_path, model="QIN+", rescaled=rescaled)
    folded: FoldedQINPlus = fold(model, dtype=dtype, tabulate_first_layer=tabulate)
    for item in range(1, ITEMS):
        row = torch.tensor([item])
        features = {
            name: values if values.is_floating_point() else values.long()
            for name, values in model.item_table.columns(row).items()
        }
        for names in (list(features), ["tags", "image"], []):
            some = {name: features[name] for name in names}
            for name, values in folded.encode(some, folded.vectors[row]).items():
                assert torch.equal(values.to(dtype), folded.item_tables[name][row]), (name, names)


def test_every_shipped_switch_folds(workspace: Path) -> None:
    """As the configuration file builds it, on the demo data."""
    for setting in ("order=True", "order=False", "sparse=False", "product=False"):
        experiment = load_experiment("config", "QIN_plus_default", [setting])
        experiment, _ = prepare_dataset(experiment)
        model = build_model(experiment, build_feature_map(experiment.params), gpu=-1)
        folded = model.fold()
        items = model.item_table.num_items
        batch: dict[str, Tensor] = {
            "item_id": torch.randint(1, items, (50,)),
            "item_seq": torch.randint(0, items, (50, 9)),
            "likes_level": torch.randint(0, 11, (50,)),
            "views_level": torch.randint(0, 11, (50,)),
        }
        logit, _ = rows_of(folded, batch, context_of(model, batch))
        assert difference(logit, probability(model, batch)) <= TOLERANCE
