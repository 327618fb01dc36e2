"""The folded QIN+ against the model in float64, and the properties both must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_zoo.core import kernels
from model_zoo.core.commands.config import load_experiment
from model_zoo.core.commands.experiment import build_feature_map, build_model, prepare_dataset
from model_zoo.core.serving.file import FoldedFile, load_folded, save_folded
from model_zoo.core.serving.ids import Ids
from model_zoo.QINPlus import folded as folded_module
from model_zoo.QINPlus.fold import fold
from model_zoo.QINPlus.folded import FoldedQINPlus
from model_zoo.QINPlus.model import QINPlus
from tests import oracles
from tests.QIN.test_folded import difference, rows_of
from tests.QIN.test_model import ITEM_FEATURES, ITEMS
from tests.serving.made import (
    FEATURES,
    ROW_FEATURES,
    SUM,
    context_of,
    make_batch,
    make_model,
    one_user,
    probability,
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


@pytest.mark.parametrize("tabulate", [True, False])
def test_bfloat16_is_close(model: QINPlus, tabulate: bool) -> None:
    folded = fold(model, dtype=torch.bfloat16, tabulate_first_layer=tabulate)
    assert {table.dtype for table in folded.item_tables.values()} == {torch.bfloat16}
    assert folded.dtype == torch.bfloat16
    batch = make_batch(200)
    context, expected = context_of(model, batch), probability(model, batch)
    logit, _ = rows_of(folded, batch, context)
    assert logit.dtype == torch.float32
    assert TOLERANCE < difference(logit, expected) <= 0.05
    user = one_user(batch, 7)
    logit, _ = folded(user["item_seq"][7], user["item_id"], context)
    assert logit.dtype == torch.float32
    assert TOLERANCE < difference(logit, probability(model, user)) <= 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int8])
def test_other_types_are_refused(model: QINPlus, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"must be float32 or bfloat16, got {dtype}"):
        fold(model, dtype=dtype)


def test_an_empty_history_leaves_the_target(model: QINPlus) -> None:
    folded = fold(model)
    batch = make_batch(300, empty=True)
    context, nothing = context_of(model, batch), torch.empty(0, dtype=torch.long)
    expected = probability(model, batch)
    for history in (nothing, torch.zeros(1, dtype=torch.long), torch.zeros(40, dtype=torch.long)):
        logit, weight = folded(history, batch["item_id"], context)
        assert difference(logit, expected) <= TOLERANCE
        assert not weight.any()
    assert difference(rows_of(folded, batch, context)[0], expected) <= TOLERANCE


def test_padding_in_the_history_changes_nothing(model: QINPlus) -> None:
    """Neither the score nor the places of the items around it."""
    folded, batch = fold(model), make_batch(4)
    context = context_of(model, batch)
    for history, padded in (([5, 7], [0, 5, 0, 7]), ([5, 7, 5, 3, 1], [5, 7, 0, 5, 3, 1, 0, 0])):
        plain, weight = folded(torch.tensor(history), batch["item_id"], context)
        logit, wide = folded(torch.tensor(padded), batch["item_id"], context)
        torch.testing.assert_close(logit, plain)
        assert (wide[:, torch.tensor(padded) == 0] == 0).all()
        torch.testing.assert_close(wide[:, torch.tensor(padded) != 0], weight)


@pytest.mark.parametrize("order", [True, False])
def test_the_order_matters_only_with_order(tmp_path: Path, order: bool) -> None:
    model = make_model(tmp_path, model="QIN+", order=order)
    folded, batch = fold(model), make_batch(12)
    context, history = context_of(model, batch), torch.tensor([4, 9, 9, 2, 11, 6])
    logit, _ = folded(history, batch["item_id"], context)
    turned, _ = folded(history.flip(0), batch["item_id"], context)
    assert torch.allclose(logit, turned) == (not order)


def test_rows_do_not_see_each_other(model: QINPlus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, together, and together in pieces that do not divide rows or pairs."""
    folded, batch = fold(model), make_batch(10)
    together, weight = rows_of(folded, batch, context_of(model, batch))
    parts = []
    for i in range(10):
        row = {name: values[i : i + 1] for name, values in batch.items()}
        parts.append(rows_of(folded, row, context_of(model, row)))
    torch.testing.assert_close(torch.cat([logit for logit, _ in parts]), together)
    torch.testing.assert_close(torch.cat([alone for _, alone in parts]), weight)
    monkeypatch.setattr(folded_module, "ROWS", 3)
    monkeypatch.setattr(folded_module, "PAIRS", 4)
    logit, pieces = rows_of(folded, batch, context_of(model, batch))
    torch.testing.assert_close(logit, together)
    torch.testing.assert_close(pieces, weight)


def test_one_context_holds_for_all_rows(model: QINPlus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded_module, "ROWS", 3)
    folded, batch = fold(model), make_batch(7)
    one = {name: values[:1] for name, values in context_of(model, batch).items()}
    each = {name: values.expand(7, *values.shape[1:]) for name, values in one.items()}
    expected = probability(model, batch | each)
    for context in (one, each, each | {"level": one["level"], "profile": one["profile"]}):
        assert difference(rows_of(folded, batch, context)[0], expected) <= TOLERANCE
        logit, _ = folded(torch.tensor([3, 8]), batch["item_id"], context)
        torch.testing.assert_close(logit, folded(torch.tensor([3, 8]), batch["item_id"], each)[0])


@pytest.mark.parametrize("history", [[], [7], [3, 5, 3, 8, 1, 1, 9]])
@pytest.mark.parametrize("candidates", [0, 1, 2, 300])
@pytest.mark.parametrize("convolves", [False, True])
def test_one_user_and_rows_agree(
    model: QINPlus,
    monkeypatch: pytest.MonkeyPatch,
    history: list[int],
    candidates: int,
    convolves: bool,
) -> None:
    """Also by the kernels of AMD's processors."""
    monkeypatch.setattr(kernels, "_on_amd", lambda: convolves)
    folded, batch = fold(model), make_batch(max(candidates, 1))
    context = {name: values[:candidates] for name, values in context_of(model, batch).items()}
    target, items = batch["item_id"][:candidates], torch.tensor(history, dtype=torch.long)
    logit, weight = folded(items, target, context)
    lengths = torch.full((candidates,), len(history))
    expected, weights = folded.rows(target, items.repeat(candidates), lengths, context)
    torch.testing.assert_close(logit, expected)
    torch.testing.assert_close(weight, weights.view(candidates, len(history)))


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


def test_folding_does_not_change_the_model(model: QINPlus) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold(model.double())
    model.float()
    folded.write_items(torch.arange(ITEMS), {n: t + 1 for n, t in folded.item_tables.items()})
    for buffer in folded.buffers():
        buffer.add_(1)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not folded.training and not list(folded.parameters())


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


def test_a_row_feature_may_share_an_items_table(tmp_path: Path) -> None:
    liked = {**ROW_FEATURES["likes"], "vocab_size": ITEMS, "share_embedding": "item_id"}
    features = {"item_id": FEATURES["item_id"], "likes": liked}
    model = make_model(tmp_path, features, model="QIN+")
    folded, batch = fold(model), make_batch(20)
    logit, _ = rows_of(folded, batch, context_of(model, batch))
    assert difference(logit, probability(model, batch)) <= TOLERANCE


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
