"""Scores against the model, and what a scorer says to bad input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch import Tensor

from model_zoo.core.errors import InputError
from model_zoo.core.memory import KERNEL_CACHES
from model_zoo.core.serving import scorer as scorer_module
from model_zoo.core.serving import users as users_module
from model_zoo.core.serving.calibration import Calibration
from model_zoo.core.serving.file import FoldedFile
from model_zoo.core.serving.ids import Ids
from model_zoo.core.serving.scorer import Explained, Scorer
from tests.QIN.test_model import ITEMS
from tests.serving.made import (
    FEATURES,
    context_of,
    make_batch,
    make_model,
    make_scorer,
    one_user,
    probability,
)

CONTEXT: dict[str, Any] = {
    "level": 1,
    "hour": 2,
    "age": -0.5,
    "likes": [3, 8],
    "seen": [],
    "profile": [0.1, 0.2, 0.3, 0.4, 0.5],
}


@pytest.fixture(params=["QIN", "QIN+"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    return make_model(tmp_path, model=request.param)


@pytest.fixture
def scorer(model: Any) -> Scorer:
    return make_scorer(model)


def one_context(model: Any, rows: int) -> dict[str, Tensor]:
    """CONTEXT as a batch of rows."""
    tensors = {name: torch.as_tensor(value) for name, value in CONTEXT.items()}
    tensors["seen"] = torch.zeros(3, dtype=torch.long)
    return {name: value.expand(rows, *value.shape) for name, value in tensors.items()}


def test_few_kernels_are_kept(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNEL_CACHES:
        monkeypatch.delenv(name, raising=False)
    make_scorer(model)
    assert [os.environ[name] for name in KERNEL_CACHES] == ["64", "64"]


def test_the_scores_of_one_user_are_the_models(model: Any, scorer: Scorer) -> None:
    batch = make_batch(20)
    for row in (0, 3):
        user = one_user(batch, row)
        scores = scorer.score(batch["item_seq"][row], batch["item_id"], context_of(model, batch))
        assert scores.shape == (20,) and scores.dtype == torch.float32
        expected = probability(model, user)
        torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
        assert expected.std() > 0.01


def test_the_scores_of_rows_are_the_models(model: Any, scorer: Scorer) -> None:
    batch = make_batch(20)
    histories = [[item for item in row if item or i % 2] for i, row in enumerate(batch["item_seq"])]
    scores = scorer.score_batch(histories, batch["item_id"], context_of(model, batch))
    torch.testing.assert_close(scores.double(), probability(model, batch), atol=1e-5, rtol=0)


def test_one_context_value_holds_for_all(model: Any, scorer: Scorer) -> None:
    batch = make_batch(7)
    some = one_context(model, 7) | {"hour": batch["hour"], "profile": batch["profile"]}
    for context, values in (
        (CONTEXT, one_context(model, 7)),
        (CONTEXT | {"hour": batch["hour"].tolist(), "profile": batch["profile"]}, some),
    ):
        history = batch["item_seq"].tolist()
        scores = scorer.score_batch(history, batch["item_id"], context)
        expected = probability(model, batch | values)
        torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
        scores = scorer.score(history[4], batch["item_id"], context)
        expected = probability(model, one_user(batch, 4) | values)
        torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "make",
    [
        tuple,
        np.array,
        torch.tensor,
        pl.Series,
        lambda values: np.array(values, np.uint16),
        lambda values: pd.Series(values, index=range(5, 5 + len(values))),
        lambda values: [torch.tensor(value) for value in values],
    ],
)
def test_ids_and_values_may_come_in_any_container(
    scorer: Scorer, make: Callable[[list[int]], Any]
) -> None:
    context = {
        "level": torch.tensor(1),
        "hour": make([2, 2]),
        "age": np.float64(-0.5),
        "likes": [make([3, 8]), make([1])],
        "seen": make([0, 0]),
        "profile": [np.array(CONTEXT["profile"])],
    }
    expected = scorer.score([3, 0, 5], [7, 8], CONTEXT | {"likes": [[3, 8], [1]]})
    assert torch.equal(scorer.score(make([3, 0, 5]), make([7, 8]), context), expected)
    rows = scorer.score_batch([make([3, 0, 5])] * 2, make([7, 8]), context)
    torch.testing.assert_close(rows, expected)


def test_only_the_most_recent_items_count(model: Any) -> None:
    scorer, batch = make_scorer(model, max_len=3), make_batch(9)
    context = context_of(model, batch)
    history, kept = [4, 0, 5, 9, 0, 2, 0], [5, 9, 2]
    short = batch | {"item_seq": torch.tensor(kept).expand(9, 3)}
    expected = probability(model, short)
    for scores in (
        scorer.score(history, batch["item_id"], context),
        scorer.score_batch([history] * 9, batch["item_id"], context),
    ):
        torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)


def test_explained_weights_belong_to_the_given_history(model: Any) -> None:
    scorer, whole = make_scorer(model, max_len=3), make_scorer(model)
    candidates = list(range(1, ITEMS))
    history, kept = [4, 0, 5, 9, 0, 2, 0], [False, False, True, True, False, True, False]
    user = scorer.score(history, candidates, CONTEXT, explain=True)
    assert isinstance(user, Explained)
    assert torch.equal(user.probability, scorer.score(history, candidates, CONTEXT))
    _, expected = whole.score([5, 9, 2], candidates, CONTEXT, explain=True)
    assert user.weight.shape == (len(candidates), len(history))
    torch.testing.assert_close(user.weight[:, kept], expected)
    assert (user.weight[:, [not k for k in kept]] == 0).all()
    assert (user.weight > 0).any(dim=0).tolist() == kept
    histories = [history, [], [0, 0], [5], *[history] * (len(candidates) - 4)]
    rows = scorer.score_batch(histories, candidates, CONTEXT, explain=True)
    assert [len(weight) for weight in rows.weight] == [len(history) for history in histories]
    torch.testing.assert_close(rows.weight[0], user.weight[0])
    torch.testing.assert_close(torch.stack(rows.weight[4:]), user.weight[4:])
    assert rows.weight[2].tolist() == [0, 0]
    alone = scorer.score([5], candidates[3:4], CONTEXT, explain=True)
    torch.testing.assert_close(rows.weight[3], alone.weight[0])


def test_nothing_to_score_and_nothing_clicked(model: Any, scorer: Scorer) -> None:
    for history in ([], [3, 5]):
        assert scorer.score(history, [], CONTEXT).shape == (0,)
        probabilities, weight = scorer.score(history, [], CONTEXT, explain=True)
        assert probabilities.shape == (0,) and weight.shape == (0, len(history))
    assert scorer.score_batch([], [], CONTEXT).shape == (0,)
    assert scorer.score_batch([], [], CONTEXT, explain=True).weight == []
    each = {name: [] for name in CONTEXT}
    for empty in ([], np.zeros((0, 5))):
        assert scorer.score([3], [], each | {"profile": empty}).shape == (0,)
    batch = make_batch(8, empty=True) | one_context(model, 8)
    expected = probability(model, batch)
    for scores in (
        scorer.score([], batch["item_id"], CONTEXT),
        scorer.score([0, 0], batch["item_id"], CONTEXT),
        scorer.score_batch([[]] * 8, batch["item_id"], CONTEXT),
    ):
        torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
    assert scorer.score([], [4], CONTEXT, explain=True).weight.shape == (1, 0)


def test_many_candidates_are_scored_some_at_a_time(
    model: Any, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(10)
    context = context_of(model, batch) | {"age": CONTEXT["age"], "likes": CONTEXT["likes"]}
    user = batch["item_seq"][4], batch["item_id"], context
    rows = batch["item_seq"].tolist(), batch["item_id"], context
    whole = scorer.score(*user, explain=True), scorer.score_batch(*rows, explain=True)
    for module in (scorer_module, users_module):
        monkeypatch.setattr(module, "CANDIDATES", 3)
    parts = scorer.score(*user, explain=True), scorer.score_batch(*rows, explain=True)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.probability, other.probability)
        torch.testing.assert_close(one.weight, other.weight)


def test_a_calibration_map_is_applied_when_asked_for(model: Any) -> None:
    double = Calibration("platt", torch.empty(0), torch.tensor([2.0, -1.0]))
    scorer = Scorer(FoldedFile(model.fold(), Ids("item_id"), 100, calibration=double))
    for method, history in ((scorer.score, [3]), (scorer.score_batch, [[3], [3]])):
        raw, calibrated = (method(history, [4, 5], CONTEXT, calibrated=c) for c in (False, True))
        torch.testing.assert_close(calibrated, torch.sigmoid(2 * torch.logit(raw) - 1))
    none = make_scorer(model)
    for method, history in ((none.score, [3]), (none.score_batch, [[3], [3]])):
        with pytest.raises(InputError, match="calibrated: this file has no calibration map"):
            method(history, [4, 5], CONTEXT, calibrated=True)


def test_what_a_scorer_says_of_itself(scorer: Scorer) -> None:
    assert scorer.num_items == ITEMS - 1
    assert scorer.context_features == ["level", "hour", "age", "likes", "seen", "profile"]


def test_no_context_is_needed_without_row_features(tmp_path: Path) -> None:
    scorer = make_scorer(make_model(tmp_path, {"item_id": FEATURES["item_id"]}))
    assert scorer.score([3], [4, 5]).shape == (2,)
    assert torch.equal(scorer.score([3], [4, 5], {}), scorer.score([3], [4, 5]))


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([3, 12], "position 1: found 12, expected 0..11"),
        ([3, -1], "position 1: found -1, expected 0..11"),
        ([3.0], "expected integers, found torch.float64"),
        (np.array([1.5]), "expected integers, found torch.float64"),
        ([True], "expected integers, found torch.bool"),
        ([[3]], "expected 1 dimension(s), found shape (1, 1)"),
        ([3, [4]], "expected integers"),
        ([3, None], "expected integers"),
        (None, "expected integers"),
        ("34", "expected integers"),
        ([2**70], "expected integers"),
    ],
)
def test_bad_histories_are_named(scorer: Scorer, history: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        scorer.score(history, [4], CONTEXT)
    assert error.value.problems == [f"history: {message}"]
    with pytest.raises(InputError) as error:
        scorer.score_batch([[], history], [4, 4], CONTEXT)
    assert error.value.problems == [f"history of row 1: {message}"]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([1, 5, 0], "position 2: found 0, expected 1..11"),
        ([99], "position 0: found 99, expected 1..11"),
        ([1.0], "expected integers, found torch.float64"),
        (["1"], "expected integers"),
    ],
)
def test_bad_candidates_are_named(scorer: Scorer, candidates: Any, message: str) -> None:
    for method, history in ((scorer.score, []), (scorer.score_batch, [[]] * len(candidates))):
        with pytest.raises(InputError) as error:
            method(history, candidates, CONTEXT)
        assert error.value.problems == [f"candidates: {message}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": float("nan")}, "context 'age': position 0: found a number that is not finite"),
        ({"age": [1, float("inf")]}, "context 'age': position 1: found a number that is not"),
        ({"age": np.array([1e300])}, r"position 0: found 1e\+300, beyond the range of float32"),
        ({"age": None}, "context 'age': expected numbers"),
        ({"age": "old"}, "context 'age': expected numbers"),
        ({"age": True}, "context 'age': expected numbers, found torch.bool"),
        ({"age": [[1.0], [2.0]]}, r"context 'age': expected shape \(2,\), found \(2, 1\)"),
        ({"age": [1.0, 2.0, 3.0]}, "context 'age': 3 values for 2 rows"),
        ({"level": [1, 2, 3]}, "context 'level': 3 values for 2 rows"),
        ({"level": []}, "context 'level': 0 values for 2 rows"),
        ({"level": 4}, r"context 'level': position 0: found 4, expected 0\.\.3"),
        ({"level": [1, -1]}, r"context 'level': position 1: found -1, expected 0\.\.3"),
        ({"level": 1.0}, "context 'level': expected integers, found torch.float32"),
        ({"level": None}, "context 'level': expected integers"),
        ({"likes": [[1], [2, 9]]}, r"context 'likes': position 1, 1: found 9, expected 0\.\.8"),
        ({"likes": [[1], [2], [3]]}, "context 'likes': 3 values for 2 rows"),
        ({"likes": 3}, "context 'likes': expected a list of ids, found 3"),
        ({"likes": [[1], 2]}, "context 'likes': expected integers"),
        ({"likes": ["a"]}, "context 'likes': expected integers"),
        ({"profile": [1.0] * 4}, r"context 'profile': expected shape \(1, 5\), found \(1, 4\)"),
        ({"profile": [[1.0] * 5] * 3}, "context 'profile': 3 values for 2 rows"),
        ({"profile": [[1.0] * 5, [1.0] * 4]}, "context 'profile': expected numbers"),
        ({"profile": 1.0}, r"context 'profile': expected shape \(1, 5\), found \(1, 1\)"),
        ({"profile": []}, "context 'profile': 0 values for 2 rows"),
        ({"profile": [[0.0] * 5, [0.0, 0.0, float("nan"), 0.0, 0.0]]}, "position 1: found a numb"),
        ({"wether": 1}, "context: 'wether' is no such feature"),
    ],
)
def test_bad_context_is_named(scorer: Scorer, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scorer.score([3], [4, 5], CONTEXT | change)
    with pytest.raises(InputError, match=message):
        scorer.score_batch([[3], []], [4, 5], CONTEXT | change)


def test_missing_and_unknown_features_are_listed_all_at_once(scorer: Scorer) -> None:
    context = {name: value for name, value in CONTEXT.items() if name not in ("hour", "age")}
    with pytest.raises(InputError) as error:
        scorer.score([3], [4], context | {"Hour": 1})
    assert error.value.problems == [
        "context: 'age' is missing",
        "context: 'hour' is missing",
        "context: 'Hour' is no such feature",
    ]
    with pytest.raises(InputError, match="context: 'level' is missing"):
        scorer.score([3], [4])


def test_each_row_needs_a_history(scorer: Scorer) -> None:
    with pytest.raises(InputError, match="3 histories for 2 candidates"):
        scorer.score_batch([[3], [4], []], [1, 2], CONTEXT)
