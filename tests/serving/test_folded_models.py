"""What holds for every folded model, whatever it folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model_zoo.core import kernels
from model_zoo.QIN import folded as folded_qin
from model_zoo.QINPlus import folded as folded_plus
from tests.QIN.test_model import ITEMS
from tests.serving.made import (
    FEATURES,
    ROW_FEATURES,
    context_of,
    difference,
    make_batch,
    make_model,
    one_user,
    probability,
    rows_of,
)

TOLERANCE = {"QIN": 1e-5, "QIN+": 2e-6}
OF_BFLOAT16 = {"QIN": 0.02, "QIN+": 0.05}


@pytest.fixture(params=["QIN", "QIN+"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path, name: str) -> Any:
    return make_model(tmp_path, model=name)


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that do not divide the rows, nor the pairs."""
    monkeypatch.setattr(folded_qin, "ROWS", 3)
    monkeypatch.setattr(folded_plus, "ROWS", 3)
    monkeypatch.setattr(folded_plus, "PAIRS", 4)


@pytest.mark.parametrize("tabulate", [True, False])
def test_bfloat16_is_close(name: str, model: Any, tabulate: bool) -> None:
    folded = model.fold(dtype=torch.bfloat16, tabulate_first_layer=tabulate)
    assert {table.dtype for table in folded.item_tables.values()} == {torch.bfloat16}
    assert folded.dtype == torch.bfloat16
    batch = make_batch(200)
    context, user = context_of(model, batch), one_user(batch, 7)
    for found, expected in (
        (rows_of(folded, batch, context), probability(model, batch)),
        (folded(user["item_seq"][7], user["item_id"], context), probability(model, user)),
    ):
        assert found[0].dtype == torch.float32
        assert TOLERANCE[name] < difference(found[0], expected) <= OF_BFLOAT16[name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int8])
def test_other_types_are_refused(model: Any, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"must be float32 or bfloat16, got {dtype}"):
        model.fold(dtype=dtype)


def test_an_empty_history_leaves_the_target(name: str, model: Any) -> None:
    folded = model.fold()
    batch = make_batch(300, empty=True)
    context, nothing = context_of(model, batch), torch.empty(0, dtype=torch.long)
    expected = probability(model, batch)
    for history in (nothing, torch.zeros(1, dtype=torch.long), torch.zeros(400, dtype=torch.long)):
        logit, weight = folded(history, batch["item_id"], context)
        assert difference(logit, expected) <= TOLERANCE[name]
        assert not weight.any()
    assert difference(rows_of(folded, batch, context)[0], expected) <= TOLERANCE[name]


def test_padding_in_the_history_changes_nothing(model: Any) -> None:
    """Neither the score nor the places of the items around it."""
    folded, batch = model.fold(), make_batch(4)
    context = context_of(model, batch)
    for history, padded in (([5, 7], [0, 5, 0, 7]), ([5, 7, 5, 3, 1], [5, 7, 0, 5, 3, 1, 0, 0])):
        plain, weight = folded(torch.tensor(history), batch["item_id"], context)
        logit, wide = folded(torch.tensor(padded), batch["item_id"], context)
        torch.testing.assert_close(logit, plain)
        assert (wide[:, torch.tensor(padded) == 0] == 0).all()
        torch.testing.assert_close(wide[:, torch.tensor(padded) != 0], weight)


def test_rows_do_not_see_each_other(model: Any, request: pytest.FixtureRequest) -> None:
    """Alone, together, and together in pieces."""
    folded, batch = model.fold(), make_batch(10)
    together, weight = rows_of(folded, batch, context_of(model, batch))
    parts = []
    for i in range(10):
        row = {name: values[i : i + 1] for name, values in batch.items()}
        parts.append(rows_of(folded, row, context_of(model, row)))
    torch.testing.assert_close(torch.cat([logit for logit, _ in parts]), together)
    torch.testing.assert_close(torch.cat([alone for _, alone in parts]), weight)
    request.getfixturevalue("in_small_pieces")
    logit, pieces = rows_of(folded, batch, context_of(model, batch))
    torch.testing.assert_close(logit, together)
    torch.testing.assert_close(pieces, weight)


@pytest.mark.usefixtures("in_small_pieces")
def test_one_context_holds_for_all_rows(name: str, model: Any) -> None:
    folded, batch = model.fold(), make_batch(7)
    one = {column: values[:1] for column, values in context_of(model, batch).items()}
    each = {column: values.expand(7, *values.shape[1:]) for column, values in one.items()}
    expected = probability(model, batch | each)
    for context in (one, each, each | {"level": one["level"], "profile": one["profile"]}):
        assert difference(rows_of(folded, batch, context)[0], expected) <= TOLERANCE[name]
        logit, _ = folded(torch.tensor([3, 8]), batch["item_id"], context)
        torch.testing.assert_close(logit, folded(torch.tensor([3, 8]), batch["item_id"], each)[0])


@pytest.mark.parametrize("history", [[], [7], [3, 5, 3, 8, 1, 1, 9]])
@pytest.mark.parametrize("candidates", [0, 1, 2, 300])
@pytest.mark.parametrize("convolves", [False, True])
def test_one_user_and_rows_agree(
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    history: list[int],
    candidates: int,
    convolves: bool,
) -> None:
    """Fewer history items than candidates or more, and by the kernels of AMD's processors."""
    monkeypatch.setattr(kernels, "_on_amd", lambda: convolves)
    folded, batch = model.fold(), make_batch(max(candidates, 1))
    context = {name: values[:candidates] for name, values in context_of(model, batch).items()}
    target, items = batch["item_id"][:candidates], torch.tensor(history, dtype=torch.long)
    logit, weight = folded(items, target, context)
    lengths = torch.full((candidates,), len(history))
    expected, weights = folded.rows(target, items.repeat(candidates), lengths, context)
    torch.testing.assert_close(logit, expected)
    torch.testing.assert_close(weight, weights.view(candidates, len(history)))
    # Padding to as many items as candidates, and more, takes another form of QIN's.
    padded = torch.cat([items, torch.zeros(candidates + 1, dtype=torch.long)])
    torch.testing.assert_close(folded(padded, target, context)[0], logit)


def test_folding_does_not_change_the_model(model: Any) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = model.double().fold()
    model.float()
    folded.write_items(torch.arange(ITEMS), {n: t + 1 for n, t in folded.item_tables.items()})
    for buffer in folded.buffers():
        buffer.add_(1)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not folded.training and not list(folded.parameters())


def test_a_row_feature_may_share_an_items_table(tmp_path: Path, name: str) -> None:
    liked = {**ROW_FEATURES["likes"], "vocab_size": ITEMS, "share_embedding": "item_id"}
    features = {"item_id": FEATURES["item_id"], "likes": liked}
    model = make_model(tmp_path, features, model=name)
    folded, batch = model.fold(), make_batch(20)
    logit, _ = rows_of(folded, batch, context_of(model, batch))
    assert difference(logit, probability(model, batch)) <= TOLERANCE[name]
